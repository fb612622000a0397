"""Files of descriptors: `.npz` with an array `features`, float32 [N, D], and the provenance of its rows."""

import json
import os
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from torch_utils.errors import UserError, shown
from torch_utils.files import atomic_write
from torch_utils.npz import open_npz

LENGTHS = ('unit', 'raw')  # of rows
_UNIT = 1e-3  # how far from 1 the length of a descriptor may be; half-precision networks reach 5e-4
_LARGEST = 1e15  # of raw numbers: squares of more, summed, are beyond float32
_BLOCK = 4096  # rows at a time in float64
_EXPECTED = ('expected features as sscd.py feature writes them, or as NumPy does: numpy.savez(FILE, '
             'features=...) of floats [N, D], with file_names=... of N strings (dtype=str) if known')


@dataclass(frozen=True, kw_only=True)
class Features:
    """Descriptors of images, with their provenance.

    values: float32 [N, D]. length: 'unit' if all rows have length 1 (or 0: images without descriptor), 'raw'
    if lengths mean something. where: what messages call the file. rescaled: how many rows of a file of unit
    length had another.
    file_names: one per row, or None. descriptor: its kind ('sscd', 'pixel'), or None. identity: what exactly
    it computes, with the model's hash, or None. provenance: what made them; empty if unknown.
    """

    values: np.ndarray
    length: str = 'unit'
    where: str = 'features'
    rescaled: int = 0
    file_names: list[str] | None = None
    descriptor: str | None = None
    identity: str | None = None
    provenance: dict = field(default_factory=dict)

    def doubts(self) -> list[str]:
        """What makes scores of these features doubtful, in words."""
        counts = Counter(hash(row.tobytes()) for row in self.values)
        equal, total = sum(count for count in counts.values() if count > 1), len(self.values)
        told = []
        if self.rescaled:
            told.append(f'{self.where}: {self.rescaled} of {total} features are not of length 1; they are '
                        'scaled to it')
        plain = self.provenance.get('images_of_one_colour', total - int(self.values.any(axis=1).sum()))
        if isinstance(plain, int) and plain > 0:
            told.append(f'{self.where}: {plain} of {total} images are of one colour; black ones are what a '
                        'network leaves whose output is NaN')
        if equal > total / 10:
            told.append(f'{self.where}: {equal} of {total} descriptors equal another one bit for bit; are '
                        'the images blank, or copies?')
        return told

    def part(self, rows: slice) -> 'Features':
        """Some of the rows."""
        names = None if self.file_names is None else self.file_names[rows]
        return replace(self, values=self.values[rows], file_names=names)

    @property
    def images(self) -> str | None:
        """The path of the images, as given to `sscd.py feature --images`, or None."""
        images = self.provenance.get('images')
        return images if isinstance(images, str) and images else None


def save_features(path: str | os.PathLike, values: np.ndarray, file_names: list[str], **texts: str) -> None:
    """Write features float32 [N, D], N names and texts as an `.npz`; equal contents make equal files."""
    with atomic_write(path) as file:
        np.savez(file, features=values, file_names=np.array(file_names, dtype=np.str_),
                 **{name: np.array(text, dtype=np.str_) for name, text in texts.items()})


def load_features(path: str | os.PathLike, option: str, *, unmarked: str = 'unit') -> Features:
    """Read an `.npz` with an array `features`, float [N, D], or an `.npy` of that array.

    unmarked: the length of rows in files of other software, which don't say it.
    Raises UserError naming `option` and the file if it is missing or damaged, or its features are missing,
    empty, not finite or too large for distances.
    """
    where = f'{option} {path}'
    try:
        arrays = read_arrays(path, option)
    except UserError as err:
        raise UserError(f'{err}; {_EXPECTED}') from err
    if 'features' not in arrays:
        found = ', '.join(map(shown, list(arrays)[:5])) or 'nothing'
        raise UserError(f'{where}: has no array `features`, found {found}; {_EXPECTED}')
    values = arrays['features']
    if values.dtype.kind != 'f' or values.ndim != 2 or 0 in values.shape:
        raise UserError(f'{where}: `features` is {values.dtype} {list(values.shape)}, expected floats [N, D]')
    with np.errstate(over='ignore'):
        values = np.require(values, np.float32, ['C', 'W'])
    # Files with a descriptor and no length are of an earlier version, which had no raw ones.
    length = text_in(arrays, 'length') or ('unit' if 'descriptor' in arrays else unmarked)
    if length not in LENGTHS:
        raise UserError(f'{where}: `length` is {shown(length)}, expected one of {", ".join(LENGTHS)}')
    rescaled = _check_rows(values, where, to_unit_length=length == 'unit')
    file_names = arrays.get('file_names')
    if file_names is not None and file_names.dtype.kind == 'S':
        file_names = np.array([os.fsdecode(name) for name in file_names.ravel()]).reshape(file_names.shape)
    if file_names is not None and (file_names.dtype.kind != 'U' or file_names.shape != values.shape[:1]):
        raise UserError(f'{where}: `file_names` is {file_names.dtype} {list(file_names.shape)}, expected '
                        f'{len(values)} strings')
    return Features(values=values, length=length, where=where, rescaled=rescaled,
                    file_names=None if file_names is None else file_names.tolist(),
                    descriptor=text_in(arrays, 'descriptor'), identity=text_in(arrays, 'identity'),
                    provenance=_provenance(arrays, where))


