"""Precision, recall, density and coverage of samples, by balls around images in descriptor space.

Improved precision and recall: Kynkaanniemi et al. 2019, arXiv 1904.06991, eqs. 1 and 2. Density and coverage:
Naeem et al. 2020, arXiv 2002.09797, eqs. 5 and 6.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from tqdm import tqdm

from scores.copy_scores import Share
from scores.kernel_distance import Estimate
from scores.row_blocks import RowBlocks
from torch_utils.errors import UserError, note

if TYPE_CHECKING:
    import torch

_BLOCK = 2048  # rows of both sets at a time: 32 MiB of distances


@dataclass(frozen=True, kw_only=True)
class ManifoldScores:
    """precision: the share of samples within a ball of some real image, up to its k-th nearest real image.

    recall: the share of real images within such a ball of some sample. density: in how many balls of real
    images a sample lies on average, over k; 1 is expected of samples as good as the real images. coverage:
    the share of real images whose ball has a sample inside.
    """

    precision: Share
    recall: Share
    density: Estimate
    coverage: Share


def manifold_scores(samples: np.ndarray, real: np.ndarray, k: int = 5, device='cpu') -> ManifoldScores:
    """The four scores of float [M, D] samples and [N, D] real images, with balls up to the k-th neighbor.

    For precision and recall a ball has its border, as in eq. 2; for density and coverage it has not, as in
    the authors' software, so that copies of all real images have density 1. Squared distances in float64
    within their error of rounding count as equal. Memory grows with M + N, not with M * N.
    Raises UserError unless both have more than k rows; a note counts real images with k duplicates.
    """
    if not 1 <= k < min(len(samples), len(real)):
        raise UserError(f'--k {k}: expected at least 1, and less than the {len(samples)} samples and the '
                        f'{len(real)} real images')
    center = real.mean(axis=0, dtype=np.float64)  # near which rounding is least
    x, y = (RowBlocks(values, device, size=_BLOCK, center=center) for values in (real, samples))
    with tqdm(total=len(x) ** 2 + len(y) ** 2 + len(x) * len(y), unit='block', delay=1) as progress:
        radii = [_squared_radii(blocks, k, progress) for blocks in (x, y)]
        inside = _Inside(len(real), len(samples), x.device)
        for rows, images in x:
            for columns, others in y:
                inside.add(rows, columns, *_squared_distances(images, others), *radii)
                progress.update()
    lone = int((radii[0] == 0).sum())
    if lone:
        note(f'{lone} of {len(real)} real images have {k} or more duplicates, so their balls are points: '
             'they count for precision, and can\'t be covered')
    per_sample = inside.balls.double() / k
    return ManifoldScores(
        precision=_share(inside.on_real), recall=_share(inside.on_sample), coverage=_share(inside.covered),
        density=Estimate(float(per_sample.mean()), float(per_sample.std()) / math.sqrt(len(samples))))


def _share(hits: torch.Tensor) -> Share:
    return Share(int(hits.sum()), len(hits))


class _Inside:
    """Which of the samples and real images lie in which balls, block by block."""

    def __init__(self, num_real: int, num_samples: int, device: torch.device):
        import torch

        self.on_sample, self.covered = (torch.zeros(num_real, dtype=torch.bool, device=device)
                                        for _ in range(2))
        self.on_real = torch.zeros(num_samples, dtype=torch.bool, device=device)
        self.balls = torch.zeros(num_samples, dtype=torch.int64, device=device)

    def add(self, rows: slice, columns: slice, distances: torch.Tensor, errors: torch.Tensor,
            real_radii: torch.Tensor, sample_radii: torch.Tensor) -> None:
        """Squared distances of real images (rows) and samples (columns), with their errors."""
        real, sample = real_radii[rows, None], sample_radii[None, columns]
        self.on_real[columns] |= (distances <= real + errors).any(dim=0)
        self.on_sample[rows] |= (distances <= sample + errors).any(dim=1)
        within = distances < real - errors
        self.balls[columns] += within.sum(dim=0)
        self.covered[rows] |= within.any(dim=1)


def _squared_distances(x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """|x_i - y_j|^2, and a bound of what rounding adds to the difference of two such, both [M, N]."""
    lengths = x.square().sum(dim=1)[:, None] + y.square().sum(dim=1)
    return (x @ y.T).mul_(-2).add_(lengths), lengths * (4 * (x.shape[1] + 2) * 2.0 ** -53)


def _squared_radii(blocks: RowBlocks, k: int, progress: tqdm) -> torch.Tensor:
    """Squared distance of each row from its k-th nearest other row, float64 [N]; 0 within rounding."""
    import torch

    radii = torch.empty(len(blocks.values), dtype=torch.float64, device=blocks.device)
    for rows, x in blocks:
        nearest = torch.full((len(x), 0), torch.inf, dtype=torch.float64, device=blocks.device)
        for columns, y in blocks:
            distances, errors = _squared_distances(x, y)
            distances[distances < errors] = 0
            if columns == rows:
                distances.fill_diagonal_(torch.inf)
            nearest = torch.cat([nearest, distances], dim=1)
            nearest = nearest.topk(min(k, nearest.shape[1]), dim=1, largest=False).values
            progress.update()
        radii[rows] = nearest[:, -1]
    return radii
