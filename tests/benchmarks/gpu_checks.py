"""Whether a device computes what the CPU and the reference compute: golden cases and steps of training.

Tolerances follow from the types: TF32 rounds the factors of a product to 10 bits of mantissa, as many as
float16 has, bfloat16 to 7, so that one product errs by up to 2^-11 = 5e-4 and 2^-8 = 4e-3 of its factors, and
a network's output by some times as much; float32 by 2^-24 in each of thousands of sums.
"""

import copy
import math
import tempfile
from collections.abc import Iterator
from functools import partial

import numpy as np
import parity
import torch
from measure import Row

from fixed_noise import FixedNoiseLoss
from golden_networks import golden_network, network_specs
from helpers import ROOT, golden, torchrun
from image_sets import Images
from jacobians.products import jacobian
from sampling.pace import prepare
from training import build, kernels, loop
from training.augment import AugmentPipe
from training.build import LOSSES, build_network
from training.config import ARCHITECTURES, TrainingConfig

NETWORK = {'fp32': 2e-5, 'tf32': 5e-3, 'fp16': 1e-2, 'bf16': 8e-2}  # of the largest value
TRAINING = {'fp32': 1e-4, 'tf32': 2e-2, 'fp16': 5e-2, 'bf16': 2e-1}  # of how far the weights have moved


def rows(device: torch.device) -> Iterator[Row]:
    """All checks that `device` can make."""
    precisions = NETWORK if device.type == 'cuda' else ['fp32']
    for precision in precisions:
        kernels.set_precision(config(precision=precision))
        yield from networks(device, precision)
    kernels.set_precision(config())
    yield from samplers(device)
    yield from closed_forms(device)
    yield from losses(device)
    for precision in precisions:
        yield training(device, precision)
    if device.type == 'cuda':
        yield training(device, 'fp32', compiled='graphs')
        if torch.cuda.device_count() > 1:
            yield two_processes()


def check(what: str, difference: float, allowed: float) -> Row:
    return Row(what=what, ours=difference, unit='off', ratio=difference, must=f'<= {allowed:g}',
               reached=difference <= allowed)


@torch.no_grad()
def networks(device: torch.device, precision: str) -> Iterator[Row]:
    """Forward passes of the golden networks."""
    for name in network_specs():
        net, arrays = golden_network(name)
        net.to(device)
        prepare(net, device, 'fp32' if precision == 'tf32' else precision)
        inputs = {key: torch.from_numpy(arrays[key]).to(device) for key in (
            'x', 'sigma', 'class_labels', 'augment_labels') if key in arrays}
        difference = parity.difference(net(**inputs).cpu(), arrays['out'])
        yield check(f'network {name}, {precision}', difference, NETWORK[precision])


def samplers(device: torch.device) -> Iterator[Row]:
    """The golden samplers from the same latents; churn aside, whose noise depends on the device."""
    arrays, latents = golden('samplers'), torch.from_numpy(golden('samplers')['latents']).to(device)
    for name, options in (('heun7-rho5', {'num_steps': 7, 'rho': 5, 'sigma_min': 0.01, 'sigma_max': 50}),
                          ('ablate-euler-vp-vp-vp', {'num_steps': 8, 'solver': 'euler', 'disc': 'vp',
                                                     'schedule': 'vp', 'scaling': 'vp'})):
        states = parity.generalized_sampler(golden_network('edm-ddpmpp')[0].to(device), latents, **options)
        yield check(f'sampler {name}', parity.difference(states.cpu(), arrays[f'{name}/edm-ddpmpp']), 1e-4)


def closed_forms(device: torch.device) -> Iterator[Row]:
    """The optimal denoiser, and the Jacobian of a network."""
    arrays = golden('optimal-denoiser')
    pixels = parity.Pixels(Images(arrays['dataset_uint8']), range(len(arrays['dataset_uint8'])),
                           arrays['dataset_uint8'].shape[1:], device=device, cache_bytes=math.inf)
    net = parity.OptimalDenoiser(pixels)
    for key in (key for key in arrays if key.startswith('x/')):
        sigma = key.removeprefix('x/')
        out = net(torch.from_numpy(arrays[key]).to(device), float(sigma)).cpu().to(torch.float64)
        difference = float((out - torch.from_numpy(arrays[f'out/{sigma}'])).abs().max())
        yield check(f'optimal denoiser, sigma {sigma}', difference, 1e-6)
    network, inputs = golden_network('edm-ddpmpp')
    x = torch.from_numpy(inputs['x'])[:1]
    there, here = (jacobian(copy.deepcopy(network).to(where), x.to(where), 1.0).cpu()
                   for where in (device, torch.device('cpu')))
    yield check('Jacobian at sigma 1', parity.difference(there, here), 1e-4)


