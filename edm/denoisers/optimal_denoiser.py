"""The optimal denoiser of a finite data set, to which a network that memorizes converges.

D(x; sigma) = sum_i w_i y_i with w = softmax_i(-||x - y_i||^2 / (2 sigma^2)): the posterior mean if each image
y_i is equally likely (Karras et al. 2022, Eq. 57; "The Emergence of Reproducibility and Consistency in
Diffusion Models", arXiv 2310.05264, section 4).
"""

import torch

from data.pixels import Pixels
from denoisers.data_denoiser import DataDenoiser
from denoisers.softmax_sums import Sums, by_threads, merge, merge_processes
from sampling.pace import one_thread_per_operation

# Share of the largest weight below which an image is left out: a billion of them stay below 1e-8.
NEGLIGIBLE = 1e-17


class OptimalDenoiser(DataDenoiser):
    """The posterior mean under the empirical distribution of `pixels`, by two matrix products per chunk.

    An online softmax, in one pass: highest score, sum of weights and weighted sum of images so far. A score
    is x.y_i - ||y_i||^2 / 2, as ||x||^2 is common to all, and weights are exp(score / sigma^2). Scores must
    be float64: at sigma = 0.002 an error of 1e-10 in a product of 1000 changes a weight by 2e-5. For the
    weighted sum of images, which float32 holds exactly, float32 suffices.

    On a CPU, each of PyTorch's threads takes a part of the images rather than of each operation, so that a
    core that is busy elsewhere does not hold up the others.
    """

    def __init__(self, pixels: Pixels, **options):
        super().__init__(pixels, **options)
        # For a chunk as float64, then as float32: new pages each time would cost as much as the products.
        size = pixels.rows_per_chunk * pixels.shape[1]
        self._buffers = [torch.empty(size, dtype=torch.float64, device=pixels.device)
                         for _ in range(pixels.num_threads)]

    def __call__(self, x, sigma, class_labels=None):
        with one_thread_per_operation():
            return super().__call__(x, sigma, class_labels)

    def _denoise(self, noisy, sigma, rows):
        variance = sigma.square().clamp(min=1e-300)  # avoids 0 / 0

        def sums(part, thread):
            return self._sums(noisy, variance, part, self._buffers[thread])

        found = merge(by_threads(sums, rows, len(self._buffers)), variance)
        if self._sharded:
            found = merge_processes(found, variance)
        return found.weighted / found.total

    def _jacobian(self, noisy, sigma, rows):
        """The posterior covariance over sigma^2, of the images whose weights count."""
        variance = sigma.square().clamp(min=1e-300)
        top = self._sums(noisy, variance, rows, self._buffers[0]).top
        found = noisy.new_zeros(len(noisy), noisy.shape[1], noisy.shape[1])
        weights, images = [], []
        for levels, half_squares in self._pixels.chunks(*rows):
            own = ((noisy @ levels.to(torch.float64).T - half_squares - top) / variance).exp()
            needed = (own.amax(dim=0) > NEGLIGIBLE).nonzero()[:, 0]
            weights.append(own[:, needed])
            images.append(levels[needed])
        weights, images = torch.cat(weights, dim=1), torch.cat(images).to(torch.float64)
        for i, own in enumerate(weights):
            kept = own > NEGLIGIBLE
            own, these = own[kept] / own[kept].sum(), images[kept]
            these = these - own @ these
            found[i] = (these * own[:, None]).T @ these / variance[i]
        return found

    def _sums(self, noisy: torch.Tensor, variance: torch.Tensor, rows: tuple[int, int], buffer: torch.Tensor,
              ) -> Sums:
        top = torch.full_like(variance, -torch.inf)
        total = torch.zeros_like(variance)
        weighted = torch.zeros_like(noisy)
        for levels, half_squares in self._pixels.chunks(*rows):
            scores = (noisy @ _convert(levels, torch.float64, buffer).T).sub_(half_squares)
            new_top = torch.maximum(top, scores.amax(dim=1, keepdim=True))
            weights = scores.sub_(new_top).div_(variance).exp_()
            shrink = ((top - new_top) / variance).exp()
            total = total * shrink + weights.sum(dim=1, keepdim=True)
            needed = (weights.amax(dim=0) > NEGLIGIBLE).nonzero()[:, 0]
            if len(needed) < len(levels) / 2:
                weights, levels = weights[:, needed], levels[needed]
            weighted *= shrink
            weighted += weights.to(torch.float32) @ _convert(levels, torch.float32, buffer)
            top = new_top
        return Sums(top, total, weighted)


def _convert(levels: torch.Tensor, dtype: torch.dtype, buffer: torch.Tensor) -> torch.Tensor:
    return buffer.view(dtype)[:levels.numel()].view(levels.shape).copy_(levels)
