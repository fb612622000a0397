"""The Jacobian figure: numerical rank / dimension over 1/sigma, as violins over the seeds."""

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from figures import style as figures
from jacobians.rank_file import Ranks
from torch_utils.errors import UserError

TITLE = 'Numerical rank of the denoiser\'s Jacobian'

_MARGIN = 0.03  # of the axis, left and right
_LARGEST_VIOLIN = 0.018  # half its width, of the axis
_REFERENCE_LINES = ('-', '--', ':')


def draw_ranks(series: dict[str, Ranks], axis: str = 'log', max_snr: float = math.inf,
               width: float = figures.WIDTH, *, references: Mapping[str, Ranks] = MappingProxyType({}),
               trained: tuple[str, float, float] | None = None, scale: str = 'linear', falling: bool = False,
               about: str = '') -> tuple[Figure, str]:
    """Draw the figure; returns it and its caption.

    series: ranks by the label in the legend. axis: key of AXES, for 1/sigma. max_snr: where it ends.
    references: further ones, drawn as broad grey lines of their means.
    trained: a label in `series`, mean and standard deviation of ln sigma in its training; noise levels
    further than two of these away are shaded. scale: of rank/dim, linear or log, which leaves out ranks of 0.
    falling: 1/sigma from high to low. about: a sentence for the caption.
    The one panel has per series a line of the means, labelled, and per noise level a violin, or a bar where
    all seeds agree.
    Raises UserError if there is nothing to draw up to max_snr.
    """
    everything = [*references.values(), *series.values()]
    shown = np.concatenate([(1 / ranks.sigma)[_columns(ranks, max_snr)] for ranks in everything])
    if not len(shown):
        raise UserError(f'no rank is known at any 1/sigma up to {max_snr:g}')
    with matplotlib.rc_context(figures.STYLE):
        figure, (axes,) = figures.new_panels(width, 1, 2.6)
        place = AXES[axis](axes, shown)
        _finish(axes, place(np.array([shown.min(), shown.max()])))
        if scale == 'log':
            drawn = [_shares(ranks, max_snr)[1] for ranks in everything]
            _log_shares(axes, np.array([share for shares in drawn for values in shares
                                        for share in (values.mean(), *values)]))
        for i, (label, ranks) in enumerate(references.items()):
            x, shares = _shares(ranks, max_snr)
            axes.plot(place(x), [values.mean() for values in shares], color=figures.GREY, lw=3.5, alpha=0.4,
                      ls=_REFERENCE_LINES[i % len(_REFERENCE_LINES)], label=label, zorder=1)
        for i, (label, ranks) in enumerate(series.items()):
            _draw_series(axes, place, ranks, max_snr, label, figures.series_style(i))
        if trained:
            _shade(axes, place, *trained[1:])
        if falling:
            axes.invert_xaxis()
        if len(everything) > 1 or trained:  # above the panel, where it hides no curve
            axes.legend(loc='lower left', bbox_to_anchor=(0, 1), borderaxespad=0.2, columnspacing=1.5,
                        ncols=2 if figures.is_narrow(width) else 4)
    parts = [about] if about else []
    parts.append(caption(series, references, trained))
    zero = [label for label, ranks in {**series, **references}.items() if (ranks.rank == 0).any()]
    if scale == 'log' and zero:
        parts.append(f'Left out on this axis: ranks of 0 ({", ".join(zero)}).')
    return figure, ' '.join(parts)


def caption(series: Mapping[str, Ranks], references: Mapping[str, Ranks] = MappingProxyType({}),
            trained: tuple[str, float, float] | None = None) -> str:
    """The text below the figure."""
    etas = sorted({ranks.eta for ranks in series.values()})
    parts = [
        f'The smallest number of singular values with more than {" or ".join(f"{eta:g}" for eta in etas)} of '
        'the norm of all, as a share of the dimension, over the reciprocal noise level.']
    sizes = {label: f'dimension {ranks.dim}, {len(ranks.seed)} noise{"s" * (len(ranks.seed) > 1)}'
             for label, ranks in series.items()}
    if len(set(sizes.values())) == 1:
        sizes = {'Each curve': sizes.popitem()[1]}
    parts.append('; '.join(f'{label}: {size}' for label, size in sizes.items()) + '.')
    if any(len(ranks.seed) > 1 for ranks in series.values()):
        parts.append('Markers: means over the noises; violins: their distribution.')
    if references:
        parts.append(f'Broad grey lines: {", ".join(references)}; means.')
    if trained:
        label, mean, std = trained
        parts.append('Shaded: noise levels more than two standard deviations of ln σ away from the training '
                     f'of {label} (mean {mean:g}, standard deviation {std:g}), where it extrapolates.')
    errors = [np.maximum(ranks.rank_high - ranks.rank, ranks.rank - ranks.rank_low)[ranks.rank >= 0]
              / ranks.dim for ranks in series.values()]
    error = np.concatenate(errors).max()
    if error:
        parts.append(f'Ranks of the randomized method are certain to within {100 * error:.1f} % of the '
                     'dimension.')
    return ' '.join(parts)


