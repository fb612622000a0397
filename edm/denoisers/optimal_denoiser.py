"""The optimal denoiser of a finite data set, to which a network that memorizes converges.

D(x; sigma) = sum_i w_i y_i with w = softmax_i(-||x - y_i||^2 / (2 sigma^2)): the posterior mean if each image
y_i is equally likely (Karras et al. 2022, Eq. 57; "The Emergence of Reproducibility and Consistency in
Diffusion Models", arXiv 2310.05264, section 4).
"""

import math

import torch

from data.pixels import Pixels
from denoisers.data_denoiser import DataDenoiser
from denoisers.fixed_point import fixed_point, is_supported
from denoisers.softmax_sums import SMALLEST, Sums, by_threads, merge, merge_processes
from sampling.pace import one_thread_per_operation

# Share of the largest weight below which an image is left out: a billion of them stay below 1e-8.
NEGLIGIBLE = 1e-17
EXPONENT = -math.log(NEGLIGIBLE)
MOST_SELECTED = 1 / 4  # of the images of a chunk, that it pays to score twice
LARGEST_FLOAT32 = 1e9  # grey levels of noisy images that float32 scores take
ROUNDING = 1e-7  # of images in [-1, 1], by what integer scores round
ROUGH_BITS = 13  # of the largest |x|, in the scores that select
# Sums of images in float32 are over blocks of so many, of which so many are added up, lest roundings that all
# go one way reach 1e-6. A weight above this share of the total would hide many small ones.
BLOCK, BLOCKS, SMALL = 64, 16, 1 / 32


