"""Reproducibility, memorization and generalization of samples, from the descriptors of images.

The scores of "The Emergence of Reproducibility and Consistency in Diffusion Models", arXiv 2310.05264,
section 3. A similarity is the inner product of two descriptors, summed in float64; "above" a threshold is
strictly above.
"""

import json
import math
import os
import zipfile
import zlib
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch

from torch_utils import provenance
from torch_utils.errors import UserError
from torch_utils.files import atomic_write

_BLOCK = 2048  # rows of source and of target at a time: 32 MiB of similarities
_Z95 = 1.959963984540054  # the standard normal's 97.5 % point


# Similarities

def pair_similarities(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Inner product of row i with row i, float64 [N], of float [N, D] and [N, D]."""
    if source.ndim != 2 or source.shape != target.shape:
        raise ValueError('pairs need two arrays [N, D] of one shape, got '
                         f'{list(source.shape)} and {list(target.shape)}')
    similarities = np.empty(len(source))
    for start in range(0, len(source), _BLOCK):
        rows = slice(start, start + _BLOCK)
        np.einsum('nd,nd->n', source[rows], target[rows], dtype=np.float64, out=similarities[rows])
    return similarities


def nearest_neighbors(source: np.ndarray, target: np.ndarray, device: torch.device | str = 'cpu',
                      ) -> tuple[np.ndarray, np.ndarray]:
    """For each row of `source` its largest inner product with a row of `target`, and which row that is.

    source: float [N, D]. target: float [M, D], M at least 1. Memory grows with N + M, not with N * M.
    device: where to multiply, in float64; MPS has none, so the CPU stands in for it.
    Returns similarities float64 [N] and indices int64 [N]; of equal similarities, the first index.
    """
    if source.ndim != 2 or target.ndim != 2 or source.shape[1] != target.shape[1] or len(target) == 0:
        raise ValueError('neighbors need arrays [N, D] and [M, D] with M at least 1, got '
                         f'{list(source.shape)} and {list(target.shape)}')
    device = torch.device('cpu' if torch.device(device).type == 'mps' else device)
    best = torch.full((len(source),), -torch.inf, dtype=torch.float64, device=device)
    index = torch.zeros(len(source), dtype=torch.int64, device=device)
    for row in range(0, len(source), _BLOCK):
        rows = slice(row, row + _BLOCK)
        queries = torch.tensor(source[rows], dtype=torch.float64, device=device)
        for column in range(0, len(target), _BLOCK):
            keys = torch.tensor(target[column:column + _BLOCK], dtype=torch.float64, device=device)
            value, place = (queries @ keys.T).max(dim=1)
            better = value > best[rows]
            best[rows] = torch.where(better, value, best[rows])
            index[rows] = torch.where(better, place + column, index[rows])
    return best.cpu().numpy(), index.cpu().numpy()


# Scores

@dataclass(frozen=True)
class Share:
    """`count` of `total` as a share, with its Wilson 95 % interval low..high."""

    count: int
    total: int
    value: float = field(init=False)
    low: float = field(init=False)
    high: float = field(init=False)

    def __post_init__(self):
        low, high = wilson_interval(self.count, self.total)
        for name, number in (('value', self.count / self.total), ('low', low), ('high', high)):
            object.__setattr__(self, name, number)

    @classmethod
    def above(cls, similarities: np.ndarray, threshold: float) -> 'Share':
        """The share of similarities strictly above the threshold."""
        return cls(int(np.count_nonzero(similarities > threshold)), len(similarities))

    def rest(self) -> 'Share':
        """The share of the others."""
        return Share(self.total - self.count, self.total)

    def as_dict(self) -> dict:
        """value, low, high, count and total, for JSON."""
        return asdict(self)


def rp_score(source: np.ndarray, target: np.ndarray, threshold: float) -> float:
    """Reproducibility: the share of rows i where source[i] and target[i] are more alike than the threshold.

    source, target: float [N, D], samples of two models from the same noises. Higher: more alike.
    """
    return Share.above(pair_similarities(source, target), threshold).value


def memorized_fraction(source: np.ndarray, target: np.ndarray, threshold: float) -> float:
    """The share of rows of `source` whose most similar row of `target` is above the threshold.

    source: float [N, D], samples; target: float [M, D], training images. Higher: more memorized.
    """
    return Share.above(nearest_neighbors(source, target)[0], threshold).value


def generalization_score(source: np.ndarray, target: np.ndarray, threshold: float) -> float:
    """Paper 1's GL score, 1 - memorized fraction: higher means that more samples are new."""
    return 1 - memorized_fraction(source, target, threshold)


def wilson_interval(successes: int, total: int) -> tuple[float, float]:
    """95 % interval of a share, successes out of total (Wilson 1927, without continuity correction)."""
    if not 0 <= successes <= total or total < 1:
        raise ValueError(f'expected 0 <= successes <= total and total >= 1, got {successes} of {total}')
    share, weight = successes / total, _Z95 ** 2 / total
    center = (share + weight / 2) / (1 + weight)
    half = math.sqrt(share * (1 - share) * weight + weight ** 2 / 4) / (1 + weight)
    low = 0.0 if successes == 0 else center - half  # what the formula gives but for rounding
    high = 1.0 if successes == total else center + half
    return low, high


# Files of descriptors

@dataclass(frozen=True, kw_only=True)
class Features:
    """Descriptors of images, and what is known about them.

    values: float32 [N, D]. file_names: one per row, or None. descriptor: its name ('pixel'), or None.
    provenance: what made them; empty if unknown.
    """

    values: np.ndarray
    file_names: list[str] | None = None
    descriptor: str | None = None
    provenance: dict = field(default_factory=dict)


def save_features(path: str | os.PathLike, values: np.ndarray, *, file_names: list[str], descriptor: str,
                  images: str) -> None:
    """Write an `.npz` with `features` float32 [N, D], `file_names`, `descriptor`, `provenance` (JSON text).

    images: where the images came from, for the provenance.
    """
    made_by = json.dumps({**provenance.record(), 'images': images})
    with atomic_write(path) as file:
        np.savez(file, features=values, file_names=np.array(file_names, dtype=np.str_),
                 descriptor=np.array(descriptor), provenance=np.array(made_by))


def load_features(path: str | os.PathLike, option: str) -> Features:
    """Read an `.npz` with an array `features`, float [N, D]; those of other software may have only that.

    Raises UserError naming `option` and the file if it is missing or damaged, or has no such array, or one
    that is empty or not finite.
    """
    where = f'{option} {path}'
    arrays = _read_arrays(Path(path), where)
    if 'features' not in arrays:
        raise UserError(f'{where}: expected an array `features`, found {", ".join(arrays) or "nothing"}')
    values = arrays['features']
    if values.dtype.kind != 'f' or values.ndim != 2 or 0 in values.shape:
        raise UserError(f'{where}: `features` is {values.dtype} {list(values.shape)}, expected floats [N, D]')
    with np.errstate(over='ignore'):
        values = values.astype(np.float32, copy=False)
    wrong = np.flatnonzero(~np.isfinite(values).all(axis=1))
    if len(wrong):
        raise UserError(f'{where}: `features` has numbers that are not finite, first in row {wrong[0]}')
    file_names = arrays.get('file_names')
    if file_names is not None and (file_names.dtype.kind != 'U' or file_names.shape != values.shape[:1]):
        raise UserError(f'{where}: `file_names` is {file_names.dtype} {list(file_names.shape)}, expected '
                        f'{len(values)} strings')
    return Features(values=values, file_names=None if file_names is None else file_names.tolist(),
                    descriptor=_text(arrays, 'descriptor'), provenance=_provenance(arrays, where))


def load_pair(source: str | os.PathLike, target: str | os.PathLike, *, rows_match: bool,
              ) -> tuple[Features, Features]:
    """The features of `--source` and `--target`, which must be made by the same descriptor.

    rows_match: whether they must have equally many rows, row i of one belonging to row i of the other.
    Raises UserError as `load_features`, and if the two don't fit together.
    """
    first, second = load_features(source, '--source'), load_features(target, '--target')
    pair = f'--source {source} and --target {target}'
    if first.descriptor and second.descriptor and first.descriptor != second.descriptor:
        raise UserError(f'{pair}: the descriptors differ, {first.descriptor} and {second.descriptor}')
    if first.values.shape[1] != second.values.shape[1]:
        raise UserError(f'{pair}: rows of {first.values.shape[1]} and of {second.values.shape[1]} numbers '
                        'can\'t be compared; make both from images of one size with one descriptor')
    if rows_match and len(first.values) != len(second.values):
        raise UserError(f'{pair}: {len(first.values)} and {len(second.values)} rows; row i is compared with '
                        'row i, so both need the same number')
    return first, second


def _read_arrays(path: Path, where: str) -> dict[str, np.ndarray]:
    if not path.is_file():
        raise UserError(f'{where}: no such file')
    try:
        with open(path, 'rb') as file, np.load(file, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except (ValueError, EOFError, AttributeError, TypeError, RuntimeError, OSError, zipfile.BadZipFile,
            zlib.error) as err:
        raise UserError(f'{where}: not a readable .npz file of plain arrays') from err


def _text(arrays: dict[str, np.ndarray], name: str) -> str | None:
    value = arrays.get(name)
    return str(value) if value is not None and value.dtype.kind == 'U' and value.ndim == 0 else None


def _provenance(arrays: dict[str, np.ndarray], where: str) -> dict:
    text = _text(arrays, 'provenance')
    try:
        made_by = {} if text is None else json.loads(text)
    except ValueError as err:
        raise UserError(f'{where}: `provenance` is not JSON') from err
    return made_by if isinstance(made_by, dict) else {}
