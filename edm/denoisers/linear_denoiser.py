"""The best denoiser that is affine in the P x P window around a pixel: locality and linearity.

"Understanding Generalizability of Diffusion Models Requires Rethinking the Hidden Gaussian Structure" (Li,
Dai & Qu 2024, arXiv 2410.24060) finds networks that generalize close to linear; here each pixel also sees its
window alone, by a Wiener filter for each place. With mu and S the mean and covariance of the images, pixel p
of D(x; sigma) is mu_p + S_pW (S_WW + sigma^2 I)^-1 (x_W - mu_W), where W is the window around p, cut off at
the border. With windows that hold the whole image it would be the Gaussian denoiser.
"""

from collections.abc import Iterator

import torch

from data.pixels import Pixels
from denoisers import windows
from denoisers.gaussian_denoiser import moments
from denoisers.window_denoiser import MIN_VARIANCE, WindowDenoiser
from torch_utils.distributed import total_memory
from torch_utils.errors import UserError

BLOCK_VALUES = 1 << 23  # of the windows' covariances that are solved at a time
MOST_FILTERS = 64  # kept: noise levels times classes
SMALLEST_RIDGE = 1e-13  # share of a window's variance below which sigma^2 is lost in rounding


class LinearDenoiser(WindowDenoiser):
    """D(x; sigma) above, for odd P: one covariance [D, D], then a Cholesky factor per place and noise level.

    Raises UserError if memory does not suffice for the covariance.
    """

    odd = True

    def __init__(self, pixels: Pixels, **options):
        super().__init__(pixels, **options)
        needed = 8 * pixels.shape[1]**2
        if needed > total_memory(pixels.device) / 2:
            raise UserError(f'--denoiser linear: the covariance of images of {pixels.shape[1]:,} values '
                            f'takes {needed / 1e9:.3g} GB, more than half the memory')
        self._moments, self._filters = {}, {}

    def denoise_by(self, size, noisy, sigma, rows, left_out=None):
        if rows not in self._moments:
            self._moments[rows] = moments(self._pixels, rows, sharded=self._sharded)
        denoised, variances = torch.empty_like(noisy), sigma[:, 0].square().clamp(min=MIN_VARIANCE)
        images, without = self._images_at(left_out, noisy)
        for variance in variances.unique().tolist():
            for part in (variances == variance) & ~without, (variances == variance) & without:
                if part.any():
                    mine = (size, noisy[part], variance, rows)
                    denoised[part] = (self._without(*mine, images[part]) if without[part].any()
                                      else self._with_all(*mine))
        return denoised

    def _with_all(self, size: int, noisy: torch.Tensor, variance: float, rows: tuple[int, int],
                  ) -> torch.Tensor:
        _, mean, covariance = self._moments[rows]
        key = (size, variance, rows)
        if key not in self._filters:
            if len(self._filters) == MOST_FILTERS:
                del self._filters[next(iter(self._filters))]
            self._filters[key] = [
                (pixels, window, torch.cholesky_solve(cross, factor))
                for pixels, window, cross, factor in self._factors(size, covariance, variance)]
        denoised, centred = mean.repeat(len(noisy), 1), noisy - mean
        for pixels, window, gain in self._filters[key]:
            denoised[:, pixels] += torch.einsum('bmk,mkc->bmc', centred[:, window], gain)
        return denoised

    def _without(self, size: int, noisy: torch.Tensor, variance: float, rows: tuple[int, int],
                 images: torch.Tensor) -> torch.Tensor:
        """Denoise each sample by the moments of all images but one y, of `images` [B, D]; exact.

        Without y, mu becomes mu - v / (N - 1) and S becomes a S - b v v^T, where v = y - mu, a = N / (N - 1)
        and b = N / (N - 1)^2; the inverse follows by the formula of Sherman and Morrison.
        """
        count, mean, covariance = self._moments[rows]
        a, b = count / (count - 1), count / (count - 1)**2
        offset = images - mean
        denoised = mean - offset / (count - 1)
        centred = noisy - denoised
        for pixels, window, cross, factor in self._factors(size, a * covariance, variance):
            v, x = (of[:, window].permute(1, 2, 0) for of in (offset, centred))  # [m, K, B]
            v_solved, x_solved = torch.cholesky_solve(torch.cat([v, x], dim=2), factor).chunk(2, dim=2)
            share = b * (v * x_solved).sum(dim=1) / (1 - b * (v * v_solved).sum(dim=1))
            solved = x_solved + share[:, None] * v_solved
            along = b * (v * solved).sum(dim=1)
            denoised[:, pixels] += (torch.einsum('mkc,mkb->bmc', cross, solved)
                                    - offset[:, pixels] * along.T[:, :, None])
        return denoised

    def _images_at(self, left_out: torch.Tensor | None, noisy: torch.Tensor,
                   ) -> tuple[torch.Tensor, torch.Tensor]:
        """The image that each sample leaves out, float64 [B, D], and whether it leaves one out, bool [B]."""
        found = noisy.new_zeros(len(noisy), noisy.shape[1] + 1)
        for sample, row in enumerate([] if left_out is None else left_out.tolist()):
            for chunk in self._pixels.chunks(row, row + 1) if row >= 0 else ():
                found[sample, :-1], found[sample, -1] = chunk.levels[0], 1
        if self._sharded and left_out is not None:
            torch.distributed.all_reduce(found)
        return found[:, :-1], found[:, -1] > 0

    def _factors(self, size: int, covariance: torch.Tensor, variance: float) -> Iterator[tuple]:
        """For some pixels p at a time, S_Wp and the Cholesky factor of S_WW + sigma^2 I.

        Yields indices of the pixels [m, C] and of their windows [m, K]; S_Wp [m, K, C]; factors [m, K, K].
        """
        channels, height, width = self._pixels.image_shape
        index = torch.arange(channels * height * width, device=covariance.device)
        index = index.reshape(channels, height, width, 1).permute(1, 2, 0, 3)
        for places in windows.groups((height, width), size):
            around = windows.around(index, places, size).flatten(2).flatten(0, 1)
            centres = index[places[0].start:places[0].stop, places[1].start:places[1].stop].flatten(0, 1)
            step = max(1, BLOCK_VALUES // around.shape[1]**2)
            for pixels, window in zip(centres[:, :, 0].split(step), around.split(step), strict=True):
                block = covariance[window[:, :, None], window[:, None, :]]
                diagonal = block.diagonal(dim1=1, dim2=2)
                diagonal += (SMALLEST_RIDGE * diagonal.sum(dim=1, keepdim=True)).clamp(min=variance)
                cross = covariance[window[:, :, None], pixels[:, None, :]]
                yield pixels, window, cross, torch.linalg.cholesky(block)
