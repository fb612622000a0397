"""Heat maps of the RP and MAE scores of all pairs of models: paper 1 (arXiv 2310.05264), figures 6 and 12."""

from collections.abc import Sequence
from dataclasses import dataclass

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from descriptors import similarity_words
from figures import style as figures
from figures.regimes_curves import only, totals
from scores.score_table import SCORES, Row
from torch_utils.errors import UserError

TITLE = 'Similarity of the samples of different models'
_SMALLEST = 6  # points: values that would be smaller are left to the colours


@dataclass(frozen=True, kw_only=True)
class Matrix:
    """The scores of all pairs of models at one threshold, float64 [M, M], NaN where a pair has none.

    widest: the largest width of their 95 % intervals. total: the number of images per score, as text.
    """

    threshold: float
    descriptor: str
    total: str
    value: np.ndarray
    widest: float


def collect_matrices(rows: Sequence[Row], where: str) -> tuple[list[str], dict[str, Matrix]]:
    """The models' names in the order of the table, and the matrices of RP and MAE scores.

    Only scores without training-set size count, as sscd.py matrix gives them.
    Raises UserError naming `where` if there are none, or at several thresholds.
    """
    rows = [row for row in rows if row.size is None and row.score in ('rp', 'mae')]
    if not rows:
        raise UserError(f'{where}: holds no scores of pairs of models, which sscd.py matrix gives')
    names, matrices = list(dict.fromkeys(name for row in rows for name in row.models)), {}
    for kind in ('rp', 'mae'):
        own = [row for row in rows if row.score == kind]
        value = np.full((len(names), len(names)), np.nan)
        for row in own:
            i, j = map(names.index, row.models)
            value[i, j] = value[j, i] = row.value
        if own:
            matrices[kind] = Matrix(
                threshold=only(own, 'threshold', where), descriptor=only(own, 'descriptor', where),
                total=totals(own), value=value, widest=max(row.high - row.low for row in own))
    return names, matrices


def draw_similarity(names: list[str], matrices: dict[str, Matrix],
                    width: float = figures.WIDTH) -> tuple[Figure, str]:
    """Draw one heat map per matrix, RP first, with one colour bar; returns the figure and its caption."""
    side_by_side = not figures.is_narrow(width)
    with matplotlib.rc_context(figures.STYLE):
        figure, panels = figures.new_panels(width, len(matrices), width)
        figure.set_layout_engine('compressed')  # all beside the maps as high as they are
        for axes, (kind, matrix) in zip(panels, matrices.items(), strict=True):
            image = _draw_map(axes, matrix, names)
            axes.set_title(SCORES[kind].label + ' score', pad=4)
        for axes in panels[1:] if side_by_side else ():
            axes.tick_params(labelleft=False)
        bar = figure.colorbar(image, ax=panels, ticks=[0, 0.25, 0.5, 0.75, 1], pad=0.02, aspect=30)
        bar.ax.set_yticklabels(['0', '0.25', '0.5', '0.75', '1'])
        bar.ax.tick_params(length=2)
        figures.shrink(figure)
        for axes, matrix in zip(panels, matrices.values(), strict=True):
            _write_values(axes, matrix)
    return figure, caption(matrices)


def caption(matrices: dict[str, Matrix]) -> str:
    """The text below the figure."""
    parts = ['Samples of two models from the same noises, all pairs of models.']
    if rp := matrices.get('rp'):
        parts.append(f'RP score: share of {rp.total} noises from which both make the same image '
                     f'(similarity > {rp.threshold:g}; similarity is {similarity_words(rp.descriptor)}).')
    if mae := matrices.get('mae'):
        parts.append(f'MAE score: share of {mae.total} pairs of images whose pixels differ by less than '
                     f'{mae.threshold:g} of 255 on average.')
    widest = max(matrix.widest for matrix in matrices.values())
    parts.append(f'Wilson 95 % intervals are at most {widest:.2g} wide.')
    return ' '.join(parts)


def _draw_map(axes: Axes, matrix: Matrix, names: list[str]):
    """Draw the cells; returns the image for the colour bar."""
    image = axes.imshow(matrix.value, cmap='Oranges', vmin=0, vmax=1)
    places = range(len(names))
    axes.set_xticks(places, names, rotation=40 if len(names) < 9 else 90, ha='right', rotation_mode='anchor',
                    va='top' if len(names) < 9 else 'center')
    axes.set_yticks(places, names)
    for label in (*axes.get_xticklabels(), *axes.get_yticklabels()):
        label.set_parse_math(False)
    axes.tick_params(length=0, pad=3)
    axes.spines[:].set_visible(False)
    for edge in range(1, len(names)):
        axes.axvline(edge - 0.5, color='white', lw=0.8)
        axes.axhline(edge - 0.5, color='white', lw=0.8)
    return image


def _write_values(axes: Axes, matrix: Matrix) -> None:
    """The values in their cells, white on dark, where the layout has left room for them."""
    side = axes.get_window_extent().width / axes.figure.dpi * 72 / len(matrix.value)  # points
    size = min(7, side / 2.3)  # a value is about 2.2 times as wide as high
    for i, row in enumerate(matrix.value if size >= _SMALLEST else ()):
        for j, value in enumerate(row):
            if np.isfinite(value):
                axes.text(j, i, f'{value:.2f}', ha='center', va='center', fontsize=size,
                          color='white' if value > 0.75 else 'black')
