"""The training figure: loss, learning rate and throughput of runs over the images seen."""

from collections.abc import Sequence

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from figures import style as figures
from figures.training_curves import Curves

TITLE = 'Loss, learning rate and throughput during training'

_LOG_BEYOND = 20  # largest over smallest loss from which a linear axis shows only the beginning


def draw_training(runs: Sequence[Curves], width: float = figures.WIDTH) -> tuple[Figure, str]:
    """Draw the figure; returns it and its caption.

    Panels: a, loss; b, learning rate; c, images per second; a line per run, labelled with its name.
    """
    with matplotlib.rc_context(figures.STYLE):
        figure, panels = figures.new_panels(width, 3, 1.9)
        for axes, letter, name, kind in zip(panels, 'abc', ('loss', 'learning rate', 'images per second'),
                                            ('loss', 'learning_rate', 'images_per_sec'), strict=True):
            for i, run in enumerate(runs):
                values, style = getattr(run, kind), figures.series_style(i)
                known = np.isfinite(values)
                marker = style['marker'] if known.sum() == 1 else None  # a line of one point is invisible
                # Equal learning rates stay visible, as lines below others are wider.
                wider = max(min(len(runs), 4) - 1 - i, 0) if kind == 'learning_rate' else 0
                axes.plot(run.kimg[known], values[known], lw=1.1 + 0.7 * wider, label=run.name,
                          color=style['color'], marker=marker)
            axes.set_xlim(left=0)
            axes.set_xlabel('kimg')
            axes.set_title(name, pad=4)
            figures.add_letter(axes, letter)
        panels[0].set_yscale('log' if _spans_widely([run.loss for run in runs]) else 'linear')
        for axes in panels[1:]:
            axes.set_ylim(0, 1.05 * max(axes.dataLim.y1, 1e-9) if np.isfinite(axes.dataLim.y1) else 1)
        panels[1].ticklabel_format(axis='y', style='sci', scilimits=(-2, 4))
        if len(runs) > 1:  # the names one a line, as they are long, below the panels
            height = figure.get_figheight() + 0.15 * len(runs)
            figure.set_figheight(height)
            lines, names = panels[0].get_legend_handles_labels()
            room = int(16 * (width - 0.5))  # letters
            names = [name if len(name) <= room else f'{name[:room - 1]}…' for name in names]
            figure.legend(lines, names, loc='outside lower left')
    return figure, caption(runs)


def caption(runs: Sequence[Curves]) -> str:
    """The text below the figure."""
    whose = f'run {runs[0].name}' if len(runs) == 1 else (
        f'{len(runs)} runs ({", ".join(run.name for run in runs)})')
    unknown = [run.name for run in runs if np.isnan(run.learning_rate).all()]
    return ' '.join([
        f'Training of {whose} over thousands of images seen.',
        '(a) Loss, weighted over the noise levels: mean over all values since the tick before.',
        '(b) Learning rate of the tick\'s last step' + (
            f' (not recorded by {", ".join(unknown)}).' if unknown else '.'),
        '(c) Images per second of all processes together, without the time of saving and without tick 0.'])


def _spans_widely(losses: Sequence[np.ndarray]) -> bool:
    values = np.concatenate(losses)
    values = values[np.isfinite(values)]
    return len(values) > 0 and values.min() > 0 and values.max() > _LOG_BEYOND * values.min()
