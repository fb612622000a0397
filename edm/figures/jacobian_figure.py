"""The Jacobian figure: numerical rank / dimension over 1/sigma, as violins over the seeds."""

import math

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


def draw_ranks(series: dict[str, Ranks], axis: str = 'log', max_snr: float = math.inf,
               width: float = figures.WIDTH) -> tuple[Figure, str]:
    """Draw the figure; returns it and its caption.

    series: ranks by the label in the legend. axis: 'log' or 'linear', the scale of 1/sigma. max_snr: where
    it ends. The one panel has per series a line of the means, labelled, and per noise level a violin, or a
    bar where all seeds agree.
    Raises UserError if there is nothing to draw up to max_snr.
    """
    shown = np.concatenate([(1 / ranks.sigma)[_columns(ranks, max_snr)] for ranks in series.values()])
    if not len(shown):
        raise UserError(f'no rank is known at any 1/sigma up to {max_snr:g}')
    with matplotlib.rc_context(figures.STYLE):
        figure, (axes,) = figures.new_panels(width, 1, 2.6)
        _prepare(axes, axis, shown)
        for i, (label, ranks) in enumerate(series.items()):
            _draw_series(axes, ranks, _columns(ranks, max_snr), label, figures.series_style(i))
        if len(series) > 1:
            axes.legend(loc='best')
    return figure, caption(series)


def caption(series: dict[str, Ranks]) -> str:
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
    errors = [np.maximum(ranks.rank_high - ranks.rank, ranks.rank - ranks.rank_low)[ranks.rank >= 0]
              / ranks.dim for ranks in series.values()]
    error = np.concatenate(errors).max()
    if error:
        parts.append(f'Ranks of the randomized method are certain to within {100 * error:.1f} % of the '
                     'dimension.')
    return ' '.join(parts)


def _prepare(axes: Axes, axis: str, snr: np.ndarray) -> None:
    axes.set_xscale(axis)
    low, high = _scaled(axes, np.array([0 if axis == 'linear' else snr.min(), snr.max()]))
    margin = _MARGIN * (high - low) or 0.5
    axes.set_xlim(_unscaled(axes, np.array([low - margin, high + margin])))
    figures.scale_shares(axes)
    if axis == 'log':
        axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f'{x:g}'))
    axes.set_xlabel('1/σ')
    axes.set_ylabel('rank(J) / dim')


def _columns(ranks: Ranks, max_snr: float) -> list[int]:
    """The noise levels with known ranks up to max_snr."""
    return [column for column, sigma in enumerate(ranks.sigma)
            if 1 / sigma <= max_snr and (ranks.rank[:, column] >= 0).any()]


def _draw_series(axes: Axes, ranks: Ranks, columns: list[int], label: str, style: dict) -> None:
    snr = 1 / ranks.sigma[columns]
    shares = [ranks.rank[ranks.rank[:, column] >= 0, column] / ranks.dim for column in columns]
    for x, values, half in zip(_scaled(axes, snr), shares, _half_widths(axes, snr), strict=True):
        if len(values) > 1:
            _draw_violin(axes, x, values, half, 0.5 / ranks.dim, style['color'])
    axes.plot(snr, [values.mean() for values in shares], ms=3, lw=1, label=label, clip_on=False, zorder=3,
              **style)


def _draw_violin(axes: Axes, x: float, values: np.ndarray, half: float, resolution: float,
                 color: str) -> None:
    """The values' density, by Gaussian kernels of Scott's width; at its highest it is 2 * half wide."""
    low, high = values.min(), values.max()
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
