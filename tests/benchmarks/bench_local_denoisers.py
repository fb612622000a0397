"""Denoisers by windows, for random images.

- `patch` and `local` for a batch of 64 samples, and for one sample, beside the optimal denoiser of the same
  10,000 images of 32x32x3: at several P, where all images have weight and where few have.
- `equivariant` for one sample of 28x28 beside a plain formulation in the same precision, which makes all
  windows of 1,000 images, subtracts each from the sample's window at a pixel, squares and sums.
- `linear` for a batch of 64, beside the optimal denoiser: with its filters for a noise level at hand, and
  from the covariance on.
"""

from collections.abc import Iterator

import numpy as np
import torch
from bench_optimal_denoiser import BATCH, Images, noisy, pixels
from measure import Row, seconds, side_by_side

from data.pixels import Pixels
from denoisers.equivariant_denoiser import EquivariantDenoiser
from denoisers.linear_denoiser import LinearDenoiser
from denoisers.local_denoiser import LocalDenoiser
from denoisers.optimal_denoiser import OptimalDenoiser
from denoisers.patch_denoiser import PatchDenoiser
from torch_utils.distributed import pick_device


def rows() -> Iterator[Row]:
    """See above."""
    pick_device('cpu')  # keeps freed memory, as the scripts do
    images = Images(10_000)
    data = pixels(images, cache_bytes=1e12)
    optimal = OptimalDenoiser(data)
    for batch in (BATCH, 1):
        for sigma in (80.0, 0.1):
            x = noisy(images, sigma)[:batch]
            for kind, size in (PatchDenoiser, 3), (PatchDenoiser, 8), (PatchDenoiser, 16), (LocalDenoiser, 3):
                yield beside_optimal(kind(data, patch=size), optimal, x, sigma, size)
    yield from linear(data, optimal, noisy(images, 1.0))
    for size in (3, 7):
        yield equivariant(size)


def beside_optimal(net, optimal: OptimalDenoiser, x: torch.Tensor, sigma: float, size: int) -> Row:
    ours, theirs = side_by_side([lambda: net(x, sigma), lambda: optimal(x, sigma)], repeats=3)
    name = type(net).__name__.removesuffix('Denoiser').lower()
    needed = name == 'patch' and len(x) == BATCH
    return Row(what=f'{name}, P = {size}, batch {len(x)}, sigma = {sigma:g}', ours=1e3 * ours, unit='ms',
               baseline=1e3 * theirs, ratio=ours / theirs, must='<= 4' if needed else '',
               reached=ours <= 4 * theirs if needed else None, note='baseline: the optimal denoiser')


def linear(data: Pixels, optimal: OptimalDenoiser, x: torch.Tensor) -> Iterator[Row]:
    net, sigma = LinearDenoiser(data, patch=3), 1.0
    first = seconds(lambda: net(x, sigma), repeats=1, warmup=0)
    yield Row(what='linear, P = 3, first noise level', ours=1e3 * first, unit='ms', note='with covariance')
    ours, theirs = side_by_side([lambda: net(x, sigma), lambda: optimal(x, sigma)], repeats=3)
    yield Row(what='linear, P = 3, the same noise level again', ours=1e3 * ours, unit='ms',
              baseline=1e3 * theirs, ratio=ours / theirs, note='baseline: the optimal denoiser')


def equivariant(size: int) -> Row:
    images = np.random.default_rng(0).integers(0, 256, (1000, 1, 28, 28), dtype=np.uint8)
    source = Images(0)
    source.array = images
    data = Pixels(source, range(1000), (1, 28, 28), device='cpu', cache_bytes=1e9)
    net = EquivariantDenoiser(data, patch=size)
    x = torch.from_numpy(images[:1]) / 127.5 - 1 + 0.3 * torch.randn(1, 1, 28, 28, dtype=torch.float64)
    ours = seconds(lambda: net(x, 0.3), repeats=3)
    places, y = 4, torch.from_numpy(images).to(torch.float64) / 127.5 - 1
    windows = y.unfold(2, size, 1).unfold(3, size, 1).reshape(-1, size * size)
    inside, margin = 28 - size + 1, size // 2
    queries = x.unfold(2, size, 1).unfold(3, size, 1).reshape(-1, size * size)[:places]

    def plain():
        distances = torch.cat([(query - part).square().sum(dim=1)
                               for query in queries for part in windows.split(1 << 16)])
        weights = (distances.reshape(places, -1) / (-2 * 0.3**2)).softmax(dim=1)
        return weights @ windows[:, size * margin + margin]

    theirs = seconds(plain, repeats=3) * inside**2 / places
    found = net(x, 0.3)[0, 0, margin, margin:margin + places]
    assert (found - plain()).abs().max() < 1e-6
    return Row(what=f'equivariant, 28x28, N = 1,000, P = {size}', ours=ours, baseline=theirs, unit='s',
               ratio=theirs / ours, must='>= 20', reached=theirs >= 20 * ours,
               note=f'baseline: plain windows, from {places} pixels of the interior')
