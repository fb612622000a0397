"""A network's gradients as one vector: zeroed, averaged over processes and cleaned in one operation each."""

import torch

from torch_utils import distributed


class Gradients:
    """The gradients of `parameters`; each parameter's `.grad` is a piece of one vector, `flat`.

    Backward passes add to it. The optimizer must not set gradients to None.
    """

    def __init__(self, parameters):
        parameters = [p for p in parameters if p.requires_grad]
        first = parameters[0]
        self.flat = torch.zeros(sum(p.numel() for p in parameters), dtype=first.dtype, device=first.device)
        pieces = self.flat.split([p.numel() for p in parameters])
        for parameter, piece in zip(parameters, pieces, strict=True):
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
            self.flat /= distributed.world_size()
            torch.distributed.all_reduce(self.flat)

    def clean(self) -> None:
        """Replace NaN by 0 and infinities by 1e5 of their sign."""
        torch.nan_to_num(self.flat, nan=0, posinf=1e5, neginf=-1e5, out=self.flat)
