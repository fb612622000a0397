"""Kernel distance of two sets of descriptors: KID, if they are Inception's.

Binkowski et al. 2018, "Demystifying MMD GANs", arXiv 1801.01401: the unbiased estimate of the squared maximum
mean discrepancy (Gretton et al. 2012, eq. 3) with the kernel k(x, y) = (x . y / D + 1)^3.
"""

import math
from dataclasses import dataclass

import numpy as np
from tqdm import tqdm

from scores.copy_scores import Z95
from scores.row_blocks import RowBlocks
from torch_utils.errors import UserError

_BLOCK = 2048  # rows of both sets at a time: 32 MiB of kernels


@dataclass(frozen=True)
class Estimate:
    """A number with its standard error, and the normal 95 % interval low..high."""

    value: float
    error: float

    @property
    def low(self) -> float:
        """The interval's lower end."""
        return self.value - Z95 * self.error

    @property
    def high(self) -> float:
        """The interval's upper end."""
        return self.value + Z95 * self.error


def kernel_distance(first: np.ndarray, second: np.ndarray, device='cpu') -> Estimate:
    """Unbiased MMD^2 of the rows of float [M, D] and [N, D], by all pairs of rows, with its standard error.

    mean_(i != j) k(x_i, x_j) + mean_(i != j) k(y_i, y_j) - 2 mean_(i, j) k(x_i, y_j), which is below 0 about
    as often as above if the distributions are equal. Published values are the mean of this over random
    subsets of 1,000 rows: the same expectation, with more noise.
    The standard error is the jackknife's over the rows of both sets, which on average is not too small
    (Efron & Stein 1981).
    Computes in float64. Raises UserError unless both have at least 3 rows.
    """
    m, n = len(first), len(second)
    if min(m, n) < 3:
        raise UserError(f'{m} and {n} rows: expected at least 3 of each for a kernel distance with its error')
    x, y = (RowBlocks(values, device, size=_BLOCK) for values in (first, second))
    with tqdm(total=len(x) * (len(x) + 1) // 2 + len(y) * (len(y) + 1) // 2 + len(x) * len(y),
              unit='block', delay=1) as progress:
        within = [_sums_within(blocks, progress) for blocks in (x, y)]
        across = _sums_across(x, y, progress)
    means = [sums.sum() / (len(sums) * (len(sums) - 1)) for sums in within]
    cross = across[0].sum() / (m * n)
    variance = 0
    for size, sums, between in zip((m, n), within, across, strict=True):
        # The estimate without row i, up to what all have in common.
        without = -2 * sums / ((size - 1) * (size - 2)) + 2 * between / ((size - 1) * (m * n // size))
        variance += (size - 1) / size * np.sum((without - without.mean()) ** 2)
    return Estimate(float(means[0] + means[1] - 2 * cross), math.sqrt(variance))


def _kernel(x, y):
    return (x @ y.T).div_(x.shape[1]).add_(1).pow_(3)


def _sums_within(blocks: RowBlocks, progress: tqdm) -> np.ndarray:
    """Sum of k(x_i, x_j) over j other than i, for each i, float64 [N]; each pair of blocks once."""
    sums = np.zeros(len(blocks.values))
    for rows, x in blocks:
        for columns, y in blocks:
            if columns.start < rows.start:
                continue
            kernel = _kernel(x, y)
            if columns == rows:
                kernel.fill_diagonal_(0)
            else:
                sums[columns] += kernel.sum(dim=0).cpu().numpy()
            sums[rows] += kernel.sum(dim=1).cpu().numpy()
            progress.update()
    return sums


def _sums_across(first: RowBlocks, second: RowBlocks, progress: tqdm) -> tuple[np.ndarray, np.ndarray]:
    """Sum of k(x_i, y_j) over j, for each i, float64 [M], and over i, for each j, float64 [N]."""
    sums = np.zeros(len(first.values)), np.zeros(len(second.values))
    for rows, x in first:
        for columns, y in second:
            kernel = _kernel(x, y)
            sums[0][rows] += kernel.sum(dim=1).cpu().numpy()
            sums[1][columns] += kernel.sum(dim=0).cpu().numpy()
            progress.update()
    return sums
