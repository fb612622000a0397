"""Reproducibility, memorization and generalization of samples, from the descriptors of images.

The scores of "The Emergence of Reproducibility and Consistency in Diffusion Models", arXiv 2310.05264,
section 3. A similarity is the inner product of two descriptors, summed in float64; "above" a threshold is
strictly above.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch

_BLOCK = 2048  # rows of source and of target at a time: 16 MiB of similarities
_PAIRS = 256  # rows at a time where no product is needed: they stay in the cache
_GROUP = 32  # columns whose maximum stands for them
Z95 = 1.959963984540054  # the standard normal's 97.5 % point


# Similarities

def pair_similarities(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Inner product of row i with row i, float64 [N], of float [N, D] and [N, D]."""
    similarities = np.empty(len(source))
    for start in range(0, len(source), _BLOCK):
        rows = slice(start, start + _BLOCK)
        np.einsum('nd,nd->n', source[rows], target[rows], dtype=np.float64, out=similarities[rows])
    return similarities


def pair_distances(source: np.ndarray, target: np.ndarray, rows: np.ndarray | None = None,
                   columns: np.ndarray | None = None) -> np.ndarray:
    """Euclidean distances of source[rows] from target[columns], float64 [P]; None stands for all, in order.

    source, target: float32 [N, D] and [M, D]. rows, columns: int64 [P].
    """
    total = next((len(each) for each in (rows, columns) if each is not None), len(source))
    squares = np.empty(total)
    for part in (slice(i, i + _PAIRS) for i in range(0, total, _PAIRS)):
        difference = source[part if rows is None else rows[part]] - target[
            part if columns is None else columns[part]]
        np.einsum('nd,nd->n', difference, difference, dtype=np.float64, out=squares[part])
    return np.sqrt(squares, out=squares)


def nearest_neighbors(source: np.ndarray, target: np.ndarray,
                      device='cpu') -> tuple[np.ndarray, np.ndarray]:
    """For each row of `source` its largest inner product with a row of `target`, and that row's index.

    source: float [N, D]. target: float [M, D], M at least 1. Memory grows with N + M, not with N * M.
    device: computes the products in float32; among the rows that may then be nearest, float64 decides.
    Returns similarities float64 [N] and indices int64 [N]; of equal similarities, the first index.
    """
    import torch  # here, as scores of pairs need none of it and start sooner

    best, index = np.full(len(source), -np.inf), np.zeros(len(source), dtype=np.int64)
    torch.backends.cuda.matmul.allow_tf32 = False  # else the bound of the error would not hold
    error = error_of_float32(source.shape[1]) * max(_longest(source) * _longest(target), 1e-30)
    buffer = torch.empty(min(_BLOCK, len(source)) * min(_BLOCK, len(target)), device=device)
    for start in range(0, len(source), _BLOCK):
        rows = slice(start, start + _BLOCK)
        queries = torch.tensor(source[rows], dtype=torch.float32, device=device)
        seen = torch.full((len(queries),), -torch.inf, device=device)
        for column in range(0, len(target), _BLOCK):
            keys = torch.tensor(target[column:column + _BLOCK], dtype=torch.float32, device=device)
            product = torch.mm(queries, keys.T, out=buffer[:len(queries) * len(keys)].view(len(queries), -1))
            groups, maxima = maxima_of_groups(product)
            seen = torch.maximum(seen, maxima.amax(dim=1))
            row, place = (of.cpu().numpy() for of in at_least(groups, maxima, seen - 2.1 * error)[:2])
            if len(row) > product.numel() // 50:  # images are all alike, and single pairs would take long
                row, place = _first_largest(source[rows], target[column:column + _BLOCK])
            _keep_better(source[rows], target, row, place + column, best[rows], index[rows])
    return best, index


