"""Scores of windows in float32, with float64's result where noise is not too low.

A window's score is x.y - ||y||^2 / 2 in grey levels squared, its weight exp((score - top) / sigma^2). Let
x = h + l with h on a grid of a power of two, so coarse that all partial sums of h.y - ||y||^2 / 2, and their
differences, are at most 2^24 times the grid. Such numbers float32 holds exactly. What is left, l.y, is
small, and so is its rounding. Far below the highest score rounding grows with the distance, but weights are
small there.
"""

import math
from typing import NamedTuple

import torch

ROUNDING = 5e-7  # of images in [-1, 1], at most
_UNIT = torch.finfo(torch.float32).eps / 2
_LARGEST = 128.0  # |y|


class Split(NamedTuple):
    """Windows x of Q places and samples in float32.

    high: h and ones, [Q, n + 1], for y and -||y||^2 / 2, which is to lie on the grid, too. low: l / sigma^2,
    [Q, n]. scale: 1 / sigma^2.
    """

    high: torch.Tensor
    low: torch.Tensor
    scale: float
    grid: float


def split(x: torch.Tensor, variance: torch.Tensor) -> Split | None:
    """Windows x, float64 [Q, n], split; None where l.y would round by too much, or sigma is not one.

    variance: sigma^2, float64 [Q, 1]. A score that is off by e moves no pixel in [-1, 1] by more than
    e / sigma^2, as in `optimal_denoiser`. Here e is half a grid, for ||y||^2 / 2, if that is coarser than
    1/2, and the rounding of l.y (Higham, Accuracy and Stability of Numerical Algorithms, section 3.1).
    """
    size = x.shape[1]
    longest = _LARGEST * math.sqrt(size)  # ||y||
    largest = float(x.norm(dim=1).max()) * longest + longest**2 / 2  # |score|
    if not largest < 1e20 or (variance != variance[0]).any():
        return None
    grid = 2.0 ** math.ceil(math.log2(largest * 2**-23))
    high = (x / grid).round_().mul_(grid)
    low = x - high
    error = (size + 3) * _UNIT * low.norm(dim=1, keepdim=True) * longest + (grid / 2 if grid > 0.5 else 0)
    if (error > ROUNDING * variance).any():
        return None
    ones = torch.ones_like(variance)
    return Split(torch.cat([high, ones], dim=1).float(), (low / variance).float(),
                 1 / float(variance[0]), grid)
