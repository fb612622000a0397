"""Samples above their nearest training images, sorted by similarity: memorization at a glance."""

import math
from collections.abc import Sequence

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from descriptors import similarity_words
from figures import style as figures
from figures.style import BLACK, GREY, VERMILION
from scores.neighbors import Neighbors

TITLE = 'Samples and their nearest training images'

# Inches.
_LABELS, _NUMBER, _GAP = 0.52, 0.15, 0.07
_USUAL, _LARGEST, _NARROWEST = 0.6, 0.8, 0.21  # sides of an image; the last has room for a similarity


def choose(similarity: np.ndarray, count: int, *, most_similar: bool = False) -> np.ndarray:
    """Indices of the samples to show, int64 [at most count], the most similar first.

    Evenly from all ranks of similarity, or the most similar ones.
    """
    order = np.argsort(-similarity, kind='stable')
    if most_similar or count >= len(order):
        return order[:count]
    return order[np.linspace(0, len(order) - 1, count).round().astype(int)]


def draw_neighbors(neighbors: Neighbors, chosen: np.ndarray, samples: Sequence[Image.Image],
                   training: Sequence[Image.Image], columns: int | None = None,
                   width: float = figures.WIDTH) -> tuple[Figure, str]:
    """Draw the contact sheet; returns it and its caption.

    chosen: indices of the samples that `samples` and `training` (their nearest images) show.
    columns: samples side by side. One pair of axes, in inches, holds everything: per row, the samples, the
    training images, the similarities.
    """
    room = width - _LABELS
    columns = min(columns or round(room / _USUAL), len(chosen))
    cell = min(room / columns, _LARGEST)
    row_height = 2 * cell + _NUMBER + _GAP
    rows = math.ceil(len(chosen) / columns)
    with matplotlib.rc_context(figures.STYLE):
        figure = figures.new_figure(width, rows * row_height + 1)
        axes = figure.subplots()
        axes.set_axis_off()
        for row in range(rows):
            top = (rows - row) * row_height
            for name, y in (('sample', top - cell / 2), ('nearest', top - 1.5 * cell)):
                axes.text(-0.05, y, name, ha='right', va='center', fontsize=6.5)
        for place, number in enumerate(chosen):
            x = place % columns * cell
            top = (rows - place // columns) * row_height
            similarity = neighbors.similarity[number]
            memorized = similarity > neighbors.threshold
            _draw_image(axes, samples[place], x, top - cell, cell)
            _draw_image(axes, training[place], x, top - 2 * cell, cell)
            if cell >= _NARROWEST:
                axes.text(x + cell / 2, top - 2 * cell - 0.02, f'{similarity:z.2f}', ha='center', va='top',
                          fontsize=6, color=VERMILION if memorized else GREY,
                          fontweight='bold' if memorized else 'normal')
        axes.set_xlim(0, columns * cell)
        axes.set_ylim(0, rows * row_height)
        axes.set_aspect('equal')
        figures.shrink(figure)
    return figure, caption(neighbors, len(chosen))


def caption(neighbors: Neighbors, shown: int) -> str:
    """The text below the figure."""
    total, t = len(neighbors.similarity), f'{neighbors.threshold:g}'
    count = int((neighbors.similarity > neighbors.threshold).sum())
    similarity = similarity_words(neighbors.descriptor)
    which = f'{shown} of {total} samples' if shown < total else f'All {total} samples'
    return (f'{which}, each above its nearest training image, sorted by their similarity ({similarity}). '
            f'Bold: memorized, similarity above {t}; these are {count} of {total} samples '
            f'({count / total:.1%}).')


def _draw_image(axes, image: Image.Image, x: float, y: float, cell: float) -> None:
    """Draw an image into a square cell, in its proportions, with a hairline around it."""
    scale = 0.94 * cell / max(image.size)
    width, height = image.width * scale, image.height * scale
    left, bottom = x + (cell - width) / 2, y + (cell - height) / 2
    axes.imshow(np.asarray(image.convert('RGB')), extent=(left, left + width, bottom, bottom + height),
                interpolation='nearest' if max(image.size) <= 64 else 'antialiased')
    axes.add_patch(matplotlib.patches.Rectangle((left, bottom), width, height, fill=False, lw=0.3, ec=BLACK))
