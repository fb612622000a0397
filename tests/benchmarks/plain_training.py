"""Training as the reference's loop does it, for the benchmark of ours: the plain formulation of each part.

Eager, contiguous tensors, a loader process that reads image by image, an optimizer with a loop over the
parameters, gradients cleaned and weights averaged parameter by parameter.
"""

import copy
from collections.abc import Callable

import torch

from data.data_order import InfiniteSampler


class _Items(torch.utils.data.Dataset):
    def __init__(self, dataset):
        self.dataset = dataset

    def __len__(self):
        return len(self.dataset)

    def __getitem__(self, index):
        return self.dataset.images([index])[0], self.dataset.labels([index])[0]


class _Order(torch.utils.data.Sampler):
    def __init__(self, n):
        self.n = n

    def __iter__(self):
        return iter(InfiniteSampler(self.n))


def plain_step(net: torch.nn.Module, loss_fn, dataset, *, batch: int, device: str | torch.device = 'cpu',
               ) -> Callable[[], None]:
    """A function that makes one step."""
    net = copy.deepcopy(net).to(device).train()
    ema = copy.deepcopy(net).eval().requires_grad_(False)
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3, betas=(0.9, 0.999), eps=1e-8)
    batches = iter(torch.utils.data.DataLoader(
        _Items(dataset), sampler=_Order(len(dataset)), batch_size=batch, num_workers=1, prefetch_factor=2))
    moments = torch.zeros(3, dtype=torch.float64, device=device)

    def step():
        optimizer.zero_grad(set_to_none=True)
        images, _ = next(batches)
        loss = loss_fn(net, images.to(device).to(torch.float32) / 127.5 - 1)
        values = loss.detach().flatten().to(torch.float32)
        moments.add_(torch.stack([torch.ones_like(values).sum(), values.sum(), values.square().sum()]))
        loss.sum().mul(1 / batch).backward()
        for group in optimizer.param_groups:
            group['lr'] = 1e-3
        for parameter in net.parameters():
            if parameter.grad is not None:
                torch.nan_to_num(parameter.grad, nan=0, posinf=1e5, neginf=-1e5, out=parameter.grad)
        optimizer.step()
        for average, parameter in zip(ema.parameters(), net.parameters(), strict=True):
            average.copy_(parameter.detach().lerp(average, 0.999))

    return step
