"""Softmax-weighted sums over a data set in parts: by chunks, threads and processes."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import NamedTuple

import torch

SMALLEST = -60.0  # exponent of a weight that counts as 0; float32 is slow from -88 on, and where sums cancel


class Sums(NamedTuple):
    """The softmax over some of the images, for any number of samples (...), in float64.

    top: the highest score [..., 1], or one near it. total: the sum of the weights [..., 1], that of a score
    as high as the top being 1. weighted: the sum of the images, or of parts of them, with these weights
    [..., D].
    """

    top: torch.Tensor
    total: torch.Tensor
    weighted: torch.Tensor


def merge(parts: Sequence[Sums], variance: torch.Tensor | float) -> Sums:
    """The sums over the images of all parts; weights are exp(score / variance)."""
    if len(parts) == 1:
        return parts[0]
    top = torch.stack([part.top for part in parts]).amax(dim=0)
    total, weighted = torch.zeros_like(parts[0].total), torch.zeros_like(parts[0].weighted)
    for part in parts:
        shrink = ((part.top - top) / variance).exp()
        total.addcmul_(shrink, part.total)
        weighted.addcmul_(shrink, part.weighted)
    return Sums(top, total, weighted)


def merge_processes(own: Sums, variance: torch.Tensor | float) -> Sums:
    """The sums over the images of all processes."""
    top = own.top.clone()
    torch.distributed.all_reduce(top, torch.distributed.ReduceOp.MAX)
    both = torch.cat([own.total, own.weighted], dim=-1) * ((own.top - top) / variance).exp()
    torch.distributed.all_reduce(both)
    return Sums(top, both[..., :1], both[..., 1:])


def by_threads(function: Callable, rows: tuple[int, int], count: int) -> list:
    """What `function` returns for each of at most `count` consecutive parts of `rows`, of images or samples.

    It is called with a part (start, stop), for all parts at a time.
    """
    parts = _split(*rows, count)
    if len(parts) == 1:
        return [function(parts[0])]
    threads = torch.get_num_threads()  # set again in each, for in new threads OpenMP starts with all cores
    with ThreadPoolExecutor(len(parts), initializer=torch.set_num_threads, initargs=(threads,)) as pool:
        return list(pool.map(function, parts))


def _split(start: int, stop: int, count: int) -> list[tuple[int, int]]:
    """`count` consecutive ranges of nearly equal length, without empty ones, but at least one range."""
    ends = [start + (stop - start) * i // count for i in range(count + 1)]
    return [part for part in pairwise(ends) if part[0] < part[1]] or [(start, stop)]
