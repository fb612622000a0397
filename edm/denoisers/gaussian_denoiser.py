"""The posterior mean under the Gaussian with a data set's mean and covariance.

D(x; sigma) = mu + Sigma (Sigma + sigma^2 I)^-1 (x - mu): the best denoiser that is affine in x; networks that
generalize come close to it.
"""

from typing import NamedTuple

import torch

from data.pixels import Pixels
from denoisers.data_denoiser import DataDenoiser


class Gaussian(NamedTuple):
    """A Gaussian: mean float64 [D], and its r principal directions with a variance above 0.

    directions: orthonormal columns, float64 [D, r]. variances: float64 [r].
    """

    mean: torch.Tensor
    directions: torch.Tensor
    variances: torch.Tensor


class GaussianDenoiser(DataDenoiser):
    """The posterior mean under the Gaussian of all images, or of those of a class.

    One eigendecomposition, of size min(images, pixels), then two thin products per evaluation. The covariance
    is divided by N.
    """

    def __init__(self, pixels: Pixels, **options):
        super().__init__(pixels, **options)
        self._gaussians = {}

    def _denoise(self, noisy, sigma, rows):
        if rows not in self._gaussians:
            self._gaussians[rows] = self._fit(rows)
        mean, directions, variances = self._gaussians[rows]
        coordinates = (noisy - mean) @ directions
        return mean + coordinates.mul_(variances / (variances + sigma**2)) @ directions.T

    def _jacobian(self, noisy, sigma, rows):
        self._denoise(noisy[:1], sigma[:1], rows)  # fits
        _, directions, variances = self._gaussians[rows]
        kept = variances / (variances + sigma**2)
        return (directions * kept[:, None]) @ directions.T

    def _fit(self, rows: tuple[int, int]) -> Gaussian:
        start, stop = rows
        if not self._sharded and stop - start < self._pixels.shape[1]:
            return _from_images(torch.cat([chunk.levels for chunk in self._pixels.chunks(start, stop)]))
        _, mean, covariance = moments(self._pixels, rows, sharded=self._sharded)
        return _positive(mean, *torch.linalg.eigh(covariance))


def moments(pixels: Pixels, rows: tuple[int, int], *, sharded: bool,
            ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Number, mean [D] and covariance [D, D] of the images `rows`, float64. Their sums are exact integers."""
    size = pixels.shape[1]
    sums = torch.zeros(size + 1, size, dtype=torch.float64, device=pixels.device)
    count = torch.tensor(rows[1] - rows[0], dtype=torch.float64, device=pixels.device)
    for chunk in pixels.chunks(*rows):
        images = chunk.levels.to(torch.float64)
        sums[:size].addmm_(images.T, images)
        sums[size] += images.sum(dim=0)
    if sharded:
        torch.distributed.all_reduce(sums)
        torch.distributed.all_reduce(count)
    mean = sums[size] / count
    return count, mean, sums[:size].div_(count).addr_(mean, mean, alpha=-1)


def _from_images(levels: torch.Tensor) -> Gaussian:
    """From the images' inner products [N, N], for fewer images than pixels; levels: int8 [N, D]."""
    images = levels.to(torch.float64)
    mean = images.mean(dim=0)
    images -= mean
    variances, mixtures = torch.linalg.eigh(images @ images.T / len(images))
    mean, mixtures, variances = _positive(mean, variances, mixtures)
    return Gaussian(mean, images.T @ (mixtures / (len(images) * variances).sqrt()), variances)


def _positive(mean: torch.Tensor, variances: torch.Tensor, directions: torch.Tensor) -> Gaussian:
    """The Gaussian without directions whose variance is 0 up to rounding."""
    kept = variances > variances[-1].clamp(min=0) * len(variances) * torch.finfo(torch.float64).eps
    return Gaussian(mean, directions[:, kept].contiguous(), variances[kept])
