"""A mixture of low-rank Gaussians fitted to images, by expectation maximization in passes over them.

Mixtures of probabilistic principal component analysers (Tipping & Bishop 1999): off its subspace each class
has a small variance common to all, which says how far images may lie from it. A pass makes one step of an
orthogonal iteration for the bases, so that no covariance is ever held.
"""

from collections.abc import Iterable
from typing import NamedTuple

import torch
from tqdm import tqdm

from data.pixels import Pixels
from torch_utils import distributed

STARTS, START_STEPS, START_IMAGES = 10, 10, 2000  # a fit begins with the best of some short ones on a part
MOST_PASSES, CONVERGED = 200, 1e-3  # the gain of a pass in log-likelihood, nats per image, that ends the fit
SMALLEST_RESIDUAL = 1 / 12  # variance off the subspaces in squared grey levels: that of rounding to levels


class Mixture(NamedTuple):
    """K classes in units of grey levels, float64.

    weights: of the classes, [K]. means: [K, D]. bases: orthonormal, [K, D, d]. variances: along them, [K, d].
    residual: variance off the subspaces.
    """

    weights: torch.Tensor
    means: torch.Tensor
    bases: torch.Tensor
    variances: torch.Tensor
    residual: torch.Tensor


class Moments(NamedTuple):
    """Sums over images, each weighted by the probability of a class: what a pass finds.

    likelihood: of all images, its logarithm. counts: [K]. images: [K, D]. squares: of norms, [K].
    products: of images with their coordinates in the bases, [K, D, d].
    """

    likelihood: torch.Tensor
    counts: torch.Tensor
    images: torch.Tensor
    squares: torch.Tensor
    products: torch.Tensor


def fit(pixels: Pixels, rows: tuple[int, int], classes: int, dim: int, *, sharded: bool) -> Mixture:
    """The mixture of `classes` classes of `dim` dimensions for the images `rows` of this or all processes."""
    mixture = _start(_some(pixels, rows, sharded), classes, dim)
    if sharded:
        mixture = Mixture(*(part.to(pixels.device) for part in distributed.from_rank0(
            [part.cpu() for part in mixture])))
    last = -torch.inf
    with tqdm(desc='fit', unit='pass', leave=False, disable=distributed.rank() > 0) as progress:
        for _ in range(MOST_PASSES):
            found = _expect(mixture, (chunk.levels.to(torch.float64) for chunk in pixels.chunks(*rows)))
            if sharded:
                for part in found:
                    torch.distributed.all_reduce(part)
            mixture = _maximize(mixture, found)
            gain = float(found.likelihood - last) / float(found.counts.sum())
            last = found.likelihood
            progress.update()
            if abs(gain) < CONVERGED:
                break
    return mixture


def _expect(mixture: Mixture, chunks: Iterable[torch.Tensor]) -> Moments:
    """A pass over images, in chunks [n, D]."""
    weights, means, bases, variances, residual = mixture
    classes, size, dim = bases.shape
    sums = Moments(means.new_zeros([]), means.new_zeros(classes), torch.zeros_like(means),
                   means.new_zeros(classes), torch.zeros_like(bases))
    constant = weights.log() - 0.5 * (variances.log().sum(dim=1) + (size - dim) * residual.log())
    offsets = torch.einsum('kn,knd->kd', means, bases)
    flat = bases.permute(1, 0, 2).reshape(size, -1)
    for images in chunks:
        projected = (images @ flat).reshape(-1, classes, dim)
        squares, norms = (projected - offsets).square(), images.square().sum(dim=1)
        distances = norms[:, None] - 2 * images @ means.T + means.square().sum(dim=1)
        outside = (distances - squares.sum(dim=2)).clamp(min=0)
        exponents = constant - 0.5 * (outside / residual + (squares / variances).sum(dim=2))
        total = exponents.logsumexp(dim=1, keepdim=True)
        shares = (exponents - total).exp()
        products = images.T @ (shares[:, :, None] * projected).flatten(1)
        found = Moments(total.sum(), shares.sum(dim=0), shares.T @ images, shares.T @ norms,
                        products.reshape(size, classes, dim).transpose(0, 1))
        for part, add in zip(sums, found, strict=True):
            part += add
    return sums


