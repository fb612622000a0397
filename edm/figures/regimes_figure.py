"""The regimes figure: RP and GL scores over training-set size, and samples with their nearest images."""

from collections.abc import Sequence
from dataclasses import dataclass

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from figures import style as figures
from figures.regimes_curves import Regimes
from figures.sizes_panel import caption_parts, draw_control, draw_curves, finish_panel, name_regimes
from figures.style import BLACK, GREEN, GREY, MARKERS, ORANGE, PURPLE, SKY, VERMILION
from scores.neighbors import load_neighbors, read_shown
from torch_utils.errors import UserError

TITLE = 'Memorization and generalization over training-set size'
PAIR_COLORS = (BLACK, PURPLE, GREEN, ORANGE, SKY, VERMILION)
EXAMPLES = 4  # samples per training-set size, at most

# Inches.
_PANEL_HEIGHT, _LABELS, _TEXT, _MIN_CELL, _MAX_CELL = 2.5, 0.62, 0.14, 0.21, 0.42
_MAX_COLUMNS, _BETWEEN = 8, 0.45  # columns; gap between two of them, of an image's side


@dataclass(frozen=True, kw_only=True)
class Examples:
    """The first samples of the model of training-set size `size`, and the nearest training image of each."""

    size: int
    samples: Sequence[Image.Image]
    nearest: Sequence[Image.Image]
    similarity: Sequence[float]


def load_examples(paths: Sequence[str]) -> list[Examples]:
    """The first samples of files of `scores.neighbors`.

    Raises UserError naming `--neighbors` and a file without training-set size.
    """
    examples = []
    for path in paths:
        neighbors = load_neighbors(path)
        if neighbors.size is None:
            raise UserError(f'--neighbors {path}: has no training-set size')
        chosen = np.arange(min(EXAMPLES, len(neighbors.similarity)))
        samples, nearest = read_shown(neighbors, chosen)
        examples.append(Examples(size=neighbors.size, samples=samples, nearest=nearest,
                                 similarity=neighbors.similarity[chosen].tolist()))
    return examples


def draw_regimes(regimes: Regimes, examples: Sequence[Examples] = (),
                 width: float = figures.WIDTH) -> tuple[Figure, str]:
    """Draw the figure; returns it and its caption.

    Panels: a, RP score per pair of widths; b, GL score per width; c, examples if there are any. The shading
    follows from the GL scores at the main threshold.
    """
    columns = sorted(examples, key=lambda column: column.size)
    if len(columns) > _MAX_COLUMNS:  # evenly among all, with the smallest and the largest size
        places = np.linspace(0, len(columns) - 1, _MAX_COLUMNS).round().astype(int)
        columns = [columns[i] for i in places]
    shown, cell = _cell_size(columns, width)
    rows = [['a'], ['b']] if figures.is_narrow(width) else [['a', 'b']]
    heights = [_PANEL_HEIGHT] * len(rows) + [2 * cell + 4 * _TEXT] * bool(columns)
    with matplotlib.rc_context(figures.STYLE):
        figure = figures.new_figure(width, sum(heights))
        panels = figure.subplot_mosaic(rows + [['c'] * len(rows[0])] * bool(columns), height_ratios=heights)
        _draw_rp(panels['a'], regimes)
        _draw_gl(panels['b'], regimes)
        if columns:
            _draw_examples(panels['c'], columns, shown, cell, regimes.threshold)
        figure.draw_without_rendering()
        for letter in 'ab':
            name_regimes(panels[letter])
    return figure, caption(regimes, examples)


def caption(regimes: Regimes, examples: Sequence[Examples] = ()) -> str:
    """The text below the figure."""
    t = f'{regimes.threshold:g}'
    panels = [f'(a) RP score: share of noises from which two models make the same image (similarity > {t}).',
              f'(b) GL score: share of samples that no training image resembles (similarity > {t}).']
    controls = ['the RP score of samples from different noises'] if 'chance_rp' in regimes.main else []
    if 'heldout_gl' in regimes.main:
        controls.append('the GL score of images that no model was trained on')
    parts = caption_parts(regimes, panels, controls)
    if 'gaussian_rp' in regimes.main:
        parts.append('Dash-dotted: the RP score with the denoiser of a Gaussian that has the mean and the '
                     'covariance of the training images.')
    if examples:
        parts.append('(c) Samples above their nearest training images, with their similarity, bold if '
                     f'> {t}.')
    return ' '.join(parts)


