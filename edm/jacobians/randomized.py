"""Numerical rank of a denoiser's Jacobian at a cost proportional to the rank, with an error bound.

An orthonormal basis U, a block of b vectors at a time, comes to hold the leading left singular vectors of J.
Block t + 1 is the part of J V that is new, where V is the part of J^T U_t that is new: block Golub-Kahan, so
that U spans a block Krylov space of J J^T (Halko, Martinsson & Tropp 2011; Musco & Musco 2015).

Two facts give a rank with bounds, whatever U:
- The singular values t_i of U^T J are lower bounds of J's s_i, and what they lack in sum is the energy that U
  misses: sum s_i^2 - sum t_i^2 = |J - U U^T J|^2 =: R.
- A Gaussian vector w that U does not depend on gives an unbiased estimate |w^T (J - U U^T J)|^2 of R
  (Hutchinson 1990). The products w^T J are taken once, before the first block.

All products with J^T are exact gradients. Products with J only propose directions for U, so two digits do:
they are differences of denoised images, one forward pass each, where tangents would take three.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from jacobians.products import DEFAULT_LAYOUT, ETA, Layout, Linearization
from sampling.denoiser import Denoiser, check_finite
from sampling.sampler import widest_float
from torch_utils.seeding import SampleGenerators

PROBES = 16  # vectors w
Z = 3  # standard errors on either side of R
TOLERANCE = 0.02  # of the dimension
WIDTH = 16  # vectors per block
MOST_GROWTH = 1 / 6  # of the dimension: beyond, a dense Jacobian is cheaper than a larger U
STEP = 0.03  # of sigma: length of the step whose difference approximates J V
_SEED_OFFSET = 1 << 31  # keeps these draws apart from the noise of the images


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A numerical rank, its bounds (see `bound_rank`), and the t_i^2, descending, float64 [k]."""

    rank: int
    low: int
    high: int
    energies: torch.Tensor