class OptimalDenoiser(DataDenoiser):
    """The posterior mean under the empirical distribution of `pixels`, by two matrix products per chunk.

    An online softmax, in one pass: highest score, sum of weights and weighted sum of images so far. A score
    is x.y_i - ||y_i||^2 / 2, as ||x||^2 is common to all, and weights are exp(score / sigma^2).

    Scores in float32 would not do: at sigma = 0.002 an error of 1e-10 in a product of 1000 changes a weight
    by 2e-5. They are float64, or, where the processor multiplies 8-bit integers, integers of as many digits
    as weights need (`_Scores`). At low noise levels few images have weight, and rough scores find them:
    images whose weight stays negligible whatever the rounding are left out, the others scored again. The
    weighted sum of images, which float32 holds exactly, is float32 but for large weights.

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

        scores = _Scores(noisy, variance, self._pixels)

        def sums(part, thread):
            return self._sums(scores, part, self._buffers[thread])

        found = merge(by_threads(sums, rows, len(self._buffers)), variance)
        if self._sharded:
            found = merge_processes(found, variance)
        return found.weighted / found.total

    def _jacobian(self, noisy, sigma, rows):
        """The posterior covariance over sigma^2, of the images whose weights count."""
        variance = sigma.square().clamp(min=1e-300)
        top = self._sums(_Scores(noisy, variance, self._pixels), rows, self._buffers[0]).top
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

    def _sums(self, scores_of: '_Scores', rows: tuple[int, int], buffer: torch.Tensor) -> Sums:
        variance = scores_of.variance
        top = torch.full_like(variance, -torch.inf)
        total = torch.zeros_like(variance)
        weighted = torch.zeros_like(scores_of.noisy)
        select = _Selection(scores_of)
        for levels, half_squares in self._pixels.chunks(*rows):
            levels, half_squares = select(levels, half_squares, buffer)
            if not len(levels):
                continue
            scores = scores_of.exact(levels, half_squares, buffer)
            new_top = torch.maximum(top, scores.amax(dim=1, keepdim=True))
            weights = scores.sub_(new_top).div_(variance).clamp_(min=SMALLEST).exp_()
            shrink = ((top - new_top) / variance).exp_()
            total = total * shrink + weights.sum(dim=1, keepdim=True)
            needed = (weights.amax(dim=0) > NEGLIGIBLE).nonzero()[:, 0]
            if len(needed) < len(levels) / 2:
                weights, levels = weights[:, needed], levels[needed]
            weighted *= shrink
            _add_images(weighted, weights, total, levels, buffer)
            top = new_top
        return Sums(top, total, weighted)


def _add_images(weighted: torch.Tensor, weights: torch.Tensor, total: torch.Tensor, levels: torch.Tensor,
                buffer: torch.Tensor) -> None:
    """Add images [n, D] with weights [B, n], of which `total` was the sum so far, to `weighted`, in place.

    By float32 sums of few, but for large weights.
    """
    large = weights.amax(dim=0) > SMALL * total.min()
    if large.any():
        large &= (weights > SMALL * total).any(dim=0)
    large = large.nonzero()[:, 0]
    if len(large) > MOST_SELECTED * len(levels):
        weighted += weights @ _convert(levels, torch.float64, buffer)
        return
    if len(large):
        weighted += weights[:, large] @ levels[large].to(torch.float64)
        weights[:, large] = 0
    weights = weights.to(torch.float32)
    for start in range(0, len(levels), BLOCK * BLOCKS):
        sums = torch.zeros(weighted.shape, dtype=torch.float32, device=weighted.device)
        for first in range(start, min(start + BLOCK * BLOCKS, len(levels)), BLOCK):
            block = slice(first, first + BLOCK)
            sums.addmm_(weights[:, block], _convert(levels[block], torch.float32, buffer))
        weighted += sums.to(torch.float64)  # faster than a sum of both types


class _Scores:
    """x.y - ||y||^2 / 2 of noisy images x with images y, float64 [B, n], in grey levels squared.

    noisy: float64 [B, D]. variance: sigma^2, float64 [B, 1].

    Where 8-bit integers are fast, x is rounded to a grid, and the product is exact (`fixed_point`). Rounding
    x by dx changes scores by dx.y, at most e = ||dx|| max ||y||. Weights times exp(+-e / sigma^2), whatever
    the signs, move at most tanh(e / (2 sigma^2)) of the total from some images to others, and so no
    pixel in [-1, 1] by more than e / sigma^2. The grid keeps this below ROUNDING.

    slack: how far `rough` may be off, [B, 1]; None where rough scores would not do.
    """

    def __init__(self, noisy: torch.Tensor, variance: torch.Tensor, pixels: Pixels):
        self.noisy, self.variance, self.slack = noisy, variance, None
        size, largest = noisy.shape[1], noisy.new_zeros([])
        if len(pixels.half_squares):  # else more processes than images
            largest = pixels.half_squares.max()
        self._fixed = self._rough = self._single = None
        if is_supported(noisy.device, size):
            length = (2 * largest).sqrt().clamp(min=1)
            per_grid = math.sqrt(size) / 2 * length  # e, for a grid of 1
            self._fixed = fixed_point(noisy, ROUNDING * variance / per_grid)
            grid = noisy.abs().amax(dim=1, keepdim=True).clamp(min=1) * 2.0**-ROUGH_BITS
            self._rough, self.slack = fixed_point(noisy, grid), per_grid * grid
        elif (norms := noisy.norm(dim=1, keepdim=True)).max() < LARGEST_FLOAT32:
            self._single, self.slack = noisy.to(torch.float32), _bound(size, norms, largest)

    def exact(self, levels: torch.Tensor, half_squares: torch.Tensor, buffer: torch.Tensor) -> torch.Tensor:
        """As exact as weights need."""
        if self._fixed is not None:
            return self._fixed.products(levels).sub_(half_squares)
        return (self.noisy @ _convert(levels, torch.float64, buffer).T).sub_(half_squares)

    def rough(self, levels: torch.Tensor, half_squares: torch.Tensor, buffer: torch.Tensor) -> torch.Tensor:
        """Up to `slack`, float32 or float64."""
        if self._rough is not None:
            return self._rough.products(levels).sub_(half_squares)
        return (self._single @ _convert(levels, torch.float32, buffer).T).sub_(half_squares.to(torch.float32))


class _Selection:
    """The images of a chunk that may have weight, by rough scores, as long as they are few."""

    def __init__(self, scores: _Scores):
        self._scores, self._top = scores, torch.full_like(scores.variance, -torch.inf)
        self._pays = scores.slack is not None
        self._reach = EXPONENT * scores.variance + 2 * scores.slack if self._pays else None

    def __call__(self, levels: torch.Tensor, half_squares: torch.Tensor, buffer: torch.Tensor,
                 ) -> tuple[torch.Tensor, torch.Tensor]:
        if not self._pays:
            return levels, half_squares
        scores = self._scores.rough(levels, half_squares, buffer)
        self._top = torch.maximum(self._top, scores.amax(dim=1, keepdim=True))
        near = ((scores - (self._top - self._reach).to(scores.dtype)).amax(dim=0) >= 0).nonzero()[:, 0]
        self._pays = len(near) <= MOST_SELECTED * len(levels)
        return (levels[near], half_squares[near]) if self._pays else (levels, half_squares)


def _bound(size: int, norms: torch.Tensor, half_square: torch.Tensor) -> torch.Tensor:
    """How far a float32 score of `size` products may be off in grey levels squared, in any order of the sum.

    |fl(x.y) - x.y| <= n u / (1 - n u) sum_k |x_k| |y_k| (Higham, Accuracy and Stability of Numerical
    Algorithms, section 3.1), and the sum is at most ||x|| ||y||. Four more roundings: of x, of ||y||^2 / 2,
    of the difference, and of the limit that it is compared with.
    """
    unit = (size + 4) * torch.finfo(torch.float32).eps / 2
    return unit / (1 - unit) * (norms * (2 * half_square).sqrt() + half_square)


def _convert(levels: torch.Tensor, dtype: torch.dtype, buffer: torch.Tensor) -> torch.Tensor:
    return buffer.view(dtype)[:levels.numel()].view(levels.shape).copy_(levels)
