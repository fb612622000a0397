"""`.npz` files from strangers: no pickled objects, no array larger than what the file holds for it."""

import contextlib
import errno
import os
import struct
import zipfile
import zlib
from collections.abc import Iterator
from typing import BinaryIO

import numpy as np

from torch_utils.errors import UserError, shown

BOMB_BYTES, BOMB_RATIO = 256 << 20, 50  # what is larger and denser than these was packed to do harm

_BROKEN = (ValueError, EOFError, AttributeError, TypeError, KeyError, IndexError, RuntimeError, OverflowError,
           MemoryError, SyntaxError, zipfile.BadZipFile, zlib.error, struct.error, Warning)


@contextlib.contextmanager
def open_npz(file: str | os.PathLike | BinaryIO, where: str) -> Iterator[np.lib.npyio.NpzFile]:
    """The arrays of an `.npz` file by name, each read when it is asked for and checked by its checksum.

    Raises UserError, led by `where`, if the file is none, is damaged or encrypted, holds pickled objects or
    arrays that claim more than is there, also when the body meets that.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            for info in archive.infolist():
                if info.filename != shown(info.filename)[1:-1]:
                    raise ValueError(f'it has a member {info.filename}')
                check_size(info.file_size, info.compress_size, f'{where}: {info.filename}')
                if info.filename.endswith('.npy'):
                    with archive.open(info) as stream:
                        _check_header(stream, info)
        if not isinstance(file, (str, os.PathLike)):
            file.seek(0)
        with np.load(file, allow_pickle=False) as arrays:
            yield arrays
    except UserError:
        raise
    except (*_BROKEN, OSError) as err:
        if isinstance(err, OSError) and err.errno != errno.EINVAL:  # of a place before the file's beginning
            raise
        raise UserError(f'{where}: not a readable .npz file of plain arrays ({shown(err)})') from err


def check_size(size: int, packed: int, what: str) -> None:
    """Raise UserError if `size` bytes, packed as `packed`, are more than BOMB_BYTES and BOMB_RATIO allow."""
    if size > max(BOMB_BYTES, BOMB_RATIO * packed):
        raise UserError(f'{what}: unpacks from {packed} bytes to {size} or more, as no data set does')


def _check_header(stream: BinaryIO, info: zipfile.ZipInfo) -> None:
    """Compare an array's own idea of its size with the file's: numpy reserves memory for what it says."""
    version = np.lib.format.read_magic(stream)
    if version == (1, 0):
        shape, _, dtype = np.lib.format.read_array_header_1_0(stream)
    elif version == (2, 0):
        shape, _, dtype = np.lib.format.read_array_header_2_0(stream)
    else:
        raise ValueError(f'{info.filename} is of version {version}')
    size = int(np.prod(shape, dtype=object)) * dtype.itemsize
    if dtype.hasobject or stream.tell() + size != info.file_size:
        raise ValueError(f'{info.filename} holds objects, or not as many numbers as it says')
