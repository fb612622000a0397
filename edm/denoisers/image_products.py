"""Products of noisy images with those of a data set: scores, and weighted sums of images.

A score is x.y - ||y||^2 / 2 of a noisy image x and an image y, in grey levels squared; ||x||^2 is common to
all images. The weight of y is exp(score / sigma^2), sigma being in grey levels, too. Two classes have the
same methods, one for processors that multiply 8-bit integers, one for all others.
"""

import math

import torch

from data.pixels import Pixels
from denoisers.fixed_point import LARGEST_SIZE, fixed_point, is_supported

ROUNDING = 1e-7  # the most by which a pixel in [-1, 1] moves where x, or weights, are rounded to a grid
ROUGH_DIGITS = 2  # of x, in the scores that select
FEW_IMAGES = 32  # a sum of fewer is sooner done in float64
MOST_SCORES = 1 << 19  # at a time; 4 MiB
LARGEST_FLOAT32 = 1e9  # grey levels of noisy images that float32 scores take
# Sums of images in float32 are over blocks of so many, of which so many are added up, lest roundings that all
# go one way reach 1e-6: n equal terms are off by up to n 2^-26 of their sum, n too small to change a sum by
# up to n 2^-24. A weight above this share of the total would hide many small ones.
BLOCK, BLOCKS, SMALL = 32, 8, 1 / 32
MOST_LARGE = 1 / 4  # of the images of a chunk


def image_products(noisy: torch.Tensor, variance: torch.Tensor, pixels: Pixels):
    """IntegerProducts where they are fast and exact, else FloatProducts."""
    kind = IntegerProducts if is_supported(noisy.device, noisy.shape[1]) else FloatProducts
    return kind(noisy, variance, pixels)


class IntegerProducts:
    """x and weights are rounded to grids, and the products are exact.

    noisy: float64 [B, D]. variance: sigma^2, float64 [B, 1]. pixels: the data set.

    Rounding x by dx changes scores by dx.y, at most e = ||dx|| max ||y||. Weights times exp(+-e / sigma^2),
    whatever the signs, move at most tanh(e / (2 sigma^2)) of the total from some images to others, and so no
    pixel in [-1, 1] by more than e / sigma^2. Rounding N weights by at most dw each changes none by more than
    N dw over their total. The grids keep both below ROUNDING.

    slack: how far `rough` may be off, [B, 1]. rough_counts: whether `exact` starts from `rough`, which then
    costs nothing. most_images: for how many at a time to call the methods.
    """

    rough_counts = True

    def __init__(self, noisy: torch.Tensor, variance: torch.Tensor, pixels: Pixels):
        per_grid = math.sqrt(noisy.shape[1]) / 2 * _longest(pixels).clamp(min=1)  # e, for a grid of 1
        self._high, self._low = fixed_point(noisy, ROUNDING * variance / per_grid).split(ROUGH_DIGITS)
        self.slack = 1.01 * per_grid * self._high.grid
        self._num_images = pixels.shape[0]
        most = min(8 * pixels.rows_per_chunk, MOST_SCORES // len(noisy))  # int8 takes 1/8 of float64
        self.most_images = min(max(most, pixels.rows_per_chunk), LARGEST_SIZE)

    def rough(self, levels: torch.Tensor, half_squares: torch.Tensor) -> torch.Tensor:
        """Scores of images int8 [n, D], up to `slack`, float64 [B, n]. half_squares: ||y||^2 / 2, [n]."""
        return self._high.products(levels).sub_(half_squares)

    def exact(self, levels: torch.Tensor, half_squares: torch.Tensor, rough: torch.Tensor) -> torch.Tensor:
        """Scores as exact as weights need, float64 [B, n]."""
        return rough.add_(self._low.products(levels)) if len(self._low.digits) else rough

    def add(self, weighted: torch.Tensor, weights: torch.Tensor, total: torch.Tensor,
            levels: torch.Tensor) -> None:
        """Add images with weights [B, n], which may be overwritten, to `weighted` [B, D].

        total: the sum of all weights so far, these included, [B, 1].
        """
        if len(levels) < FEW_IMAGES:
            weighted += weights @ levels.to(torch.float64)
        else:
            weighted += fixed_point(weights, 2 * ROUNDING / self._num_images * total).products(levels.T)


class FloatProducts:
    """Scores in float64, for float32 would not do: at sigma = 0.002 an error of 1e-10 in a product of 1000
    changes a weight by 2e-5.

    Rough scores are float32. So is the weighted sum of images, which float32 holds exactly, but for large
    weights and for one sample. At sigma = 0.002, midway between two images of 64 x 64, roundings in float64
    itself may reach 4e-6; those of integers stay near 1e-7. Arguments and attributes as of IntegerProducts.
    """

    rough_counts = False

    def __init__(self, noisy: torch.Tensor, variance: torch.Tensor, pixels: Pixels):
        self._noisy, self._single, self.slack = noisy, None, None
        if (norms := noisy.norm(dim=1, keepdim=True)).max() < LARGEST_FLOAT32:
            self._single = noisy.to(torch.float32)
            self.slack = _bound(noisy.shape[1], norms, _longest(pixels))
        self.most_images = pixels.rows_per_chunk

    def rough(self, levels, half_squares):
        return (self._single @ levels.to(torch.float32).T).sub_(half_squares.to(torch.float32))

    def exact(self, levels, half_squares, rough):
        return (self._noisy @ levels.to(torch.float64).T).sub_(half_squares)

    def add(self, weighted, weights, total, levels):
        large = weights.amax(dim=0) > SMALL * total.min()
        if large.any():
            large &= (weights > SMALL * total).any(dim=0)
        large = large.nonzero()[:, 0]
        if len(large) > MOST_LARGE * len(levels) or len(weights) == 1:  # of one row, addmm_ adds term by term
            weighted += weights @ levels.to(torch.float64)
            return
        if len(large):
            weighted += weights[:, large] @ levels[large].to(torch.float64)
            weights[:, large] = 0
        weights = weights.to(torch.float32)
        for start in range(0, len(levels), BLOCK * BLOCKS):
            sums = torch.zeros(weighted.shape, dtype=torch.float32, device=weighted.device)
            for first in range(start, min(start + BLOCK * BLOCKS, len(levels)), BLOCK):
                block = slice(first, first + BLOCK)
                sums.addmm_(weights[:, block], levels[block].to(torch.float32))
            weighted += sums.to(torch.float64)  # faster than a sum of both types


def _longest(pixels: Pixels) -> torch.Tensor:
    """max ||y||; 0 of no images, for processes may be more than images."""
    half_squares = pixels.half_squares
    return (2 * half_squares.max()).sqrt() if len(half_squares) else half_squares.new_zeros([])


def _bound(size: int, norms: torch.Tensor, longest: torch.Tensor) -> torch.Tensor:
    """How far a float32 score of `size` products may be off in grey levels squared, in any order of the sum.

    |fl(x.y) - x.y| <= n u / (1 - n u) sum_k |x_k| |y_k| (Higham, Accuracy and Stability of Numerical
    Algorithms, section 3.1), and the sum is at most ||x|| ||y||. Four more roundings: of x, of ||y||^2 / 2,
    of the difference, and of the limit that it is compared with.
    """
    unit = (size + 4) * torch.finfo(torch.float32).eps / 2
    return unit / (1 - unit) * (norms * longest + longest**2 / 2)
