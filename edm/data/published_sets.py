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

_LONG_SIZE = re.compile(rb'^\d+ size=(\d{1,20})\n', re.MULTILINE)  # in a tar: of the next member


def read_cifar10(path: Path, option: str) -> tuple[np.ndarray, list[int]]:
    """All training images uint8 [N, 32, 32, 3] and their classes."""
    names = [f'cifar-10-batches-py/data_batch_{number}' for number in range(1, 6)]
    try:
        members = _unpack(path, names, f'{option} {path}')
    except UserError:
        raise
    except (gzip.BadGzipFile, EOFError, zlib.error, ValueError) as err:
        raise UserError(f'{option} {path}: not a readable .tar.gz archive ({err})') from err
    if missing := [name for name in names if name not in members]:
        raise UserError(f'{option} {path}: {missing[0]} is missing in it')
    batches = [_read_cifar10_batch(members[name], f'{option} {path}: {name}') for name in names]
    images = np.concatenate([pixels for pixels, _ in batches])
    labels = [label for _, classes in batches for label in classes]
    return images.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1), labels


def _unpack(path: Path, names: list[str], where: str) -> dict[str, bytes]:
    """Those of these files that a .tar.gz has.

    Everything else is skipped, with headers that speak of holes, links and long names, which the standard
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
    from torch_utils.safe_pickle import safe_load  # here, as other sources do without PyTorch

    try:
        batch = safe_load(io.BytesIO(data))
    except pickle.UnpicklingError as err:
        raise UserError(f'{where}: not a CIFAR-10 batch ({err})') from err
    pixels, labels = (batch.get(key) if isinstance(batch, dict) else None for key in ('data', 'labels'))
    if not (isinstance(pixels, np.ndarray) and pixels.dtype == np.uint8
            and isinstance(labels, list) and pixels.shape == (len(labels), 3072)
            and all(type(label) is int and 0 <= label < MAX_CLASSES for label in labels)):
        raise UserError(f'{where}: expected `data` uint8 [n, 3072] and `labels`, n integers from 0 up')
    return pixels, labels


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
