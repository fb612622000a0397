"""What an experiment will cost before it is run: hours, disk, memory; by a throughput and operation counts.

One number is measured or assumed, the images a second at which one network trains. All else follows by
counting multiplications, as if every stage made as many a second, and by what stages take besides.
"""

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch.utils.flop_counter import FlopCounterMode

from training.build import LOSSES, build

START_SECONDS = 2  # of a script before it computes
BYTES_PER_PARAMETER = {'snapshot': 4, 'state': 16, 'training': 20}  # net, EMA, Adam's two moments, gradient


@dataclass(frozen=True, kw_only=True)
class NetworkCost:
    """Of one network: floating-point operations of a forward pass for one image, number of parameters, bytes
    that a training image keeps for the backward pass.
    """

    flop: float
    parameters: int
    activation_bytes: int

    def training_bytes(self, batch: int) -> float:
        """Memory to train with so many images at once, or to keep their graph."""
        return self.parameters * BYTES_PER_PARAMETER['training'] + batch * self.activation_bytes


@dataclass(frozen=True, kw_only=True)
class Network:
    """A network by the class name and arguments in training_options.json, and the images it is for."""

    name: str
    kwargs: dict
    resolution: int
    channels: int

    def build(self) -> torch.nn.Module:
        """Make it, on PyTorch's default device. Raises ValueError if arguments and images don't fit."""
        return build(self.kwargs, img_resolution=self.resolution, img_channels=self.channels, label_dim=0)

    @cached_property
    def cost(self) -> NetworkCost:
        """Counted on the meta device: nothing is computed."""
        with torch.device('meta'):
            return network_cost(self.build())


@dataclass(frozen=True, kw_only=True)
class Line:
    """A kind of stage: how many there are, their operations in all and bytes on the disk.

    seconds: what they take in all besides operations and start. memory_bytes: of one, 0 if it matters little.
    """

    what: str
    stages: int
    flop: float
    disk_bytes: float
    memory_bytes: float = 0
    seconds: float = 0


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """An experiment's cost. reference: the network whose throughput counts. notes: what else to say."""

    reference: Network
    lines: Sequence[Line]
    notes: Sequence[str] = ()

    def text(self, *, on_cpu: bool, device: torch.device, assumed: float | None, places: int) -> str:
        """The estimate as lines of comment.

        on_cpu: whether the stages are to run on a CPU, one thread each. device: where the throughput is
        measured, unless it is `assumed`, in images a second. places: how many stages run side by side.
        """
        if assumed:
            speed, origin, unit = assumed, 'assumed', 'core' if on_cpu else 'GPU'
        elif on_cpu:
            speed, unit = measured_throughput(self.reference, device, threads=1), 'core'
            origin = 'measured on one core of this CPU'
        elif device.type == 'cpu':
            speed, unit, places = measured_throughput(self.reference, device), 'CPU', 1
            origin = ('measured on this CPU, as there is no GPU here; --assume-img-per-s tells the hours of '
                      'another device')
        else:
            speed, unit = measured_throughput(self.reference, device), 'GPU'
            origin = f'measured on {device_name(device)}'
        flop_per_second = 3 * self.reference.cost.flop * speed
        minutes = 60 * hours(self.lines, flop_per_second) / places
        side_by_side = [] if places == 1 else [f'{places} stages side by side: at least ' + (
            f'{minutes / 60:.2f} hours' if minutes >= 60 else f'{minutes:.2f} minutes')]
        lines = [f'{self.reference.name}: trains on {speed:.1f} images/s ({origin}); all else follows from '
                 'operation counts', *table(self.lines, flop_per_second, unit),
                 'memory: of one stage on its device; the others need less', *side_by_side, *self.notes]
        return '\n'.join(f'# {line}' for line in lines)