def _maximize(mixture: Mixture, found: Moments) -> Mixture:
    """The mixture after a pass: weights and means at their best, bases and variances a step closer."""
    counts = found.counts.clamp(min=1e-9)
    means = found.images / counts[:, None]
    inner = torch.einsum('kn,knd->kd', means, mixture.bases)
    products = found.products / counts[:, None, None] - means[:, :, None] * inner[:, None]
    bases, variances, _ = torch.linalg.svd(products, full_matrices=False)
    size, dim = bases.shape[1:]
    outside = found.squares / counts - means.square().sum(dim=1) - variances.sum(dim=1)
    residual = found.counts @ outside / (found.counts.sum() * max(size - dim, 1))
    residual = residual.clamp(min=SMALLEST_RESIDUAL)
    return Mixture(counts / counts.sum(), means, bases, variances.maximum(residual), residual)


def _some(pixels: Pixels, rows: tuple[int, int], sharded: bool) -> torch.Tensor:
    """Up to START_IMAGES images, those of the lowest hash, however the images are ordered and shared out."""
    numbers = torch.randint(1 << 30, (pixels.shape[1],), generator=torch.Generator().manual_seed(0))
    numbers = numbers.to(pixels.device, torch.float64)
    kept = numbers.new_empty(0, pixels.shape[1] + 1)
    for chunk in pixels.chunks(*rows):
        images = chunk.levels.to(torch.float64)
        kept = _lowest(kept, torch.cat([(images @ numbers % (2**31 - 1))[:, None], images], dim=1))
    if sharded:
        kept = _lowest(*(part.to(pixels.device) for part in distributed.gather(kept.cpu())))
    return kept[:, 1:]


def _lowest(*parts: torch.Tensor) -> torch.Tensor:
    """The START_IMAGES rows whose first entries are the lowest, in their order."""
    rows = torch.cat(parts)
    return rows[rows[:, 0].argsort(stable=True)[:START_IMAGES]]


def _start(images: torch.Tensor, classes: int, dim: int) -> Mixture:
    """The best of STARTS short fits to some images, [n, D]."""
    generator, best = torch.Generator().manual_seed(0), None
    for _ in range(STARTS):
        mixture = _guess(images, classes, dim, generator)
        for _ in range(START_STEPS):
            found = _expect(mixture, [images])
            mixture = _maximize(mixture, found)
        if best is None or found.likelihood > best[0]:
            best = found.likelihood, mixture
    return best[1]


def _guess(images: torch.Tensor, classes: int, dim: int, generator: torch.Generator) -> Mixture:
    """Bases of images that point the same way as one of them: a random one, then one far from all bases."""
    mean = images.mean(dim=0)
    centred = images - mean
    directions = torch.nn.functional.normalize(centred, dim=1)
    left, bases = directions.square().sum(dim=1), []
    for _ in range(classes):
        drawn = torch.multinomial((left + 1e-9).cpu(), 1, generator=generator)[0]
        closest = (directions @ directions[drawn]).abs().topk(min(3 * dim, len(images))).indices
        basis = torch.linalg.svd(centred[closest].T, full_matrices=len(closest) < dim).U[:, :dim]
        bases.append(basis)
        left = left.minimum((directions - directions @ basis @ basis.T).square().sum(dim=1))
    spread = centred.square().sum() / centred.numel() + SMALLEST_RESIDUAL
    return Mixture(images.new_full([classes], 1 / classes), mean.repeat(classes, 1), torch.stack(bases),
                   spread.expand(classes, dim) * 2, spread)
