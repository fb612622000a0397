"""The optimal denoiser of a finite data set, to which a network that memorizes converges.

D(x; sigma) = sum_i w_i y_i with w = softmax_i(-||x - y_i||^2 / (2 sigma^2)): the posterior mean if each image
y_i is equally likely (Karras et al. 2022, Eq. 57; "The Emergence of Reproducibility and Consistency in
Diffusion Models", arXiv 2310.05264, section 4).
"""

import math

import torch

from denoisers.data_denoiser import DataDenoiser
from denoisers.image_products import FloatProducts, IntegerProducts, image_products
from denoisers.softmax_sums import SMALLEST, Sums, by_threads, merge, merge_processes
from sampling.pace import one_thread_per_operation

# Share of the largest weight below which an image is left out: a billion of them stay below 1e-8.
NEGLIGIBLE = 1e-17
EXPONENT = -math.log(NEGLIGIBLE)
MOST_SELECTED = 1 / 4  # of the images of a chunk, that it pays to score twice
CPU_SAMPLES = 256  # denoised at a time, so that memory does not grow with the batch
FEW_SAMPLES = 16  # per thread; where there are fewer, threads share the images


class OptimalDenoiser(DataDenoiser):
    """The posterior mean under the empirical distribution of `pixels`, by two matrix products per chunk.

    An online softmax, in one pass: highest score, sum of weights and weighted sum of images so far. Scores
    and sums of images are those of `image_products`. At low noise levels few images have weight, and rough
    scores find them: images whose weight stays negligible whatever the rounding are left out.

    On a CPU, each of PyTorch's threads takes a part of the samples, or of the images, rather than of each
    operation, so that a core that is busy elsewhere does not hold up the others.
    """

    def __call__(self, x, sigma, class_labels=None):
        with one_thread_per_operation():
            return super().__call__(x, sigma, class_labels)

    def _denoise(self, noisy, sigma, rows):
        variance = sigma.square().clamp(min=1e-300)  # avoids 0 / 0
        most = CPU_SAMPLES if self._pixels.device.type == 'cpu' else len(noisy)
        parts = zip(noisy.split(most), variance.split(most), strict=True)
        return torch.cat([self._denoise_part(*part, rows) for part in parts])

    def _denoise_part(self, noisy: torch.Tensor, variance: torch.Tensor, rows: tuple[int, int],
                      ) -> torch.Tensor:
        threads = self._pixels.num_threads
        if self._pixels.is_mapped or len(noisy) < FEW_SAMPLES * threads:
            products = image_products(noisy, variance, self._pixels)
            parts = by_threads(lambda part: self._sums(noisy, variance, part, products), rows, threads)
            found = merge(parts, variance)
        else:
            parts = by_threads(lambda part: self._sums(noisy[slice(*part)], variance[slice(*part)], rows),
                               (0, len(noisy)), threads)
            found = Sums(*map(torch.cat, zip(*parts, strict=True)))
        if self._sharded:
            found = merge_processes(found, variance)
        return found.weighted / found.total

    def _jacobian(self, noisy, sigma, rows):
        """The posterior covariance over sigma^2, of the images whose weights count."""
        variance = sigma.square().clamp(min=1e-300)
        top = self._sums(noisy, variance, rows).top
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

    def _sums(self, noisy: torch.Tensor, variance: torch.Tensor, rows: tuple[int, int],
              products: IntegerProducts | FloatProducts | None = None) -> Sums:
        products = products or image_products(noisy, variance, self._pixels)
        top = torch.full_like(variance, -torch.inf)
        total, weighted = torch.zeros_like(variance), torch.zeros_like(noisy)
        select = _Selection(products, variance)
        for chunk in self._pixels.chunks(*rows, products.most_images):
            levels, scores = select(*chunk)
            if not len(levels):
                continue
            new_top = torch.maximum(top, scores.amax(dim=1, keepdim=True))
            weights = scores.sub_(new_top).div_(variance).clamp_(min=SMALLEST).exp_()
            shrink = ((top - new_top) / variance).exp_()
            total = total * shrink + weights.sum(dim=1, keepdim=True)
            needed = (weights.amax(dim=0) > NEGLIGIBLE).nonzero()[:, 0]
            if len(needed) < len(levels) / 2:
                weights, levels = weights[:, needed], levels[needed]
            products.add(weighted.mul_(shrink), weights, total, levels)
            top = new_top
        return Sums(top, total, weighted)


class _Selection:
    """The images of a chunk that may have weight, as long as they are few, with their exact scores."""

    def __init__(self, products: IntegerProducts | FloatProducts, variance: torch.Tensor):
        self._products, self._top = products, torch.full_like(variance, -torch.inf)
        self._pays = products.slack is not None
        self._reach = EXPONENT * variance + 2 * products.slack if self._pays else None

    def __call__(self, levels: torch.Tensor, half_squares: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        rough = None
        if self._pays:
            rough = self._products.rough(levels, half_squares)
            self._top = torch.maximum(self._top, rough.amax(dim=1, keepdim=True))
            near = ((rough - (self._top - self._reach).to(rough.dtype)).amax(dim=0) >= 0).nonzero()[:, 0]
            few = len(near) <= MOST_SELECTED * len(levels)
            self._pays = few or self._products.rough_counts
            if few:
                levels, half_squares, rough = levels[near], half_squares[near], rough[:, near]
        return levels, self._products.exact(levels, half_squares, rough)
