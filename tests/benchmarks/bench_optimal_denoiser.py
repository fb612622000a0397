"""The optimal denoiser of random 32x32x3 images, for a batch of 64 samples.

- Time per evaluation beside the broadcast formulation, which lets each sample meet each image in float64
  arrays [64, 64, 3, 32, 32], once for the distances and once for the weighted sum. Its images are decoded
  beforehand, which the implementations in use do not grant themselves.
- Share of the rate of the bare matrix products: the time of torch.mm of the same shapes and types, on images
  that are floating-point already, over ours. All images have weight at the highest noise level, few at the
  lowest, where ours leaves most of the second product out. For comparison, also the share if both bare
  products were float32, in which distances would be wrong.
- The 18 noise levels of the EDM sampler together: beside scores of all images in float64, and the share of
  the rate of both bare products in float32. A note says which share of the images needed exact scores after
  the rough ones that select, by level.
- Streaming from a memory-mapped file beside the same in memory.
- Peak memory of a whole process that opens a zip and evaluates.
- `generate.py --optimal_denoiser` for 64 seeds on 1,024 images, from start to exit.
"""

import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from measure import Row, run_python, seconds, side_by_side

from data.pixels import Pixels, from_levels, to_levels
from denoisers import optimal_denoiser
from denoisers.optimal_denoiser import OptimalDenoiser
from image_sets import write
from sampling.schedules import karras_sigmas
from torch_utils.distributed import pick_device

EDM = Path(__file__).parents[2] / 'edm'
SHAPE = (3, 32, 32)
BATCH = 64

PEAK = '''
import sys
sys.path[:0] = sys.argv[1:3]
import torch
from denoisers.open_denoiser import open_denoiser
from measure import peak_mib
from torch_utils.distributed import pick_device
net = open_denoiser('optimal', sys.argv[3], pick_device('cpu'))
for sigma in (80.0, 1.0, 0.002):
    net(torch.randn(64, 3, 32, 32, dtype=torch.float64) * sigma, sigma)
print(peak_mib())
'''


class Images:
    """An array uint8 [N, C, H, W] as a data set."""

    def __init__(self, num_images: int):
        self.array = np.random.default_rng(0).integers(0, 256, (num_images, *SHAPE), dtype=np.uint8)

    def images(self, indices):
        return self.array[indices]


def rows() -> Iterator[Row]:
    """See above."""
    pick_device('cpu')  # keeps freed memory, as the scripts do
    for num_images in (1024, 10_000):
        images = Images(num_images)
        net = OptimalDenoiser(pixels(images, cache_bytes=1e12))
        yield beside_broadcast(net, images)
        for sigma in (80.0, 0.1):
            yield from beside_products(net, images, sigma)
        yield from over_the_grid(net, images)
    yield streaming(images)
    yield from whole_processes()


def pixels(images: Images, cache_bytes: float) -> Pixels:
    return Pixels(images, np.arange(len(images.array)), SHAPE, device='cpu', cache_bytes=cache_bytes)


def noisy(images: Images, sigma: float) -> torch.Tensor:
    clean = torch.from_numpy(images.array[:BATCH]).to(torch.float64) / 127.5 - 1
    return clean + sigma * torch.randn(clean.shape, generator=torch.Generator().manual_seed(0))


def beside_broadcast(net: OptimalDenoiser, images: Images) -> Row:
    x, y = noisy(images, 2.0), torch.from_numpy(images.array) / 127.5 - 1
    found, expected = net(x, 2.0), None

    def baseline():
        nonlocal expected
        expected = broadcast(x, y, 2.0)

    ours = seconds(lambda: net(x, 2.0), repeats=5)
    theirs = seconds(baseline, repeats=1, warmup=0)
    assert (found - expected).abs().max() < 1e-6
    ratio = theirs / ours
    needed = len(y) == 1024
    return Row(what=f'evaluation, N = {len(y):,}', ours=1e3 * ours, baseline=1e3 * theirs, unit='ms',
               ratio=ratio, must='>= 100' if needed else '', reached=ratio >= 100 if needed else None,
               note='baseline: broadcast formulation')


def broadcast(x: torch.Tensor, y: torch.Tensor, sigma: float) -> torch.Tensor:
    """The denoised images; x float64 [B, C, H, W], y float32 [N, C, H, W], taken BATCH at a time."""
    squares = [(x[:, None] - part[None].to(torch.float64)).square().sum(dim=(2, 3, 4))
               for part in y.split(BATCH)]
    weights = (torch.cat(squares, dim=1) / (-2 * sigma**2)).softmax(dim=1)
    denoised = torch.zeros_like(x)
    for weight, part in zip(weights.split(BATCH, dim=1), y.split(BATCH), strict=True):
        denoised += (weight[:, :, None, None, None] * part[None].to(torch.float64)).sum(dim=1)
    return denoised


def beside_products(net: OptimalDenoiser, images: Images, sigma: float) -> Iterator[Row]:
    x = noisy(images, sigma)
    singles = torch.from_numpy(images.array).flatten(1).to(torch.float32)
    doubles = singles.to(torch.float64)
    weights = torch.rand(BATCH, len(singles))
    flat, flat_singles = x.flatten(1), x.flatten(1).to(torch.float32)

    def ours():
        net(x, sigma)

    def products():
        torch.mm(flat, doubles.T)
        torch.mm(weights, singles)

    def singles_only():
        torch.mm(flat_singles, singles.T)
        torch.mm(weights, singles)

    times = [1e3 * t for t in side_by_side([ours, products, singles_only], repeats=9)]
    for baseline, types in ((times[1], 'float64 and float32'), (times[2], 'float32 only')):
        share = baseline / times[0]
        needed = len(singles) == 10_000 and baseline is times[1]
        yield Row(what=f'share of the bare products, N = {len(singles):,}, sigma = {sigma:g}', ours=times[0],
                  baseline=baseline, unit='ms', ratio=share, must='>= 0.6' if needed else '',
                  reached=share >= 0.6 if needed else None, note=f'baseline: torch.mm, {types}')


