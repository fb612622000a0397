"""Curves of a score table over training-set size, and the regimes they define."""

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from scores.score_table import Row
from torch_utils.errors import UserError

MEMORIZES_BELOW = 0.05  # GL score of all widths: the memorization regime
NEAR_HELDOUT = 0.1  # GL score of all widths at most so far below that of held-out images: generalization


@dataclass(frozen=True)
class Curve:
    """A score over training-set sizes `size`, int [number of sizes] and rising, with its 95 % interval."""

    size: np.ndarray
    value: np.ndarray
    low: np.ndarray
    high: np.ndarray


Curves = dict[str, dict[tuple[int, ...], Curve]]  # by kind of score, then by widths


@dataclass(frozen=True)
class OverGaussian:
    """Denoising errors of the network `name` on held-out images over those of the best affine denoiser.

    That is the Gaussian denoiser of the largest training set: a network with a larger error has learned no
    more than mean and covariance. ratio: by N, the largest at the noise levels `sigmas`, in dB.
    """

    name: str
    sigmas: Sequence[float]
    ratio: dict[int, float]


@dataclass(frozen=True, kw_only=True)
class Regimes:
    """The scores that a figure draws.

    data: the data set's name. kimg: thousands of images seen per model, None if unknown. noises: their number
    per model, as text. threshold: the main one. curves: by threshold, the main one first. sizes: all N,
    rising. repeats: the curves at the main threshold of the same models trained from other seeds. errors: of
    denoising, if known.
    """

    data: str
    kimg: float | None
    descriptor: str
    noises: str
    threshold: float
    curves: dict[float, Curves]
    sizes: list[int]
    repeats: Sequence[Curves] = ()
    errors: OverGaussian | None = None

    @property
    def main(self) -> Curves:
        """The curves at the main threshold."""
        return self.curves[self.threshold]

    @property
    def pairs(self) -> list[tuple[int, ...]]:
        """Pairs of widths, the wider first."""
        return sorted(self.main.get('rp', {}), reverse=True)

    def widths(self, score: str) -> list[int]:
        """Widths of which there is this score, rising."""
        return sorted(width for (width,) in self.main.get(score, {}))


def collect_curves(rows: Sequence[Row], *, data: str, kimg: float | None, threshold: float | None,
                   where: str, repeats: Sequence[Sequence[Row]] = (), errors: OverGaussian | None = None,
                   ) -> Regimes:
    """Collect the scores of models that have widths and training-set sizes.

    threshold: the main one; needed only if there are several. repeats: the scores of the same models trained
    from other seeds. errors: of denoising, which generalization depends on.
    Raises UserError naming `where` if there are no such scores, or some can't share a figure.
    """
    rows = [row for row in rows if row.size is not None and row.widths is not None]
    if not rows:
        raise UserError(f'{where}: no score has a size and widths, as sscd.py --size and --width give them')
    main_rows = [row for row in rows if row.score in ('rp', 'gl')] or rows[:1]
    descriptor = only(main_rows, 'descriptor', where)
    rows = [row for row in rows if row.descriptor == descriptor]
    thresholds = sorted({row.key[0] for row in rows if row.key[0] is not None}, reverse=True)
    if not thresholds:
        raise UserError(f'{where}: holds no RP or GL scores')
    listed = ', '.join(f'{t:g}' for t in thresholds)
    if threshold is None and len(thresholds) > 1:
        raise UserError(f'{where}: has the thresholds {listed}; --threshold says which one is the main one')
    main = thresholds[0] if threshold is None else threshold
    if main not in thresholds:
        raise UserError(f'--threshold {main:g}: the scores are at {listed}')
    return Regimes(data=data, kimg=kimg, descriptor=descriptor, threshold=main,
                   noises=totals(main_rows), errors=errors,
                   curves={t: _curves([row for row in rows if row.key[0] in (t, None)])
                           for t in (main, *(t for t in thresholds if t != main))},
                   sizes=sorted({row.size for row in rows}),
                   repeats=[_curves([row for row in scores if row.threshold == main and row.size is not None
                                     and row.widths is not None and row.descriptor == descriptor])
                            for scores in repeats])


def only(rows: Sequence[Row], field: str, where: str):
    """The value of a field that all rows must share. Raises UserError naming `where` if they don't."""
    found = sorted({getattr(row, field) for row in rows})
    if len(found) > 1:
        raise UserError(f'{where}: has the {field}s {", ".join(map(str, found))}; expected one')
    return found[0]


