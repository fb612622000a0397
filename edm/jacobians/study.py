"""Numerical ranks of the Jacobian over seeds and noise levels, on one or several processes."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from tqdm import tqdm

from jacobians.products import (
    DEFAULT_LAYOUT,
    ETA,
    Layout,
    choose_layout,
    exact_energies,
    is_closed_form,
    leading_vectors,
    numerical_rank,
    set_memory_format,
)
from jacobians.randomized import TOLERANCE, Estimate, block_width, randomized_ranks
from jacobians.rank_file import Ranks
from sampling.denoiser import Denoiser
from sampling.points import Points
from torch_utils import distributed
from torch_utils.errors import UserError

_SAVE_SECONDS = 10


@dataclass(frozen=True, kw_only=True)
class Method:
    """How to find ranks: a name in METHODS, eta, and for randomized ones the tolerance (share of dim)."""

    name: str = 'auto'
    eta: float = ETA
    tolerance: float = TOLERANCE


def check_memory(dim: int, device: torch.device, method: Method, *, vectors: bool = False) -> Method:
    """The method, or randomized for `auto` without the memory for a dense Jacobian.

    vectors: whether singular vectors are wanted, which take one.
    Raises UserError if `exact` or vectors need more memory than there is.
    """
    need = 2 * 8 * dim**2  # J^T J, and the copy that its eigenvalues take
    have = distributed.total_memory(device)
    if need <= have or method.name == 'randomized':
        return method
    if method.name == 'exact' or vectors:
        option = '--save_vectors' if vectors else '--method exact'
        raise UserError(f'{option}: the Jacobian is {dim} x {dim} and takes {need / 2**30:.0f} GiB, '
                        f'{have / 2**30:.0f} GiB are here; --method randomized'
                        f'{" without it" * vectors} needs far less')
    return replace(method, name='randomized')


def find_ranks(net: Denoiser, x: torch.Tensor, sigma: float, class_labels: torch.Tensor | None = None, *,
               seeds: Sequence[int], method: Method, layout: Layout = DEFAULT_LAYOUT) -> list[Estimate]:
    """Ranks of the Jacobians of a denoiser at images x [P, C, H, W] of one noise level.

    class_labels: [P, label_dim] or None. seeds: P integers for the draws of the randomized method.
    `auto` is randomized, and exact for images whose rank proves to be high, if a batch holds a whole
    Jacobian, or if the denoiser has it in closed form.
    """
    found = [None] * len(x)
    randomized = method.name == 'randomized' or (method.name == 'auto' and x[0].numel() > layout.batch)
    if randomized and not is_closed_form(net):
        found = randomized_ranks(net, x, sigma, class_labels, seeds=seeds, eta=method.eta, layout=layout,
                                 tolerance=method.tolerance, give_up=method.name == 'auto')
    rest = [i for i, estimate in enumerate(found) if estimate is None]
    if rest:
        labels = None if class_labels is None else class_labels[rest]
        exact = exact_energies(net, x[rest], sigma, labels, layout=layout).cpu()
        for i, energies in zip(rest, exact, strict=True):
            found[i] = _exact(energies, method.eta)
    return found


def fill(ranks: Ranks, net: Denoiser, points: Callable[[list[int]], Points], *, method: Method,
         batch: int | None, save: Callable[[], None]) -> Iterator[list[tuple[int, int]]]:
    """Find the missing ranks, with the seeds split over all processes; fills rank 0's table.

    points: makes the noisy images of some seeds. batch: the most rows of a Jacobian at once, None to choose.
    save: called on rank 0 every few seconds, at the end, and when interrupted.
    Yields on rank 0 lists of the rows and columns that were filled; elsewhere empty lists.
    """
    leads, layout = distributed.rank() == 0, DEFAULT_LAYOUT
    if leads and (ranks.rank < 0).any():
        first = points(ranks.seed[:1].tolist())
        layout = choose_layout(net, first.x[:, 0], float(ranks.sigma[0]), first.class_labels, batch=batch)
    layout = distributed.from_rank0(layout)
    set_memory_format(net, layout.memory_format)
    together = max(1, layout.batch // block_width(ranks.dim, layout.batch))
    plans = [_plan(ranks, together, process) for process in range(distributed.world_size())]
    own = _work(ranks, net, points, plans[distributed.rank()], method, layout)
    saved = time.monotonic()
    progress = tqdm(total=int((ranks.rank < 0).sum()), unit='rank', disable=not leads)
    try:
        for _ in range(max(map(len, plans))):
            results = [result for part in distributed.gather(next(own, [])) for result in part]
            for result in results if leads else ():
                _enter(ranks, *result)
            progress.update(len(results))
            yield [result[:2] for result in results] if leads else []
            if leads and time.monotonic() > saved + _SAVE_SECONDS:
                save()
                saved = time.monotonic()
    finally:
        progress.close()
        if leads:
            save()


def _plan(ranks: Ranks, together: int, process: int) -> list[tuple[list[int], list[int], int]]:
    """The steps of a process: the rows of a group, those of them that miss a rank, the column."""
    rows = [row for row in range(len(ranks.seed)) if (ranks.rank[row] < 0).any()]
    own = rows[process::distributed.world_size()]
    groups = [own[start:start + together] for start in range(0, len(own), together)]
    steps = [(group, [row for row in group if ranks.rank[row, column] < 0], column)
             for group in groups for column in range(len(ranks.sigma))]
    return [step for step in steps if step[1]]


def _work(ranks: Ranks, net, points, plan, method: Method, layout: Layout) -> Iterator[list[tuple]]:
    """The results of each step: row, column, class (-1: none or a vector), estimate, `_leading` or None."""
    current, made = None, None
    for group, missing, column in plan:
        if group != current:
            current, made = group, points(ranks.seed[group].tolist())
        places = [group.index(row) for row in missing]
        labels, classes = None, [-1] * len(missing)
        if made.class_labels is not None:
            labels = made.class_labels[places]
            one_hot = ((labels == 1).sum(dim=1) == 1) & ((labels != 0).sum(dim=1) == 1)
            classes = labels.argmax(dim=1).where(one_hot, -1).tolist()
        x, sigma, leading = made.x[places, column], float(ranks.sigma[column]), [None] * len(missing)
        known = int(ranks.vectors is not None and missing[0] == 0)
        found = []
        if known:
            estimate, leading[0] = _leading(net, x[:1], sigma, None if labels is None else labels[:1],
                                            ranks.vectors.shape[1], method.eta, layout)
            found.append(estimate)
        if len(missing) > known:
            found += find_ranks(net, x[known:], sigma, None if labels is None else labels[known:],
                                seeds=ranks.seed[missing[known:]].tolist(), method=method, layout=layout)
        yield list(zip(missing, [column] * len(missing), classes, found, leading, strict=True))


def _exact(energies: torch.Tensor, eta: float) -> Estimate:
    """The rank by all squared singular values [dim]."""
    rank = int(numerical_rank(energies, eta))
    return Estimate(rank=rank, low=rank, high=rank, energies=energies)


def _leading(net, x: torch.Tensor, sigma: float, labels, count: int, eta: float, layout: Layout,
             ) -> tuple[Estimate, dict[str, np.ndarray]]:
    """The rank at one image x [1, C, H, W], and what else the file holds there; see `rank_file`."""
    energies, vectors = leading_vectors(net, x, sigma, labels, count=count, layout=layout)
    with torch.no_grad():
        denoised = net(x.to(torch.float32), torch.tensor(sigma, device=x.device), labels)
    return _exact(energies[0].cpu(), eta), {
        'denoised': denoised[0].cpu().numpy(), 'vector_values': energies[0, :count].sqrt().cpu().numpy(),
        'vectors': vectors[0].reshape(count, *x.shape[1:]).cpu().numpy()}


def _enter(ranks: Ranks, row: int, column: int, class_label: int, found: Estimate,
           leading: dict[str, np.ndarray] | None) -> None:
    ranks.class_label[row] = class_label
    ranks.rank[row, column] = found.rank
    ranks.rank_low[row, column], ranks.rank_high[row, column] = found.low, found.high
    if ranks.singular_values is not None:
        ranks.singular_values[row, column, :len(found.energies)] = found.energies.sqrt().numpy()
    for name, array in (leading or {}).items():
        getattr(ranks, name)[column] = array
