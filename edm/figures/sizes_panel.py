"""Panels of scores over training-set size: curves, axis and the shading of the regimes."""

import math
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from descriptors import similarity_words
from figures.regimes_curves import MEMORIZES_BELOW, NEAR_HELDOUT, Regimes, regime_limits
from figures.style import GREY, add_letter, scale_shares
from scores.score_table import SCORES

_MEMORIZATION, _GENERALIZATION = '#FBEBD9', '#E0F0F8'  # pale orange and sky blue


def caption_parts(regimes: Regimes, panels: Sequence[str], controls: Sequence[str] = ()) -> list[str]:
    """Sentences of a caption: what was trained, then `panels`, similarity, other thresholds, shading.

    controls: what the dotted lines show.
    """
    training = '' if regimes.kimg is None else f' ({regimes.kimg:g} kimg of training each)'
    parts = [
        f'Diffusion models trained on N images of {regimes.data}{training}, all sampled from the same '
        f'{regimes.noises} noises.', *panels,
        f'Similarity is {similarity_words(regimes.descriptor)}. Bands of shares: Wilson 95 % '
        'intervals. Bands cover the choice of noises, not that of the training\'s seed.']
    if regimes.repeats:
        parts.append(f'Bars: from the smallest to the largest of {1 + len(regimes.repeats)} trainings from '
                     'different seeds.')
    others = [f'{other:g}' for other in regimes.curves if other != regimes.threshold]
    if others:
        parts.append(f'Thin dashed lines: the same at {"threshold" if len(others) == 1 else "thresholds"} '
                     f'{", ".join(others)}.')
    if controls:
        parts.append(f'Dotted: {" and ".join(controls)}.')
    near = 'below that of held-out images' if 'heldout_gl' in regimes.main else 'below 1'
    pairs = 'on disjoint images ' if 'disjoint_rp' in regimes.main else ''
    learned, errors = '', regimes.errors
    if errors is not None:
        learned = (f', and errors of {errors.name} on held-out images at sigma = '
                   f'{", ".join(f"{sigma:g}" for sigma in errors.sigmas)} at most those of the Gaussian '
                   'denoiser of the largest training set, as the samples of a network that has learned no '
                   'more are noise, which is new, too')
    parts.append(f'Shaded: memorization, GL of all widths at most {MEMORIZES_BELOW:g}; generalization, GL of '
                 f'all widths at most {NEAR_HELDOUT:g} {near}{"," if learned else ", and"} RP of models '
                 f'trained {pairs}above that of different noises by more than the intervals{learned}. White: '
                 'neither. A regime says nothing of the quality of samples.')
    return parts


def draw_curves(axes: Axes, regimes: Regimes, score: str, widths: tuple[int, ...], name: str,
                style: dict) -> None:
    """One score at all thresholds: the main one as line with band and label, others as thin lines."""
    for threshold, curves in regimes.curves.items():
        curve = curves.get(score, {}).get(widths)
        if curve is None:
            continue
        if threshold == regimes.threshold:
            axes.fill_between(curve.size, curve.low, curve.high, color=style['color'], alpha=0.18, lw=0)
            axes.plot(curve.size, curve.value, label=name, clip_on=False, zorder=3, **style)
            _draw_spread(axes, regimes, score, widths, style['color'])
        elif SCORES[score].thresholded:
            axes.plot(curve.size, curve.value, '--', lw=0.6, color=style['color'],
                      label=f'_{name}, {threshold:g}')


def _draw_spread(axes: Axes, regimes: Regimes, score: str, widths: tuple[int, ...], color: str) -> None:
    """Bars from the smallest to the largest of all trainings."""
    found = {}
    for curves in (regimes.main, *regimes.repeats):
        if (curve := curves.get(score, {}).get(widths)) is not None:
            for size, value in zip(curve.size, curve.value, strict=True):
                found.setdefault(size, []).append(value)
    several = {size: values for size, values in found.items() if len(values) > 1}
    axes.vlines(list(several), [min(values) for values in several.values()],
                [max(values) for values in several.values()], color=color, lw=0.9, zorder=2)


