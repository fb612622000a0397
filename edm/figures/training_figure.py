"""The training figure: loss, learning rate and throughput of one or several runs over the images seen."""

from collections.abc import Sequence

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from figures import style as figures
from figures.sizes_panel import WIDTH_COLORS
from figures.training_curves import Curves

TITLE = 'Loss, learning rate and throughput during training'

# Inches.
_PANEL_LEFT, _PANEL_WIDTH, _PANEL_HEIGHT = (0.5, 2.86, 5.22), 1.68, 1.6
_HEAD, _FOOT, _GAP, _LEGEND_LINE = 0.24, 0.42, 0.1, 0.145
_LINE_STYLES = ('-', '--', ':', '-.')
_LOG_BEYOND = 20  # largest over smallest loss from which a linear axis shows only the beginning


def draw_training(runs: Sequence[Curves]) -> tuple[Figure, str]:
    """Draw the figure; returns it and its caption.

    Axes: panel a, loss; panel b, learning rate; panel c, images per second; a line per run, labelled with
    its folder's name.
    """
    text = caption(runs)
    wrapped, caption_height = figures.wrap_caption(text)
    legend_height = _LEGEND_LINE * len(runs) if len(runs) > 1 else 0
    bottom = figures.MARGIN + caption_height + _GAP + legend_height + _FOOT
    with matplotlib.rc_context(figures.STYLE):
        figure = figures.new_figure(bottom + _PANEL_HEIGHT + _HEAD)
        panels = [figures.add_axes(figure, left, bottom, _PANEL_WIDTH, _PANEL_HEIGHT) for left in _PANEL_LEFT]
        for axes, letter, name, kind in zip(panels, 'abc', ('loss', 'learning rate', 'images per second'),
                                            ('loss', 'learning_rate', 'images_per_sec'), strict=True):
            for i, run in enumerate(runs):
                _draw_line(axes, i, run, getattr(run, kind),
                           under=min(len(runs), 4) - 1 - i if kind == 'learning_rate' else 0)
            _finish_panel(axes, letter, name)
        panels[0].set_yscale('log' if _spans_widely([run.loss for run in runs]) else 'linear')
        for axes in panels[1:]:
            axes.set_ylim(bottom=0)
        panels[1].ticklabel_format(axis='y', style='sci', scilimits=(-2, 4))
        if legend_height:
            _draw_legend(figure, panels[0], top=bottom - _FOOT)
        figures.draw_caption(figure, wrapped, top=figures.MARGIN + caption_height)
    return figure, text


def caption(runs: Sequence[Curves]) -> str:
    """What the figure shows, of which runs, and how far these are."""
    whose = f'run {runs[0].name}' if len(runs) == 1 else f'{len(runs)} runs'
    unknown = [run.name for run in runs if np.isnan(run.learning_rate).all()]
    parts = [
        f'Training of {whose} over thousands of images seen.',
        '(a) Loss, weighted over the noise levels: mean over all values since the tick before.',
        '(b) Learning rate of the tick\'s last step' + (
            f' (not recorded by {", ".join(unknown)}).' if unknown else '.'),
        '(c) Images per second of all processes together, without the time of saving and without tick 0.']
    return ' '.join(parts)


def _draw_line(axes: Axes, i: int, run: Curves, values: np.ndarray, under: int) -> None:
    """The i-th run's line, the wider the more lines lie over it: equal learning rates stay visible."""
    style = _LINE_STYLES[i // len(WIDTH_COLORS) % len(_LINE_STYLES)]
    known = np.isfinite(values)
    marker = 'o' if known.sum() == 1 else None  # a line of one point is invisible
    axes.plot(run.kimg[known], values[known], style, marker=marker, lw=1.1 + 0.7 * max(under, 0),
              label=run.name, color=WIDTH_COLORS[i % len(WIDTH_COLORS)])


def _finish_panel(axes: Axes, letter: str, name: str) -> None:
    axes.set_xlim(left=0)
    axes.set_xlabel('kimg', labelpad=2)
    axes.set_title(name, pad=4)
    axes.text(-0.22, 1.03, letter, transform=axes.transAxes, fontsize=9, fontweight='bold', va='bottom')


def _spans_widely(losses: Sequence[np.ndarray]) -> bool:
    values = np.concatenate(losses)
    values = values[np.isfinite(values)]
    return len(values) > 0 and values.min() > 0 and values.max() > _LOG_BEYOND * values.min()


def _draw_legend(figure: Figure, axes: Axes, top: float) -> None:
    """The runs' names, one a line as they are long, below the panels."""
    handles, labels = axes.get_legend_handles_labels()
    height = figure.get_size_inches()[1]
    place = (_PANEL_LEFT[0] / figures.WIDTH, top / height)
    figure.legend(handles, labels, loc='upper left', bbox_to_anchor=place, borderpad=0, borderaxespad=0,
                  labelspacing=0.25, handlelength=2.2)
