"""Files of descriptors: `.npz` with an array `features`, float32 [N, D], and what is known about its rows."""

import contextlib
import json
import os
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from torch_utils.errors import UserError, shown
from torch_utils.files import atomic_write
from torch_utils.npz import open_npz

_UNIT = 1e-3  # how far from 1 the length of a descriptor may be; half-precision networks reach 5e-4
_BLOCK = 4096  # rows at a time in float64
_EXPECTED = ('expected features as sscd.py feature writes them, or as NumPy does: numpy.savez(FILE, '
             'features=...) of floats [N, D], with file_names=... of N strings (dtype=str) if known')
_ZIP_TIME = (1980, 1, 1, 0, 0, 0)  # one for all, so that equal features are equal files


@dataclass(frozen=True, kw_only=True)
class Features:
    """Descriptors of images, and what is known about them.

    values: float32 [N, D], rows of length 1 (or 0: images without descriptor). rescaled: how many rows of the
    file had another length and were brought to 1.
    file_names: one per row, or None. descriptor: its kind ('sscd', 'pixel'), or None. identity: what exactly
    it computes, the model's hash included, or None. provenance: what made them; empty if unknown.
    """

    values: np.ndarray
    rescaled: int = 0
    file_names: list[str] | None = None
    descriptor: str | None = None
    identity: str | None = None
    provenance: dict = field(default_factory=dict)

    def doubts(self) -> list[str]:
        """What makes scores of these features doubtful, in words."""
        counts = Counter(hash(row.tobytes()) for row in self.values)
        equal, total = sum(count for count in counts.values() if count > 1), len(self.values)
        told = [f'{self.rescaled} of {total} features are not of length 1; they are scaled to it']
        told = told if self.rescaled else []
        if equal > total / 10:
            told.append(f'{equal} of {total} descriptors equal another one bit for bit; are the images '
                        'blank, or copies?')
        return told

    def reordered(self, places: np.ndarray) -> 'Features':
        """The same with row places[i] in the place of row i."""
        names = None if self.file_names is None else [self.file_names[place] for place in places]
        return replace(self, values=self.values[places], file_names=names)

    @property
    def images(self) -> str | None:
        """Where the images lie, as `sscd.py feature --images` was told, or None."""
        images = self.provenance.get('images')
        return images if isinstance(images, str) and images else None


@contextlib.contextmanager
def write_features(path: str | os.PathLike, num_rows: int) -> Iterator[tuple[Callable, Callable]]:
    """Write an `.npz` row by row, so that the memory needed does not grow with `num_rows`.

    Yields `append(rows float32 [n, D])`, to be called until there are `num_rows`, and then
    `finish(file_names=, descriptor=, identity=, **texts)`, to be called once: file_names a list, the others
    text. The file appears at the end, whole, or not at all; equal contents are equal bytes.
    """
    with atomic_write(path) as file, zipfile.ZipFile(file, 'w') as archive, contextlib.ExitStack() as opened:
        member, left = None, num_rows

        def append(rows: np.ndarray) -> None:
            nonlocal member, left
            if member is None:
                member = opened.enter_context(_new_member(archive, 'features'))
                np.lib.format.write_array_header_1_0(member, {
                    'descr': '<f4', 'fortran_order': False, 'shape': (num_rows, rows.shape[1])})
            member.write(np.ascontiguousarray(rows, dtype='<f4').tobytes())
            left -= len(rows)

        def finish(*, file_names: list[str], **texts: str) -> None:
            assert left == 0, f'{left} rows are missing'
            opened.close()
            for name, value in {'file_names': file_names, **texts}.items():
                with _new_member(archive, name) as other:
                    np.lib.format.write_array(other, np.array(value, dtype=np.str_), allow_pickle=False)

        yield append, finish


def _new_member(archive: zipfile.ZipFile, name: str):
    return archive.open(zipfile.ZipInfo(f'{name}.npy', _ZIP_TIME), 'w', force_zip64=True)


