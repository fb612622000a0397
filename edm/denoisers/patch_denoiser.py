"""The composite of overlapping patches' posterior means: locality without equivariance.

"Towards a Mechanistic Explanation of Diffusion Model Generalization" (Niedoba et al. 2024, arXiv 2411.19339),
its composite of square patches. For each P x P patch w that lies wholly inside the image, the posterior mean
among the training patches at the same place is m_w(x) = sum_i p_i(w) y_i,w with
p(w) = softmax_i(-||x_w - y_i,w||^2 / (2 sigma^2)). A pixel of D(x; sigma) is the plain mean of its values in
the m_w of all patches that cover it.
"""

import torch

from denoisers import windows
from denoisers.optimal_denoiser import OptimalDenoiser
from denoisers.softmax_sums import Sums, by_threads
from denoisers.window_denoiser import MIN_VARIANCE, WindowDenoiser, add_scores, window_scores


class PatchDenoiser(WindowDenoiser):
    """D(x; sigma) above, in two passes: the sums of weights at each place, then images weighted by pixel, for


        D(x)[pixel] = sum_i y_i[pixel] (sum_{w covers pixel} p_i(w) / number of w that cover it).

    Patches as large as the image make the optimal denoiser.
    """

    def __init__(self, pixels, **options):
        super().__init__(pixels, **options)
        self._optimal = OptimalDenoiser(pixels, sharded=self._sharded)

    def denoise_by(self, size, noisy, sigma, rows, left_out=None):
        if size == self.img_resolution and left_out is None:
            return self._optimal._denoise(noisy, sigma, rows)
        shape = self._pixels.image_shape
        x = windows.noisy_pixels(noisy, sigma.square().clamp(min=MIN_VARIANCE), shape)
        threads, count = self._pixels.num_threads, len(noisy)
        sums = self._merge(by_threads(lambda part, _: self._totals(x, size, part, left_out), rows, threads))
        normalizer = sums.top + sums.total.log()
        means = torch.stack(by_threads(
            lambda part, _: self._means(x, size, part, left_out, normalizer), rows, threads)).sum(dim=0)
        if self._sharded:
            torch.distributed.all_reduce(means)
        along = windows.covered_sum(means.new_ones(shape[1] - size + 1), size)
        means /= (along[:, None] * along)[:, :, None, None]
        return means.permute(2, 3, 0, 1).reshape(count, -1)

    def _totals(self, x, size, rows, left_out) -> Sums:
        """Top score and sum of weights at each place, [places, places, B, 1]; no weighted sum."""
        places = (*[self.img_resolution - size + 1] * 2, x.shape[3])
        sums = Sums(x.new_full((*places, 1), -torch.inf), x.new_zeros(*places, 1), x.new_zeros(*places, 0))
        for y, out in self._chunks(rows, self._step(x.shape[3]), left_out):
            sums, _ = add_scores(sums, window_scores(x, y, size, out))
        return sums

    def _means(self, x, size, rows, left_out, normalizer) -> torch.Tensor:
        """sum_i y_i[pixel] sum_{w covers pixel} p_i(w), float64 [H, W, B, C]."""
        height, width, channels, count = x.shape
        means = x.new_zeros(height, width, count, channels - 1)
        for y, out in self._chunks(rows, self._step(count), left_out):
            weights = window_scores(x, y, size, out).sub_(normalizer).exp_()
            for row, (covered, images) in enumerate(zip(windows.covered_sum(weights, size), y, strict=True)):
                across = windows.covered_sum(covered, size)
                means[row] += torch.bmm(across, images[:, :-1].transpose(1, 2))
        return means
