"""Jacobians of denoisers, all rows of a batch in one backward pass, their singular values and numerical rank.

J = dD(x; sigma)/dx at one noisy image x [C, H, W] is a matrix [dim, dim], dim = C * H * W, with pixels in the
order of `flatten`; row i is the gradient of output i. Its numerical rank tells how many directions the
denoiser keeps (arXiv 2409.02426, Sec. 5).

A row costs one backward pass through the network, which on its own leaves most of a machine idle. So one
graph holds many copies of the image, and each backward pass gives as many rows. Forward mode costs 2.5 to 3
times as much: PyTorch composes tangents of group normalisation and attention from many small operations.
"""

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from sampling.denoiser import Denoiser, check_finite
from sampling.sampler import widest_float

ETA = 0.99  # of the norm, so 0.98 of the energy
_PASSES, _LEAST_PASSES = 8, 3  # backward passes per forward pass: the aim, and the minimum
_MEASURING = 2  # seconds
_LEAST_RESOLUTION = 16  # smaller images never gain from channels_last


def numerical_rank(energies: torch.Tensor, eta: float = ETA) -> torch.Tensor:
    """The smallest r with sqrt((s_1^2 + .. + s_r^2) / (s_1^2 + .. + s_n^2)) > eta, 0 if all are 0.

    energies: the squares s_i^2, from large to small, float64 [..., n]. Returns int64 [...].
    """
    partial = energies.cumsum(-1)
    short = partial <= eta**2 * partial[..., -1:]
    return (short.sum(-1) + 1).where(partial[..., -1] > 0, 0).clamp(max=energies.shape[-1])


@dataclass(frozen=True, kw_only=True)
class Layout:
    """How many images pass the network at once, and how they lie in memory."""

    batch: int = 64
    memory_format: torch.memory_format = torch.contiguous_format


DEFAULT_LAYOUT = Layout()


class Linearization:
    """Products with J^T at several images at once, through one graph.

    x: images [P, C, H, W]. sigma: their noise level. class_labels: [P, label_dim] or None.
    width: rows per image in each product; the graph holds P * width copies.
    """

    def __init__(self, net, x: torch.Tensor, sigma: float, class_labels: torch.Tensor | None = None, *,
                 width: int, memory_format: torch.memory_format = torch.contiguous_format):
        self.shape = (len(x), width, x[0].numel())
        copies = x.to(torch.float32).repeat_interleave(width, dim=0)
        labels = None if class_labels is None else class_labels.repeat_interleave(width, dim=0)
        with torch.enable_grad():
            self._inputs = copies.contiguous(memory_format=memory_format).requires_grad_()
            self._outputs = net(self._inputs, torch.tensor(sigma, device=x.device), labels)
        self.denoised = self._outputs.detach()[::width]
        check_finite(self.denoised, sigma)

    def vjp(self, rows: torch.Tensor) -> torch.Tensor:
        """Each row times J: from [P, width, dim] to [P, width, dim], float32."""
        cotangents = rows.to(self._outputs.dtype).reshape(self._outputs.shape)
        # One memory format throughout, or PyTorch converts at every layer.
        cotangents = torch.empty_like(self._outputs).copy_(cotangents)
        gradient, = torch.autograd.grad(self._outputs, self._inputs, cotangents, retain_graph=True)
        return gradient.reshape(self.shape)


def is_closed_form(net: Denoiser) -> bool:
    """Whether the denoiser has a method `jacobian` of its own, for nothing can be differentiated there."""
    return hasattr(net, 'jacobian')


