"""The regimes figure: RP and GL scores over training-set size, and samples with their nearest images."""

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from figures import style as figures
from figures.regimes_results import Results
from figures.sizes_panel import (
    FOOT,
    HEAD,
    PANEL_HEIGHT,
    add_panels,
    caption_parts,
    draw_curve,
    finish_panel,
    width_style,
)
from figures.style import BLACK, GREEN, GREY, ORANGE, PURPLE, SKY, VERMILION

TITLE = 'Memorization and generalization over training-set size'
PAIR_COLORS = (BLACK, PURPLE, GREEN, ORANGE, SKY, VERMILION)

# Inches.
_GAP, _LABELS, _COLUMN_HEAD, _SIMILARITY_HEIGHT = 0.12, 0.5, 0.19, 0.13
_MAX_COLUMNS, _MAX_SAMPLES, _MIN_CELL, _MAX_CELL = 8, 4, 0.22, 0.42


def draw_regimes(results: Results) -> tuple[Figure, str]:
    """Draw the figure; returns it and its caption.

    Axes: panel a, RP score per pair of widths; panel b, GL score per width; then, if there are examples, one
    that holds them. A score's curve has the label that the legend shows; the shading follows from the GL
    scores at the main threshold.
    """
    text = caption(results)
    wrapped, caption_height = figures.wrap_caption(text)
    columns = _chosen_columns(results)
    shown, cell = _cell_size(columns)
    examples_height = _COLUMN_HEAD + 2 * cell + _SIMILARITY_HEIGHT + _GAP if columns else 0
    panels_bottom = figures.MARGIN + caption_height + _GAP + examples_height + FOOT
    with matplotlib.rc_context(figures.STYLE):
        figure = figures.new_figure(panels_bottom + PANEL_HEIGHT + HEAD)
        panels = add_panels(figure, panels_bottom)
        _draw_rp(panels[0], results)
        _draw_gl(panels[1], results)
        finish_panel(panels[0], 'a', 'RP score (reproducibility)', results)
        finish_panel(panels[1], 'b', 'GL score (generalization)', results)
        if columns:
            bottom = figures.MARGIN + caption_height + _GAP
            width = figures.WIDTH - 2 * figures.MARGIN
            axes = figures.add_axes(figure, figures.MARGIN, bottom, width, examples_height - _GAP)
            _draw_examples(axes, columns, shown, cell, results.threshold)
        figures.draw_caption(figure, wrapped, top=figures.MARGIN + caption_height)
    return figure, text


def caption(results: Results) -> str:
    """What the figure shows, with the numbers that a reader needs to judge it."""
    t = f'{results.threshold:g}'
    scores = results.scores[results.threshold]
    panels = [f'(a) RP score: share of noises from which two models make the same image (similarity > {t}).',
              f'(b) GL score: share of samples that no training image resembles (similarity > {t}).']
    controls = ['the RP score of samples from different noises'] if scores.chance_rp else []
    controls += ['the GL score of images that no model was trained on'] if scores.heldout_gl else []
    parts = caption_parts(results, panels, controls)
    if scores.gaussian_rp:
        parts.append('Dash-dotted: the RP score with the denoiser of a Gaussian that has the mean and the '
                     'covariance of the training images.')
    if results.examples:
        parts.append(f'(c) Samples of UNet-{results.example_width} above their nearest training images, with '
                     f'their similarity, bold if > {t}.')
    return ' '.join(parts)


