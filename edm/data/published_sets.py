"""CIFAR-10 and MNIST as they are published: a tar of pickles, and idx files."""

import gzip
import io
import pickle
import re
import struct
import zlib
from pathlib import Path

import numpy as np

from data.labels import MAX_CLASSES
from torch_utils.errors import UserError
from torch_utils.npz import BOMB_BYTES, BOMB_RATIO, check_size

CIFAR10 = 'cifar-10-python.tar.gz'
MNIST = 'train-images-idx3-ubyte.gz'
MNIST_LABELS = 'train-labels-idx1-ubyte.gz'
MAX_READS = 400_000  # of a batch; one of 10,000 images with their names needs 70,000

_LONG_SIZE = re.compile(rb'^\d+ size=(\d{1,20})\n', re.MULTILINE)  # in a tar: of the next member


def read_cifar10(path: Path, option: str) -> tuple[np.ndarray, list[int]]:
    """All training images uint8 [N, 32, 32, 3] and their classes."""
    names = [f'cifar-10-batches-py/data_batch_{number}' for number in range(1, 6)]
    try:
        members = _unpack(path, names, f'{option} {path}')
    except (gzip.BadGzipFile, EOFError, zlib.error, ValueError) as err:
        if isinstance(err, UserError):
            raise
        raise UserError(f'{option} {path}: not a readable .tar.gz archive ({err})') from err
    if missing := [name for name in names if name not in members]:
        raise UserError(f'{option} {path}: {missing[0]} is missing in it')
    batches = [_read_cifar10_batch(members[name], f'{option} {path}: {name}') for name in names]
    images = np.concatenate([pixels for pixels, _ in batches])
    labels = [label for _, classes in batches for label in classes]
    return images.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1), labels


def _unpack(path: Path, names: list[str], where: str) -> dict[str, bytes]:
    """These files of a .tar.gz, as far as it has them.

    All else is passed over, with headers that speak of holes, links and long names, which the standard
    library's reader trusts.
    Raises EOFError, ValueError, or what gzip raises if the archive is damaged, UserError if it is a bomb.
    """
    found, total, long_size = {}, 0, None
    with gzip.open(path) as file:
        while len(found) < len(names) and (header := file.read(512)).strip(b'\0'):
            fields = struct.unpack('100s24x12s12x8sc355x', header.ljust(512, b'\0'))
            name, size, checksum, kind = (field.rstrip(b' \0') for field in fields)
            if sum(header) - sum(fields[2]) + 8 * ord(' ') != int(checksum or b'0', 8):
                raise ValueError('a header is damaged')
            size = int(long_size[1]) if long_size else int(size or b'0', 8)
            padded = size + -size % 512
            total += 512 + padded
            check_size(total, path.stat().st_size, where)
            if size < 0 or len(data := file.read(padded)) < padded:
                raise EOFError('it is cut short')
            long_size = kind == b'x' and _LONG_SIZE.search(data)
            if kind in (b'0', b'') and name.decode('latin1') in names:
                found[name.decode('latin1')] = data[:size]
    return found


def _read_cifar10_batch(data: bytes, where: str) -> tuple[np.ndarray, list[int]]:
    try:
        batch = _Cifar10Unpickler(_Bounded(data), encoding='latin1').load()
        pixels, labels = batch['data'].to_numpy(), batch['labels']
        good = (pixels.ndim == 2 and pixels.shape[1] == 3072 and isinstance(labels, list)
                and len(labels) == len(pixels)
                and all(type(x) is int and 0 <= x < MAX_CLASSES for x in labels))
    except Exception as err:  # a hostile or damaged pickle may raise anything
        raise UserError(f'{where}: not a CIFAR-10 batch ({type(err).__name__}: {err})') from err
    if not good:
        raise UserError(f'{where}: expected `data` uint8 [n, 3072] and `labels`, n integers from 0 up')
    return pixels, labels


class _Bounded(io.BytesIO):
    """A pickle that may be read in MAX_READS steps, which an opcode of one byte takes, too."""

    reads = 0

    def read(self, size: int = -1) -> bytes:
        self.reads += 1
        if self.reads > MAX_READS:
            raise pickle.UnpicklingError('it has far more parts than a CIFAR-10 file')
        return super().read(size)