def _check_rows(values: np.ndarray, where: str, *, to_unit_length: bool) -> int:
    """Refuse numbers that are not finite, or raw and too large for distances in float32.

    to_unit_length: scale rows to length 1, in place, but for those that have length 1 or are zero. Returns
    how many were scaled.
    """
    rescaled = 0
    for start in range(0, len(values), _BLOCK):
        rows = values[start:start + _BLOCK]
        wrong = np.flatnonzero(~np.isfinite(rows).all(axis=1))
        if len(wrong):
            raise UserError(f'{where}: `features` has numbers that are not finite, first in row '
                            f'{start + wrong[0]}')
        if not to_unit_length:
            if max(rows.max(), -rows.min()) > _LARGEST:
                raise UserError(f'{where}: `features` has numbers beyond {_LARGEST:g}, too large for '
                                'distances')
            continue
        lengths = np.sqrt(np.einsum('nd,nd->n', rows, rows, dtype=np.float64))
        other = np.flatnonzero((abs(lengths - 1) > _UNIT) & (lengths > 0))
        rows[other] /= lengths[other, None]
        rescaled += len(other)
    return rescaled


def check_length(length: str, score: str, *features: Features) -> None:
    """Raise UserError unless all have this length, which `score`, in words, needs."""
    for each in features:
        if each.length != length:
            made = f' ({each.descriptor})' if each.descriptor else ''
            needs = {'unit': 'descriptors of unit length, such as sscd or pixel',
                     'raw': 'raw descriptors, such as l2 or inception'}
            own = '' if each.descriptor else f'; in a file of your own, write length=\'{length}\''
            raise UserError(f'{each.where}: {needs[each.length].split(",")[0]}{made}; {score} needs '
                            f'{needs[length]}{own}')


def check_comparable(first: Features, second: Features) -> None:
    """Raise UserError unless both are made by the same descriptor, as far as known."""
    pair = f'{first.where} and {second.where}'
    for a, b in ((first.descriptor, second.descriptor), (first.identity, second.identity),
                 (first.length, second.length)):
        if a and b and a != b:
            raise UserError(f'{pair}: the descriptors differ, {a} and {b}')
    if first.values.shape[1] != second.values.shape[1]:
        raise UserError(f'{pair}: rows of {first.values.shape[1]} and of {second.values.shape[1]} numbers '
                        'can\'t be compared; make both from images of one size with one descriptor')


def read_arrays(path: str | os.PathLike, option: str) -> dict[str, np.ndarray]:
    """All arrays of an `.npz`, or that of an `.npy` as `features`. Raises UserError naming `option`.

    Pickled objects are refused. An `.npy` is mapped, so that a false header costs no memory.
    """
    where = f'{option} {path}'
    if not Path(path).is_file():
        raise UserError(f'{where}: no such file')
    with open(path, 'rb') as file:
        is_npy = file.read(6) == b'\x93NUMPY'
    if not is_npy:
        with open_npz(path, where) as arrays:
            return dict(arrays)
    try:
        return {'features': np.load(path, allow_pickle=False, mmap_mode='r')}
    except (ValueError, TypeError, OverflowError, EOFError, SyntaxError, MemoryError, OSError) as err:
        raise UserError(f'{where}: not a readable .npy file of numbers ({shown(err)})') from err


def text_in(arrays: dict[str, np.ndarray], name: str) -> str | None:
    """The text in an array without dimensions, None if there is none."""
    value = arrays.get(name)
    return str(value) if value is not None and value.dtype.kind == 'U' and value.ndim == 0 else None


def _provenance(arrays: dict[str, np.ndarray], where: str) -> dict:
    text = text_in(arrays, 'provenance')
    try:
        made_by = {} if text is None else json.loads(text)
    except (ValueError, RecursionError) as err:
        raise UserError(f'{where}: `provenance` is not JSON') from err
    return made_by if isinstance(made_by, dict) else {}
