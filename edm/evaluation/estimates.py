"""What an experiment will cost before it is run: hours, disk, memory; by a throughput and operation counts.

One number is measured or assumed, the images a second at which one network trains. All else follows by
counting multiplications: a training image costs three forward passes (forward and both gradients), a sampled
image 2 * steps - 1.
"""

import time
from dataclasses import dataclass

import torch
from torch.utils.flop_counter import FlopCounterMode

from evaluation.regimes import REFERENCES, Regimes
from torch_utils.cli import parse_int_list
from training.build import build
from training.config import PRECONDITIONINGS, network_kwargs
from training.loss import LOSSES

SAMPLING_PASSES = 35  # 18 steps of Heun's method
SSCD_FLOP = 2 * 16.4e9  # ResNeXt-101 32x4d on 320x320: 8.0e9 multiplications at 224x224, times (320/224)^2
PNG_BYTES_PER_VALUE = 1.05  # photographs hardly compress
BYTES_PER_PARAMETER = {'snapshot': 4, 'state': 16, 'training': 20}  # net, EMA, Adam's two moments, gradient


@dataclass(frozen=True, kw_only=True)
class NetworkCost:
    """Of one network: floating-point operations of a forward pass for one image, number of parameters, bytes
    that a training image keeps for the backward pass.
    """

    flop: float
    parameters: int
    activation_bytes: int


@dataclass(frozen=True, kw_only=True)
class Line:
    """A kind of stage: how many there are, their operations in all and bytes on the disk."""

    what: str
    stages: int
    flop: float
    disk_bytes: float


def network_cost(kwargs: dict, resolution: int, channels: int) -> NetworkCost:
    """Count, on the meta device: nothing is computed.

    kwargs: class name and arguments as in training_options.json.
    """
    with torch.device('meta'):
        net = build(kwargs, img_resolution=resolution, img_channels=channels, label_dim=0).eval()
        x = torch.zeros(1, channels, resolution, resolution)
    counter = FlopCounterMode(display=False)
    saved = {}

    def keep(tensor):
        saved[id(tensor.untyped_storage())] = tensor
        return tensor

    with counter, torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        net(x, torch.ones([], device='meta'))
    parameters = {id(p.untyped_storage()) for p in net.parameters()}
    kept = sum(tensor.untyped_storage().nbytes() for key, tensor in saved.items() if key not in parameters)
    return NetworkCost(flop=counter.get_total_flops(), activation_bytes=kept,
                       parameters=sum(p.numel() for p in net.parameters()))


def measured_throughput(kwargs: dict, resolution: int, channels: int, device: torch.device, batch: int,
                        ) -> float:
    """Images a second at which a network trains on `device`, from three steps after a first one."""
    net = build(kwargs, img_resolution=resolution, img_channels=channels, label_dim=0).to(device).train()
    loss_fn, images = LOSSES['edm'](), torch.zeros(batch, channels, resolution, resolution, device=device)
    times = []
    for _ in range(4):
        start = time.perf_counter()
        loss_fn(net, images).sum().backward()
        float(next(net.parameters()).grad.flatten()[0])  # waits for the device
        times.append(time.perf_counter() - start)
    return batch / sorted(times[1:])[1]


def student_network(job: Regimes, width: int) -> dict:
    """Class name and arguments of a student's network."""
    args = dict(zip(job.train[::2], job.train[1::2], strict=False))
    opts = {'arch': args.get('--arch', 'ddpmpp'), 'precond': args.get('--precond', 'edm'),
            'model_channels': width, 'augment': float(args.get('--augment', 0.12)),
            'dropout': float(args.get('--dropout', 0.13))}
    assert opts['precond'] in PRECONDITIONINGS
    if '--cres' in args:
        opts['cres'] = parse_int_list(args['--cres'])
    if '--num_blocks' in args:
        opts['num_blocks'] = int(args['--num_blocks'])
    return network_kwargs(opts)


def estimate_regimes(job: Regimes, costs: dict[int, NetworkCost]) -> list[Line]:
    """The lines of the table for the regimes experiment. costs: per width."""
    values = job.resolution**2 * job.channels
    png = values * PNG_BYTES_PER_VALUE + 200
    widest, sizes = max(job.widths), len(job.sizes)
    pool = max(job.sizes) + job.num_heldout if job.teacher or job.teacher_training else 0
    features = pool + job.num_samples * sizes * (len(job.widths) + len(REFERENCES))
    lines = [Line(what='teacher\'s images', stages=int(pool > 0), disk_bytes=pool * png,
                  flop=pool * SAMPLING_PASSES * costs[widest].flop)]
    for width, cost in costs.items():
        lines += [
            Line(what=f'train UNet-{width}', stages=sizes, flop=3 * 1000 * job.kimg * cost.flop * sizes,
                 disk_bytes=sizes * cost.parameters * sum(BYTES_PER_PARAMETER[kind]
                                                          for kind in ('snapshot', 'snapshot', 'state'))),
            Line(what=f'sample UNet-{width}', stages=sizes, disk_bytes=sizes * job.num_samples * png,
                 flop=sizes * job.num_samples * SAMPLING_PASSES * cost.flop)]
    optimal = SAMPLING_PASSES * 4 * values * sum(job.sizes) * job.num_samples  # two matrix products
    return [*lines,
            Line(what='sample closed forms', stages=sizes * len(REFERENCES), flop=optimal,
                 disk_bytes=sizes * len(REFERENCES) * job.num_samples * png),
            Line(what='training sets', stages=sizes, flop=0, disk_bytes=sum(job.sizes) * (values + 300)),
            Line(what='features', stages=1 + sizes * (len(job.widths) + len(REFERENCES)),
                 flop=features * SSCD_FLOP if job.descriptor == 'sscd' else 0,
                 disk_bytes=features * 4 * (1024 if job.descriptor == 'sscd' else values))]


def table(lines: list[Line], flop_per_second: float) -> str:
    """The estimate as text."""
    rows = [('', 'stages', 'hours', 'disk GB')]
    rows += [(line.what, str(line.stages), f'{line.flop / flop_per_second / 3600:.2f}',
              f'{line.disk_bytes / 1e9:.2f}') for line in lines if line.stages]
    rows.append(('together', str(sum(line.stages for line in lines)),
                 f'{sum(line.flop for line in lines) / flop_per_second / 3600:.2f}',
                 f'{sum(line.disk_bytes for line in lines) / 1e9:.2f}'))
    widths = [max(map(len, cells)) for cells in zip(*rows, strict=True)]
    return '\n'.join('# ' + '  '.join(cell.ljust(width) if i == 0 else cell.rjust(width)
                                      for i, (cell, width) in enumerate(zip(row, widths, strict=True)))
                     for row in rows)
