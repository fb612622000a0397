"""A network's gradients as one vector: zeroed, averaged over processes and cleaned in one operation each."""

import torch

from torch_utils import distributed


class Gradients:
    """The gradients of `parameters`; each parameter's `.grad` is a piece of one vector, `flat`.

    Backward passes add to it. The optimizer must not set gradients to None.
    notes: `num_notes` numbers that take part in the average over processes, for what else they must agree on.
    """

    def __init__(self, parameters, num_notes: int = 0):
        parameters = [p for p in parameters if p.requires_grad]
        first = parameters[0]
        sizes = [p.numel() for p in parameters]
        self._all = torch.zeros(sum(sizes) + num_notes, dtype=first.dtype, device=first.device)
        self.flat, self.notes = self._all.split([sum(sizes), num_notes])
        for parameter, piece in zip(parameters, self.flat.split(sizes), strict=True):
            parameter.grad = piece.view(parameter.shape)

    def zero(self) -> None:
        """Forget the last step's."""
        self.flat.zero_()

    def count_nonfinite(self) -> torch.Tensor:
        """How many are NaN or infinite, on the device."""
        return self.flat.numel() - self.flat.isfinite().sum()

    def average_over_processes(self) -> None:
        """Give every process the mean over all."""
        if distributed.world_size() > 1:
            self._all /= distributed.world_size()
            torch.distributed.all_reduce(self._all)

    def clean(self) -> None:
        """Replace NaN by 0 and infinities by 1e5 of their sign."""
        torch.nan_to_num(self.flat, nan=0, posinf=1e5, neginf=-1e5, out=self.flat)
