"""Numerical ranks of the Jacobian over seeds and noise levels, on one or several processes."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from tqdm import tqdm

from jacobians.points import Points
from jacobians.products import (
    DEFAULT_LAYOUT,
    ETA,
    Layout,
    choose_layout,
    exact_bytes,
    exact_energies,
    numerical_rank,
    set_memory_format,
)
from jacobians.randomized import TOLERANCE, block_width, randomized_ranks
from jacobians.rank_file import Ranks
from sampling.denoiser import Denoiser
from torch_utils import distributed
from torch_utils.errors import UserError

_SAVE_SECONDS = 10


@dataclass(frozen=True, kw_only=True)
class Method:
    """How ranks are found: a name in METHODS, eta, and for randomized ones the tolerance (share of dim)."""

    name: str = 'auto'
    eta: float = ETA
    tolerance: float = TOLERANCE


AUTO = Method()


@dataclass(frozen=True, kw_only=True)
class Found:
    """The rank of one Jacobian with its bounds, and the singular values that were found, descending."""

    rank: int
    low: int
    high: int
    singular_values: np.ndarray


def check_memory(dim: int, device: torch.device, method: Method) -> Method:
    """The method, or, where `auto` could not fall back to a dense Jacobian, randomized.

    Raises UserError if `exact` needs more memory than there is.
    """
    need = exact_bytes(dim)
    have = distributed.total_memory(device)
    if need <= have or method.name == 'randomized':
        return method
    if method.name == 'exact':
        raise UserError(f'--method exact: the Jacobian is {dim} x {dim} and takes {need / 2**30:.0f} GiB, '
                        f'{have / 2**30:.0f} GiB are here; --method randomized needs far less')
    return replace(method, name='randomized')


def find_ranks(net: Denoiser, x: torch.Tensor, sigma: float, class_labels: torch.Tensor | None = None, *,
               seeds: Sequence[int], method: Method = AUTO, layout: Layout = DEFAULT_LAYOUT) -> list[Found]:
    """Ranks of the Jacobians of a denoiser at images x [P, C, H, W] of one noise level.

    class_labels: [P, label_dim] or None. seeds: P integers for the draws of the randomized method.
    `auto` starts randomized and turns to exact for those images whose rank proves to be high, or at once if a
    batch holds a whole Jacobian.
    """
    found = [None] * len(x)
    if method.name == 'randomized' or (method.name == 'auto' and x[0].numel() > layout.batch):
        estimates = randomized_ranks(net, x, sigma, class_labels, seeds=seeds, eta=method.eta, layout=layout,
                                     tolerance=method.tolerance, give_up=method.name == 'auto')
        found = [e and Found(rank=e.rank, low=e.low, high=e.high, singular_values=_roots(e.energies))
                 for e in estimates]
    rest = [i for i, result in enumerate(found) if result is None]
    if rest:
        labels = None if class_labels is None else class_labels[rest]
        for i, energies in zip(rest, exact_energies(net, x[rest], sigma, labels, layout=layout), strict=True):
            rank = int(numerical_rank(energies, method.eta))
            found[i] = Found(rank=rank, low=rank, high=rank, singular_values=_roots(energies))
    return found


def _roots(energies: torch.Tensor) -> np.ndarray:
    return energies.sqrt().cpu().numpy()


def fill(ranks: Ranks, net: Denoiser, points: Callable[[list[int]], Points], *, method: Method,
         batch: int | None, save: Callable[[], None]) -> Iterator[list[tuple[int, int]]]:
    """Find the ranks that are missing, the seeds shared by all processes; rank 0's table fills.

    points: makes the noisy images of some seeds. batch: the most rows of a Jacobian at once, None to choose.
    save: called on rank 0 every few seconds, at the end, and when interrupted.
    Yields on rank 0, as they come, lists of the rows and columns that were filled; elsewhere empty lists.
    """
    layout = DEFAULT_LAYOUT
    if distributed.rank() == 0 and (ranks.rank < 0).any():
        x, sigma, labels = _first_point(ranks, points)
        layout = choose_layout(net, x, sigma, labels, batch=batch)
    layout = distributed.from_rank0(layout)
    set_memory_format(net, layout.memory_format)
    width = block_width(ranks.dim, layout.batch)
    plans = [_plan(ranks, max(1, layout.batch // width), process)
             for process in range(distributed.world_size())]
    own = _work(ranks, net, points, plans[distributed.rank()], method, layout)
    saved = time.monotonic()
    progress = tqdm(total=int((ranks.rank < 0).sum()), unit='rank', disable=distributed.rank() != 0)
    try:
        for _ in range(max(map(len, plans))):
            results = [result for part in distributed.gather(next(own, [])) for result in part]
            for row, column, label, found in results if distributed.rank() == 0 else ():
                _enter(ranks, row, column, label, found)
            progress.update(len(results))
            yield [result[:2] for result in results] if distributed.rank() == 0 else []
            if distributed.rank() == 0 and time.monotonic() > saved + _SAVE_SECONDS:
                save()
                saved = time.monotonic()
    finally:
        progress.close()
        if distributed.rank() == 0:
            save()


def _first_point(ranks: Ranks, points) -> tuple:
    made = points(ranks.seed[:1].tolist())
    return made.x[:, 0], float(ranks.sigma[0]), made.class_labels


def _plan(ranks: Ranks, together: int, process: int) -> list[tuple[list[int], list[int], int]]:
    """What a process does, step by step: the rows of a group, those of them that are missing, the column."""
    rows = [row for row in range(len(ranks.seed)) if (ranks.rank[row] < 0).any()]
    own = rows[process::distributed.world_size()]
    groups = [own[start:start + together] for start in range(0, len(own), together)]
    steps = [(group, [row for row in group if ranks.rank[row, column] < 0], column)
             for group in groups for column in range(len(ranks.sigma))]
    return [step for step in steps if step[1]]


def _work(ranks: Ranks, net, points, plan, method: Method, layout: Layout) -> Iterator[list[tuple]]:
    """The results of each step: row, column, class (-1: none), what was found."""
    current, made = None, None
    for group, missing, column in plan:
        if group != current:
            current, made = group, points(ranks.seed[group].tolist())
        places = [group.index(row) for row in missing]
        labels = None if made.class_labels is None else made.class_labels[places]
        found = find_ranks(net, made.x[places, column], float(ranks.sigma[column]), labels,
                           seeds=ranks.seed[missing].tolist(), method=method, layout=layout)
        classes = _classes(labels, len(missing))
        yield [(row, column, label, result)
               for row, label, result in zip(missing, classes, found, strict=True)]


def _classes(labels: torch.Tensor | None, count: int) -> list[int]:
    """The class of each label, -1 for none and for vectors that are not one-hot."""
    if labels is None:
        return [-1] * count
    one_hot = ((labels == 1).sum(dim=1) == 1) & ((labels != 0).sum(dim=1) == 1)
    return labels.argmax(dim=1).where(one_hot, -1).tolist()


def _enter(ranks: Ranks, row: int, column: int, class_label: int, found: Found) -> None:
    ranks.class_label[row] = class_label
    ranks.rank[row, column] = found.rank
    ranks.rank_low[row, column], ranks.rank_high[row, column] = found.low, found.high
    if ranks.singular_values is not None:
        ranks.singular_values[row, column, :len(found.singular_values)] = found.singular_values
