"""The file of numerical ranks over seeds and noise levels.

An .npz with one row per seed and one column per noise level:
`seed` int64 [N]; `sigma` float64 [L], descending; `dim`, rows of a Jacobian; `eta`;
`rank` int64 [N, L], -1 where it is missing; `rank_low`, `rank_high`, its bounds, equal to it where exact;
`class_label` int64 [N], -1 without classes; with --save_spectrum `singular_values` float32 [N, L, dim],
descending, nan for those that a randomized method did not find; `settings` and `provenance`, JSON texts: what
decides the ranks, and what made the file.
With --save_vectors K also, at the points of the first seed, float32 and nan where missing: `denoised`
[L, C, H, W], D(x; sigma); `vectors` [L, K, C, H, W], the leading right singular vectors of J, of length 1 and
with their largest entry positive; `vector_values` [L, K], their singular values, descending.
"""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from torch_utils.errors import UserError
from torch_utils.files import atomic_write
from torch_utils.npz import open_npz

_ARRAYS = {'seed': 1, 'sigma': 1, 'rank': 2, 'rank_low': 2, 'rank_high': 2, 'class_label': 1}  # -> axes
_VECTORS = ('denoised', 'vectors', 'vector_values')


@dataclass(kw_only=True)
class Ranks:
    """The contents of the file, see above; singular_values is None without --save_spectrum."""

    seed: np.ndarray
    sigma: np.ndarray
    dim: int
    eta: float
    rank: np.ndarray
    rank_low: np.ndarray
    rank_high: np.ndarray
    class_label: np.ndarray
    settings: dict
    singular_values: np.ndarray | None = None
    denoised: np.ndarray | None = None
    vectors: np.ndarray | None = None
    vector_values: np.ndarray | None = None


def new_ranks(seeds: Sequence[int], sigmas: Sequence[float], *, dim: int, eta: float, settings: dict,
              spectrum: bool, vectors: tuple[int, ...] | None = None) -> Ranks:
    """A table without ranks. vectors: (K, C, H, W), None without --save_vectors."""
    shape = (len(seeds), len(sigmas))
    sizes = {} if vectors is None else {
        'denoised': vectors[1:], 'vectors': vectors, 'vector_values': vectors[:1]}
    return Ranks(
        seed=np.array(seeds, dtype=np.int64), sigma=np.array(sigmas, dtype=np.float64), dim=dim, eta=eta,
        rank=np.full(shape, -1), rank_low=np.full(shape, -1), rank_high=np.full(shape, -1),
        class_label=np.full(len(seeds), -1), settings=settings,
        singular_values=np.full((*shape, dim), np.nan, dtype=np.float32) if spectrum else None,
        **{name: np.full((len(sigmas), *size), np.nan, dtype=np.float32) for name, size in sizes.items()})


def save_ranks(path: str | os.PathLike, ranks: Ranks, record: dict) -> None:
    """Write the file, whole or not at all. record: from `provenance.record`."""
    arrays = {name: getattr(ranks, name) for name in _ARRAYS}
    for name in ('singular_values', *_VECTORS):
        if getattr(ranks, name) is not None:
            arrays[name] = getattr(ranks, name)
    with atomic_write(path) as file:
        np.savez(file, **arrays, dim=np.int64(ranks.dim), eta=np.float64(ranks.eta),
                 settings=np.array(json.dumps(ranks.settings)), provenance=np.array(json.dumps(record)))


def load_ranks(path: str | os.PathLike, option: str = '--ranks') -> Ranks:
    """Read the file. Raises UserError naming `option` if it is of another kind or damaged."""
    where = f'{option} {path}'
    if not Path(path).is_file():
        raise UserError(f'{where}: no such file')
    with open_npz(path, where) as file:
        arrays = dict(file)
    lacking = [name for name in (*_ARRAYS, 'dim', 'eta', 'settings') if name not in arrays]
    if lacking:
        raise UserError(f'{where}: expected a file of jacobian.py, found no array {lacking[0]}')
    try:
        ranks = Ranks(**{name: arrays[name] for name in _ARRAYS}, dim=int(arrays['dim']),
                      eta=float(arrays['eta']), settings=json.loads(str(arrays['settings'])),
                      **{name: arrays.get(name) for name in ('singular_values', *_VECTORS)})
        _check(ranks)
    except (ValueError, TypeError) as err:
        raise UserError(f'{where}: {err}') from err
    return ranks