def totals(rows: Sequence[Row]) -> str:
    """The number of samples per score, smallest to largest, as text."""
    found = [row.total or 0 for row in rows]
    return ' to '.join(map(str, sorted({min(found), max(found)})))


def _curves(rows: Sequence[Row]) -> Curves:
    found = defaultdict(lambda: defaultdict(list))
    for row in sorted(rows, key=lambda row: row.size):
        found[row.score][row.widths].append(row)
    return {score: {widths: Curve(np.array([row.size for row in curve]),
                                  *(np.array([getattr(row, name) for row in curve], dtype=np.float64)
                                    for name in ('value', 'low', 'high')))
                    for widths, curve in curves.items()} for score, curves in found.items()}


def regime_limits(curves: Curves, errors: OverGaussian | None = None) -> tuple[float | None, float | None]:
    """The N where memorization ends and where generalization starts, or None.

    Memorization: GL of all widths at most MEMORIZES_BELOW. Generalization: GL of all widths at most
    NEAR_HELDOUT below that of held-out images (1, if there are none), and RP scores above those of different
    noises by more than their intervals: those of disjoint training sets where there are such, else those of
    all pairs of widths; and, if `errors` are known, at most those of the Gaussian denoiser: else samples are
    new, and even reproduced, because they are noise. Only sizes that all GL curves have count.
    """
    gl = list(curves.get('gl', {}).values())
    sizes = sorted(set.intersection(*({*curve.size.tolist()} for curve in gl))) if gl else []
    if not sizes:
        return None, None
    gl = [_at(curve, sizes) for curve in gl]
    heldout = next((_at(curve, sizes) for curve in curves.get('heldout_gl', {}).values()), np.nan)
    heldout = np.where(np.isnan(heldout), 1, heldout)
    margins = [*(values - (heldout - NEAR_HELDOUT) for values in gl), _above_chance(curves, sizes)]
    if errors is not None:
        margins.append(np.array([-errors.ratio.get(size, np.inf) for size in sizes]))
    return memorization_end(sizes, gl), generalization_start(sizes, margins)


def _above_chance(curves: Curves, sizes: list[int]) -> np.ndarray:
    """By how much the interval of RP is above that of different noises, float64; -inf if not known."""
    margins = {}
    for score in 'rp', 'disjoint_rp':
        chance = curves.get(f'chance_{score}', {})
        gaps = [_at(curve, sizes, 'low') - _at(chance[models], sizes, 'high')
                for models, curve in curves.get(score, {}).items() if models in chance]
        margins[score] = np.min(gaps, axis=0) if gaps else np.full(len(sizes), np.nan)
    best = np.where(np.isnan(margins['disjoint_rp']), margins['rp'], margins['disjoint_rp'])
    return np.where(np.isnan(best), -np.inf, best)


def _at(curve: Curve, sizes: list[int], name: str = 'value') -> np.ndarray:
    """A curve at these sizes, float64; NaN where it has none."""
    found = dict(zip(curve.size.tolist(), getattr(curve, name), strict=True))
    return np.array([found.get(size, np.nan) for size in sizes])


def memorization_end(sizes: Sequence[int], curves: Sequence[np.ndarray]) -> float | None:
    """The size up to which all GL curves stay at or below MEMORIZES_BELOW; None if a curve starts higher.

    Interpolates linearly over log2(size).
    """
    return _reach(sizes, np.max(curves, axis=0) - MEMORIZES_BELOW)


def generalization_start(sizes: Sequence[int], margins: Sequence[np.ndarray]) -> float | None:
    """The size from which all margins stay at or above 0, to the largest size; or None. Interpolates, too."""
    starts = [_reach(sizes[::-1], -margin[::-1]) for margin in margins]
    return None if None in starts else max(starts)


def _reach(sizes: Sequence[int], values: np.ndarray) -> float | None:
    """How far along the sizes the values stay at or below 0."""
    beyond = np.flatnonzero(values > 1e-12)
    if len(beyond) == 0:
        return float(sizes[-1])
    after = beyond[0]
    if after == 0:
        return None
    part = -values[after - 1] / (values[after] - values[after - 1])
    a, b = math.log2(sizes[after - 1]), math.log2(sizes[after])
    return 2 ** (a + part * (b - a))
