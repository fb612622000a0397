"""What an experiment will cost before it runs: hours and disk, from the images a second a network trains on.

Passes of networks are counted: 3 to train on an image (forward, both gradients), 35 to sample one (18 steps
of Heun's method), 1 1/8 for a row of a Jacobian (8 rows share a forward pass). All take START_SECONDS too.
"""

import functools
import time
from collections import Counter

import torch
from torch.utils.flop_counter import FlopCounterMode
from tqdm import tqdm

from experiments.jacobian_experiment import RELEASED
from experiments.script_options import options, sketch, training_network, training_settings, tried_out
from experiments.stages import Stage
from torch_utils.downloads import is_url
from training.loss import EDMLoss
from training.snapshot import load_network

START_SECONDS, SAMPLE_PASSES, ROW_PASSES = 2, 35, 1 + 1 / 8
SNAPSHOT_BYTES, STATE_BYTES, PNG_BYTES = 4, 16, 1.05  # per parameter (net; net, EMA, Adam's two), per value


def estimate(stages: list[Stage], device: torch.device, *, assumed: float | None, places: int,
             data: str | None = None, channels: int = 3) -> str:
    """The cost of the stages as lines of comment, one per script and network, with `places` side by side.

    assumed: images/s in training of the largest network; None measures them on `device`.
    data, channels: of images like those to train on.
    """
    nets, number, flop, size = {}, Counter(), Counter(), Counter()
    for stage in stages:
        net, passes, disk = _work(stage, nets, data, channels)
        for row in (f'{stage.command[0]}{_shown(net) or ", unknown network" * bool(passes)}', 'together'):
            number[row], size[row] = number[row] + 1, size[row] + disk
            flop[row] += passes * _flop(net) if net else 0
    largest = max(filter(None, nets.values()), key=_flop)
    speed = assumed or _images_per_second(largest, device)
    origin = 'assumed' if assumed else f'measured on {device}'
    lines = [f'{_shown(largest)[2:]}: {speed:.1f} images/s in training, {origin}',
             f'{"":<36} stages      time  disk GB']
    for row in sorted(number, key='together'.__eq__):
        seconds = flop[row] / (3 * _flop(largest) * speed) + START_SECONDS * number[row]
        lines.append(f'{row:<36} {number[row]:6} {tqdm.format_interval(seconds):>9}  {size[row] / 1e9:7.3f}')
    lines.append(f'stages side by side: {places}, so at least {tqdm.format_interval(seconds / places)}')
    return '\n'.join(f'# {line}' for line in lines)


def _work(stage: Stage, nets: dict, data, channels) -> tuple[torch.nn.Module | None, float, float]:
    """A stage's network, its passes, and bytes on the disk. nets: by stage or path, those known so far."""
    script = stage.command[0]
    if script.startswith('train'):
        tried = tried_out(stage, data)
        made, net = training_settings(tried), training_network(tried, channels)
        nets[stage.name], ticks = net, made['total_kimg'] // made['kimg_per_tick']
        states = min(1 + ticks // made['state_dump_ticks'], made['states_kept'] or ticks + 1)
        disk = SNAPSHOT_BYTES * (2 + ticks // made['snapshot_ticks']) + STATE_BYTES * states
        return net, 3000 * made['total_kimg'], disk * sum(p.numel() for p in net.parameters())
    if script not in ('generate.py', 'jacobian.py'):
        return None, 0, 0
    given = options(stage)
    path, seeds = given.get('network') or given['network_pkl'], len(given['seeds'])
    source = next((need for need in stage.needs if need in nets), path)
    if source not in nets:
        released = sketch(RELEASED[path], channels=3) if path in RELEASED else None
        nets[source] = released if is_url(path) else load_network(path, torch.device('meta'))
    net = nets[source]
    values = net.img_channels * net.img_resolution**2 if net else 1
    if script == 'generate.py':
        closed_form = any(arg.startswith('--') and 'denoiser' in arg for arg in stage.command)  # quick
        return net, 0 if closed_form else SAMPLE_PASSES * seeds, PNG_BYTES * values * seeds
    return net, seeds * len(given['sigmas'] or range(given['steps'])) * values * ROW_PASSES, 0


def _shown(net: torch.nn.Module | None) -> str:
    return f', {sum(p.numel() for p in net.parameters()) / 1e6:.2f} M parameters' if net else ''


@functools.cache
def _flop(net: torch.nn.Module) -> float:
    """Floating-point operations of a forward pass for one image."""
    x = torch.zeros(1, net.img_channels, net.img_resolution, net.img_resolution, device='meta')
    with FlopCounterMode(display=False) as counter:
        net.eval()(x, torch.ones([], device='meta'))
    return counter.get_total_flops()


def _images_per_second(net: torch.nn.Module, device: torch.device) -> float:
    """At which a network trains on `device`, for a second after the first step."""
    batch = (128 if net.img_resolution > 8 else 512) // (1 if device.type == 'cuda' else 8)
    net = net.to_empty(device=device).train().requires_grad_()
    for tensor in (*net.parameters(), *net.buffers()):
        tensor.data.fill_(0.01)
    images = torch.zeros(batch, net.img_channels, net.img_resolution, net.img_resolution, device=device)
    step, start = -1, 0
    while step < 3 or time.perf_counter() < start + 1:
        EDMLoss()(net, images).sum().backward()
        float(next(net.parameters()).grad.flatten()[0])  # waits for the device
        step, start = step + 1, start or time.perf_counter()
    return batch * step / (time.perf_counter() - start)