def _log_axis(axes: Axes, snr: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    axes.set_xscale('log')
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f'{x:g}'))
    return np.asarray


def _categorical_axis(axes: Axes, snr: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    levels = np.unique([float(f'{x:.4g}') for x in snr])
    numbers = np.arange(len(levels))
    axes.set_xticks(numbers, [f'{float(f"{x:.2g}"):g}' for x in levels])
    return lambda x: np.interp(np.log(x), np.log(levels), numbers)


# Scales of 1/sigma, and where each is on the axis; categorical: all noise levels at equal distances.
AXES = {'log': _log_axis, 'categorical': _categorical_axis}


def _finish(axes: Axes, ends: np.ndarray) -> None:
    low, high = _scaled(axes, ends)
    margin = _MARGIN * (high - low) or 0.5
    axes.set_xlim(_unscaled(axes, np.array([low - margin, high + margin])))
    figures.scale_shares(axes)
    axes.set_xlabel('1/σ')
    axes.set_ylabel('rank(J) / dim')


def _log_shares(axes: Axes, shares: np.ndarray) -> None:
    """A logarithmic axis for shares above 0, down to the smallest of `shares`."""
    axes.set_yscale('log', nonpositive='mask')
    axes.set_ylim(0.7 * shares[shares > 0].min(initial=1), 1)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda x, _: f'{x:g}'))


def _shade(axes: Axes, place: Callable, mean: float, std: float) -> None:
    limits = axes.get_xlim()
    low, high = place(np.exp([-mean - 2 * std, 2 * std - mean]))
    for start, stop in ((limits[0], low), (high, limits[1])):
        if start < stop:
            axes.axvspan(start, stop, color=figures.GREY, alpha=0.12, lw=0, zorder=0,
                         label='extrapolation' if start == limits[0] else None)
    axes.set_xlim(limits)


def _columns(ranks: Ranks, max_snr: float) -> list[int]:
    """The noise levels with known ranks up to max_snr."""
    return [column for column, sigma in enumerate(ranks.sigma)
            if 1 / sigma <= max_snr and (ranks.rank[:, column] >= 0).any()]


def _shares(ranks: Ranks, max_snr: float) -> tuple[np.ndarray, list[np.ndarray]]:
    """1/sigma up to max_snr, and at each the known ranks over the dimension."""
    columns = _columns(ranks, max_snr)
    return 1 / ranks.sigma[columns], [ranks.rank[ranks.rank[:, column] >= 0, column] / ranks.dim
                                      for column in columns]


def _draw_series(axes: Axes, place: Callable, ranks: Ranks, max_snr: float, label: str, style: dict) -> None:
    snr, shares = _shares(ranks, max_snr)
    snr = place(snr)
    for x, values, half in zip(_scaled(axes, snr), shares, _half_widths(axes, snr), strict=True):
        if len(values) > 1:
            _draw_violin(axes, x, values, half, 0.5 / ranks.dim, style['color'])
    axes.plot(snr, [values.mean() for values in shares], ms=3, lw=1, label=label, clip_on=False, zorder=3,
              **style)


def _draw_violin(axes: Axes, x: float, values: np.ndarray, half: float, resolution: float,
                 color: str) -> None:
    """The values' density, by Gaussian kernels of Scott's width; at its highest it is 2 * half wide."""
    low, high = values.min(), values.max()
    if axes.get_yscale() == 'log':
        if high == 0:
            return
        low = max(low, resolution)
    if low == high:
        axes.plot(_unscaled(axes, np.array([x - half, x + half])), [low, low], color=color, lw=1.2, alpha=0.5,
                  solid_capstyle='butt', clip_on=False)
        return
    height = np.linspace(low, high, 100)
    kernel = max(values.std(ddof=1) * len(values) ** -0.2, resolution)
    density = np.exp(-0.5 * ((height[:, None] - values) / kernel) ** 2).sum(axis=1)
    width = half * density / density.max()
    axes.fill_betweenx(height, _unscaled(axes, x - width), _unscaled(axes, x + width), color=color, alpha=0.3,
                       lw=0.5, clip_on=False)


def _half_widths(axes: Axes, snr: np.ndarray) -> np.ndarray:
    """Half the width of each violin, clear of its neighbours."""
    x = _scaled(axes, snr)
    low, high = _scaled(axes, np.array(axes.get_xlim()))
    gaps = np.abs(np.diff(x))
    left, right = np.append(np.inf, gaps), np.append(gaps, np.inf)
    return np.minimum(0.42 * np.minimum(left, right), _LARGEST_VIOLIN * (high - low))


def _scaled(axes: Axes, x: np.ndarray) -> np.ndarray:
    return axes.xaxis.get_transform().transform(x)


def _unscaled(axes: Axes, x: np.ndarray) -> np.ndarray:
    return axes.xaxis.get_transform().inverted().transform(x)
