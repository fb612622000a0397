"""How alike the samples of several models are: RP and MAE scores of all pairs."""

import itertools
from collections.abc import Callable, Sequence

import numpy as np

from data.image_stream import ImageStream
from scores.copy_scores import Share, pair_similarities
from scores.features import Features, check_comparable
from scores.pixel_errors import match_names, pairwise_errors
from torch_utils.errors import UserError

Shares = dict[tuple[int, int], Share]  # by the places of two models, i <= j


def check_all_pairs(features: Sequence[Features], names: Sequence[str]) -> None:
    """Raises UserError naming two models whose features can't be compared row by row."""
    for (a, first), (b, second) in itertools.combinations(zip(names, features, strict=True), 2):
        pair = f'--features of {a} and {b}'
        check_comparable(first, second, pair)
        if len(first.values) != len(second.values):
            raise UserError(f'{pair}: {len(first.values)} and {len(second.values)} rows; rows are compared '
                            'in pairs, so all need the same number')


def rp_shares(features: Sequence[Features], threshold: float) -> Shares:
    """RP scores: the share of rows in which two models are more alike than the threshold.

    Row i of all belongs to the same noise.
    """
    return _all_pairs(len(features), lambda i, j: Share.above(
        pair_similarities(features[i].values, features[j].values), threshold))


def mae_shares(streams: Sequence[ImageStream], threshold: float, workers: int) -> Shares:
    """MAE scores: the share of same-named images that differ by less than `threshold` of 255 on average.

    Raises UserError if no name is common to all, or two images that are compared differ in size.
    """
    matches = match_names(streams)
    if not matches:
        raise UserError('--images: no file name is common to all models')
    pairs = itertools.combinations(range(len(streams)), 2)
    rows = dict(zip(pairs, pairwise_errors(streams, matches, workers), strict=True))
    return _all_pairs(len(streams), lambda i, j: Share.below(
        rows[i, j] if i != j else np.zeros(len(matches)), threshold))


def _all_pairs(size: int, score: Callable[[int, int], Share]) -> Shares:
    return {(i, j): score(i, j) for i, j in itertools.combinations_with_replacement(range(size), 2)}
