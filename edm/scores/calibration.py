"""Calibration of counts of copies by held-out images, which no model has seen.

Closeness is a criterion's measure of how near an image is to a training set; copies have the largest.
"""

import math
from dataclasses import dataclass

import numpy as np

from scores.copy_scores import Z95, Share

FEW = 100  # held-out images, below which a threshold from them is uncertain


def calibrated_threshold(heldout: np.ndarray, false_positives: float = 0.01) -> float:
    """The lowest threshold that at most a share `false_positives` of held-out images lies strictly above.

    heldout: their closeness, float [N], N at least 1. false_positives: from 0, at which it is the largest
    closeness, up to but not including 1. With fewer than 1 / false_positives images it is the largest, too.
    """
    if not 0 <= false_positives < 1:
        raise ValueError(f'false_positives must be from 0 to below 1, got {false_positives}')
    allowed = math.floor(false_positives * len(heldout) + 1e-9)  # 0.29 * 100 is 28.999...
    return float(np.sort(heldout)[-1 - allowed])


def difference_interval(first: Share, second: Share) -> tuple[float, float, float]:
    """first - second of two independent shares, and the ends of its 95 % interval.

    Newcombe, Statistics in Medicine 17 (1998), 873-890, method 10, from both Wilson intervals.
    """
    value = first.value - second.value
    below = math.hypot(first.value - first.low, second.high - second.value)
    above = math.hypot(first.high - first.value, second.value - second.low)
    return value, value - below, value + above


@dataclass(frozen=True)
class CopyTest:
    """C_T, a z score, with its 95 % interval; and the share of pairs in which the sample is farther away.

    low and high are None if all distances are equal, as they then say nothing.
    """

    z: float
    low: float | None
    high: float | None
    farther: float


def data_copying_test(samples: np.ndarray, heldout: np.ndarray) -> CopyTest:
    """C_T of Meehan, Chaudhuri and Dasgupta 2020 (arXiv 2004.05675), with all of space as its one cell.

    samples, heldout: distances from the nearest training image, float [M] and [N]. Mann and Whitney's U
    counts the pairs in which the sample is farther than the held-out image, ties as halves, and
    z = (U - MN / 2) / sqrt(MN (M + N + 1) / 12), with the usual correction of the root for ties. Negative, as
    in the paper: samples lie nearer to training images than held-out images do, and copy. Positive: farther,
    and underfit. Of a model that is as good as the data, z is a standard normal number.
    The interval is that of U / MN of Newcombe, Statistics in Medicine 25 (2006), 559-573, method 5.
    """
    from scipy.stats import rankdata

    m, n = len(samples), len(heldout)
    ranks = rankdata(np.concatenate([samples, heldout]))
    farther = float((ranks[:m].sum() - m * (m + 1) / 2) / (m * n))
    _, ties = np.unique(ranks, return_counts=True)
    correction = float((ties.astype(np.float64) ** 3 - ties).sum()) / ((m + n) * max(m + n - 1, 1))
    spread = math.sqrt(max((m + n + 1 - correction) / (12 * m * n), 0))
    if spread == 0:
        return CopyTest(0.0, None, None, farther)
    low, high = _mann_whitney_interval(farther, m, n)
    return CopyTest((farther - 0.5) / spread, (low - 0.5) / spread, (high - 0.5) / spread, farther)


def _mann_whitney_interval(share: float, m: int, n: int) -> tuple[float, float]:
    """The shares t that solve |share - t| = Z95 * sqrt(variance(t)), by bisection."""
    def excess(t: float) -> float:
        more = ((m + n) / 2 - 1) * ((1 - t) / (2 - t) + t / (1 + t))
        return (share - t) ** 2 - Z95 ** 2 * t * (1 - t) * (1 + more) / (m * n)

    ends = []
    for limit in 0.0, 1.0:
        outside, inside = limit, share
        for _ in range(60):
            middle = (outside + inside) / 2
            outside, inside = (middle, inside) if excess(middle) > 0 else (outside, middle)
        ends.append(outside)
    return ends[0], ends[1]
