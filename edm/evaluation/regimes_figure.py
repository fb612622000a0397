"""The regimes figure: RP and GL scores over training-set size, and samples with their nearest images."""

import math

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator
from PIL import Image

from evaluation import figures
from evaluation.descriptors import SIMILARITY
from evaluation.figures import BLACK, BLUE, GREEN, GREY, ORANGE, PURPLE, SKY, VERMILION
from evaluation.regimes_results import (
    GENERALIZES_ABOVE,
    MEMORIZES_BELOW,
    Curve,
    Results,
    generalization_start,
    memorization_end,
)

TITLE = 'Memorization and generalization over training-set size'
WIDTH_COLORS = (BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY)
PAIR_COLORS = (BLACK, PURPLE, GREEN, ORANGE, SKY, VERMILION)
_MEMORIZATION, _GENERALIZATION = '#FBEBD9', '#E0F0F8'  # pale orange and sky blue

# Inches.
_PANEL_LEFT, _PANEL_WIDTH, _PANEL_HEIGHT = (0.54, 4.05), 2.86, 2.0
_HEAD, _FOOT, _GAP, _LETTER = 0.28, 0.42, 0.12, 0.055
_LABELS, _COLUMN_HEAD, _SIMILARITY_HEIGHT = 0.5, 0.19, 0.13
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
    panels_bottom = figures.MARGIN + caption_height + _GAP + examples_height + _FOOT
    with matplotlib.rc_context(figures.STYLE):
        figure = figures.new_figure(panels_bottom + _PANEL_HEIGHT + _HEAD)
        panels = [figures.add_axes(figure, left, panels_bottom, _PANEL_WIDTH, _PANEL_HEIGHT)
                  for left in _PANEL_LEFT]
        _draw_rp(panels[0], results)
        _draw_gl(panels[1], results)
        _finish_panel(panels[0], 'a', 'RP score (reproducibility)', results)
        _finish_panel(panels[1], 'b', 'GL score (generalization)', results)
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
    similarity = SIMILARITY.get(results.descriptor, f'the inner product of {results.descriptor} descriptors')
    training = '' if results.kimg is None else f' ({results.kimg:g} kimg of training each)'
    parts = [
        f'Diffusion models trained on N images of {results.data}{training}, all sampled from the same '
        f'{results.num_samples} noises.',
        f'(a) RP score: share of noises from which two models make the same image (similarity > {t}).',
        f'(b) GL score: share of samples that no training image resembles (similarity > {t}).',
        f'Similarity is {similarity}. Bands: Wilson 95 % intervals.',
    ]
    others = [f'{other:g}' for other in results.thresholds if other != results.threshold]
    if others:
        parts.append(f'Thin dashed lines: the same at {"threshold" if len(others) == 1 else "thresholds"} '
                     f'{", ".join(others)}.')
    controls = ['the RP score of samples from different noises'] if scores.chance_rp else []
    controls += ['the GL score of images that no model was trained on'] if scores.heldout_gl else []
    if controls:
        parts.append(f'Dotted: {" and ".join(controls)}.')
    parts.append(f'Shaded: GL of all widths at most {MEMORIZES_BELOW:g} (memorization) or at least '
                 f'{GENERALIZES_ABOVE:g} (generalization).')
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
            _draw_curve(axes, results, curve, threshold, name, color, marker)
    for i, (pair, curve) in enumerate(results.scores[results.threshold].chance_rp.items()):
        several = len(results.scores[results.threshold].rp) > 1
        index = list(results.scores[results.threshold].rp).index(pair) if several else 0
        axes.plot(results.sizes, curve.value, ':', lw=1, color=PAIR_COLORS[index] if several else GREY,
                  clip_on=False, label='different noises' if i == 0 else '_different noises')


