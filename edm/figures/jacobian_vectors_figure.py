"""Leading right singular vectors of a denoiser's Jacobian as pictures, a row per noise level."""

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from figures import style as figures
from jacobians.rank_file import Ranks
from torch_utils.errors import UserError

TITLE = 'Leading right singular vectors of the denoiser\'s Jacobian'

# Inches: room for the rows' names, for a line of text, between the denoised image and the vectors; an image.
_LABELS, _TEXT, _GAP = 0.58, 0.13, 0.12
_MIN_CELL, _MAX_CELL = 0.3, 0.8


def draw_vectors(ranks: Ranks, where: str, rows: int = 7, about: str = '',
                 width: float = figures.WIDTH) -> tuple[Figure, str]:
    """Draw the figure; returns it and its caption.

    ranks: with vectors. where: how to call their file. rows: noise levels to show at most, evenly from all.
    about: a sentence for the caption. The one panel has in each row the denoised image, then as many vectors
    as there is room for, each with its singular value below it.
    Raises UserError if the file has no vectors.
    """
    if ranks.vectors is None:
        raise UserError(f'{where}: it has no singular vectors; jacobian.py --save_vectors saves them')
    known = np.isfinite(ranks.vectors).all(axis=(1, 2, 3, 4)).nonzero()[0]
    if not len(known):
        raise UserError(f'{where}: no singular vectors are known yet')
    shown = known[np.unique(np.linspace(0, len(known) - 1, min(rows, len(known))).round().astype(int))]
    room = width - _LABELS - _GAP
    count = max(1, min(ranks.vectors.shape[1], int(room / _MIN_CELL) - 1))
    cell = min(_MAX_CELL, room / (count + 1))
    with matplotlib.rc_context(figures.STYLE):
        height = len(shown) * (cell + _TEXT) + _TEXT
        figure = figures.new_figure(width, height + 0.1)
        axes = figure.subplots()
        _draw_rows(axes, ranks, shown, count, cell)
        axes.set_xlim(-_LABELS, room + _GAP)
        axes.set_ylim(-height, 0)
    return figure, caption(ranks, len(shown), about)


def caption(ranks: Ranks, rows: int, about: str = '') -> str:
    """The text below the figure."""
    parts = [about] if about else []
    parts.append(
        'Left: the image that the denoiser D makes of one noisy image x, at '
        f'{rows} of {len(ranks.sigma)} noise levels σ. Right of it: the right singular vectors of dD/dx at x '
        'with the largest singular values, which are written below them: the patterns that the denoiser '
        'keeps most of. A value of 1 keeps a pattern as it is.')
    if ranks.vectors.shape[2] == 1:
        parts.append('Red is positive, white 0, blue negative,')
    else:
        parts.append('Grey is 0 in all channels,')
    return ' '.join([*parts, 'each vector being scaled to its largest entry; its sign has no meaning.'])


def _draw_rows(axes: Axes, ranks: Ranks, shown: np.ndarray, count: int, cell: float) -> None:
    """In coordinates of inches, from the upper left corner of the denoised images."""
    axes.set_axis_off()
    axes.set_aspect('equal')
    middle = _GAP + cell * (1 + count / 2)
    axes.text(cell / 2, -0.03, 'D(x; σ)', ha='center', va='top', fontsize=7)
    axes.text(middle, -0.03, 'right singular vectors of dD/dx', ha='center', va='top', fontsize=7)
    for row, column in enumerate(shown):
        top = -_TEXT - 0.03 - row * (cell + _TEXT)
        sigma = float(f'{ranks.sigma[column]:.2g}')
        axes.text(-0.06, top - cell / 2, f'σ = {sigma:g}', ha='right', va='center', fontsize=7)
        _draw_image(axes, to_grey_levels(ranks.denoised[column]), 0, top, cell)
        for i in range(count):
            left = _GAP + (i + 1) * cell
            _draw_image(axes, to_colors(ranks.vectors[column, i]), left, top, cell)
            axes.text(left + cell / 2, top - cell, f'{ranks.vector_values[column, i]:.2g}', ha='center',
                      va='top', fontsize=6)


def to_grey_levels(image: np.ndarray) -> np.ndarray:
    """An image [C, H, W] in [-1, 1], clipped to it, as RGB [H, W, 3] in [0, 1]."""
    return np.broadcast_to((image.transpose(1, 2, 0).clip(-1, 1) + 1) / 2, (*image.shape[1:], 3))


def to_colors(vector: np.ndarray) -> np.ndarray:
    """A vector [C, H, W] as RGB [H, W, 3]; of one channel, by a diverging colour map; 0 is in the middle."""
    scaled = (vector / (np.abs(vector).max() or 1) + 1) / 2
    if len(vector) == 1:
        return matplotlib.colormaps['RdBu_r'](scaled[0])[..., :3]
    return scaled.transpose(1, 2, 0)


def _draw_image(axes: Axes, image: np.ndarray, left: float, top: float, cell: float) -> None:
    inset = 0.03 * cell
    axes.imshow(image, interpolation='nearest', extent=(left + inset, left + cell - inset,
                                                        top - cell + inset, top - inset))
