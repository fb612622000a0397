"""Curves of a score table over training-set size, and the regimes they define."""

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from scores.score_table import Row
from torch_utils.errors import UserError

MEMORIZES_BELOW = 0.05  # GL score of all widths: the memorization regime
GENERALIZES_ABOVE = 0.9  # GL score of all widths: the generalization regime


@dataclass(frozen=True)
class Curve:
    """A score over training-set sizes `size`, int [number of sizes] and rising, with its 95 % interval."""

    size: np.ndarray
    value: np.ndarray
    low: np.ndarray
    high: np.ndarray


Curves = dict[str, dict[tuple[int, ...], Curve]]  # by kind of score, then by widths


@dataclass(frozen=True, kw_only=True)
class Regimes:
    """The scores that a figure draws.

    data: the data set's name. kimg: thousands of images seen per model, None if unknown. noises: their number
    per model, as text. threshold: the main one. curves: by threshold, the main one first. sizes: all N,
    rising.
    """

    data: str
    kimg: float | None
    descriptor: str
    noises: str
    threshold: float
    curves: dict[float, Curves]
    sizes: list[int]

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
                   where: str) -> Regimes:
    """Collect the scores of models that have widths and training-set sizes.

    threshold: the main one; needed only if there are several.
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
                   noises=totals(main_rows),
                   curves={t: _curves([row for row in rows if row.key[0] in (t, None)])
                           for t in (main, *(t for t in thresholds if t != main))},
                   sizes=sorted({row.size for row in rows}))


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


def regime_limits(curves: Sequence[Curve]) -> tuple[float | None, float | None]:
    """The N where memorization ends and where generalization starts, or None, from GL curves of all widths.

    Only sizes that all curves have count.
    """
    sizes = sorted(set.intersection(*({*curve.size.tolist()} for curve in curves))) if curves else []
    if not sizes:
        return None, None
    values = [curve.value[np.isin(curve.size, sizes)] for curve in curves]
    return memorization_end(sizes, values), generalization_start(sizes, values)


def memorization_end(sizes: Sequence[int], curves: Sequence[np.ndarray]) -> float | None:
    """The size up to which all GL curves stay at or below MEMORIZES_BELOW; None if a curve starts higher.

    Interpolates linearly over log2(size).
    """
    return _reach(sizes, np.max(curves, axis=0), MEMORIZES_BELOW)


def generalization_start(sizes: Sequence[int], curves: Sequence[np.ndarray]) -> float | None:
    """The size from which all GL curves stay at or above GENERALIZES_ABOVE, to the largest size; or None."""
    return _reach(sizes[::-1], 1 - np.min(curves, axis=0)[::-1], 1 - GENERALIZES_ABOVE)


def _reach(sizes: Sequence[int], values: np.ndarray, limit: float) -> float | None:
    beyond = np.flatnonzero(values > limit + 1e-12)
    if len(beyond) == 0:
        return float(sizes[-1])
    after = beyond[0]
    if after == 0:
        return None
    part = (limit - values[after - 1]) / (values[after] - values[after - 1])
    a, b = math.log2(sizes[after - 1]), math.log2(sizes[after])
    return 2 ** (a + part * (b - a))