def _draw_gl(axes: Axes, results: Results) -> None:
    for threshold, scores in results.scores.items():
        for i, width in enumerate(sorted(scores.gl)):
            color, marker = WIDTH_COLORS[i % len(WIDTH_COLORS)], figures.MARKERS[i % len(figures.MARKERS)]
            _draw_curve(axes, results, scores.gl[width], threshold, f'UNet-{width}', color, marker)
    heldout = results.scores[results.threshold].heldout_gl
    if heldout is not None:
        axes.plot(results.sizes, heldout.value, ':', lw=1, color=GREY, clip_on=False,
                  label='held-out images')


def _draw_curve(axes: Axes, results: Results, curve: Curve, threshold: float, name: str, color: str,
                marker: str) -> None:
    """The main threshold: line, markers, band and an entry in the legend; another one: a thin line."""
    if threshold == results.threshold:
        axes.fill_between(results.sizes, curve.low, curve.high, color=color, alpha=0.18, lw=0)
        axes.plot(results.sizes, curve.value, marker=marker, color=color, label=name, clip_on=False, zorder=3)
    else:
        axes.plot(results.sizes, curve.value, '--', lw=0.6, color=color, label=f'_{name}, {threshold:g}')


def _finish_panel(axes: Axes, letter: str, name: str, results: Results) -> None:
    sizes = results.sizes
    low, high = math.log2(sizes[0]), math.log2(sizes[-1])
    margin = 0.04 * (high - low) or 0.5
    axes.set_xscale('log', base=2)
    axes.set_xlim(2 ** (low - margin), 2 ** (high + margin))
    exponents = range(math.ceil(low - margin), math.floor(high + margin) + 1)
    exponents = exponents[::math.ceil(len(exponents) / 12)]
    axes.xaxis.set_major_locator(FixedLocator([2.0 ** k for k in exponents]))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f'$2^{{{round(math.log2(x))}}}$'))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_ylim(0, 1)
    axes.set_yticks([0, 0.25, 0.5, 0.75, 1], ['0', '0.25', '0.5', '0.75', '1'])
    axes.set_xlabel('number of training images N', labelpad=2)
    axes.set_ylabel(name, labelpad=3)
    axes.text(-0.16, 1.025, letter, transform=axes.transAxes, fontsize=9, fontweight='bold', va='bottom')
    _shade(axes, results)
    axes.legend(loc='best', handlelength=2.2, labelspacing=0.3, borderpad=0.2)


def _shade(axes: Axes, results: Results) -> None:
    """Colour the regimes that there are and name them above the panel."""
    curves = [curve.value for curve in results.scores[results.threshold].gl.values()]
    end, start = memorization_end(results.sizes, curves), generalization_start(results.sizes, curves)
    left, right = axes.get_xlim()
    if end is not None:
        end = right if end == results.sizes[-1] else end
        axes.axvspan(left, end, color=_MEMORIZATION, lw=0, zorder=-2, label='_memorization')
    if start is not None:
        start = left if start == results.sizes[0] else start
        axes.axvspan(start, right, color=_GENERALIZATION, lw=0, zorder=-2, label='_generalization')
    _name_regimes(axes, *(None if x is None else math.log2(x / left) / math.log2(right / left)
                          for x in (end, start)))


def _name_regimes(axes: Axes, end: float | None, start: float | None) -> None:
    """Write the regimes' names; end, start: of memorization and generalization, 0..1 across the panel.

    The outer names stay within the panel but may reach beyond a narrow regime; `transition` gives way.
    """
    half = {name: _LETTER / 2 * len(name) / _PANEL_WIDTH
            for name in ('memorization', 'transition', 'generalization')}
    places, free = {}, [0.0, 1.0]
    if end is not None:
        places['memorization'] = max(end / 2, half['memorization'])
        free[0] = max(end, places['memorization'] + half['memorization'])
    if start is not None:
        places['generalization'] = min((start + 1) / 2, 1 - half['generalization'])
        free[1] = min(start, places['generalization'] - half['generalization'])
    if free[1] - free[0] > 2.2 * half['transition']:
        places['transition'] = sum(free) / 2
    for name, x in places.items():
        axes.text(x, 1.03, name, transform=axes.transAxes, ha='center', va='bottom', fontsize=7, color=GREY,
                  style='italic')


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