def jacobian_rows(net: Denoiser, x: torch.Tensor, sigma: float, class_labels: torch.Tensor | None = None, *,
                  layout: Layout = DEFAULT_LAYOUT) -> Iterator[tuple[slice, slice, torch.Tensor]]:
    """The Jacobians at images x [P, C, H, W] in blocks, at most `layout.batch` rows at a time.

    Yields which images, which rows, and these rows, float32 [images, rows, dim]. A block has rows of several
    images: the fewer rows of each, the more backward passes share one forward pass.
    """
    dim = x[0].numel()
    together = max(1, min(len(x), layout.batch * _PASSES // dim))
    passes = max(_LEAST_PASSES, math.ceil(dim / max(1, layout.batch // together)))
    width = math.ceil(dim / passes)
    for start in range(0, len(x), together):
        images = slice(start, min(start + together, len(x)))
        labels = None if class_labels is None else class_labels[images]
        linear = Linearization(net, x[images], sigma, labels, width=width,
                               memory_format=layout.memory_format)
        unit = torch.zeros(linear.shape, device=x.device)
        for first in range(0, dim, width):
            rows = slice(first, min(first + width, dim))
            chosen = torch.arange(rows.stop - first, device=x.device)
            unit.zero_()[:, chosen, first + chosen] = 1
            yield images, rows, linear.vjp(unit)[:, :len(chosen)]


def jacobian(net: Denoiser, x: torch.Tensor, sigma: float, class_labels: torch.Tensor | None = None, *,
             layout: Layout = DEFAULT_LAYOUT) -> torch.Tensor:
    """The Jacobians at images x [P, C, H, W] of one noise level, float32 [P, dim, dim].

    net: a denoiser whose outputs depend on their own input alone. class_labels: [P, label_dim] or None.
    """
    dim = x[0].numel()
    whole = torch.empty([len(x), dim, dim], device=x.device)
    for images, rows, block in jacobian_rows(net, x, sigma, class_labels, layout=layout):
        whole[images, rows] = block
    return whole


def exact_energies(net: Denoiser, x: torch.Tensor, sigma: float, class_labels: torch.Tensor | None = None, *,
                   layout: Layout = DEFAULT_LAYOUT) -> torch.Tensor:
    """Squared singular values of the Jacobians at images x [P, C, H, W], descending, float64 [P, dim].

    They are the eigenvalues of J^T J: three times as fast as singular values of J, and as exact, since J's
    float32 moves each of them by 1e-8 to 1e-7 times the largest already.
    """
    if is_closed_form(net):
        values = torch.linalg.svdvals(net.jacobian(x, sigma, class_labels))
        check_finite(values, sigma, 'Jacobian')
        return values.square()
    parts = [torch.linalg.eigvalsh(gram).flip(-1).clamp(min=0)
             for gram in gram_matrices(net, x, sigma, class_labels, layout=layout)]
    return torch.cat(parts)


def leading_vectors(net: Denoiser, x: torch.Tensor, sigma: float, class_labels: torch.Tensor | None = None, *,
                    count: int, layout: Layout = DEFAULT_LAYOUT) -> tuple[torch.Tensor, torch.Tensor]:
    """Squared singular values of the Jacobians at images x [P, C, H, W], and the leading right vectors.

    Returns float64 [P, dim], descending, and [P, count, dim], of length 1, the largest entry positive.
    These are the directions of x that the denoiser keeps most of (Kadkhodaie et al. 2024, arXiv 2310.02557).
    """
    grams = gram_matrices(net, x, sigma, class_labels, layout=layout)
    found = [torch.linalg.eigh(gram) for gram in grams]
    energies = torch.cat([values for values, _ in found]).flip(-1).clamp(min=0)
    vectors = torch.cat([columns for _, columns in found]).mT.flip(-2)[:, :count]
    return energies, vectors * vectors.gather(-1, vectors.abs().argmax(-1, keepdim=True)).sign()


def gram_matrices(net: Denoiser, x: torch.Tensor, sigma: float, class_labels: torch.Tensor | None = None, *,
                  layout: Layout = DEFAULT_LAYOUT) -> Iterator[torch.Tensor]:
    """J^T J of the Jacobians at images x [P, C, H, W], float64 [images, dim, dim], some images at a time.

    Summed in float64 block by block, so that J itself is never held.
    """
    dim, device = x[0].numel(), x.device if widest_float(x.device) == torch.float64 else torch.device('cpu')
    if is_closed_form(net):
        blocks = [(slice(0, len(x)), slice(0, dim), net.jacobian(x, sigma, class_labels))]
    else:
        blocks = jacobian_rows(net, x, sigma, class_labels, layout=layout)
    for _, rows, block in blocks:
        if rows.start == 0:
            gram = torch.zeros([len(block), dim, dim], dtype=torch.float64, device=device)
        block = block.to(device, torch.float64)
        gram.baddbmm_(block.mT, block)
        if rows.stop == dim:
            check_finite(gram, sigma, 'Jacobian\'s Gram matrix')
            yield gram


def choose_layout(net: Denoiser, x: torch.Tensor, sigma: float, class_labels: torch.Tensor | None = None, *,
                  batch: int | None = None) -> Layout:
    """The fastest layout here for rows of J, by timing a few backward passes.

    x: one image [1, C, H, W]. batch: None tries 16, 64 and 256, within a few seconds and the memory.
    The network's weights stay in the memory format that was tried last.
    """
    formats = [torch.contiguous_format]
    if isinstance(net, torch.nn.Module) and x.shape[-1] >= _LEAST_RESOLUTION:
        formats.append(torch.channels_last)
    if is_closed_form(net):
        return Layout(batch=batch or DEFAULT_LAYOUT.batch)
    best, best_time, began = Layout(batch=batch or 16), math.inf, time.perf_counter()
    for size in [batch] if batch else [16, 64, 256]:
        for memory_format in formats:
            layout = Layout(batch=size, memory_format=memory_format)
            try:
                taken = _seconds_per_row(net, x, sigma, class_labels, layout)
            except torch.OutOfMemoryError:
                return best
            if taken < best_time:
                best, best_time = layout, taken
        if time.perf_counter() > began + _MEASURING:
            break
    return best


def _seconds_per_row(net, x, sigma, class_labels, layout: Layout) -> float:
    set_memory_format(net, layout.memory_format)
    linear = Linearization(net, x, sigma, class_labels, width=min(layout.batch, x.numel()),
                           memory_format=layout.memory_format)
    rows = torch.zeros(linear.shape, device=x.device)
    times = []
    while len(times) < 2 or (len(times) < 5 and sum(times) < _MEASURING / 20):
        start = time.perf_counter()
        linear.vjp(rows)[0, 0, 0].item()  # waits for a GPU, too
        times.append(time.perf_counter() - start)
    return min(times) / linear.shape[1]


def set_memory_format(net: Denoiser, memory_format: torch.memory_format) -> None:
    """Set the memory format of a network's weights, if the denoiser is a network."""
    if isinstance(net, torch.nn.Module):
        net.to(memory_format=memory_format)
