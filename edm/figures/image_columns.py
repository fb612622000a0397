"""Rows of small images, a column of them per training-set size, for a panel of a figure."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from PIL import Image

from figures.style import BLACK, GREY

# Inches.
LABELS = 0.62  # room for the rows' names
_TEXT, _MIN_CELL, _MAX_CELL = 0.14, 0.21, 0.42
_MAX_COLUMNS, _BETWEEN = 8, 0.45  # columns; gap between two of them, of an image's side


@dataclass(frozen=True, kw_only=True)
class Column:
    """Images of models of one training-set size.

    rows: images, as many in each row. notes: a text per place below the last row, bold or not.
    """

    size: int
    rows: Sequence[Sequence[Image.Image]]
    notes: Sequence[tuple[str, bool]] = ()


def choose_columns(columns: Sequence[Column]) -> list[Column]:
    """By size; of too many, evenly among all, with the smallest and the largest size."""
    columns = sorted(columns, key=lambda column: column.size)
    if len(columns) > _MAX_COLUMNS:
        places = np.linspace(0, len(columns) - 1, _MAX_COLUMNS).round().astype(int)
        columns = [columns[i] for i in places]
    return columns


def cell_size(columns: Sequence[Column], width: float, most: int) -> tuple[int, float]:
    """How many images of a row are shown, `most` at most, and an image's side in inches."""
    if not columns:
        return 0, 0
    for shown in range(min(most, max(len(column.rows[0]) for column in columns)), 0, -1):
        cell = (width - LABELS) / (len(columns) * (shown + _BETWEEN) - _BETWEEN)
        if cell >= _MIN_CELL:
            break
    return shown, min(cell, _MAX_CELL)


def height(columns: Sequence[Column], cell: float) -> float:
    """Of a panel, in inches; 0 without columns."""
    return len(columns[0].rows) * cell + (4 if columns[0].notes else 2.6) * _TEXT if columns else 0


def draw_columns(axes: Axes, letter: str, columns: Sequence[Column], names: Sequence[str], shown: int,
                 cell: float) -> None:
    """Draw `shown` images per row, in coordinates of inches. names: of the rows and, if any, of the notes."""
    count = len(columns[0].rows)
    bottom = _TEXT if columns[0].notes else 0
    places = [bottom + (count - 1 - row) * cell for row in range(count)]  # lower ends of the rows
    head = bottom + count * cell + 0.03
    axes.set_axis_off()
    axes.text(-LABELS, head + 0.03, letter, fontsize=9, fontweight='bold')
    axes.text(-0.06, head + 0.03, 'N', ha='right', va='bottom', fontsize=6)
    for y, name in zip([*(place + cell / 2 for place in places), bottom - 0.06], names, strict=False):
        axes.text(-0.06, y, name, ha='right', va='center', fontsize=6)
    for i, column in enumerate(columns):
        left = i * (shown + _BETWEEN) * cell
        axes.text(left + shown * cell / 2, head, f'{column.size}', ha='center', va='bottom', fontsize=7)
        for images, y in zip(column.rows, places, strict=True):
            for j, image in enumerate(images[:shown]):
                _draw_image(axes, image, left + j * cell, y, cell)
        for j, (text, bold) in enumerate(column.notes[:shown]):
            axes.text(left + (j + 0.5) * cell, bottom - 0.02, text, ha='center', va='top', fontsize=6,
                      color=BLACK if bold else GREY, fontweight='bold' if bold else 'normal')
    axes.set_xlim(0, (len(columns) * (shown + _BETWEEN) - _BETWEEN) * cell)
    axes.set_ylim(0, head + _TEXT)
    axes.set_aspect('equal')


def _draw_image(axes: Axes, image: Image.Image, x: float, y: float, cell: float) -> None:
    inset = 0.03 * cell
    axes.imshow(np.asarray(image.convert('RGB')), interpolation='nearest',
                extent=(x + inset, x + cell - inset, y + inset, y + cell - inset))
