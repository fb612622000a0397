"""The optimal denoiser of a finite data set: the one that a network which memorizes converges to.

D(x; sigma) = sum_i w_i y_i with w = softmax_i(-||x - y_i||^2 / (2 sigma^2)): the posterior mean if each image
y_i is equally likely (Karras et al. 2022, Eq. 57; "The Emergence of Reproducibility and Consistency in
Diffusion Models", arXiv 2310.05264, section 4).
"""

import torch

from evaluation.data_denoiser import DataDenoiser
from evaluation.pixels import Pixels

# Share of the largest weight below which an image adds nothing: a billion of them stay below 1e-8.
NEGLIGIBLE = 1e-17


class OptimalDenoiser(DataDenoiser):
    """The posterior mean under the empirical distribution of `pixels`, by two matrix products per chunk.

    The softmax is computed online, in one pass: highest score, sum of weights and weighted sum of images so
    far. A score is x.y_i - ||y_i||^2 / 2, for ||x||^2 is common to all, and weights are exp(score / sigma^2).
    Scores must be float64: at sigma = 0.002 an error of 1e-10 in a product of 1000 changes a weight by 2e-5.
    For the weighted sum, float32 is enough, in which images are exact; it takes those of noticeable weight.
    """

    def __init__(self, pixels: Pixels, **options):
        super().__init__(pixels, **options)
        # Used again for every chunk, in turn as float64 and as float32: new pages would take as much time as
        # the products.
        self._buffer = torch.empty(pixels.rows_per_chunk * pixels.shape[1], dtype=torch.float64,
                                   device=pixels.device)

    def _denoise(self, noisy, sigma, rows):
        variance = sigma.square().clamp(min=1e-300)  # 0 / 0 would be no weight
        top = torch.full_like(sigma, -torch.inf)
        total = torch.zeros_like(sigma)
        weighted = torch.zeros_like(noisy)
        for chunk in self._pixels.chunks(*rows):
            scores = (noisy @ self._as(torch.float64, chunk.levels).T).sub_(chunk.half_squares)
            new_top = torch.maximum(top, scores.amax(dim=1, keepdim=True))
            weights = scores.sub_(new_top).div_(variance).exp_()
            shrink = ((top - new_top) / variance).exp()
            total = total * shrink + weights.sum(dim=1, keepdim=True)
            weighted *= shrink
            self._add_images(weighted, weights, chunk.levels)
            top = new_top
        if self._sharded:
            total, weighted = _combine(top, variance, total, weighted)
        return weighted / total

    def _add_images(self, weighted: torch.Tensor, weights: torch.Tensor, levels: torch.Tensor) -> None:
        needed = (weights.amax(dim=0) > NEGLIGIBLE).nonzero()[:, 0]
        if len(needed) < len(levels) / 2:
            weights, levels = weights[:, needed], levels[needed]
        weighted += weights.to(torch.float32) @ self._as(torch.float32, levels)

    def _as(self, dtype: torch.dtype, levels: torch.Tensor) -> torch.Tensor:
        return self._buffer.view(dtype)[:levels.numel()].view(levels.shape).copy_(levels)


def _combine(top: torch.Tensor, variance: torch.Tensor, total: torch.Tensor, weighted: torch.Tensor,
             ) -> tuple[torch.Tensor, torch.Tensor]:
    """Sums over the images of all processes, from those over its own, relative to the highest score."""
    overall = top.clone()
    torch.distributed.all_reduce(overall, torch.distributed.ReduceOp.MAX)
    sums = torch.cat([total, weighted], dim=1) * ((top - overall) / variance).exp()
    torch.distributed.all_reduce(sums)
    return sums[:, :1], sums[:, 1:]
