"""The local score machine: locality without equivariance, a posterior for each pixel.

"An analytic theory of creativity in convolutional diffusion models" (Kamb & Ganguli 2024, arXiv 2412.20292),
its LS machine. Pixel p of D(x; sigma) is sum_i w_i(p) y_i[p] with
w(p) = softmax_i(-||x_W(p) - y_i,W(p)||^2 / (2 sigma^2)), where W(p) is the window of P x P pixels around p,
cut off at the image's border.
"""

import torch

from denoisers import windows
from denoisers.window_denoiser import WindowDenoiser


class LocalDenoiser(WindowDenoiser):
    """D(x; sigma) above, for odd P."""

    odd = True

    def denoise_by(self, size, noisy, sigma, rows, left_out=None):
        margin = size // 2
        x = windows.pad(self._noisy_pixels(noisy, sigma), margin)

        def add(weighted, weights, images, row):
            centres = images[row + margin, margin:images.shape[1] - margin, :-1]
            weighted.baddbmm_(weights, centres.transpose(1, 2).to(torch.float64))

        sums = self._window_sums(x, size, rows, left_out, self.img_channels, add)
        return (sums.weighted / sums.total).permute(2, 3, 0, 1).reshape(len(noisy), -1)
