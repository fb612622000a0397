"""The cost of an experiment, hours and disk, from the images/s at which a network trains.

Counted are passes through networks: 3 to train on an image (forward, both gradients), 35 to sample one (18
Heun steps), 1 1/8 for a row of a Jacobian (8 rows share a forward pass); and START_SECONDS per stage.
"""

import functools
import os
import time
from collections import Counter

import torch
from torch.utils.flop_counter import FlopCounterMode
from tqdm import tqdm

from denoisers import split_word
from experiments import script_options as ask
from experiments.stages import Stage

START_SECONDS, SAMPLE_PASSES, ROW_PASSES = 2, 35, 1 + 1 / 8
UNKNOWN = ', unknown network'
SNAPSHOT_BYTES, STATE_BYTES, PNG_BYTES = 4, 16, 1.05  # per parameter (EMA; network, EMA, Adam's 2), per value


def estimate(stages: list[Stage], device: torch.device, *, assumed: float | None, places: int,
             data: str | None = None) -> str:
    """The cost of the stages as lines of comment, one per script and network, with `places` side by side.

    assumed: images/s in training of the largest network; None measures them on `device`.
    data: as in `from_scratch`.
    """
    nets, number, flop, size = {}, Counter(), Counter(), Counter()
    for stage in stages:
        net, passes, disk = _work(stage, nets, data)
        for row in (f'{stage.command[0]}{_shown(net) or UNKNOWN * bool(passes)}', 'together'):
            number[row], size[row] = number[row] + 1, size[row] + disk
            flop[row] += passes * _flop(net) if net else 0
    largest = max(filter(None, nets.values()), key=_flop)
    speed, origin = (assumed, 'assumed') if assumed else (_speed(largest, device), f'measured on {device}')
    lines = [f'{_shown(largest)[2:]}: {speed:.1f} images/s in training, {origin}',
             f'{"":<36} stages      time  disk GB']
    for row in sorted(number, key='together'.__eq__):
        seconds = flop[row] / (3 * _flop(largest) * speed) + START_SECONDS * number[row]
        time_text = '?' if row.endswith(UNKNOWN) else tqdm.format_interval(seconds)
        lines.append(f'{row:<36} {number[row]:6} {time_text:>9}  {size[row] / 1e9:7.3f}')
    lines.append(f'stages side by side: {places}, so at least {tqdm.format_interval(seconds / places)}')
    if any(row.endswith(UNKNOWN) for row in number):
        lines.append('networks that are not here yet are unknown, and their time is not counted')
    return '\n'.join(f'# {line}' for line in lines)


def _work(stage: Stage, nets: dict, data: str | None) -> tuple[torch.nn.Module | None, float, float]:
    """A stage's network, its passes, and bytes on the disk. nets: by stage or path, those known so far."""
    script = stage.command[0]
    if script.startswith('train'):
        tried = ask.from_scratch(stage, data)
        made, net = ask.training_settings(tried), ask.training_network(tried)
        nets[stage.name], ticks = net, made['total_kimg'] // made['kimg_per_tick']
        states = min(1 + ticks // made['state_dump_ticks'], made['states_kept'] or ticks + 1)
        disk = SNAPSHOT_BYTES * (2 + ticks // made['snapshot_ticks']) + STATE_BYTES * states
        return net, 3000 * made['total_kimg'], disk * sum(p.numel() for p in net.parameters())
    if stage.command[:2] == ('reproduce.py', 'epsilon-training'):
        kimg, net = ask.epsilon_network(stage, data)
        nets[stage.name] = net
        return net, 3000 * kimg, SNAPSHOT_BYTES * sum(p.numel() for p in net.parameters())
    if script not in ('generate.py', 'jacobian.py'):
        return None, 0, 0
    given = ask.options(stage)
    path, seeds = given.get('network') or given.get('network_pkl'), len(given['seeds'])
    if script == 'jacobian.py' and split_word(path)[0]:
        return None, 0, 0  # a closed form
    source = next((need for need in stage.needs if need in nets), path)
    if source not in nets:
        known = path in ask.RELEASED or os.path.exists(path or '')
        nets[source] = ask.snapshot_network(path) if known else None
    net = nets[source]
    values = net.img_channels * net.img_resolution**2 if net else 1
    if script == 'generate.py':
        return net, 0 if given['dataset'] else SAMPLE_PASSES * seeds, PNG_BYTES * values * seeds
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


def _speed(net: torch.nn.Module, device: torch.device) -> float:
    """Images/s in training on `device`, measured for a second after the first step."""
    batch = (128 if net.img_resolution > 8 else 512) // (1 if device.type == 'cuda' else 8)
    net = net.to_empty(device=device).train().requires_grad_()
    for tensor in (*net.parameters(), *net.buffers()):
        tensor.data.fill_(0.01)
    images = torch.zeros(batch, net.img_channels, net.img_resolution, net.img_resolution, device=device)
    step, start = -1, 0
    while step < 3 or time.perf_counter() < start + 1:
        net(images, torch.ones(batch, device=device)).sum().backward()
        float([*net.parameters()][-1].grad.flatten()[0])  # waits for the device
        step, start = step + 1, start or time.perf_counter()
    return batch * step / (time.perf_counter() - start)
