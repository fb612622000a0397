"""The local score machine: locality without equivariance, a posterior for each pixel.

"An analytic theory of creativity in convolutional diffusion models" (Kamb & Ganguli 2024, arXiv 2412.20292),
its LS machine. Pixel p of D(x; sigma) is sum_i w_i(p) y_i[p] with
w(p) = softmax_i(-||x_W(p) - y_i,W(p)||^2 / (2 sigma^2)), where W(p) is the window of P x P pixels around p,
cut off at the image's border.
"""

import torch

from denoisers import windows
from denoisers.softmax_sums import Sums, by_threads
from denoisers.window_denoiser import MIN_VARIANCE, WindowDenoiser, add_scores, window_scores


class LocalDenoiser(WindowDenoiser):
    """D(x; sigma) above, for odd P, in one pass over the images."""

    odd = True

    def denoise_by(self, size, noisy, sigma, rows, left_out=None):
        x = windows.noisy_pixels(noisy, sigma.square().clamp(min=MIN_VARIANCE), self._pixels.image_shape)
        sums = self._merge(by_threads(lambda part, _: self._sums(x, size, part, left_out), rows,
                                      self._pixels.num_threads))
        return (sums.weighted / sums.total).permute(2, 3, 0, 1).reshape(len(noisy), -1)

    def _sums(self, x: torch.Tensor, size: int, rows: tuple[int, int], left_out: torch.Tensor | None) -> Sums:
        """The sums of each pixel and sample, [H, W, B, ...]."""
        height, width, channels, count = x.shape
        places = (height, width, count)
        sums = Sums(x.new_full((*places, 1), -torch.inf), x.new_zeros(*places, 1),
                    x.new_zeros(*places, channels - 1))
        margin = size // 2  # of zeros, which add nothing to a score
        x = windows.pad(x, margin)
        for y, out in self._chunks(rows, self._step(count), left_out):
            sums, weights = add_scores(sums, window_scores(x, windows.pad(y, margin), size, out))
            for row in range(height):
                sums.weighted[row] += torch.bmm(weights[row], y[row, :, :-1].transpose(1, 2))
        return sums
