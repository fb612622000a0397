"""Untrusted zips and `.npz` files: nothing that claims more than the file holds, no pickled objects."""

import contextlib
import errno
import math
import os
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from typing import BinaryIO

import numpy as np

from torch_utils.errors import UserError, shown

BOMB_BYTES, BOMB_RATIO = 256 << 20, 50  # larger and compressed further than these is a zip bomb

BROKEN_ZIP = (ValueError, EOFError, NotImplementedError, OverflowError, MemoryError, zipfile.BadZipFile,
              zlib.error, struct.error)  # raised by zipfile, which trusts the directory
_BROKEN = (*BROKEN_ZIP, AttributeError, TypeError, KeyError, IndexError, RuntimeError, SyntaxError,
           tokenize.TokenError, Warning)
_LOCAL_HEADER = 30  # bytes before a member's name and contents


class NpzArrays(Mapping):
    """The arrays of an open `.npz` by name, each read, and checked by its checksum, when it is asked for.

    headers: (shape, dtype) of each, known before.
    """

    def __init__(self, archive: zipfile.ZipFile):
        self._archive, self._members, self.headers = archive, {}, {}
        for info in archive.infolist():
            name = info.filename.removesuffix('.npy')
            if name != shown(name)[1:-1] or name in self._members:
                raise ValueError(f'it has a member {name}, which is odd or there twice')
            if name != info.filename:
                with archive.open(info) as stream:
                    self.headers[name] = _read_header(stream, info)[::2]
                self._members[name] = info

    def __getitem__(self, name: str) -> np.ndarray:
        with self._archive.open(self._members[name]) as stream:
            array = np.lib.format.read_array(stream, allow_pickle=False)
            stream.read(1)  # the end, which makes zipfile compare checksums
            return array

    def __contains__(self, name: object) -> bool:  # Mapping's own would read the array
        return name in self._members

    def __iter__(self) -> Iterator[str]:
        return iter(self._members)

    def __len__(self) -> int:
        return len(self._members)

    def place(self, name: str) -> int | None:
        """Where the file has the numbers as memory does, C order, once their checksum is right; else None."""
        info = self._members[name]
        if info.compress_type != zipfile.ZIP_STORED:
            return None
        with self._archive.open(info) as stream:
            if _read_header(stream, info)[1]:
                return None
            start = stream.tell()
            while stream.read(1 << 20):
                pass
        self._archive.fp.seek(info.header_offset + _LOCAL_HEADER - 4)
        lengths = struct.unpack('<2H', self._archive.fp.read(4))  # of the name and an extra field there
        return info.header_offset + _LOCAL_HEADER + sum(lengths) + start


@contextlib.contextmanager
def open_npz(file: str | os.PathLike | BinaryIO, where: str) -> Iterator[NpzArrays]:
    """The arrays of an `.npz` file.

    Raises UserError, led by `where`, if the file is none, is damaged or encrypted, holds pickled objects or
    arrays that claim more than is there, also when the body meets that.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            check_members(archive)
            for info in archive.infolist():
                check_size(info.file_size, info.compress_size, f'{where}: {info.filename}')
            yield NpzArrays(archive)
    except UserError:
        raise
    except (*_BROKEN, OSError) as err:
        if isinstance(err, OSError) and err.errno != errno.EINVAL:  # of a place before the file's beginning
            raise
        raise UserError(f'{where}: not a readable .npz file of plain arrays ({shown(err)})') from err


def check_members(archive: zipfile.ZipFile) -> None:
    """Raise ValueError if members lie outside the file, or on each other, as the same bytes many times."""
    end = 0
    for info in sorted(archive.infolist(), key=lambda info: info.header_offset):
        if info.header_offset < end:
            raise ValueError(f'{info.filename} lies where something else is')
        end = info.header_offset + _LOCAL_HEADER + info.compress_size
        if end > archive.start_dir:
            raise ValueError(f'{info.filename} reaches beyond the end')


def check_size(size: int, packed: int, what: str) -> None:
    """Raise UserError if `size` bytes, packed as `packed`, are more than BOMB_BYTES and BOMB_RATIO allow."""
    if size > max(BOMB_BYTES, BOMB_RATIO * packed):
        raise UserError(f'{what}: unpacks from {packed} bytes to {size} or more, as no data set does')


def _read_header(stream: BinaryIO, info: zipfile.ZipInfo) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Shape, whether in Fortran order, and dtype; numpy would reserve memory for whatever shape is there."""
    version = np.lib.format.read_magic(stream)
    if version == (1, 0):
        shape, is_fortran, dtype = np.lib.format.read_array_header_1_0(stream)
    elif version == (2, 0):
        shape, is_fortran, dtype = np.lib.format.read_array_header_2_0(stream)
    else:
        raise ValueError(f'{info.filename} is of version {version}')
    if any(type(side) is not int or side < 0 for side in shape):
        raise ValueError(f'{info.filename} is of shape {shape}')
    size = math.prod(shape) * dtype.itemsize
    if dtype.hasobject or dtype.itemsize == 0 or stream.tell() + size != info.file_size:
        raise ValueError(f'{info.filename} holds objects, or not as many numbers as it says')
    return shape, is_fortran, dtype