def _check(ranks: Ranks) -> None:
    """Raise ValueError if the arrays contradict each other."""
    if not isinstance(ranks.settings, dict):
        raise ValueError('settings is no JSON object')
    n, levels = len(ranks.seed), len(ranks.sigma)
    shapes = {'seed': (n,), 'sigma': (levels,), 'class_label': (n,),
              **dict.fromkeys(('rank', 'rank_low', 'rank_high'), (n, levels))}
    for name, shape in shapes.items():
        array = getattr(ranks, name)
        if array.shape != shape or array.dtype.kind not in ('f' if name == 'sigma' else 'i'):
            raise ValueError(f'{name} is {array.dtype} {list(array.shape)}, expected {list(shape)}')
    if n == 0 or levels == 0:
        raise ValueError('it holds no ranks')
    if not ((ranks.sigma > 0) & (ranks.sigma < np.inf)).all():
        raise ValueError('sigma must be positive numbers')
    if not ((ranks.rank >= -1) & (ranks.rank <= ranks.dim)).all():
        raise ValueError(f'rank must lie within 0 and dim = {ranks.dim}, or be -1 for unknown')
    spectrum = ranks.singular_values
    if spectrum is not None and spectrum.shape != (n, levels, ranks.dim):
        raise ValueError(f'singular_values is {list(spectrum.shape)}, expected {[n, levels, ranks.dim]}')
    if any(getattr(ranks, name) is not None for name in _VECTORS):
        _check_vectors(ranks)


def _check_vectors(ranks: Ranks) -> None:
    shape = np.shape(ranks.vectors)
    if len(shape) != 5 or shape[0] != len(ranks.sigma) or np.prod(shape[2:]) != ranks.dim:
        raise ValueError(f'vectors is {list(shape)}, expected one of [{len(ranks.sigma)}, K, C, H, W] with '
                         f'{ranks.dim} values in an image')
    for name, expected in (('denoised', shape[:1] + shape[2:]), ('vector_values', shape[:2])):
        if np.shape(getattr(ranks, name)) != expected:
            raise ValueError(f'{name} is {list(np.shape(getattr(ranks, name)))}, expected {list(expected)}')


def resume_ranks(path: str | os.PathLike, fresh: Ranks) -> Ranks:
    """`fresh`, with the ranks of an earlier run of the same settings in the file, if it exists.

    Raises UserError if the file is of another kind, was made with other settings, or has seeds that `fresh`
    lacks.
    """
    if not Path(path).exists():
        return fresh
    old = load_ranks(path, '--out')
    ours = json.loads(json.dumps(fresh.settings))
    for name in {**ours, **old.settings}:
        if old.settings.get(name) != ours.get(name):
            raise UserError(f'--out {path}: was made with other settings ({name}: {old.settings.get(name)} '
                            f'there, {ours.get(name)} now); give another file or remove this one')
    place = {seed: row for row, seed in enumerate(fresh.seed.tolist())}
    extra = [seed for seed in old.seed.tolist() if seed not in place]
    if extra:
        raise UserError(f'--out {path}: has ranks of seed {extra[0]}, which --seeds lacks')
    rows = [place[seed] for seed in old.seed.tolist()]
    for name in ('rank', 'rank_low', 'rank_high', 'class_label', 'singular_values'):
        if getattr(fresh, name) is not None:
            getattr(fresh, name)[rows] = getattr(old, name)
    for name in _VECTORS:  # of the same first seed, by the settings
        if getattr(fresh, name) is not None:
            setattr(fresh, name, getattr(old, name))
    return fresh