def maxima_of_groups(product: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Products [N, M] by groups of columns, [N, groups, _GROUP], the last filled up, and their maxima."""
    import torch

    missing = -product.shape[1] % _GROUP
    if missing:
        product = torch.nn.functional.pad(product, (0, missing), value=-torch.inf)
    groups = product.unflatten(1, (-1, _GROUP))
    return groups, groups.amax(dim=2)


def at_least(groups: torch.Tensor, maxima: torch.Tensor,
             least: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Rows, columns and values of the products that are at least `least`, [N], sorted by row, then column."""
    row, group = (maxima >= least[:, None]).nonzero().T
    values = groups[row, group]
    pair, within = (values >= least[row, None]).nonzero().T
    return row[pair], group[pair] * _GROUP + within, values[pair, within]


def _first_largest(source: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """All row numbers of `source`, and the first of `target` that is nearest, up to rounding in float64."""
    product = source.astype(np.float64) @ target.astype(np.float64).T
    slack = 2 * source.shape[1] * 2.0 ** -53 * _longest(source) * _longest(target)
    place = (product >= product.max(axis=1, keepdims=True) - slack).argmax(axis=1)
    return np.arange(len(source)), place


def error_of_float32(dim: int) -> float:
    """Largest error of the float32 inner product of two unit vectors, in any order of summation.

    gamma_n of Higham, Accuracy and Stability of Numerical Algorithms, section 3.1, with n = dim + 2 for the
    rounding of float64 input.
    """
    return (dim + 2) * 2 ** -24 / (1 - (dim + 2) * 2 ** -24)


def _longest(rows: np.ndarray) -> float:
    return max((math.sqrt(np.einsum('nd,nd->n', part, part, dtype=np.float64).max())
                for part in (rows[i:i + _BLOCK] for i in range(0, len(rows), _BLOCK))), default=0)


def _keep_better(source: np.ndarray, target: np.ndarray, row: np.ndarray, column: np.ndarray,
                 best: np.ndarray, index: np.ndarray) -> None:
    """Update `best` and `index`, in place, by the pairs (row, column), which rise by row, then by column."""
    for part in (slice(i, i + _BLOCK) for i in range(0, len(row), _BLOCK)):
        r, c = row[part], column[part]
        similarity = np.einsum('nd,nd->n', source[r], target[c], dtype=np.float64)
        order = np.lexsort((-c, similarity, r))  # per row, the last is the best, of equal ones the first
        last = order[np.flatnonzero(np.diff(r[order], append=-1))]
        better = last[similarity[last] > best[r[last]]]
        best[r[better]], index[r[better]] = similarity[better], c[better]


# Scores

@dataclass(frozen=True)
class Share:
    """`count` of `total` as a share, with its Wilson 95 % interval low..high."""

    count: int
    total: int

    @property
    def value(self) -> float:
        """count / total."""
        return self.count / self.total

    @property
    def low(self) -> float:
        """The interval's lower end."""
        return wilson_interval(self.count, self.total)[0]

    @property
    def high(self) -> float:
        """The interval's upper end."""
        return wilson_interval(self.count, self.total)[1]

    @classmethod
    def above(cls, similarities: np.ndarray, threshold: float) -> Share:
        """The share of similarities strictly above the threshold."""
        return cls(int(np.count_nonzero(similarities > threshold)), len(similarities))

    @classmethod
    def below(cls, errors: np.ndarray, threshold: float) -> Share:
        """The share of errors strictly below the threshold."""
        return cls(int(np.count_nonzero(errors < threshold)), len(errors))

    def rest(self) -> Share:
        """The share of the others."""
        return Share(self.total - self.count, self.total)


def rp_score(source: np.ndarray, target: np.ndarray, threshold: float) -> float:
    """Reproducibility: the share of rows i where source[i] and target[i] are more alike than the threshold.

    source, target: float [N, D], samples of two models from the same noises. Higher: more alike.
    """
    return Share.above(pair_similarities(source, target), threshold).value


def memorized_fraction(source: np.ndarray, target: np.ndarray, threshold: float) -> float:
    """The share of rows of `source` whose most similar row of `target` is above the threshold.

    source: float [N, D], samples; target: float [M, D], training images. Higher: more memorized.
    """
    return Share.above(nearest_neighbors(source, target)[0], threshold).value


def generalization_score(source: np.ndarray, target: np.ndarray, threshold: float) -> float:
    """Paper 1's GL score, 1 - memorized fraction: higher means that more samples are new."""
    return 1 - memorized_fraction(source, target, threshold)


def wilson_interval(successes: int, total: int) -> tuple[float, float]:
    """95 % interval of a share, successes out of total (Wilson 1927, without continuity correction)."""
    if not 0 <= successes <= total or total < 1:
        raise ValueError(f'expected 0 <= successes <= total and total >= 1, got {successes} of {total}')
    share, weight = successes / total, Z95 ** 2 / total
    center = (share + weight / 2) / (1 + weight)
    half = math.sqrt(share * (1 - share) * weight + weight ** 2 / 4) / (1 + weight)
    low = 0.0 if successes == 0 else center - half  # what the formula gives but for rounding
    high = 1.0 if successes == total else center + half
    return low, high
