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

    def add(self, rows: slice, columns: slice, distances: torch.Tensor, error: torch.Tensor,
            real_radii: torch.Tensor, sample_radii: torch.Tensor) -> None:
        """Squared distances of real images (rows) and samples (columns), overwritten, and their error."""
        import torch

        depth = distances.sub_(real_radii[rows, None])  # below 0 in a real image's ball
        self.on_real[columns] |= depth.amin(dim=0) <= error
        self.covered[rows] |= depth.amin(dim=1) < -error
        self.balls[columns] += (depth < -error).sum(dim=0, dtype=torch.int32)
        depth.add_(real_radii[rows, None]).sub_(sample_radii[columns])
        self.on_sample[rows] |= depth.amin(dim=1) <= error


def _squared_distances(x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """|x_i - y_j|^2, float64 [M, N], and a bound of what rounding adds to the difference of two such."""
    import torch

    a, b = x.square().sum(dim=1), y.square().sum(dim=1)
    error = (a.max() + b.max()) * (4 * (x.shape[1] + 4) * 2.0 ** -53)
    return torch.addmm(b, x, y.T, alpha=-2).add_(a[:, None]), error


def _squared_radii(blocks: RowBlocks, k: int, progress: tqdm) -> torch.Tensor:
    """Squared distance of each row from its k-th nearest other row, float64 [N]; 0 within rounding."""
    import torch

    radii = torch.empty(len(blocks.values), dtype=torch.float64, device=blocks.device)
    for rows, x in blocks:
        nearest, errors = [], []
        for columns, y in blocks:
            distances, error = _squared_distances(x, y)
            errors.append(error)
            if columns == rows:
                distances.fill_diagonal_(torch.inf)
            nearest.append(distances.topk(min(k, len(y)), dim=1, largest=False).values)
            progress.update()
        kth = torch.cat(nearest, dim=1).kthvalue(k, dim=1).values
        radii[rows] = torch.where(kth <= max(errors), 0, kth)
    return radii
