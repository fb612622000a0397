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
from denoisers.window_denoiser import WindowDenoiser


class PatchDenoiser(WindowDenoiser):
    """D(x; sigma) above. Patches as large as the image make the optimal denoiser."""

    def __init__(self, pixels: Pixels, **options):
        super().__init__(pixels, **options)
        self._optimal = OptimalDenoiser(pixels, sharded=self._sharded)

    def denoise_by(self, size, noisy, sigma, rows, left_out=None):
        if size == self.img_resolution and left_out is None:
            return self._optimal._denoise(noisy, sigma, rows)
        channels, height, width = self._pixels.image_shape

        def add(weighted, weights, images, row):
            for j, of_row in enumerate(weighted.unflatten(2, (size, -1)).unbind(2)):
                of_row += torch.bmm(weights, windows.row_windows(images[row + j], size).transpose(1, 2))

        sums = self._window_sums(size, noisy, sigma, rows, left_out, add, size**2 * channels)
        patches = (sums.weighted / sums.total).unflatten(3, (size, size, channels))
        image = noisy.new_zeros(height, width, len(noisy), channels)
        covered = noisy.new_zeros(height, width, 1, 1)
        for j in range(size):
            for i in range(size):
                place = slice(j, height - size + 1 + j), slice(i, width - size + 1 + i)
                image[place] += patches[:, :, :, j, i]
                covered[place] += 1
        return (image / covered).permute(2, 3, 0, 1).reshape(len(noisy), -1)