def _draw_rp(axes: Axes, results: Results) -> None:
    for threshold, scores in results.scores.items():
        for i, (pair, curve) in enumerate(scores.rp.items()):
            small, large = sorted(pair)
            color, marker = PAIR_COLORS[i % len(PAIR_COLORS)], figures.MARKERS[i % len(figures.MARKERS)]
            name = f'UNet-{small} vs UNet-{large}'
            draw_curve(axes, results, curve, threshold, name, color, marker)
    for i, (pair, curve) in enumerate(results.scores[results.threshold].chance_rp.items()):
        several = len(results.scores[results.threshold].rp) > 1
        index = list(results.scores[results.threshold].rp).index(pair) if several else 0
        axes.plot(results.sizes, curve.value, ':', lw=1, color=PAIR_COLORS[index] if several else GREY,
                  clip_on=False, label='different noises' if i == 0 else '_different noises')
    gaussian_rp = results.scores[results.threshold].gaussian_rp
    if gaussian_rp:
        widest = max(gaussian_rp)
        axes.plot(results.sizes, gaussian_rp[widest].value, '-.', lw=1, color=GREY, clip_on=False,
                  label=f'UNet-{widest} vs Gaussian')


def _draw_gl(axes: Axes, results: Results) -> None:
    for threshold, scores in results.scores.items():
        for i, width in enumerate(sorted(scores.gl)):
            color, marker = width_style(i)
            draw_curve(axes, results, scores.gl[width], threshold, f'UNet-{width}', color, marker)
    heldout = results.scores[results.threshold].heldout_gl
    if heldout is not None:
        axes.plot(results.sizes, heldout.value, ':', lw=1, color=GREY, clip_on=False,
                  label='held-out images')


def _chosen_columns(results: Results) -> list:
    """At most _MAX_COLUMNS columns, evenly among all, the smallest and the largest size with them."""
    columns = sorted(results.examples, key=lambda column: column.size)
    if len(columns) <= _MAX_COLUMNS:
        return columns
    return [columns[i] for i in np.linspace(0, len(columns) - 1, _MAX_COLUMNS).round().astype(int)]


def _cell_size(columns: list) -> tuple[int, float]:
    """How many samples a column shows, and an image's side in inches, with gaps of 0.45 images between."""
    if not columns:
        return 0, 0
    room = figures.WIDTH - 2 * figures.MARGIN - _LABELS
    for shown in range(min(_MAX_SAMPLES, max(len(column.samples) for column in columns)), 0, -1):
        cell = room / (len(columns) * (shown + 0.45) - 0.45)
        if cell >= _MIN_CELL:
            break
    return shown, min(cell, _MAX_CELL)


def _draw_examples(axes: Axes, columns: list, shown: int, cell: float, threshold: float) -> None:
    """Columns of `shown` samples (above) and nearest images (below), in coordinates of inches."""
    width, height = figures.WIDTH - 2 * figures.MARGIN, _COLUMN_HEAD + 2 * cell + _SIMILARITY_HEIGHT
    below, above = _SIMILARITY_HEIGHT, _SIMILARITY_HEIGHT + cell
    axes.set_axis_off()
    axes.text(0, height - 0.02, 'c', fontsize=9, fontweight='bold', va='top')
    axes.text(_LABELS - 0.06, above + cell / 2, 'sample', ha='right', va='center', fontsize=6)
    axes.text(_LABELS - 0.06, below + cell / 2, 'nearest', ha='right', va='center', fontsize=6)
    for i, column in enumerate(columns):
        left = _LABELS + i * (shown + 0.45) * cell
        axes.text(left + shown * cell / 2, height - 0.02, f'N = {column.size}', ha='center', va='top',
                  fontsize=7)
        for j, similarity in enumerate(column.similarity[:shown]):
            x = left + j * cell
            _draw_image(axes, column.samples[j], x, above, cell)
            _draw_image(axes, column.nearest[j], x, below, cell)
            memorized = similarity > threshold
            axes.text(x + cell / 2, below - 0.02, f'{similarity:.2f}', ha='center', va='top', fontsize=4.8,
                      color=BLACK if memorized else GREY, fontweight='bold' if memorized else 'normal')
    axes.set_xlim(0, width)
    axes.set_ylim(0, height)


def _draw_image(axes: Axes, path, x: float, y: float, cell: float) -> None:
    with Image.open(path) as image:
        pixels = np.asarray(image.convert('RGB'))
    inset = 0.03 * cell
    axes.imshow(pixels, extent=(x + inset, x + cell - inset, y + inset, y + cell - inset),
                interpolation='nearest', aspect='auto')
