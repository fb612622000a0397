"""Statistics of a run between two ticks: count, mean and standard deviation over all processes."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch

from torch_utils import distributed

MEASURED = ('Loss/loss', 'Gradient/norm', 'Gradient/nonfinite')  # in every step of a run

class Statistics(NamedTuple):
    """Statistics of what `Moments` has been given since it was last cleared, over all processes.

    num, mean, std, total: of the finite values; mean and std are NaN if there are none.
    nonfinite: how many values were NaN or infinite.
    """

    num: int
    mean: float
    std: float
    total: float
    nonfinite: int

    def as_json(self) -> dict:
        """The form of stats.jsonl; JSON has no NaN, so without values mean and std are null."""
        known = self.num > 0
        return {'num': self.num, 'mean': self.mean if known else None, 'std': self.std if known else None}


def scalar(value: float) -> dict:
    """A single value in the form of stats.jsonl."""
    return {'num': 1, 'mean': float(value), 'std': 0.0}


class Moments:
    """Count, sum and sum of squares of tensors, kept on their device so that adding waits for nothing."""

    def __init__(self, device: torch.device):
        # Sums of millions of values need float64, which MPS does not have.
        self._dtype = torch.float32 if device.type == 'mps' else torch.float64
        self._totals = torch.zeros(4, dtype=self._dtype, device=device)

    def add(self, values: torch.Tensor) -> torch.Tensor:
        """Take each element of a tensor of any shape; returns how many are NaN or infinite, on the device."""
        values = values.detach()
        finite = values.isfinite()
        kept = torch.where(finite, values, 0).flatten().to(self._dtype)
        num = finite.sum()
        nonfinite = values.numel() - num
        self._totals += torch.stack([num, kept.sum(), kept.dot(kept), nonfinite])
        return nonfinite

    def summary(self) -> Statistics:
        """Sum up over all processes; each of them must call this."""
        totals = self._totals.clone()
        if distributed.world_size() > 1:
            torch.distributed.all_reduce(totals)
        num, total, squares, nonfinite = totals.tolist()
        mean = total / num if num else math.nan
        std = math.sqrt(max(squares / num - mean**2, 0)) if num > 1 else 0.0 if num else math.nan
        return Statistics(int(num), mean, std, total, int(nonfinite))

    def own_totals(self) -> torch.Tensor:
        """[count, sum, sum of squares, count of non-finite values] of this process alone, on the CPU."""
        return self._totals.to('cpu', copy=True)

    def restore(self, totals: Sequence[torch.Tensor]) -> None:
        """Resume from all processes' `own_totals()`, by rank; if these were other processes, from the sum."""
        self.clear()
        if len(totals) == distributed.world_size():
            self._totals.copy_(totals[distributed.rank()])
        elif distributed.rank() == 0:
            self._totals.copy_(sum(totals))

    def clear(self) -> None:
        """Forget all values."""
        self._totals.zero_()
