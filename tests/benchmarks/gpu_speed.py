"""How fast a device trains, samples, denoises and differentiates, beside plain loops on the same device.

Networks are DDPM++ as for CIFAR-10, 55.7 million parameters. Bare kernels are the convolutions and matrix
products of the same step, called with the same tensors and nothing between them.
"""

import time
from collections.abc import Callable, Iterator

import bench_training
import torch
from bench_optimal_denoiser import Images as RandomImages
from bench_training import Noise, bare_kernels, our_step
from measure import Row
from plain_sampling import heun
from plain_training import plain_step

from data.pixels import Pixels
from denoisers.optimal_denoiser import OptimalDenoiser
from jacobians.products import choose_layout, jacobian_rows
from sampling.pace import prepare
from sampling.sampler import edm_sampler
from training.build import build, build_network


def rows(device: torch.device, *, width: int = 128, batch: int = 64, num_images: int = 50_000,
         repeats: int = 10) -> Iterator[Row]:
    """All rows; smaller sizes are for trying this file without a GPU."""
    precisions = ['fp32', 'tf32', 'fp16', 'bf16'] if device.type == 'cuda' else ['fp32']
    for precision in precisions:
        yield from training(device, precision, width, batch, repeats)
    for precision in precisions:
        yield from sampling(device, precision, width, batch)
    yield optimal_denoiser(device, num_images, repeats)
    yield jacobian(device, width)
    if device.type == 'cuda':
        yield Row(what='peak memory of all these', ours=torch.cuda.max_memory_allocated(device) / 2**30,
                  unit='GiB')


def seconds(device: torch.device, function: Callable[[], object], repeats: int) -> float:
    """Mean time of a call, those of a device that works behind the host included."""
    def wait():
        if device.type == 'cuda':
            torch.cuda.synchronize(device)

    for _ in range(min(repeats, 3)):
        function()
    wait()
    start = time.perf_counter()
    for _ in range(repeats):
        function()
    wait()
    return (time.perf_counter() - start) / repeats


def settings(precision: str, width: int, batch: int):
    """Of a run at the CIFAR-10 size, without augmentation and dropout, which the plain loop lacks."""
    settings = bench_training.config(batch, width, [2, 2, 2], precision=precision)
    return settings, settings.network_kwargs | {'num_blocks': 4, 'attn_resolutions': [16]}


def training(device: torch.device, precision: str, width: int, batch: int, repeats: int) -> Iterator[Row]:
    config, network = settings(precision, width, batch)
    dataset = Noise(1024, 32)
    config.network_kwargs.update(network)
    step = our_step(config, dataset, device)
    ours = seconds(device, step, repeats)
    plain = None
    if precision in ('fp32', 'tf32'):  # TF32 is a setting of this process that holds for both
        net, loss_fn = build_network(network, dataset), build(config.loss_kwargs)
        plain = seconds(device, plain_step(net, loss_fn, dataset, batch=batch, device=device), repeats)
    bare = seconds(device, bare_kernels(step), repeats)
    yield Row(what=f'training, {precision}', ours=batch / ours, unit='images/s',
              baseline=plain and batch / plain, ratio=plain and plain / ours, must=(plain and '>= 1') or '',
              reached=plain and plain >= ours, note='baseline: the plain loop')
    yield Row(what=f'training, {precision}, beside its bare kernels', ours=1000 * ours, unit='ms',
              baseline=1000 * bare, ratio=bare / ours)


def sampling(device: torch.device, precision: str, width: int, batch: int) -> Iterator[Row]:
    config, network = settings(precision, width, batch)
    bench_training.loop.kernels.set_precision(config)
    net = build_network(network, Noise(1, 32)).to(device).eval().requires_grad_(False)
    latents = torch.randn(batch, 3, 32, 32).to(device)
    plain = seconds(device, lambda: heun(net, latents), 1)
    prepare(net, device, 'fp32' if precision == 'tf32' else precision)
    ours = seconds(device, lambda: edm_sampler(net, latents), 1)
    yield Row(what=f'sampling, {precision}', ours=batch / ours, unit='images/s', baseline=batch / plain,
              ratio=plain / ours, must='>= 1', reached=plain >= ours, note='baseline: the plain loop')


def optimal_denoiser(device: torch.device, num_images: int, repeats: int) -> Row:
    images = RandomImages(num_images)
    net = OptimalDenoiser(Pixels(images, range(num_images), (3, 32, 32), device=device, cache_bytes=1e12))
    x = torch.randn(64, 3, 32, 32, dtype=torch.float64).to(device) * 80
    singles = torch.from_numpy(images.array).flatten(1).to(device, torch.float32)
    flat, weights = x.flatten(1).to(torch.float32), torch.rand(64, num_images, device=device)
    ours = seconds(device, lambda: net(x, 80.0), repeats)
    bare = seconds(device, lambda: (flat @ singles.T, weights @ singles), repeats)
    return Row(what=f'optimal denoiser, N = {num_images:,}, 64 samples', ours=1000 * ours, unit='ms',
               baseline=1000 * bare, ratio=bare / ours, note='baseline: two float32 products of this size')


def jacobian(device: torch.device, width: int) -> Row:
    _, network = settings('fp32', width, 1)
    net = build_network(network, Noise(1, 32)).to(device).eval().requires_grad_(False)
    x = torch.randn(1, 3, 32, 32).to(device)
    layout, done = choose_layout(net, x, 1.0), 0
    start = time.perf_counter()
    for _, _, block in jacobian_rows(net, x, 1.0, layout=layout):
        done += len(block.cpu().flatten(2).flatten(0, 1))
        if time.perf_counter() > start + 10:
            break
    return Row(what='Jacobian, 32x32x3', ours=done / (time.perf_counter() - start), unit='rows/s',
               note=f'batch {layout.batch}')
