"""Moving sums of tensors that cost the same however many they are over."""

from collections.abc import Iterator

import torch


class MovingSum:
    """The sum of the latest P of a sequence of float32 tensors: three additions each and no subtraction.

    By the algorithm of van Herk (1992) and Gil and Werman (1993): the sequence is cut into blocks of P, and
    the latest P are the end of the last full block and the beginning of this one. The sums of all beginnings
    take an addition for each tensor, those of all ends another.
    """

    def __init__(self, shape: torch.Size, size: int, device: torch.device):
        self.shape, self._count = shape, 0
        self._block = torch.empty(size, *shape, device=device)  # and, in what lies ahead, ends of the last
        self._beginning = torch.empty(shape, device=device)

    def restart(self) -> None:
        """Begin a sequence."""
        self._count = 0

    def room(self) -> torch.Tensor:
        """Where the next tensor is to be written."""
        return self._block[self._count % len(self._block)]

    def next(self, out: torch.Tensor) -> torch.Tensor:
        """The sum of what was written into `room` last and the P - 1 before; may use `out`."""
        own, place = self.room(), self._count % len(self._block)
        self._count += 1
        if place:
            self._beginning += own
        else:
            self._beginning.copy_(own)
        if place == len(self._block) - 1:
            self._add_up(len(self._block))
            return self._beginning
        return self._with_last_block(place + 1, out)

    def rest(self, out: torch.Tensor) -> Iterator[torch.Tensor]:
        """At the end of a sequence, the sums of its latest P - 1, P - 2, ... and 1; may use `out`."""
        size, filled = len(self._block), self._count % len(self._block)
        self._add_up(filled)
        for first in range(filled + 1, filled + size):
            if first >= size:
                yield self._block[first - size]
            else:
                yield self._with_last_block(first, out) if filled else self._block[first]

    def _add_up(self, count: int) -> None:
        for i in range(count - 1, 0, -1):
            self._block[i - 1] += self._block[i]

    def _with_last_block(self, first: int, out: torch.Tensor) -> torch.Tensor:
        """This block's beginning and, if there is one, the last block from its tensor `first` on."""
        if self._count < len(self._block):
            return self._beginning
        return torch.add(self._beginning, self._block[first], out=out)
