"""Products of real numbers with 8-bit ones in integers: exact, and faster than floating point.

x is rounded to multiples of a grid, x = grid * sum_k 256^k d_k with digits d_k of -128..127, and grey levels
y are such digits as they are. So x.y takes a product of 8-bit integers, summed in 32 bits, per digit, and no
conversion of y; the only error is that of rounding x, dx.y.
"""

import functools
import math
from typing import NamedTuple

import torch

# Values in a row: PyTorch 2.13 multiplies rows of a single one by a transposed tensor wrongly, and sums of
# more products than the largest may not fit 32 bits.
LEAST_SIZE, LARGEST_SIZE = 16, (2**31 - 1) // 2**14
MOST_DIGITS = 7  # together 55 bits, more than float64 has


class FixedPoint(NamedTuple):
    """x of B rows: digits int8 [count, B, D], the highest first, and grid float64 [B, 1]."""

    digits: torch.Tensor
    grid: torch.Tensor

    def products(self, levels: torch.Tensor) -> torch.Tensor:
        """x.y with all rows y of int8 [n, D], float64 [B, n]."""
        of_digits = torch._int_mm(self.digits.flatten(0, 1), levels.T)
        highest, *lower = of_digits.unflatten(0, (-1, len(self.grid)))
        found = highest.to(torch.float64)
        for of_digit in lower:
            found = torch.add(of_digit, found, alpha=256)
        return found.mul_(self.grid)

    def split(self, count: int) -> tuple['FixedPoint', 'FixedPoint']:
        """The `count` highest digits, and the others, which stay within 0.502 of the grid of the former."""
        rest = max(len(self.digits) - count, 0)
        return (FixedPoint(self.digits[:count], self.grid * 256.0**rest),
                FixedPoint(self.digits[count:], self.grid))


def is_supported(device: torch.device, size: int) -> bool:
    """Whether rows of `size` values can be multiplied so: exactly, and by fast 8-bit instructions.

    PyTorch's own condition for these, on CPUs. GPUs have such instructions, too, but nothing here was ever
    tried on one.
    """
    return (device.type == 'cpu' and LEAST_SIZE <= size <= LARGEST_SIZE
            and torch.cpu.get_capabilities().get('avx512_vnni', False) and _is_exact())


@functools.cache
def _is_exact() -> bool:
    """Whether integer products are exact here: where oneDNN does without VNNI, it saturates sums at 16 bits.

    So it does on a processor that has VNNI, too, if ONEDNN_MAX_CPU_ISA says so.
    """
    largest = torch.full((85, 192), 127, dtype=torch.int8)
    return bool((torch._int_mm(largest[:5], largest.T) == 192 * 127**2).all())


def fixed_point(x: torch.Tensor, grid: torch.Tensor) -> FixedPoint:
    """x, float64 [B, D], on a grid no coarser than `grid`, [B, 1], or than MOST_DIGITS of its largest value.

    A grid is refined by powers of 2 until the digits are full, so that the highest ones say much.
    """
    largest = x.abs().amax(dim=1, keepdim=True)
    grid = torch.maximum(grid, largest * 256.0**-MOST_DIGITS).clamp(min=1e-280)
    bits = (largest / 127 / grid).clamp(min=1).log2().ceil()  # |x| <= 127 * 2**bits * grid
    count = min(math.ceil(float(bits.max()) / 8) + 1, MOST_DIGITS)
    grid = grid * (bits - 8 * (count - 1)).exp2()
    left = (x / grid).round_().to(torch.int64)
    digits = torch.empty(count, *x.shape, dtype=torch.int8, device=x.device)
    for digit in reversed(digits.unbind()):
        digit.copy_(left)  # keeps the lowest 8 bits
        left.add_(128).bitwise_right_shift_(8)
    return FixedPoint(digits, grid)