def network_cost(net: torch.nn.Module) -> NetworkCost:
    """Count what a forward pass for one image costs. net: on the meta device."""
    net.eval()
    x = torch.zeros(1, net.img_channels, net.img_resolution, net.img_resolution, device='meta')
    labels = torch.zeros(1, net.label_dim, device='meta') if net.label_dim else None
    counter = FlopCounterMode(display=False)
    saved = {}

    def keep(tensor):
        saved[id(tensor.untyped_storage())] = tensor
        return tensor

    with counter, torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        net(x.requires_grad_(), torch.ones([], device='meta'), labels)
    parameters = {id(p.untyped_storage()) for p in net.parameters()}
    kept = sum(tensor.untyped_storage().nbytes() for key, tensor in saved.items() if key not in parameters)
    return NetworkCost(flop=counter.get_total_flops(), activation_bytes=kept,
                       parameters=sum(p.numel() for p in net.parameters()))


def device_name(device: torch.device) -> str:
    """What the device calls itself."""
    return torch.cuda.get_device_name(device) if device.type == 'cuda' else str(device)


def measured_throughput(network: Network, device: torch.device, threads: int | None = None) -> float:
    """Images a second at which a network trains on `device`: the median of a second's steps, at least three.

    threads: of a CPU; None for as many as PyTorch uses.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(threads or before)
    try:
        return _throughput(network, device)
    finally:
        torch.set_num_threads(before)


def _throughput(network: Network, device: torch.device) -> float:
    large = network.resolution > 8
    batch = (128 if large else 512) if device.type == 'cuda' else (8 if large else 64)
    net = network.build().to(device).train()
    loss_fn = LOSSES['edm']()
    images = torch.zeros(batch, network.channels, network.resolution, network.resolution, device=device)
    times = []
    while len(times) < 4 or sum(times[1:]) < 1:  # without the first, which takes longer
        start = time.perf_counter()
        loss_fn(net, images).sum().backward()
        float(next(net.parameters()).grad.flatten()[0])  # waits for the device
        times.append(time.perf_counter() - start)
    return batch / statistics.median(times[1:])


def hours(lines: Sequence[Line], flop_per_second: float) -> float:
    """What the lines take together, one stage after the other."""
    return sum(line.flop / flop_per_second + line.seconds + START_SECONDS * line.stages
               for line in lines) / 3600


def table(lines: Sequence[Line], flop_per_second: float, device: str) -> list[str]:
    """The lines as rows of text under a head, and their sum; of the memory, the most.

    device: the word for it before hours or minutes.
    """
    lines = [line for line in lines if line.stages]
    total = Line(what='together', stages=sum(line.stages for line in lines),
                 flop=sum(line.flop for line in lines), disk_bytes=sum(line.disk_bytes for line in lines),
                 memory_bytes=max(line.memory_bytes for line in lines),
                 seconds=sum(line.seconds for line in lines))
    time_unit, time = ('hours', 1) if hours([total], flop_per_second) >= 1 else ('minutes', 60)
    disk_unit, disk = _bytes_unit(total.disk_bytes)
    memory_unit, memory = _bytes_unit(total.memory_bytes)
    rows = [('', 'stages', f'{device} {time_unit}', f'disk {disk_unit}', f'memory {memory_unit}')]
    rows += [(line.what, f'{line.stages}', f'{hours([line], flop_per_second) * time:.2f}',
              f'{line.disk_bytes / disk:.2f}',
              f'{line.memory_bytes / memory:.2f}' if line.memory_bytes else '') for line in [*lines, total]]
    widths = [max(map(len, cells)) for cells in zip(*rows, strict=True)]
    return ['  '.join(cell.ljust(width) if i == 0 else cell.rjust(width)
                      for i, (cell, width) in enumerate(zip(row, widths, strict=True))).rstrip()
            for row in rows]


def _bytes_unit(largest: float) -> tuple[str, float]:
    return ('GB', 1e9) if largest >= 1e9 else ('MB', 1e6)