def draw_control(axes: Axes, regimes: Regimes, score: str, widths: tuple[int, ...], name: str,
                 line: str = ':', color: str = GREY, others: bool = True) -> None:
    """A control as a thin line, and thinner at the other thresholds if `others` is set."""
    others &= SCORES[score].thresholded
    for threshold, curves in regimes.curves.items():
        curve, is_main = curves.get(score, {}).get(widths), threshold == regimes.threshold
        if curve is not None and (is_main or others):
            axes.plot(curve.size, curve.value, line, lw=1 if is_main else 0.6, color=color, clip_on=False,
                      label=name if is_main else f'_{name}, {threshold:g}')


def scale_sizes(axes: Axes, sizes: Sequence[int]) -> None:
    """A horizontal axis for training-set sizes, rising, with powers of 2 as ticks."""
    low, high = math.log2(sizes[0]), math.log2(sizes[-1])
    margin = 0.04 * (high - low) or 0.5
    axes.set_xscale('log', base=2)
    axes.set_xlim(2 ** (low - margin), 2 ** (high + margin))
    exponents = range(math.ceil(low - margin), math.floor(high + margin) + 1)
    exponents = exponents[::math.ceil(len(exponents) / 12)]
    axes.xaxis.set_major_locator(FixedLocator([2.0 ** k for k in exponents]))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f'$2^{{{round(math.log2(x))}}}$'))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel('number of training images N')


def finish_panel(axes: Axes, letter: str, name: str, regimes: Regimes, *, shares: bool = True) -> None:
    """Axes, letter, legend and shading, once all curves are drawn.

    name: of the score. shares: whether it lies between 0 and 1.
    """
    scale_sizes(axes, regimes.sizes)
    if shares:
        scale_shares(axes)
    axes.set_ylabel(name)
    add_letter(axes, letter)
    end, start = regime_limits(regimes.main, regimes.errors)
    left, right = axes.get_xlim()
    if end is not None:
        axes.axvspan(left, right if end == regimes.sizes[-1] else end, color=_MEMORIZATION, lw=0, zorder=-2,
                     label='_memorization')
    if start is not None:
        axes.axvspan(left if start == regimes.sizes[0] else start, right, color=_GENERALIZATION, lw=0,
                     zorder=-2, label='_generalization')
    if axes.get_legend_handles_labels()[0]:
        axes.legend(loc='best', frameon=True, framealpha=0.75, edgecolor='none')


def name_regimes(axes: Axes) -> None:
    """Write the regimes' names above a finished panel, once the layout has given it its width.

    The outer names stay within the panel but may reach beyond a narrow regime; `transition` gives way.
    """
    spans = {patch.get_label()[1:]: patch.get_window_extent() for patch in axes.patches}
    box = axes.get_window_extent()
    texts = {name: axes.text(0.5, 1.03, name, transform=axes.transAxes, ha='center', va='bottom', fontsize=7,
                             color=GREY, style='italic')
             for name in ('memorization', 'transition', 'generalization')}
    half = {name: text.get_window_extent().width / 2 / box.width for name, text in texts.items()}
    places, left, right = {}, 0.0, 1.0
    if 'memorization' in spans:
        left = (spans['memorization'].x1 - box.x0) / box.width
        places['memorization'] = max(left / 2, half['memorization'])
        left = max(left, places['memorization'] + half['memorization'])
    if 'generalization' in spans:
        right = (spans['generalization'].x0 - box.x0) / box.width
        places['generalization'] = min((right + 1) / 2, 1 - half['generalization'])
        right = min(right, places['generalization'] - half['generalization'])
    if right - left > 2.2 * half['transition']:
        places['transition'] = (left + right) / 2
    for name, text in texts.items():
        text.set_x(places.get(name, 0))
        text.set_visible(name in places)