def losses(device: torch.device) -> Iterator[Row]:
    """Losses and augmentation, with the CPU's draws."""
    images = torch.from_numpy(golden('losses')['images'])
    for name, make in LOSSES.items():
        net = golden_network('vp-ddpmpp-augment' if name == 'vp' else 'edm-ddpmpp')[0]
        values = [same_draws(where, make(), copy.deepcopy(net).to(where), images.to(where)).cpu()
                  for where in (device, torch.device('cpu'))]
        yield check(f'loss {name}', parity.difference(*values), 1e-4)
    pipe = AugmentPipe(p=1, **parity.GEOMETRY)
    values = [same_draws(where, pipe, images.to(where))[0].cpu() for where in (device, torch.device('cpu'))]
    yield check('augmentation', parity.difference(*values), 1e-4)


def same_draws(device: torch.device, function, *args):
    """function(*args), whose random numbers on any device are the CPU's."""
    torch.manual_seed(0)
    kept = {name: getattr(torch, name) for name in ('rand', 'randn', 'randint')}

    def on_cpu(name):
        def draw(*args, device=None, **kwargs):
            return kept[name](*args, **kwargs).to(device or 'cpu')
        return draw

    try:
        for name in kept:
            setattr(torch, name, on_cpu(name))
        return function(*args)
    finally:
        for name, draw in kept.items():
            setattr(torch, name, draw)


def config(**changes) -> TrainingConfig:
    """A small network of 16x16 images, without dropout, whose noise follows from the images."""
    network = ARCHITECTURES['ddpmpp'] | {
        'class_name': 'training.networks.EDMPrecond', 'model_channels': 32, 'channel_mult': [1, 2],
        'num_blocks': 1, 'attn_resolutions': [8], 'dropout': 0}
    return TrainingConfig(**{
        'run_dir': '', 'dataset_kwargs': {}, 'network_kwargs': network, 'total_kimg': 1, 'batch_size': 32,
        'loss_kwargs': {'class_name': 'training.loss.EDMLoss'}, 'lr_rampup_kimg': 0,
        'optimizer_kwargs': {'class_name': 'torch.optim.SGD', 'lr': 1e-2}} | changes)


def training(device: torch.device, precision: str, compiled: str = '0', steps: int = 5) -> Row:
    """Five steps, beside float32 ones on the CPU."""
    images = Images(np.random.default_rng(0).integers(0, 256, (64, 3, 16, 16), dtype=np.uint8))
    loss, build._CLASSES['training.loss.EDMLoss'] = build._CLASSES['training.loss.EDMLoss'], FixedNoiseLoss
    try:
        moved = [train(config(**settings), images, where, steps) for settings, where in (
            ({'precision': precision, 'compile': compiled}, device), ({}, torch.device('cpu')))]
    finally:
        build._CLASSES['training.loss.EDMLoss'] = loss
    difference = float((moved[0] - moved[1]).norm() / moved[1].norm())
    return check(f'{steps} steps of training, {precision}{", CUDA graphs" * (compiled == "graphs")}',
                 difference, TRAINING[precision])


def train(settings: TrainingConfig, images: Images, device: torch.device, steps: int) -> torch.Tensor:
    """How far the steps have moved the weights."""
    run = loop.prepare(settings, images, partial(build_network, settings.network_kwargs, images),
                       device=device)
    start = torch.cat([p.detach().flatten().cpu() for p in run.parameters])
    for _ in range(steps):
        loop.train_step(run)
        loop.update_ema(run)
        run.cur_nimg += settings.batch_size
    return torch.cat([p.detach().flatten().cpu() for p in run.parameters]) - start


def two_processes(device: str = 'cuda') -> Row:
    """Whether two processes, a GPU each, average their gradients and end with the same weights."""
    with tempfile.TemporaryDirectory() as folder:
        printed = torchrun(
            2, '../tests/training/check_processes.py', f'--outdir={folder}', f'--device={device}',
            f'--data={ROOT / "datasets" / "digits-8x8.zip"}', '--duration=0.001', '--batch=400', '--cbase=8',
            '--cres=1', '--num_blocks=1', '--augment=0', '--lr_rampup=0')
    return check('two processes: ranks that fail', 2 - printed.count('all checks passed'), 0)