def load_features(path: str | os.PathLike, option: str) -> Features:
    """Read an `.npz` with an array `features`, float [N, D]; those of other software may have only that.

    An `.npy` is taken for that array. Raises UserError naming `option` and the file if it is missing or
    damaged, or has no such array, or one that is empty or not finite.
    """
    where = f'{option} {path}'
    if not Path(path).is_file():
        raise UserError(f'{where}: no such file')
    try:
        arrays = _read_npy(path, where) or read_arrays(path, option)
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
    rescaled = _to_unit_length(values, where)
    file_names = arrays.get('file_names')
    if file_names is not None and file_names.dtype.kind == 'S':
        file_names = np.array([os.fsdecode(name) for name in file_names.ravel()]).reshape(file_names.shape)
    if file_names is not None and (file_names.dtype.kind != 'U' or file_names.shape != values.shape[:1]):
        raise UserError(f'{where}: `file_names` is {file_names.dtype} {list(file_names.shape)}, expected '
                        f'{len(values)} strings')
    return Features(values=values, rescaled=rescaled,
                    file_names=None if file_names is None else file_names.tolist(),
                    descriptor=text_in(arrays, 'descriptor'), identity=text_in(arrays, 'identity'),
                    provenance=_provenance(arrays, where))


def _read_npy(path: str | os.PathLike, where: str) -> dict[str, np.ndarray]:
    """The array of an `.npy` as `features`, mapped, so that a false header costs no memory; {} for others."""
    with open(path, 'rb') as file:
        if file.read(6) != b'\x93NUMPY':
            return {}
    try:
        return {'features': np.load(path, allow_pickle=False, mmap_mode='r')}
    except (ValueError, TypeError, OverflowError, EOFError, SyntaxError, MemoryError, OSError) as err:
        raise UserError(f'{where}: not a readable .npy file of numbers ({shown(err)})') from err


def _to_unit_length(values: np.ndarray, where: str) -> int:
    """Bring the rows to length 1 in place, but for those that have it or are zero; returns how many."""
    rescaled = 0
    for start in range(0, len(values), _BLOCK):
        rows = values[start:start + _BLOCK]
        wrong = np.flatnonzero(~np.isfinite(rows).all(axis=1))
        if len(wrong):
            raise UserError(f'{where}: `features` has numbers that are not finite, first in row '
                            f'{start + wrong[0]}')
        lengths = np.sqrt(np.einsum('nd,nd->n', rows, rows, dtype=np.float64))
        other = np.flatnonzero((abs(lengths - 1) > _UNIT) & (lengths > 0))
        rows[other] /= lengths[other, None]
        rescaled += len(other)
    return rescaled


def load_pair(source: str | os.PathLike, target: str | os.PathLike, *, rows_match: bool,
              load: Callable = load_features) -> tuple[Features, Features]:
    """The features of `--source` and `--target`, which must be made by the same descriptor.

    rows_match: whether they must have equally many rows, each of one belonging to one of the other.
    load: `load_features`, or that with a memory.
    Raises UserError as `load_features`, and if the two don't fit together.
    """
    first, second = load(source, '--source'), load(target, '--target')
    check_comparable(first, second, f'--source {source} and --target {target}')
    if rows_match and len(first.values) != len(second.values):
        raise UserError(f'--source {source} and --target {target}: {len(first.values)} and '
                        f'{len(second.values)} rows; rows are compared in pairs, so both need the same '
                        'number')
    return first, second


def check_comparable(first: Features, second: Features, pair: str) -> None:
    """Raises UserError that names the `pair` unless both are made by the same descriptor, as far as known."""
    for a, b in ((first.descriptor, second.descriptor), (first.identity, second.identity)):
        if a and b and a != b:
            raise UserError(f'{pair}: the descriptors differ, {a} and {b}')
    if first.values.shape[1] != second.values.shape[1]:
        raise UserError(f'{pair}: rows of {first.values.shape[1]} and of {second.values.shape[1]} numbers '
                        'can\'t be compared; make both from images of one size with one descriptor')


def read_arrays(path: str | os.PathLike, option: str) -> dict[str, np.ndarray]:
    """All arrays of an `.npz`; pickled objects in it are refused. Raises UserError naming `option`."""
    where = f'{option} {path}'
    if not Path(path).is_file():
        raise UserError(f'{where}: no such file')
    with open_npz(path, where) as arrays:
        return dict(arrays)


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
