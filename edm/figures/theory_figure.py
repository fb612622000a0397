"""How far closed-form denoisers and other networks are from a network, over the noise level."""

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from figures import style as figures
from figures.style import BLACK, BLUE, GREEN, GREY, ORANGE, PURPLE, SKY, VERMILION
from figures.theory_curves import CEILINGS, MOST_LEFT, Distances

TITLE = 'What closed-form denoisers explain of a network'
COLORS = {'second': BLACK, 'disjoint': GREY, 'optimal': VERMILION, 'gaussian': BLUE, 'patch': GREEN,
          'local': ORANGE, 'equivariant': PURPLE, 'linear': SKY}
_LINES = {'second': '-', 'disjoint': '--'}
NAMES = CEILINGS
OTHERS = {'second': 'a network of another width and seed trained on the same images',
          'disjoint': 'a network of the same width trained on N others'}
ROWS = {'data': 'held-out images + noise', 'trajectory': "network's trajectory"}


def line_style(name: str, index: int) -> dict:
    """Colour and line of a denoiser, the same in all figures."""
    color = COLORS.get(name, figures.SERIES[index % len(figures.SERIES)])
    return {'color': color, 'ls': _LINES.get(name, '-'), 'lw': 1.6 if name in NAMES else 1.1}


def article(name: str) -> str:
    """A network's name in a sentence."""
    return 'the network' if name == 'network' else name


def draw_theory(found: Distances, note: str = '', width: float = figures.WIDTH) -> tuple[Figure, str]:
    """Draw the figure; returns it and its caption.

    A column of panels per N: relative squared distance from the network over sigma, on noisy held-out images
    and along its trajectory, and the share of what a second network explains. note: ends the caption.
    """
    shown = [kind for kind in ROWS if any(len(found.curve(kind, found.sizes[0], name).sigma)
                                          for name in found.names)]
    rows = len(shown) + (found.ceiling is not None)
    with matplotlib.rc_context(figures.STYLE):
        figure = figures.new_figure(width, 1.65 * rows + 0.5)
        panels = figure.subplots(rows, len(found.sizes), squeeze=False, sharex=True, sharey='row')
        for column, size in enumerate(found.sizes):
            panels[0, column].set_title(f'N = {size:,}', pad=4)
            for row, kind in enumerate(shown):
                _draw_shares(panels[row, column], found, kind, size)
            if rows > len(shown):
                _draw_explained(panels[-1, column], found, shown[0], size)
            panels[-1, column].set_xlabel(r'noise level $\sigma$')
        names = [*(ROWS[kind] for kind in shown), None]
        for letter, axes, name in zip('abc', panels[:, 0], names, strict=False):
            figures.add_letter(axes, letter)
            axes.set_ylabel('share explained' if name is None else f'relative error\n({name})')
        styles = {name: line_style(name, i) for i, name in enumerate(found.names)}
        figure.legend([Line2D([], [], **style) for style in styles.values()],
                      [NAMES.get(name, name) for name in styles], loc='outside lower center', ncols=4)
    return figure, f'{caption(found, shown)} {note}'.strip()


def _draw_shares(axes, found: Distances, kind: str, size: int) -> None:
    for i, name in enumerate(found.names):
        curve = found.curve(kind, size, name)
        axes.plot(curve.sigma, np.maximum(curve.share, 1e-30), **line_style(name, i), label=f'_{name}')
    axes.axhline(1, color=GREY, lw=0.8, ls=':')
    axes.set(xscale='log', yscale='log', xlim=(0.004, 50), ylim=(3e-4, 10))


def _draw_explained(axes, found: Distances, kind: str, size: int) -> None:
    for i, name in enumerate(found.names):
        curve = found.explained(kind, size, name)
        axes.plot(curve.sigma, curve.share, **line_style(name, i), label=f'_{name}')
    axes.set(xscale='log', ylim=(0, 1.2), yticks=[0, 0.5, 1])


def caption(found: Distances, shown: list[str]) -> str:
    """The text below the figure."""
    count = ' to '.join(f'{count:,}' for count in sorted({found.counts[0], found.counts[-1]}))
    network, letters = article(found.network), iter('abc')
    compared = ['Closed-form denoisers of the N training images of a network',
                *(text for name, text in OTHERS.items() if name in found.names)]
    compared[-1] = 'and ' * (len(compared) > 1) + compared[-1]
    parts = [f'{", ".join(compared)} ({count} noisy images per point).']
    for kind in shown:
        place = {'data': 'on held-out images with noise',
                 'trajectory': 'at the states of its sampling trajectory'}[kind]
        parts.append(f'({next(letters)}) Mean squared difference from the outputs of {network} {place}, over '
                     'the variance of these outputs; dotted: their mean as a denoiser.')
    if found.ceiling:
        parts.append(
            f'({next(letters)}) The share explained: 1 less the value in (a), over that of the '
            f'{NAMES[found.ceiling]}, where the two networks differ by at most {MOST_LEFT:g}; above 1 is '
            f'closer to {network} than that one, below 0 is not shown.')
    return ' '.join(parts)
