"""Files that hold images, in a folder or a zip, and the labels beside them."""

import errno
import io
import json
import os
import re
import struct
import zipfile
import zlib
from pathlib import Path
from typing import BinaryIO

from PIL import Image

from torch_utils.errors import UserError, shown
from torch_utils.npz import check_size

MAX_CLASSES = 1_000_000  # more would make one-hot labels larger than images
LARGEST = 3e38  # number in a label that is a list; float32 ends there

_OUTSIDE = re.compile(r'^[/\\]|^[A-Za-z]:|(^|[/\\])\.\.([/\\]|$)')  # names of places outside a folder


class Folder:
    """All files below a folder; `names` are their paths relative to it, with slashes, sorted as strings."""

    def __init__(self, path: Path, option: str):
        self.path = path
        self._where = f'{option} {path}'
        self.names = sorted(self._walk())

    def _walk(self):
        seen = set()  # linked folders are followed, but not in circles
        for root, folders, files in os.walk(self.path, followlinks=True):
            seen.add(os.path.realpath(root))
            folders[:] = [name for name in folders if os.path.realpath(os.path.join(root, name)) not in seen]
            prefix = Path(root).relative_to(self.path).as_posix()
            yield from files if prefix == '.' else (f'{prefix}/{name}' for name in files)

    def read(self, name: str) -> bytes:
        path = self.path / name
        if not path.is_file():  # a named pipe would keep us waiting for ever
            kind = 'not a file' if path.exists() else 'gone, or a link that leads nowhere'
            raise UserError(f'{self._where}: {name}: {kind}')
        return path.read_bytes()


class Zip:
    """All files in a zip, with the interface of `Folder`.

    Members are read by their positions, each with the file opened anew: threads and processes can share an
    object. Raises UserError naming `option`, the zip and the member if the zip is damaged, or a member is
    encrypted, packed in an unusual way, there twice, a bomb (see `check_size`), or named like a place
    outside the zip.
    """

    def __init__(self, path: Path, option: str):
        self.path = path
        self._where = f'{option} {path}'
        self._members = self._read_directory()
        self.names = sorted(self._members)

    def _read_directory(self) -> dict[str, zipfile.ZipInfo]:
        try:
            with zipfile.ZipFile(self.path) as archive:
                infos = [info for info in archive.infolist() if not info.filename.endswith('/')]
        # zipfile trusts a directory's numbers, so that a damaged one can make it fail in many ways
        except (zipfile.BadZipFile, NotImplementedError, ValueError, OverflowError, struct.error,
                OSError) as err:
            if isinstance(err, OSError) and err.errno != errno.EINVAL:  # of a place before the beginning
                raise
            raise UserError(f'{self._where}: not a zip file, or a damaged one ({shown(err)})') from err
        members = {}
        for info in infos:
            name = info.filename
            if not name or not name.isprintable() or _OUTSIDE.search(name):
                raise UserError(f'{self._where}: {name!a} is no name for a file in a data set')
            if name in members:
                raise UserError(f'{self._where}: {name} is in it twice')
            members[name] = info
        return members

    def read(self, name: str) -> bytes:
        info = self._members[name]
        try:
            with open(self.path, 'rb') as file:
                return self._unpack(info, file)
        except (_Damaged, struct.error, zlib.error) as err:
            raise UserError(f'{self._where}: {name} can\'t be unpacked ({err})') from err

    def _unpack(self, info: zipfile.ZipInfo, file: BinaryIO) -> bytes:
        if info.flag_bits & 1:
            raise _Damaged('it is encrypted')
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise _Damaged('it is packed in an unusual way; repack the zip')
        check_size(info.file_size, info.compress_size, f'{self._where}: {info.filename}')
        if info.header_offset < 0:
            raise _Damaged('the zip lacks its beginning')
        file.seek(info.header_offset)
        signature, name_length, extra_length = struct.unpack('<4s22x2H', file.read(30))
        if signature != b'PK\3\4':
            raise _Damaged('the zip is damaged')
        file.seek(name_length + extra_length, io.SEEK_CUR)
        data = file.read(info.compress_size)
        if info.compress_type == zipfile.ZIP_DEFLATED:
            data = zlib.decompressobj(-zlib.MAX_WBITS).decompress(data, info.file_size + 1)
        if len(data) != info.file_size or zlib.crc32(data) != info.CRC:
            raise _Damaged('its contents are damaged')
        return data


class _Damaged(Exception):
    """Why a member of a zip can't be read."""


def open_files(path: str | os.PathLike, option: str, expected: str = 'a folder or a .zip') -> Folder | Zip:
    """The files of a folder or a `.zip`.

    Raises UserError naming `option`, and what is `expected`, if the path is neither.
    """
    path = Path(path)
    if path.is_dir():
        return Folder(path, option)
    if not path.exists():
        raise UserError(f'{option} {path}: no such file or folder')
    if path.suffix.lower() != '.zip':
        raise UserError(f'{option} {path}: expected {expected}')
    return Zip(path, option)


def describe_shape(image_shape: tuple[int, int, int]) -> str:
    """What images [C, H, W] are, in words, such as 32x32 RGB: width, height, kind."""
    channels, height, width = image_shape
    return f'{width}x{height} {"grey" if channels == 1 else "RGB"}'


def is_image_name(name: str) -> bool:
    """Whether the extension is one that PIL knows."""
    return os.path.splitext(name)[1].lower() in Image.registered_extensions()


def read_labels(files: Folder | Zip, option: str) -> dict[str, int | list]:
    """Labels by file name from the `dataset.json` at the root; empty if there is none or it holds none.

    A label is an integer from 0 up (a class) or a list of numbers. Raises UserError naming `option` if the
    file is not of the form {"labels": [[name, label], ...]} or {"labels": null}, or holds other labels.
    """
    if 'dataset.json' not in files.names:
        return {}
    where = f'{option} {files.path}: dataset.json'
    try:
        entries = json.loads(files.read('dataset.json'))
    except (ValueError, RecursionError) as err:
        raise UserError(f'{where} is not JSON ({err})') from err
    if not isinstance(entries, dict) or not isinstance(entries.get('labels'), list | None):
        raise UserError(f'{where} must be of the form {{"labels": [[name, label], ...]}}')
    labels = {}
    for entry in entries.get('labels') or []:
        if not (isinstance(entry, list) and len(entry) == 2 and isinstance(entry[0], str)):
            raise UserError(f'{where}: {_short(entry)} in "labels" is not of the form [name, label]')
        name, label = entry
        _check_label(label, f'{where}: the label of {name}')
        if labels.setdefault(name, label) != label:
            raise UserError(f'{where} gives {name} two labels, {_short(labels[name])} and {_short(label)}')
    return labels


def _check_label(label, what: str) -> None:
    if isinstance(label, list):
        good = len(label) > 0 and all(_is_number(x) and abs(x) <= LARGEST for x in label)
    else:
        good = _is_number(label) and isinstance(label, int) and 0 <= label < MAX_CLASSES
    if not good:
        raise UserError(f'{what} is {_short(label)}; expected an integer from 0 to {MAX_CLASSES - 1} or a '
                        'list of float32 numbers')


def _is_number(value) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _short(value) -> str:
    try:
        text = json.dumps(value)
    except RecursionError:
        return 'nested without end'
    return text if len(text) <= 60 else text[:57] + '...'
