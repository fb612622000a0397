"""A network's parameters and their gradients as one vector each.

What concerns all parameters alike (the optimizer, averaging over steps and over processes, cleaning) is then
a single operation, whatever the number of layers.
"""

import copy

import torch

from torch_utils import distributed


class FlatParameters:
    """The parameters of `net`, float32 and on one device, each moved into its piece of `vector`.

    channels_last: how the pieces of four-dimensional parameters lie there.
    """

    def __init__(self, net: torch.nn.Module, *, channels_last: bool = False):
        self.parameters = list(net.parameters())
        self._channels_last = channels_last
        first = self.parameters[0]
        self.vector = torch.empty(sum(p.numel() for p in self.parameters), device=first.device)
        for parameter, piece in zip(self.parameters, self.pieces(self.vector), strict=True):
            parameter.data = piece.copy_(parameter.data)

    def pieces(self, vector: torch.Tensor) -> list[torch.Tensor]:
        """Views of a vector of this length, one of each parameter's shape."""
        pieces = vector.split([p.numel() for p in self.parameters])
        return [_shaped(piece, p.shape, self._channels_last)
                for piece, p in zip(pieces, self.parameters, strict=True)]


def _shaped(piece: torch.Tensor, shape: torch.Size, channels_last: bool) -> torch.Tensor:
    if not channels_last or len(shape) != 4:
        return piece.view(shape)
    out_channels, in_channels, height, width = shape
    return piece.view(out_channels, height, width, in_channels).permute(0, 3, 1, 2)


class Gradients:
    """The gradients of a network, gathered in one vector, `flat`, after its backward passes.

    notes: `num_notes` numbers that take part in the average over processes, for what else they must agree on.
    """

    def __init__(self, parameters: FlatParameters, num_notes: int = 0):
        self._parameters = parameters.parameters
        self._all = parameters.vector.new_zeros(len(parameters.vector) + num_notes)
        self.flat, self.notes = self._all.split([len(parameters.vector), num_notes])
        self._pieces = parameters.pieces(self.flat)

    def zero(self) -> None:
        """Forget the last step's."""
        for parameter in self._parameters:
            parameter.grad = None  # a backward pass then leaves its own tensor there, without adding it up

    def gather(self) -> None:
        """Take over what the backward passes left; a parameter that they did not reach has zeros."""
        grads = [parameter.grad for parameter in self._parameters]
        for i, grad in enumerate(grads):
            if grad is None:
                grads[i] = torch.zeros_like(self._pieces[i])
        torch._foreach_copy_(self._pieces, grads)

    def count_nonfinite(self) -> torch.Tensor:
        """How many are NaN or infinite, on the device."""
        return (self.flat - self.flat).count_nonzero()  # such a number minus itself is NaN

    def average_over_processes(self) -> None:
        """Give every process the mean over all."""
        if distributed.world_size() > 1:
            self._all /= distributed.world_size()
            torch.distributed.all_reduce(self._all)

    def clean(self) -> None:
        """Replace NaN by 0 and infinities by 1e5 of their sign."""
        torch.nan_to_num(self.flat, nan=0, posinf=1e5, neginf=-1e5, out=self.flat)


class FlatOptimizer:
    """An optimizer of PyTorch's on a network's one vector; its state is given and taken by parameter.

    make: gives the optimizer for a list of parameters.
    """

    def __init__(self, parameters: FlatParameters, gradients: Gradients, make):
        self._parameters = parameters
        self._vector = torch.nn.Parameter(parameters.vector)  # the same memory
        self._vector.grad = gradients.flat
        self.optimizer = make([self._vector])

    @property
    def param_groups(self) -> list[dict]:
        """The optimizer's; it makes new ones as it takes over a state."""
        return self.optimizer.param_groups

    def step(self) -> None:
        """Change the parameters by the gradients."""
        self.optimizer.step()

    def state_dict(self) -> dict:
        """As PyTorch's optimizers give it, by parameter; contiguous copies."""
        state, indices = self.optimizer.state_dict(), range(len(self._parameters.parameters))
        parts = {key: self._parts(value) for key, value in state['state'].get(0, {}).items()}
        return {'state': {i: {key: part[i] for key, part in parts.items()} for i in indices} if parts else {},
                'param_groups': [group | {'params': [*indices]} for group in state['param_groups']]}

    def _parts(self, value) -> list:
        if isinstance(value, torch.Tensor) and value.ndim > 0:
            return [piece.contiguous().clone() for piece in self._parameters.pieces(value)]
        return [copy.deepcopy(value) for _ in self._parameters.parameters]

    def load_state(self, state: dict) -> None:
        """Take over the entry `state` of such a state; the settings stay.

        One that lacks a parameter, as PyTorch's do of one that got no gradients, has zeros for it.
        """
        if not state:
            return
        whole = dict(next(iter(state.values())))  # the number of steps is the same for all
        for key, value in whole.items():
            if isinstance(value, torch.Tensor) and value.ndim > 0:
                whole[key] = torch.zeros_like(self._vector, requires_grad=False)
                for i, piece in enumerate(self._parameters.pieces(whole[key])):
                    if i in state:
                        piece.copy_(state[i][key])
        own = self.optimizer.state_dict()
        self.optimizer.load_state_dict({'state': {0: whole}, 'param_groups': own['param_groups']})
