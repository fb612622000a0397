"""The composite of overlapping patches' posterior means: locality without equivariance.

"Towards a Mechanistic Explanation of Diffusion Model Generalization" (Niedoba et al. 2024, arXiv 2411.19339),
its composite of square patches. For each P x P patch w that lies wholly inside the image, the posterior mean
among the training patches at the same place is m_w(x) = sum_i p_i(w) y_i,w with
p(w) = softmax_i(-||x_w - y_i,w||^2 / (2 sigma^2)). A pixel of D(x; sigma) is the plain mean of its values in
the m_w of all patches that cover it.
"""

from itertools import chain

import torch

from data.pixels import Pixels
from denoisers import windows
from denoisers.moving_sum import MovingSum
from denoisers.optimal_denoiser import OptimalDenoiser
from denoisers.softmax_sums import SMALLEST, by_threads
from denoisers.window_denoiser import WindowDenoiser

# Of a patch, and of the weighted sums of all, 64 MiB, in one pass.
MOST_VALUES, MOST_SUMS = 128, 1 << 23


class PatchDenoiser(WindowDenoiser):
    """D(x; sigma) above. Patches as large as the image make the optimal denoiser.

    For small patches, each place has its weighted sum of patches. For others such sums would cost more than
    weights do, and a second pass, with known sums of weights, adds the images:

        D(x)[pixel] = sum_i y_i[pixel] (sum_{w covers pixel} p_i(w)) / (number of w that cover it).
    """

    def __init__(self, pixels: Pixels, **options):
        super().__init__(pixels, **options)
        self._optimal = OptimalDenoiser(pixels, sharded=self._sharded)

    def denoise_by(self, size, noisy, sigma, rows, left_out=None):
        if size == self.img_resolution and left_out is None:
            return self._optimal._denoise(noisy, sigma, rows)
        x = self._noisy_pixels(noisy, sigma)
        values = size**2 * self.img_channels
        is_small = values <= MOST_VALUES and values * x.shape[3] * (len(x) - size + 1)**2 <= MOST_SUMS
        sums_of = self._in_one_pass if is_small else self._in_two_passes
        found = sums_of(x, size, rows, left_out)
        height, places, count, _ = found.shape
        image = found.new_zeros(height, height, count, self.img_channels)
        for i, of_column in enumerate(found.unflatten(3, (size, -1)).unbind(3)):
            image[:, i:i + places] += of_column
        place = torch.arange(height, device=image.device)
        covered = torch.minimum(place, height - 1 - place).clamp(max=min(size, places) - 1) + 1
        return (image / (covered[:, None] * covered)[:, :, None, None]).permute(2, 3, 0, 1).reshape(count, -1)

    def _in_one_pass(self, x: torch.Tensor, size: int, rows: tuple[int, int],
                     left_out: torch.Tensor | None) -> torch.Tensor:
        """Sums over images and rows of patches of each row of a patch, float64 [H, places, B, P * C]."""
        def add(weighted, weights, images, row):
            of_rows = images[row:row + size, :, :-1].transpose(0, 1)
            of_rows = of_rows.to(torch.float64, memory_format=torch.contiguous_format).flatten(1, 2)
            weighted.baddbmm_(weights, windows.row_windows(of_rows, size).transpose(1, 2))

        sums = self._window_sums(x, size, rows, left_out, size**2 * self.img_channels, add)
        means = (sums.weighted / sums.total).unflatten(3, (size, size, -1))  # columns before rows
        found = x.new_zeros(len(x), *means.shape[1:3], size * self.img_channels)
        for i, of_row in enumerate(means.unbind(4)):
            found[i:i + len(means)] += of_row.flatten(3)
        return found

    def _in_two_passes(self, x: torch.Tensor, size: int, rows: tuple[int, int],
                       left_out: torch.Tensor | None) -> torch.Tensor:
        """As `_in_one_pass`."""
        sums = self._window_sums(x, size, rows, left_out)
        normalizer = sums.top + sums.total.log()
        parts = by_threads(lambda part: self._rows_of_patches(x, size, part, left_out, normalizer), rows,
                           self._pixels.num_threads)
        found = torch.stack(parts).sum(dim=0)
        if self._sharded:
            torch.distributed.all_reduce(found)
        return found

    def _rows_of_patches(self, x: torch.Tensor, size: int, rows: tuple[int, int],
                         left_out: torch.Tensor | None, normalizer: torch.Tensor) -> torch.Tensor:
        places, _, count, _ = normalizer.shape
        found, latest = x.new_zeros(len(x), places, count, size * self.img_channels), None
        for place, scores, room, images in self._scores(x, size, rows, left_out, normalizer):
            if place == 0:
                if latest is None or latest.shape != scores.shape:
                    latest = MovingSum(scores.shape, size, images.device)
                latest.restart()
            latest.room().copy_(scores).clamp_(min=SMALLEST).exp_()
            sums = chain([latest.next(out=room)], latest.rest(out=room) if place == places - 1 else [])
            for row, of_row in enumerate(sums, place):
                values = images[row, :, :-1].to(torch.float64, memory_format=torch.contiguous_format)
                values = windows.row_windows(values, size).transpose(1, 2)
                found[row].baddbmm_(of_row.to(torch.float64), values)
        return found
