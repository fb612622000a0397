"""Heat maps of RP, MAE and PFD of all pairs of models: paper 1 (arXiv 2310.05264), figures 6 and 12."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from data.image_stream import open_images
from descriptors import similarity_words
from figures import style as figures
from figures.regimes_curves import only, totals
from scores.score_table import HELDOUT, SCORES, Row
from torch_utils.errors import UserError

TITLE = 'Similarity of the samples of different models'
KINDS = ('rp', 'mae', 'pfd')
_COLOURS = {'pfd': 'Oranges_r'}  # dark where models are alike, else Oranges
_SMALLEST = 6  # points: values that would be smaller are left to the colours


@dataclass(frozen=True, kw_only=True)
class Matrix:
    """The scores of all pairs of models at one threshold, float64 [M, M], NaN where a pair has none.

    threshold: None for PFD. widest: the largest width of their 95 % intervals. total: the number of images
    per score, as text; empty for PFD.
    """

    threshold: float | None
    descriptor: str
    total: str
    value: np.ndarray
    widest: float


def collect_matrices(rows: Sequence[Row], where: str) -> tuple[list[str], dict[str, Matrix]]:
    """The models' names in the order of the table, and the matrices of RP and MAE scores and of PFD.

    Only scores without training-set size count, as sscd.py matrix gives them.
    Raises UserError naming `where` if there are none, or at several thresholds.
    """
    rows = [row for row in rows if row.size is None and row.score in KINDS]
    if not rows:
        raise UserError(f'{where}: holds no scores of pairs of models, which sscd.py matrix gives')
    names, matrices = list(dict.fromkeys(name for row in rows for name in row.models)), {}
    for kind in KINDS:
        own = [row for row in rows if row.score == kind]
        value = np.full((len(names), len(names)), np.nan)
        for row in own:
            i, j = map(names.index, row.models)
            value[i, j] = value[j, i] = row.value
        if own:
            matrices[kind] = Matrix(
                threshold=only(own, 'threshold', where), descriptor=only(own, 'descriptor', where),
                total=totals(own) if SCORES[kind].is_share else '', value=value,
                widest=max(row.high - row.low for row in own))
    return names, matrices


def load_samples(folders: Sequence[tuple[str, str]], names: Sequence[str]) -> dict[str, list[Image.Image]]:
    """The first samples of each model, as many as there are models, by its name. folders: names and paths.

    Raises UserError naming --samples for a name that is none of `names`, or that comes twice.
    """
    found = {}
    for name, path in folders:
        if name not in names or name in found:
            raise UserError(f'--samples {path}={name}: expected each of these names once: {", ".join(names)}')
        images = open_images(path, '--samples')
        found[name] = [images.read(i) for i in range(min(len(names), len(images.names)))]
    return found


def draw_similarity(names: list[str], matrices: dict[str, Matrix],
                    width: float = figures.WIDTH, *,
                    samples: Mapping[str, Sequence[Image.Image]] | None = None) -> tuple[Figure, str]:
    """Draw one heat map per matrix, RP first, and the samples; returns the figure and its caption.

    RP and MAE share a colour bar, and PFD has one of its own.
    """
    count = len(matrices) + bool(samples)
    columns = 1 if figures.is_narrow(width) else min(count, 2)
    with matplotlib.rc_context(figures.STYLE):
        rows = math.ceil(count / columns)
        figure = figures.new_figure(width, rows * width * (1 if rows == 1 or columns == 1 else 0.6))
        panels = list(figure.subplots(rows, columns, squeeze=False).flat)
        figure.set_layout_engine('compressed')  # all beside the maps as high as they are
        for axes, (kind, matrix) in zip(panels, matrices.items(), strict=False):
            image = _draw_map(axes, kind, matrix, names)
            if kind == 'pfd':
                bar = figure.colorbar(image, ax=axes, pad=0.02, aspect=30)
            elif kind == next(iter(matrices)):
                bar = _share_bar(figure, image, panels[:len(matrices.keys() - {'pfd'})])
            bar.ax.tick_params(length=2)
        if samples:
            _draw_samples(panels[len(matrices)], samples, names)
        for axes in panels[count:]:
            axes.set_axis_off()
        for i, axes in enumerate(panels):
            axes.tick_params(labelleft=i % columns == 0)
        figures.shrink(figure)
        for axes, (kind, matrix) in zip(panels, matrices.items(), strict=False):
            _write_values(axes, kind, matrix)
    text = caption(matrices)
    if samples:
        text += ' Samples: each column is made from one noise, by the models of the rows.'
    if HELDOUT in names:
        text += f' {HELDOUT.capitalize()}, the control, are real and come from none of these noises.'
    return figure, text


def _share_bar(figure: Figure, image, panels: list[Axes]):
    """The colour bar of shares."""
    bar = figure.colorbar(image, ax=panels, ticks=[0, 0.25, 0.5, 0.75, 1], pad=0.02, aspect=30)
    bar.ax.set_yticklabels(['0', '0.25', '0.5', '0.75', '1'])
    return bar


def caption(matrices: dict[str, Matrix]) -> str:
    """The text below the figure."""
    parts = ['Samples of two models from the same noises, all pairs of models.']
    if rp := matrices.get('rp'):
        parts.append(f'RP score: share of {rp.total} noises from which both make the same image '
                     f'(similarity > {rp.threshold:g}; similarity is {similarity_words(rp.descriptor)}).')
    if mae := matrices.get('mae'):
        parts.append(f'MAE score: share of {mae.total} pairs of images whose pixels differ by less than '
                     f'{mae.threshold:g} of 255 on average.')
    if shares := [matrix.widest for kind, matrix in matrices.items() if kind != 'pfd']:
        parts.append(f'Wilson 95 % intervals are at most {max(shares):.2g} wide.')
    if pfd := matrices.get('pfd'):
        parts.append('PFD: root mean square distance of the descriptors of samples from the same noises, 0 '
                     f'for equal models; bootstrap 95 % intervals are at most {pfd.widest:.2g} wide.')
    return ' '.join(parts)


def _draw_map(axes: Axes, kind: str, matrix: Matrix, names: list[str]):
    """Draw the cells; returns the image for the colour bar."""
    highest = float(np.nanmax(matrix.value)) or 1 if kind == 'pfd' else 1
    image = axes.imshow(matrix.value, cmap=_COLOURS.get(kind, 'Oranges'), vmin=0, vmax=highest)
    axes.set_title(SCORES[kind].label + (' score' if SCORES[kind].is_share else ''), pad=4)
    places = range(len(names))
    axes.set_xticks(places, names, rotation=40 if len(names) < 9 else 90, ha='right', rotation_mode='anchor',
                    va='top' if len(names) < 9 else 'center')
    _name_rows(axes, names)
    for edge in range(1, len(names)):
        axes.axvline(edge - 0.5, color='white', lw=0.8)
        axes.axhline(edge - 0.5, color='white', lw=0.8)
    return image


def _name_rows(axes: Axes, names: Sequence[str]) -> None:
    axes.set_yticks(range(len(names)), names)
    for label in (*axes.get_xticklabels(), *axes.get_yticklabels()):
        label.set_parse_math(False)
    axes.tick_params(length=0, pad=3)
    axes.spines[:].set_visible(False)


def _draw_samples(axes: Axes, samples: Mapping[str, Sequence[Image.Image]], names: list[str]) -> None:
    """A row of samples per model, in the order of the maps' rows, with cells as large as theirs."""
    for row, name in enumerate(names):
        for column, image in enumerate(samples.get(name, ())):
            axes.imshow(np.asarray(image.convert('RGB')), interpolation='nearest', extent=(
                column - 0.46, column + 0.46, row + 0.46, row - 0.46))
    axes.set_title('Samples from the same noises', pad=4)
    axes.set_xlim(-0.5, len(names) - 0.5)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_xticks([])
    _name_rows(axes, names)


def _write_values(axes: Axes, kind: str, matrix: Matrix) -> None:
    """The values in their cells, white on dark, where the layout has left room for them."""
    side = axes.get_window_extent().width / axes.figure.dpi * 72 / len(matrix.value)  # points
    size = min(7, side / 2.5)  # a value is about 2.2 times as wide as high
    darkness = 1 - matrix.value / axes.images[0].get_clim()[1] if kind == 'pfd' else matrix.value
    for i, row in enumerate(matrix.value if size >= _SMALLEST else ()):
        for j, value in enumerate(row):
            if np.isfinite(value):
                axes.text(j, i, f'{value:.2f}', ha='center', va='center', fontsize=size,
                          color='white' if darkness[i, j] > 0.75 else 'black')
