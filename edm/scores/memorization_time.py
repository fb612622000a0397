"""When in training a model begins to copy its training images, and how that grows with their number.

Scores along training are rows of the score table whose model is called by the time, such as `2.048 kimg`.
Bonnaire et al. 2025, arXiv 2505.17638: the memorization time tau_mem grows in proportion to N.
"""

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from scores.score_table import Row

MEMORIZED = 0.5  # share of samples that are copies at tau_mem


@dataclass(frozen=True, kw_only=True)
class Course:
    """A score along training: kimg, value and its 95 % interval low..high, float64 [T], kimg rising."""

    kimg: np.ndarray
    value: np.ndarray
    low: np.ndarray
    high: np.ndarray


def kimg_of(name: str) -> float | None:
    """The time that a model is called by, None for another name."""
    match = re.fullmatch(r'(\d+(?:\.\d+)?) kimg', name)
    return float(match[1]) if match else None


def courses(rows: Iterable[Row], score: str, threshold: float | None = None) -> dict[int, Course]:
    """A kind of score along training by training-set size, rising. threshold: the largest by default."""
    rows = [row for row in rows if row.score == score and row.size is not None and len(row.models) == 1
            and kimg_of(row.models[0]) is not None]
    threshold = max((row.threshold for row in rows), default=0) if threshold is None else threshold
    found = {}
    for row in sorted(rows, key=lambda row: (row.size, kimg_of(row.models[0]))):
        if row.threshold == threshold:
            found.setdefault(row.size, []).append((kimg_of(row.models[0]), row.value, row.low, row.high))
    return {size: Course(**dict(zip(('kimg', 'value', 'low', 'high'), np.array(points, dtype=float).T,
                                    strict=True))) for size, points in found.items()}


def crossing(kimg: np.ndarray, gl: np.ndarray) -> float:
    """The first time at which a share MEMORIZED is not new, linear in log(kimg); inf if it never is."""
    below = np.flatnonzero(gl <= 1 - MEMORIZED)
    if not len(below):
        return math.inf
    if below[0] == 0:
        return float(kimg[0])
    a, b = below[0] - 1, below[0]
    part = (gl[a] - (1 - MEMORIZED)) / (gl[a] - gl[b])
    return float(kimg[a] * (kimg[b] / kimg[a]) ** part)


@dataclass(frozen=True, kw_only=True)
class Times:
    """tau_mem in kimg by training-set size: value and interval low..high, float64 [S], inf where not reached.

    end: the last time, by size. exponent, factor: of the fit tau_mem = factor * N ** exponent, with the
    standard error of the exponent; NaN where too few sizes reach it (two for the fit, three for the error).
    """

    size: np.ndarray
    value: np.ndarray
    low: np.ndarray
    high: np.ndarray
    end: np.ndarray
    exponent: float
    error: float
    factor: float


def collect_times(rows: Sequence[Row]) -> Times:
    """The memorization times from GL scores along training, and their fit.

    The interval is where the ends of GL's interval cross: it covers the choice of noises alone.
    """
    gl = courses(rows, 'gl')
    ends = [[crossing(course.kimg, getattr(course, name)) for course in gl.values()]
            for name in ('value', 'low', 'high')]
    value, low, high = np.array(ends, dtype=float).reshape(3, -1)
    size = np.array(list(gl), dtype=float)
    exponent, error, factor = fit_power(size[np.isfinite(value)], value[np.isfinite(value)])
    return Times(size=size, value=value, low=low, high=high, exponent=exponent, error=error, factor=factor,
                 end=np.array([course.kimg[-1] for course in gl.values()], dtype=float))


def fit_power(x: np.ndarray, y: np.ndarray) -> tuple[float, float, float]:
    """Exponent, its standard error and factor of y = factor * x ** exponent, by least squares of logarithms.

    x, y: float64 [S], positive. NaN for what S points leave open: all of it below 2, the error below 3.
    """
    if len(x) < 2:
        return math.nan, math.nan, math.nan
    u, v = np.log(x), np.log(y)
    spread = ((u - u.mean()) ** 2).sum()
    slope = float(((u - u.mean()) * (v - v.mean())).sum() / spread)
    rest = v - v.mean() - slope * (u - u.mean())
    error = math.sqrt((rest ** 2).sum() / (len(x) - 2) / spread) if len(x) > 2 else math.nan
    return slope, error, float(np.exp(v.mean() - slope * u.mean()))


def times_text(times: Times) -> str:
    """A line per training-set size, and the fit."""
    lines = ['memorization time tau_mem: training after which half of the samples are copies']
    for size, value, low, high, end in zip(times.size, times.value, times.low, times.high, times.end,
                                           strict=True):
        reached = (f'{value:.1f} kimg ({low:.1f} .. {high:.1f})' if np.isfinite(value) else
                   f'over {end:g} kimg')
        lines.append(f'N = {size:<6g} {reached}')
    lines.append(f'fit: {fit_text(times)}')
    return '\n'.join(lines)


def fit_text(times: Times) -> str:
    """The fit in words."""
    if math.isnan(times.exponent):
        return 'fewer than two sizes are memorized'
    error = '' if math.isnan(times.error) else f' +- {times.error:.2f}'
    return f'tau_mem = {times.factor:.2g} kimg * N^({times.exponent:.2f}{error})'
