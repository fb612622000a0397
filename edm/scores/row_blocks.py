"""Blocks of rows of large arrays as float64 tensors, so that memory doesn't grow with the rows."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch


class RowBlocks:
    """The rows of float [N, D], `size` at a time, as float64 tensors less `center` [D].

    device: where they go; of MPS, which has no float64, to the CPU. Iterating gives (slice, block).
    """

    def __init__(self, values: np.ndarray, device='cpu', *, size: int, center: np.ndarray | None = None):
        import torch

        self.values, self.size, self._torch = values, size, torch
        self.device = torch.device('cpu' if torch.device(device).type == 'mps' else device)
        self._center = None if center is None else torch.tensor(center, dtype=torch.float64,
                                                                device=self.device)

    def __len__(self) -> int:
        return -(-len(self.values) // self.size)

    def __iter__(self) -> Iterator[tuple[slice, torch.Tensor]]:
        for start in range(0, len(self.values), self.size):
            rows = slice(start, min(start + self.size, len(self.values)))
            block = self._torch.tensor(self.values[rows], device=self.device).double()
            yield rows, block if self._center is None else block.sub_(self._center)