class RangeFinder:
    """The growing U at several images [P, C, H, W] of one noise level.

    width: vectors per image in each block. seeds: P integers, one per image, so that an estimate does not
    depend on the other images.
    """

    def __init__(self, net, x: torch.Tensor, sigma: float, class_labels: torch.Tensor | None = None, *,
                 seeds: Sequence[int], width: int, memory_format=torch.contiguous_format):
        self._net, self._x, self._sigma, self._labels = net, x.to(torch.float32), sigma, class_labels
        self._dtype = widest_float(x.device)
        self._linear = Linearization(net, x, sigma, class_labels, width=width, memory_format=memory_format)
        self.images, self.width, self.dim = self._linear.shape
        draws = SampleGenerators([seed + _SEED_OFFSET for seed in seeds], x.device)
        self._w = draws.randn([PROBES, self.dim]).to(self._dtype)
        start = draws.randn([width, self.dim]).to(self._dtype)
        self._wj = self._times_j(self._w)
        check_finite(self._wj, sigma, 'Jacobian\'s products')
        self.u = self.uj = self._v = self._w[:, :0]  # rows: basis vectors, their products with J, V
        self._direction = _orthonormal(start, self._v)

    @property
    def size(self) -> int:
        """Vectors in U."""
        return self.u.shape[1]

    def grow(self) -> None:
        """Add a block to U, the last one with what is left of the whole space."""
        block = min(self.width, self.dim - self.size)
        proposal = self._difference(self._direction[:, :block])
        new = _orthonormal(proposal, self.u)
        self.u = torch.cat([self.u, new], dim=1)
        self.uj = torch.cat([self.uj, self._times_j(new)], dim=1)
        self._v = torch.cat([self._v, self._direction[:, :block]], dim=1)
        if self.size < self.dim:
            self._direction = _orthonormal(self.uj[:, -block:], self._v)

    def missed(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Estimates of R, of its standard error, and of |A A^T|^2 for A = J - U U^T J; float64 [P] each.

        In expectation, the Gram matrix of the vectors A^T w has R on its diagonal and, squared, |A A^T|^2
        beside it; the estimate of R has the variance 2 |A A^T|^2 / PROBES.
        """
        rest = self._wj - (self._w @ self.u.mT) @ self.uj
        gram = rest @ rest.mT
        diagonal = gram.diagonal(dim1=-2, dim2=-1)
        pairs = PROBES * (PROBES - 1)
        fourth = (gram.square().sum((-2, -1)) - diagonal.square().sum(-1)) / pairs
        return diagonal.mean(-1), (2 * fourth / PROBES).sqrt(), fourth

    def _times_j(self, rows: torch.Tensor) -> torch.Tensor:
        """Rows [P, k, dim] times J, in passes of `width`, the last one filled up."""
        products = []
        for block in rows.split(self.width, dim=1):
            filled = torch.nn.functional.pad(block, (0, 0, 0, self.width - block.shape[1]))
            products.append(self._linear.vjp(filled)[:, :block.shape[1]].to(self._dtype))
        return torch.cat(products, dim=1)

    @torch.no_grad()
    def _difference(self, rows: torch.Tensor) -> torch.Tensor:
        """Rows times J^T, up to a factor: how the denoised image changes along each row."""
        count = rows.shape[1]
        moved = self._x.repeat_interleave(count, dim=0)
        moved = moved + STEP * self._sigma * rows.to(torch.float32).reshape(moved.shape)
        labels = None if self._labels is None else self._labels.repeat_interleave(count, dim=0)
        denoised = self._net(moved, torch.tensor(self._sigma, device=moved.device), labels)
        denoised = denoised.reshape(self.images, count, self.dim)
        return denoised.to(self._dtype) - self._linear.denoised.reshape(self.images, 1, -1)


def _orthonormal(rows: torch.Tensor, basis: torch.Tensor) -> torch.Tensor:
    """Orthonormal rows [P, k, dim] that span what `rows` add to the orthonormal `basis`.

    Twice, since of rows in the basis only rounding error remains; any direction orthogonal to it will do.
    """
    for _ in range(2):
        rows = rows - (rows @ basis.mT) @ basis
        rows = torch.linalg.qr(rows.mT).Q.mT
    return rows


def block_width(dim: int, batch: int) -> int:
    """Vectors per image in a block. Small blocks make U reach deeper; other images fill the batch."""
    return min(batch, WIDTH, dim)


def randomized_ranks(net: Denoiser, x: torch.Tensor, sigma: float,
                     class_labels: torch.Tensor | None = None, *, seeds: Sequence[int], eta: float = ETA,
                     tolerance: float = TOLERANCE, layout: Layout = DEFAULT_LAYOUT, give_up: bool = False,
                     ) -> list[Estimate | None]:
    """Numerical ranks of the Jacobians at images x [P, C, H, W] of one noise level.

    seeds: P integers for the draws. tolerance: largest distance between the rank and its bounds, as a share
    of the dimension. give_up: return None for images where the dense Jacobian is cheaper.
    """
    width = block_width(x[0].numel(), layout.batch)
    together = max(1, layout.batch // width)
    found = []
    for start in range(0, len(x), together):
        own = slice(start, start + together)
        labels = None if class_labels is None else class_labels[own]
        finder = RangeFinder(net, x[own], sigma, labels, seeds=seeds[own], width=width,
                             memory_format=layout.memory_format)
        found += _search(finder, eta, tolerance, give_up)
    return found


def _search(finder: RangeFinder, eta: float, tolerance: float, give_up: bool) -> list[Estimate | None]:
    """Grow U until each image's bounds are close enough or, with `give_up`, its rank proves too high."""
    found, pending = [None] * finder.images, list(range(finder.images))
    largest = int(MOST_GROWTH * finder.dim) if give_up else finder.dim
    before = None
    while pending and finder.size < largest:
        finder.grow()
        energies = torch.linalg.eigvalsh(finder.uj @ finder.uj.mT).flip(-1).clamp(min=0).cpu()
        missed = torch.stack(finder.missed()).cpu()
        needed = _needed_size(finder, energies.sum(-1), missed[0], before, eta) if give_up else None
        for i in list(pending):
            estimate = bound_rank(energies[i], *missed[:, i].tolist(), dim=finder.dim, eta=eta)
            if max(estimate.high - estimate.rank, estimate.rank - estimate.low) <= tolerance * finder.dim:
                found[i] = estimate
                pending.remove(i)
            elif give_up and needed[i] > largest:
                pending.remove(i)
        before = energies.sum(-1)
    return found


def bound_rank(energies: torch.Tensor, missed: float, error: float, fourth: float, *, dim: int,
               eta: float) -> Estimate:
    """The rank that follows from the energies t_i^2 in U, and its bounds.

    energies: descending, float64 [k]. missed, error, fourth: from `RangeFinder.missed`, for this image.

    high: where the t_i^2, lower bounds of the s_i^2, exceed eta^2 times the largest total.
    low: where they would exceed eta^2 times the least total if U had missed j of the r leading directions,
    for the worst j. These j hold at most R, and at most sqrt(j fourth), by Cauchy and Schwarz.
    """
    if len(energies) == dim:
        missed = error = fourth = 0.0
    found = torch.cat([energies.new_zeros(1), energies.cumsum(0)])  # by the first 0, 1, .. directions
    least, most = max(missed - Z * error, 0), missed + Z * error
    j = torch.arange(len(found), dtype=found.dtype)
    hidden = (j * max(fourth, 0)).sqrt().clamp(max=most)
    best = torch.stack([(found[:r + 1].flip(0) + hidden[:r + 1]).max() for r in range(len(found))])
    total = float(found[-1])

    def first(partial, energy, otherwise):
        above = (partial > eta**2 * energy).nonzero()
        return int(above[0]) if len(above) else otherwise

    high = first(found, total + most, dim)
    rank = min(first(found, total + missed, dim), high)
    low = min(first(best, total + least, len(energies)), rank)
    if total + most == 0:
        rank = low = high = 0
    return Estimate(rank=rank, low=low, high=high, energies=energies)


def _needed_size(finder: RangeFinder, found: torch.Tensor, missed: torch.Tensor, before: torch.Tensor | None,
                 eta: float) -> torch.Tensor:
    """The least size of U that suffices if no block gains more than the last one did; [P]."""
    gain = found if before is None else found - before
    lacking = (eta**2 * (found + missed) - found).clamp(min=0)
    return finder.size + finder.width * lacking / gain.clamp(min=torch.finfo(gain.dtype).tiny)