def over_the_grid(net: OptimalDenoiser, images: Images) -> Iterator[Row]:
    sigmas = karras_sigmas(18, 0.002, 80).tolist()
    levels, times, twice = net._pixels._store._rows, [], []
    singles, weights = levels.to(torch.float32), torch.rand(BATCH, len(levels))

    def products():
        torch.mm(flat, singles.T)
        torch.mm(weights, singles)

    for sigma in sigmas:
        x = noisy(images, sigma)
        flat = x.flatten(1).to(torch.float32)
        functions = [partial(net, x, sigma), partial(in_float64, net, x, sigma)]
        assert (functions[0]() - functions[1]()).abs().max() < 1e-6
        times.append(side_by_side([*functions, products], repeats=3))
        twice.append(f'{100 * scored_exactly(net, x, sigma):.1f} % at {sigma:.3g}')
    ours, doubles, products = (sum(of) for of in zip(*times, strict=True))
    needed, what = len(levels) == 10_000, f'the EDM grid, N = {len(levels):,}'
    yield Row(what=what, ours=ours, baseline=doubles, unit='s', ratio=doubles / ours,
              must='>= 1.6' if needed else '', reached=doubles >= 1.6 * ours if needed else None,
              note='baseline: all scores in float64; scored exactly: ' + ', '.join(twice))
    yield Row(what=f'{what}: share of the bare products', ours=ours, baseline=products, unit='s',
              ratio=products / ours, must='>= 0.6' if needed else '',
              reached=products >= 0.6 * ours if needed else None, note='baseline: torch.mm, float32 only')


def in_float64(net: OptimalDenoiser, x: torch.Tensor, sigma: float) -> torch.Tensor:
    """The denoised images, with scores and weights in float64 and the sum of images in float32."""
    flat, variance = to_levels(x.flatten(1)), (127.5 * sigma)**2
    top = torch.full((len(x), 1), -torch.inf, dtype=torch.float64)
    total, weighted = torch.zeros_like(top), torch.zeros_like(flat)
    for levels, half_squares in net._pixels.chunks(0, net._pixels.shape[0]):
        scores = (flat @ levels.to(torch.float64).T - half_squares) / variance
        new_top = torch.maximum(top, scores.amax(dim=1, keepdim=True))
        weights, shrink = (scores - new_top).clamp(min=-80).exp(), (top - new_top).exp()
        total = total * shrink + weights.sum(dim=1, keepdim=True)
        weighted = weighted * shrink + weights.to(torch.float32) @ levels.to(torch.float32)
        top = new_top
    return from_levels(weighted / total).reshape(x.shape)


def scored_exactly(net: OptimalDenoiser, x: torch.Tensor, sigma: float) -> float:
    """The share of pairs of a sample and an image whose rough scores don't do."""
    count, select = 0, optimal_denoiser._Selection.__call__

    def counting(selection, *args):
        nonlocal count
        found = select(selection, *args)
        count += found[1].numel()
        return found

    with mock.patch.object(optimal_denoiser._Selection, '__call__', counting):
        net(x, sigma)
    return count / (len(x) * net._pixels.shape[0])


def streaming(images: Images) -> Row:
    x = noisy(images, 80.0)
    nets = [OptimalDenoiser(pixels(images, cache_bytes)) for cache_bytes in (0, 1e12)]
    file, memory = side_by_side([lambda net=net: net(x, 80.0) for net in nets])
    return Row(what=f'streamed from a file, N = {len(images.array):,}', ours=1e3 * file,
               baseline=1e3 * memory, unit='ms', ratio=memory / file, note='baseline: in memory')


def whole_processes() -> Iterator[Row]:
    with tempfile.TemporaryDirectory() as folder:
        for num_images in (1024, 10_000):
            images = Images(num_images).array.transpose(0, 2, 3, 1)
            path = write(Path(folder) / f'{num_images}.zip',
                         {f'{i:05d}.png': image for i, image in enumerate(images)})
            peak = float(run_python(PEAK, str(EDM), str(Path(__file__).parent), str(path)))
            bound = (1.5 * images.size + 300e6) / 2**20
            yield Row(what=f'peak memory of a process, N = {num_images:,}', ours=peak, unit='MiB',
                      ratio=peak / bound, must=f'<= {bound:.0f} MiB', reached=peak <= bound,
                      note=f'of which {float(run_python(IMPORT, str(Path(__file__).parent))):.0f} for '
                           'importing torch')
        start = time.perf_counter()
        subprocess.run([sys.executable, EDM / 'generate.py', '--optimal_denoiser', '--device=cpu',
                        f'--dataset={folder}/1024.zip', f'--outdir={folder}/samples'], check=True,
                       capture_output=True)
        taken = time.perf_counter() - start
        yield Row(what='generate.py, 64 seeds, N = 1,024', ours=taken, unit='s', ratio=taken, must='< 15 s',
                  reached=taken < 15, note='the whole process')


IMPORT = '''
import sys
sys.path.insert(0, sys.argv[1])
import torch
from measure import peak_mib
print(peak_mib())
'''
