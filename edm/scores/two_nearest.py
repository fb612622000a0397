"""The two training images nearest to each sample, by the Euclidean distance of raw descriptors."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from scores.copy_scores import at_least, error_of_float32, maxima_of_groups, pair_distances
from torch_utils.errors import UserError

if TYPE_CHECKING:
    import torch

_BLOCK = 2048  # rows of source and of target at a time: 16 MiB of products


def two_nearest(source: np.ndarray, target: np.ndarray, device='cpu') -> tuple[np.ndarray, np.ndarray]:
    """Of each row of `source`, the distances from the two nearest rows of `target`, and their indices.

    source: float32 [N, D]. target: float32 [M, D]. Memory grows with N + M, not with N * M.
    device: computes x.t - |t|^2 / 2, which falls with the distance, in float32; among the rows that its error
    leaves, distances from differences decide, summed in float64: exact for pixels.
    Returns float64 [N, 2] and int64 [N, 2], the nearest first; of equal distances, the first index. They
    differ, so of two equal training images both are found.
    Raises UserError if `target` has less than two rows.
    """
    import torch

    if len(target) < 2:
        raise UserError('the ratio to the second nearest training image needs at least 2 of them, found '
                        f'{len(target)}')
    distance, index = np.empty((len(source), 2)), np.empty((len(source), 2), dtype=np.int64)
    some = target[::-(-len(target) // _BLOCK)]
    center = some.mean(axis=0, dtype=np.float64).astype(np.float32)  # near which rounding is least
    torch.backends.cuda.matmul.allow_tf32 = False  # else the bound of the error would not hold
    for start in range(0, len(source), _BLOCK):
        rows = slice(start, start + _BLOCK)
        row, column = _candidates(source[rows], target, center, device)
        distance[rows], index[rows] = _nearer(source[rows], target, row, column)
    return distance, index


def _candidates(source: np.ndarray, target: np.ndarray, center: np.ndarray,
                device) -> tuple[np.ndarray, np.ndarray]:
    """Pairs (row, column) that may be among the two nearest."""
    import torch

    middle = torch.from_numpy(center).to(device)
    x = torch.from_numpy(source).to(device) - middle
    lengths, longest = x.norm(dim=1), 0.0
    best = torch.full((len(x), 2), -torch.inf, device=device)  # a bound of the two largest products so far
    buffer, found = torch.empty(len(x) * min(_BLOCK, len(target)), device=device), []
    for start in range(0, len(target), _BLOCK):
        keys = target[start:start + _BLOCK]
        t = torch.from_numpy(keys).to(device) - middle
        squares = t.norm(dim=1).square()
        longest = max(longest, float(squares.max()))
        slack = 2.1 * error_of_float32(x.shape[1] + 4) * (lengths * longest ** 0.5 + longest)
        product = torch.addmm(squares / -2, x, t.T, out=buffer[:len(x) * len(t)].view(len(x), -1))
        row, place, value = _largest(product, best, slack)
        if len(row) > len(x) * len(keys) // 50:  # images are all alike, or the first block is one group
            row, place = map(torch.from_numpy, _first_two(source - center, keys - center))
            value = torch.full(row.shape, torch.inf)
        found.append((row.cpu(), place.cpu() + start, value.cpu()))
    row, column, value = map(torch.cat, zip(*found, strict=True))
    close = value >= (best[:, 1] - slack).cpu()[row]
    return row[close].numpy(), column[close].numpy()


def _largest(product: torch.Tensor, best: torch.Tensor,
             slack: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Rows, columns and values of products that are at most `slack` below the second largest of their row.

    best: a lower bound of the two largest products so far, [rows, 2], updated in place.
    """
    import torch

    groups, maxima = maxima_of_groups(product)
    both = torch.cat([best, maxima], dim=1)
    best[:, :1], place = both.max(dim=1, keepdim=True)  # far faster than topk
    best[:, 1] = both.scatter_(1, place, -torch.inf).amax(dim=1)
    return at_least(groups, maxima, best[:, 1] - slack)


def _first_two(x: np.ndarray, t: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For all rows the first two nearest columns, up to rounding in float64."""
    x, t = x.astype(np.float64), t.astype(np.float64)
    squares = np.einsum('nd,nd->n', t, t)
    product = x @ t.T - squares / 2
    slack = 4 * (t.shape[1] + 2) * 2.0 ** -53 * (np.sqrt(np.einsum('nd,nd->n', x, x).max() * squares.max())
                                                 + squares.max())
    rows, places = np.arange(len(x)), []
    for _ in range(min(2, len(t))):
        places.append((product >= product.max(axis=1, keepdims=True) - slack).argmax(axis=1))
        product[rows, places[-1]] = -np.inf
    return np.repeat(rows, len(places)), np.stack(places, axis=1).ravel()


def _nearer(source: np.ndarray, target: np.ndarray, row: np.ndarray,
            column: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Distances and columns, [rows of source, 2], of the two nearest of the pairs (row, column)."""
    distance = pair_distances(source, target, row, column)
    order = np.lexsort((column, distance, row))
    first = np.searchsorted(row[order], np.arange(len(source)))
    both = order[np.stack([first, first + 1], axis=1)]
    return distance[both], column[both]