def _draw_rp(axes: Axes, regimes: Regimes) -> None:
    chance, several = regimes.main.get('chance_rp', {}), len(regimes.pairs) > 1
    for i, pair in enumerate(regimes.pairs):
        color = PAIR_COLORS[i % len(PAIR_COLORS)]
        draw_curves(axes, regimes, 'rp', pair, 'UNet-{} vs UNet-{}'.format(*sorted(pair)),
                    {'color': color, 'marker': MARKERS[i % len(MARKERS)]})
        if pair in chance:
            draw_control(axes, chance[pair], f'{"_" * bool(i)}different noises',
                         color=color if several else GREY)
    for width in regimes.widths('gaussian_rp')[-1:]:
        draw_control(axes, regimes.main['gaussian_rp'][width,], f'UNet-{width} vs Gaussian', '-.')
    finish_panel(axes, 'a', 'RP score (reproducibility)', regimes)


def _draw_gl(axes: Axes, regimes: Regimes) -> None:
    for i, width in enumerate(regimes.widths('gl')):
        draw_curves(axes, regimes, 'gl', (width,), f'UNet-{width}', figures.series_style(i))
    for curve in regimes.main.get('heldout_gl', {}).values():
        draw_control(axes, curve, 'held-out images')
    finish_panel(axes, 'b', 'GL score (generalization)', regimes)


def _cell_size(columns: list[Examples], width: float) -> tuple[int, float]:
    """How many samples a column shows, and an image's side in inches."""
    if not columns:
        return 0, 0
    for shown in range(min(EXAMPLES, max(len(column.samples) for column in columns)), 0, -1):
        cell = (width - _LABELS) / (len(columns) * (shown + _BETWEEN) - _BETWEEN)
        if cell >= _MIN_CELL:
            break
    return shown, min(cell, _MAX_CELL)


def _draw_examples(axes: Axes, columns: list[Examples], shown: int, cell: float, threshold: float) -> None:
    """Columns of `shown` samples (above) and nearest images (below), in coordinates of inches."""
    below, above = _TEXT, _TEXT + cell
    head = above + cell + 0.03
    axes.set_axis_off()
    axes.text(-_LABELS, head + 0.03, 'c', fontsize=9, fontweight='bold')
    for y, name in ((head + 0.03, 'N'), (above + cell / 2, 'sample'), (below + cell / 2, 'nearest'),
                    (below - 0.06, 'similarity')):
        axes.text(-0.06, y, name, ha='right', va='bottom' if name == 'N' else 'center', fontsize=6)
    for i, column in enumerate(columns):
        left = i * (shown + _BETWEEN) * cell
        axes.text(left + shown * cell / 2, head, f'{column.size}', ha='center', va='bottom', fontsize=7)
        for j, similarity in enumerate(column.similarity[:shown]):
            x = left + j * cell
            _draw_image(axes, column.samples[j], x, above, cell)
            _draw_image(axes, column.nearest[j], x, below, cell)
            memorized = similarity > threshold
            axes.text(x + cell / 2, below - 0.02, f'{similarity:z.2f}', ha='center', va='top', fontsize=6,
                      color=BLACK if memorized else GREY, fontweight='bold' if memorized else 'normal')
    axes.set_xlim(0, (len(columns) * (shown + _BETWEEN) - _BETWEEN) * cell)
    axes.set_ylim(0, head + _TEXT)
    axes.set_aspect('equal')


def _draw_image(axes: Axes, image: Image.Image, x: float, y: float, cell: float) -> None:
    inset = 0.03 * cell
    axes.imshow(np.asarray(image.convert('RGB')), interpolation='nearest',
                extent=(x + inset, x + cell - inset, y + inset, y + cell - inset))
