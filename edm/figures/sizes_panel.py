"""Panels of scores over training-set size: curves, axis and the shading of the regimes."""

import math
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from figures import style as figures
from figures.regimes_results import (
    GENERALIZES_ABOVE,
    MEMORIZES_BELOW,
    Curve,
    Results,
    generalization_start,
    memorization_end,
)
from figures.style import BLUE, GREEN, GREY, ORANGE, PURPLE, SKY, VERMILION
from scores.descriptors import SIMILARITY

WIDTH_COLORS = (BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY)
_MEMORIZATION, _GENERALIZATION = '#FBEBD9', '#E0F0F8'  # pale orange and sky blue

# Inches.
PANEL_WIDTH, PANEL_HEIGHT, HEAD, FOOT = 2.86, 2.0, 0.28, 0.42
_PANEL_LEFT, _LETTER = (0.54, 4.05), 0.055


def add_panels(figure: Figure, bottom: float) -> list[Axes]:
    """Two panels side by side, `bottom` inches above the figure's lower edge."""
    return [figures.add_axes(figure, left, bottom, PANEL_WIDTH, PANEL_HEIGHT) for left in _PANEL_LEFT]


def width_style(i: int) -> tuple[str, str]:
    """Colour and marker of the i-th width, narrowest first."""
    return WIDTH_COLORS[i % len(WIDTH_COLORS)], figures.MARKERS[i % len(figures.MARKERS)]


def caption_parts(results: Results, panels: Sequence[str], controls: Sequence[str] = ()) -> list[str]:
    """Sentences of a caption: what was trained, then `panels`, similarity, other thresholds, shading.

    controls: what the dotted lines show.
    """
    similarity = SIMILARITY.get(results.descriptor, f'the inner product of {results.descriptor} descriptors')
    training = '' if results.kimg is None else f' ({results.kimg:g} kimg of training each)'
    parts = [
        f'Diffusion models trained on N images of {results.data}{training}, all sampled from the same '
        f'{results.num_samples} noises.', *panels,
        f'Similarity is {similarity}. Bands: Wilson 95 % intervals.']
    others = [f'{other:g}' for other in results.thresholds if other != results.threshold]
    if others:
        parts.append(f'Thin dashed lines: the same at {"threshold" if len(others) == 1 else "thresholds"} '
                     f'{", ".join(others)}.')
    if controls:
        parts.append(f'Dotted: {" and ".join(controls)}.')
    parts.append(f'Shaded: GL of all widths at most {MEMORIZES_BELOW:g} (memorization) or at least '
                 f'{GENERALIZES_ABOVE:g} (generalization).')
    return parts


def draw_curve(axes: Axes, results: Results, curve: Curve, threshold: float, name: str, color: str,
                marker: str) -> None:
    """The main threshold: line, markers, band and an entry in the legend; another one: a thin line."""
    if threshold == results.threshold:
        axes.fill_between(results.sizes, curve.low, curve.high, color=color, alpha=0.18, lw=0)
        axes.plot(results.sizes, curve.value, marker=marker, color=color, label=name, clip_on=False, zorder=3)
    else:
        axes.plot(results.sizes, curve.value, '--', lw=0.6, color=color, label=f'_{name}, {threshold:g}')


def finish_panel(axes: Axes, letter: str, name: str, results: Results) -> None:
    """Axes, letter, legend and shading, once all curves are drawn; name: of the score."""
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
    if axes.get_legend_handles_labels()[0]:  # GL scores collected by hand may be all
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
    half = {name: _LETTER / 2 * len(name) / PANEL_WIDTH
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
