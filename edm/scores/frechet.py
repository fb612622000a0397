"""Frechet distance of two sets of descriptors, each taken for a Gaussian: FID, if they are Inception's.

Heusel et al. 2017, "GANs Trained by a Two Time-Scale Update Rule Converge to a Local Nash Equilibrium",
arXiv 1706.08500, eq. 6; Dowson & Landau 1982. All sums are float64.
"""

import os
from dataclasses import dataclass

import numpy as np

from torch_utils.errors import UserError, note
from torch_utils.npz import open_npz

FEW = 10_000  # rows below which the bias is worth a warning: what published scores have at least
_BLOCK = 4096  # rows at a time in float64
_NEGATIVE = 1e-4  # of the largest eigenvalue, up to which a negative one is rounding of the file


@dataclass(frozen=True, kw_only=True)
class Moments:
    """Mean float64 [D] and covariance float64 [D, D] of `count` rows, None where that isn't known.

    where: what messages call them.
    """

    mean: np.ndarray
    covariance: np.ndarray
    count: int | None = None
    where: str = 'features'


def moments(values: np.ndarray, where: str = 'features') -> Moments:
    """Mean and unbiased covariance (over N - 1) of the rows of float [N, D], a block of rows at a time.

    Raises UserError if there are fewer rows than dimensions, so that the covariance is singular whatever
    the images; a note warns of the bias below FEW rows.
    """
    count, dim = values.shape
    if count < max(dim, 2):
        raise UserError(f'{where}: {count} rows of {dim} numbers, expected at least as many rows as '
                        'numbers for a covariance; make more images, or use sscd.py kid, which needs none')
    if count < FEW:
        note(f'{where}: {count} rows; the Frechet distance of few rows is biased upwards (below {FEW:,} '
             'noticeably), so compare it only with that of equally many; kid has no such bias')
    mean = values.mean(axis=0, dtype=np.float64)
    covariance = np.zeros((dim, dim))
    for start in range(0, count, _BLOCK):
        rows = values[start:start + _BLOCK] - mean
        covariance += rows.T @ rows  # of an array with itself: numpy computes half of it
    return Moments(mean=mean, covariance=covariance / (count - 1), count=count, where=where)


def is_statistics(path: str | os.PathLike, where: str) -> bool:
    """Whether an `.npz` holds published statistics, `mu` and `sigma`, rather than features."""
    if not str(path).lower().endswith('.npz'):
        return False
    with open_npz(path, where) as arrays:
        return {'mu', 'sigma'} <= set(arrays) and 'features' not in arrays


def load_statistics(path: str | os.PathLike, where: str) -> Moments:
    """Published statistics: an `.npz` with `mu` [D] and `sigma` [D, D], as those of NVIDIA's fid-refs.

    Raises UserError, led by `where`, if they are of other shapes, not finite, or no covariance.
    """
    with open_npz(path, where) as arrays:
        mean, covariance = arrays['mu'], arrays['sigma']
    if mean.dtype.kind != 'f' or covariance.dtype.kind != 'f' or mean.ndim != 1 or not len(mean) or \
            covariance.shape != (len(mean), len(mean)):
        raise UserError(f'{where}: mu is {mean.dtype} {list(mean.shape)} and sigma {covariance.dtype} '
                        f'{list(covariance.shape)}, expected floats [D] and [D, D]')
    mean, covariance = mean.astype(np.float64), covariance.astype(np.float64)
    if not (np.isfinite(mean).all() and np.isfinite(covariance).all()):
        raise UserError(f'{where}: mu or sigma has numbers that are not finite')
    if abs(covariance - covariance.T).max() > _NEGATIVE * abs(covariance).max():
        raise UserError(f'{where}: sigma is not symmetric, so no covariance')
    return Moments(mean=mean, covariance=(covariance + covariance.T) / 2, where=where)


def frechet_distance(first: Moments, second: Moments) -> float:
    """|m1 - m2|^2 + tr S1 + tr S2 - 2 tr (S1 S2)^(1/2): at least 0 up to rounding, 0 for equal moments.

    With any factors S = F F^T, the last trace is the sum of the singular values of F1^T F2. F comes from the
    eigenvalues of S, of which rounding makes some negative: they count as 0. So nothing is complex, and no
    small eigenvalue is squared, as in the root of the product.
    Raises UserError if the dimensions differ, or a covariance has eigenvalues far below 0.
    """
    if first.mean.shape != second.mean.shape:
        raise UserError(f'{first.where} and {second.where}: rows of {len(first.mean)} and of '
                        f'{len(second.mean)} numbers can\'t be compared; make both with one descriptor')
    product = _factor(first).T @ _factor(second)
    cross = np.linalg.svd(product, compute_uv=False).sum()
    traces = np.trace(first.covariance) + np.trace(second.covariance)
    return float(np.sum((first.mean - second.mean) ** 2) + traces - 2 * cross)


def _factor(moments: Moments) -> np.ndarray:
    """F with F F^T = covariance."""
    values, vectors = np.linalg.eigh(moments.covariance)
    if values[0] < -_NEGATIVE * values[-1]:
        raise UserError(f'{moments.where}: sigma has an eigenvalue of {values[0]:g}, so it is no covariance')
    return vectors * np.sqrt(np.maximum(values, 0))