class _Cifar10Unpickler(pickle._Unpickler):
    """Reads a pickled dict of arrays and calls nothing but the stand-ins below, whatever the file says.

    The standard library's reader in Python: that in C reserves memory for whatever place a file names.
    """

    def load_setitem(self):
        _check_key(self.stack[-2])
        super().load_setitem()

    def load_setitems(self):
        for key in self.stack[::2]:
            _check_key(key)
        super().load_setitems()

    def pass_over_frame(self):
        self.read(8)  # its length, which would have all of it read at once

    def refuse(self):
        raise pickle.UnpicklingError('it holds sets, which no CIFAR-10 file needs')

    dispatch = pickle._Unpickler.dispatch | {
        pickle.SETITEM[0]: load_setitem, pickle.SETITEMS[0]: load_setitems, pickle.DICT[0]: refuse,
        pickle.ADDITEMS[0]: refuse, pickle.FROZENSET[0]: refuse, pickle.FRAME[0]: pass_over_frame}

    def find_class(self, module: str, name: str):
        match module, name:
            case ('numpy.core.multiarray' | 'numpy._core.multiarray'), '_reconstruct':
                return _PickledArray
            case 'numpy', 'dtype':
                return _PickledDtype
            case 'numpy', 'ndarray':
                return None  # only ever an argument of _reconstruct
            case '_codecs', 'encode':
                return lambda text, encoding: text.encode('latin1')
        raise pickle.UnpicklingError(f'it asks for {module}.{name}, which no CIFAR-10 file needs')


def _check_key(key) -> None:
    if type(key) is not str:  # to hash deeply nested tuples would overflow the stack
        raise pickle.UnpicklingError('it holds a dict key that is no text')


class _PickledDtype:
    def __init__(self, code: str, *_):
        self.code = code

    def __setstate__(self, state):
        pass  # byte order, of no matter to single bytes


class _PickledArray:
    """What a pickle says of an array; numpy itself trusts such words too far."""

    def __init__(self, *_):
        self.state = None

    def __setstate__(self, state):
        self.state = state

    def to_numpy(self) -> np.ndarray:
        _, shape, dtype, is_fortran, data = self.state
        if dtype.code != 'u1':
            raise ValueError(f'array of type {dtype.code} instead of u1')
        data = data.encode('latin1') if isinstance(data, str) else data
        return np.frombuffer(data, dtype=np.uint8).reshape(shape, order='F' if is_fortran else 'C')


def read_mnist(path: Path, option: str) -> tuple[np.ndarray, list[int]]:
    """All images, padded with zeros to uint8 [N, 32, 32], and their classes."""
    images = _read_idx(path, f'{option} {path}', num_dims=3)
    labels_path = path.with_name(MNIST_LABELS)
    if not labels_path.is_file():
        raise UserError(f'{option} {path}: {MNIST_LABELS} must lie beside it')
    labels = _read_idx(labels_path, f'{option} {labels_path}', num_dims=1)
    if images.shape != (len(labels), 28, 28) or len(labels) == 0:
        raise UserError(f'{option} {path}: images {list(images.shape)} with {len(labels)} labels, expected '
                        '[n, 28, 28] with n')
    return np.pad(images, [(0, 0), (2, 2), (2, 2)]), labels.tolist()


def _read_idx(path: Path, where: str, num_dims: int) -> np.ndarray:
    """A gzipped idx file: two zero bytes, type (8 is uint8), number of dimensions, sizes, the values."""
    try:
        with gzip.open(path) as file:
            limit = max(BOMB_BYTES, BOMB_RATIO * path.stat().st_size)
            data = file.read(limit + 1)
        check_size(len(data), path.stat().st_size, where)
    except (gzip.BadGzipFile, EOFError, zlib.error) as err:
        raise UserError(f'{where}: not a readable gzip file ({err})') from err
    start = 4 + 4 * num_dims
    if data[:4] != bytes([0, 0, 8, num_dims]) or len(data) < start:
        raise UserError(f'{where}: not an idx file of bytes in {num_dims} dimensions')
    shape = struct.unpack(f'>{num_dims}I', data[4:start])
    values = np.frombuffer(data, dtype=np.uint8, offset=start)
    if len(values) != np.prod(shape, dtype=object):
        raise UserError(f'{where}: {len(values)} bytes of values, its header says {list(shape)}')
    return values.reshape(shape)
