"""How alike the samples of several models are, all pairs: matrices of RP and MAE scores, and their file."""

import itertools
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from data.image_stream import ImageStream
from scores.copy_scores import Share, pair_similarities
from scores.features import Features, check_comparable, comparable_name
from scores.pixel_errors import match_names, pairwise_errors
from torch_utils.errors import UserError
from torch_utils.json_place import Place, load_json


@dataclass(frozen=True, kw_only=True)
class Matrix:
    """Scores of all pairs of models, float64 [M, M], with Wilson 95 % intervals; of `total` images each."""

    threshold: float
    total: int
    value: np.ndarray
    low: np.ndarray
    high: np.ndarray

    def as_dict(self) -> dict:
        """For JSON."""
        return {'threshold': self.threshold, 'total': self.total,
                **{name: getattr(self, name).tolist() for name in ('value', 'low', 'high')}}


@dataclass(frozen=True, kw_only=True)
class Similarity:
    """names: of the models. rp, mae: their matrices, one of which may be None. descriptor: of rp, or None."""

    names: list[str]
    rp: Matrix | None
    mae: Matrix | None
    descriptor: str | None


def rp_matrix(features: Sequence[Features], names: Sequence[str], threshold: float) -> Matrix:
    """RP scores: the share of rows in which two models are more alike than the threshold.

    Raises UserError naming two models whose features can't be compared row by row.
    """
    for (a, first), (b, second) in itertools.combinations(zip(names, features, strict=True), 2):
        pair = f'--features of {a} and {b}'
        check_comparable(first, second, pair)
        if len(first.values) != len(second.values):
            raise UserError(f'{pair}: {len(first.values)} and {len(second.values)} rows; row i is compared '
                            'with row i, so all need the same number')
    return _matrix(len(features), threshold, lambda i, j: Share.above(
        pair_similarities(features[i].values, features[j].values), threshold))


def mae_matrix(streams: Sequence[ImageStream], threshold: float, workers: int) -> Matrix:
    """MAE scores: the share of same-named images that differ by less than `threshold` of 255 on average.

    Raises UserError if no name is common to all, or two images that are compared differ in size.
    """
    matches = match_names(streams)
    if not matches:
        raise UserError('--images: no file name is common to all models')
    pairs = itertools.combinations(range(len(streams)), 2)
    rows = dict(zip(pairs, pairwise_errors(streams, matches, workers), strict=True))
    return _matrix(len(streams), threshold, lambda i, j: Share.below(
        rows[i, j] if i != j else np.zeros(len(matches)), threshold))


def _matrix(size: int, threshold: float, score: Callable[[int, int], Share]) -> Matrix:
    """All scores of pairs i <= j, and the same below the diagonal."""
    numbers = np.empty((3, size, size))
    for i, j in itertools.combinations_with_replacement(range(size), 2):
        share = score(i, j)
        numbers[:, i, j] = numbers[:, j, i] = share.value, share.low, share.high
    return Matrix(threshold=threshold, total=share.total, value=numbers[0], low=numbers[1], high=numbers[2])


def first_difference(first: Sequence[str], second: Sequence[str]) -> int | None:
    """The first row in which two lists of file names don't belong to the same noise, by `comparable_name`."""
    return next((row for row, (a, b) in enumerate(zip(first, second, strict=True))
                 if comparable_name(a) != comparable_name(b)), None)


def load_similarity(path: str | os.PathLike, option: str = '--matrix') -> Similarity:
    """Read and check what `sscd.py matrix` wrote.

    Raises UserError naming `option`, the file and the place in it.
    """
    top = load_json(path, option)
    names = [item.text() for item in top.get('names').items()]
    rp, mae = (_load_matrix(top.get(key), len(names)) if top.has(key) else None for key in ('rp', 'mae'))
    if rp is None and mae is None:
        raise UserError(f'{option} {path}: neither rp nor mae is in it, which sscd.py matrix writes')
    return Similarity(names=names, rp=rp, mae=mae,
                      descriptor=top.get('descriptor').text() if top.has('descriptor') else None)


def _load_matrix(place: Place, size: int) -> Matrix:
    arrays = {}
    for name in ('value', 'low', 'high'):
        rows = place.get(name).items()
        if any(len(row.items()) != size for row in rows) or len(rows) != size:
            raise place.get(name).error(f'a matrix {size} x {size}')
        arrays[name] = np.array([[item.number(0, 1) for item in row.items()] for row in rows])
    return Matrix(threshold=place.get('threshold').number(-1), total=place.get('total').integer(), **arrays)
