"""The composite of overlapping patches' posterior means: locality without equivariance.

"Towards a Mechanistic Explanation of Diffusion Model Generalization" (Niedoba et al. 2024, arXiv 2411.19339),
its composite of square patches. For each P x P patch w that lies wholly inside the image, the posterior mean
among the training patches at the same place is m_w(x) = sum_i p_i(w) y_i,w with
p(w) = softmax_i(-||x_w - y_i,w||^2 / (2 sigma^2)). A pixel of D(x; sigma) is the plain mean of its values in
the m_w of all patches that cover it.
"""

import torch

from data.pixels import Pixels
from denoisers import windows
from denoisers.optimal_denoiser import OptimalDenoiser
from denoisers.softmax_sums import SMALLEST, by_threads
from denoisers.window_denoiser import WindowDenoiser


class PatchDenoiser(WindowDenoiser):
    """D(x; sigma) above, in two passes: the sum of weights at each place, then the images, for

        D(x)[pixel] = sum_i y_i[pixel] (sum_{w covers pixel} p_i(w)) / (number of w that cover it).

    Patches as large as the image make the optimal denoiser.
    """

    def __init__(self, pixels: Pixels, **options):
        super().__init__(pixels, **options)
        self._optimal = OptimalDenoiser(pixels, sharded=self._sharded)

    def denoise_by(self, size, noisy, sigma, rows, left_out=None):
        if size == self.img_resolution and left_out is None:
            return self._optimal._denoise(noisy, sigma, rows)
        x = self._noisy_pixels(noisy, sigma)
        sums = self._window_sums(x, size, rows, left_out)
        normalizer = sums.top + sums.total.log()
        parts = by_threads(lambda part, _: self._rows_of_patches(x, size, part, left_out, normalizer), rows,
                           self._pixels.num_threads)
        found = torch.stack(parts).sum(dim=0)
        if self._sharded:
            torch.distributed.all_reduce(found)
        height, places, count, _ = found.shape
        image = found.new_zeros(height, height, count, self.img_channels)
        for i, of_column in enumerate(found.unflatten(3, (size, -1)).unbind(3)):
            image[:, i:i + places] += of_column
        place = torch.arange(height, device=image.device)
        covered = torch.minimum(place, height - 1 - place).clamp(max=min(size, places) - 1) + 1
        return (image / (covered[:, None] * covered)[:, :, None, None]).permute(2, 3, 0, 1).reshape(count, -1)

    def _rows_of_patches(self, x: torch.Tensor, size: int, rows: tuple[int, int],
                         left_out: torch.Tensor | None, normalizer: torch.Tensor) -> torch.Tensor:
        """Sums over images and patches of each row of a patch, float64 [H, places, B, P * C]."""
        places, _, count, _ = normalizer.shape
        found, latest = x.new_zeros(len(x), places, count, size * self.img_channels), None
        for row, scores, images in self._scores(x, size, rows, left_out):
            if row == 0:  # the weights of the P rows of places whose patches cover a row of pixels
                if latest is None or latest.shape[1:] != scores.shape:
                    latest = images.new_empty(size, *scores.shape)
                latest.zero_()
            torch.sub(scores, normalizer[row], out=latest[row % size]).clamp_(min=SMALLEST).exp_()
            self._add_row(found, row, latest, images)
            for below in range(len(x) - places if row == places - 1 else 0):
                latest[(places + below) % size] = 0
                self._add_row(found, places + below, latest, images)
        return found

    @staticmethod
    def _add_row(found: torch.Tensor, row: int, latest: torch.Tensor, images: torch.Tensor) -> None:
        size = len(latest)
        found[row] += torch.bmm(latest.sum(dim=0), windows.row_windows(images[row], size).transpose(1, 2))
