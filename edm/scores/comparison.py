"""Scores of two models' samples from the same noises: RP, probability flow distance, median similarity."""

import itertools
from collections.abc import Sequence

import numpy as np

from descriptors.features import Features, check_comparable, check_length
from scores.copy_scores import Share, pair_distances, pair_similarities
from scores.score_table import SCORES, Row

_RESAMPLES, _EXACT, _GROUPS = 1000, 2048, 100


def rp_rows(first: Features, second: Features, thresholds: Sequence[float], called: str,
            **kept) -> list[list[Row]]:
    """For each threshold the RP score of features whose row k is of the same noise, and its control.

    The control pairs each sample with that of the next noise. called: the kind of score; kept: models, size
    and descriptor of the rows.
    """
    check_length('unit', 'RP', first, second)
    check_comparable(first, second)
    both = [pair_similarities(first.values, values) for values in _with_control(second.values)]
    return [_rows([Share.above(each, threshold) for each in both], 'rp', called, threshold=threshold, **kept)
            for threshold in thresholds]


def pfd_rows(first: Features, second: Features, thresholds: Sequence[float], called: str,
             **kept) -> list[list[Row]]:
    """The probability flow distance and its control, as `rp_rows` does; it has no thresholds."""
    check_comparable(first, second)
    names = 'value', 'low', 'high'
    both = [dict(zip(names, probability_flow_distance(first.values, values), strict=True))
            for values in _with_control(second.values)]
    return [_rows(both, 'pfd', called, **kept)]


def similarity_rows(first: Features, second: Features, thresholds: Sequence[float], called: str,
                    **kept) -> list[list[Row]]:
    """The median similarity and its control, as `rp_rows` does; it has no thresholds."""
    check_length('unit', 'similarity', first, second)
    check_comparable(first, second)
    names = 'value', 'low', 'high'
    both = [dict(zip(names, median(pair_similarities(first.values, values)), strict=True))
            for values in _with_control(second.values)]
    return [_rows(both, 'similarity', called, **kept)]


# By kind of score: for its sub-command of sscd.py, and for sscd.py matrix.
PAIR_SCORES = {'rp': rp_rows, 'pfd': pfd_rows, 'similarity': similarity_rows}


def _with_control(values: np.ndarray) -> list[np.ndarray]:
    return [values, np.roll(values, -1, axis=0)] if len(values) > 1 else [values]


def _rows(found: Sequence, name: str, called: str, *, models: tuple[str, ...], **kept) -> list[Row]:
    """Rows of a score and of its control, from shares or from values."""
    rows = []
    for each, score in zip(found, (called, SCORES[called].control or SCORES[name].control), strict=False):
        numbers = {'count': each.count, 'total': each.total} if isinstance(each, Share) else each
        rows.append(Row(**numbers, score=score, models=models[:SCORES[score].models], **kept))
    return rows


def rp_shares(features: Sequence[Features], threshold: float) -> dict[tuple[int, int], Share]:
    """RP scores of the models i <= j, from features whose row k is of the same noise in all."""
    check_length('unit', 'RP', *features)
    shares = {}
    for (i, a), (j, b) in itertools.combinations_with_replacement(enumerate(features), 2):
        check_comparable(a, b)
        shares[i, j] = Share.above(pair_similarities(a.values, b.values), threshold)
    return shares


def median(values: np.ndarray) -> tuple[float, float, float]:
    """The median of values [N], and the ends of its 95 % interval: order statistics N/2 -+ 0.98 sqrt(N)."""
    ordered, half = np.sort(values), 0.98 * np.sqrt(len(values))
    middle = (len(values) - 1) / 2
    low, high = int(np.floor(middle - half)), int(np.ceil(middle + half))
    return (float(np.median(values)), float(ordered[max(low, 0)]),
            float(ordered[min(high, len(values) - 1)]))


def probability_flow_distance(first: np.ndarray, second: np.ndarray,
                              seed: int = 0) -> tuple[float, float, float]:
    """The probability flow distance of two models, and the ends of its 95 % bootstrap interval.

    sqrt(mean of |f(x_p) - f(x_q)|^2) over samples x_p, x_q of both models from the same noises, f being the
    descriptor: Zhang et al. 2025, arXiv 2505.20123. From the optimal denoiser of the training set it is the
    memorization error, from the model that made the training images the generalization error.
    first, second: f of the samples, float32 [N, D], row by row of one noise.
    The interval is the percentiles of 1000 resamples of the N squares; above 2048 of them, of the
    means of 100 groups of similar ones, which keep nearly all of their variance. seed: of the resamples.
    """
    squares = np.sort(pair_distances(first, second) ** 2)
    n = len(squares)
    rng = np.random.default_rng(seed)
    if n <= _EXACT:
        means = squares[rng.integers(n, size=(_RESAMPLES, n))].mean(axis=1)
    else:
        groups = np.array_split(squares, _GROUPS)
        shares = np.array([len(group) for group in groups]) / n
        counts = rng.multinomial(n, shares, size=_RESAMPLES)
        means = counts @ np.array([group.mean() for group in groups]) / n
    low, high = np.sqrt(np.quantile(means, [0.025, 0.975]))
    return float(np.sqrt(squares.mean())), float(low), float(high)
