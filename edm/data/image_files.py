"""Files that hold images, in a folder or a zip."""

import errno
import io
import os
import re
import struct
import zipfile
import zlib
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from PIL import Image

from data.image_decoding import decode_image
from torch_utils.errors import UNPRINTABLE, UserError, note, shown
from torch_utils.npz import BROKEN_ZIP, check_members, check_size

_OUTSIDE = re.compile(r'^[/\\]|^[A-Za-z]:|(^|[/\\])\.\.([/\\]|$)')  # paths outside a folder
# What macOS, NAS systems (thumbnails, recycle bins, snapshots), Windows and Linux keep beside people's files.
_SYSTEM = ('__MACOSX', 'Icon\r', '@eaDir', '@tmp', '#recycle', '#snapshot', '@Recycle', '@Recently-Snapshot',
           '$RECYCLE.BIN', 'System Volume Information', 'Thumbs.db', 'desktop.ini', 'lost+found')
_HIDDEN = re.compile(r'(^|[/\\])(\.(?!\.?([/\\]|\Z))[^/\\]*|' + '|'.join(map(re.escape, _SYSTEM))
                     + r')(?=[/\\]|\Z)', re.IGNORECASE)
_told_of_frames = set()


def parts(name: str) -> list[str]:
    """A file's folders and its own name. Zips made on Windows may have backslashes."""
    return [part for part in re.split(r'[/\\]', name) if part not in ('', '.')]


def hidden_place(name: str) -> str | None:
    """The path up to the first hidden or system folder, with a slash, or the hidden file; else None."""
    found = _HIDDEN.search(name)
    return found and name[:found.end()] + '/' * (found.end() < len(name))


class Folder:
    """The files below a folder; `names` are their paths relative to it, with slashes, sorted as strings.

    hidden: hidden and system files and folders, which are not in `names`. linked: links to folders that are
    in it already; others are followed.
    """

    def __init__(self, path: Path, option: str):
        self.path = path
        self._where = f'{option} {path}'
        self.hidden, self.linked = [], []
        self.names = sorted(self._walk())
        self.linked.sort()

    def _walk(self) -> Iterator[str]:
        seen, pending = set(), deque([''])  # each folder once: links may lead in circles, or multiply
        while pending:
            prefix = pending.popleft()
            real = os.path.realpath(self.path / prefix)
            if real in seen:
                self.linked.append(prefix)
                continue
            seen.add(real)
            with os.scandir(self.path / prefix) as entries:
                found = sorted(entries, key=lambda entry: entry.name)
            for entry in found:
                name = prefix + entry.name
                is_folder = os.path.isdir(entry.path) if entry.is_symlink() else entry.is_dir()
                if hidden_place(entry.name):
                    self.hidden.append(name + '/' * is_folder)
                elif not is_folder:
                    yield name
                elif entry.is_symlink():
                    pending.append(f'{name}/')
                else:
                    pending.appendleft(f'{name}/')  # before all links

    def read(self, name: str) -> bytes:
        path = self.path / name
        if not path.is_file():  # a named pipe would keep us waiting for ever
            kind = 'not a file' if path.exists() else 'gone, or a link that leads nowhere'
            raise UserError(f'{self._where}: {name}: {kind}')
        return path.read_bytes()


class Zip:
    """The files in a zip, with the interface of `Folder`.

    Members are read by their positions, each from the file opened again, so that threads and processes can
    share an object.

    Raises UserError naming `option`, the zip and the member if the zip is damaged, or a member is encrypted,
    compressed in an unusual way, there twice, a zip bomb (see `check_size`), or named like a path outside.
    """

    def __init__(self, path: Path, option: str):
        self.path = path
        self._where = f'{option} {path}'
        self.linked = []
        self._members = self._read_directory()
        self.names = sorted(self._members)

    def _read_directory(self) -> dict[str, zipfile.ZipInfo]:
        try:
            with zipfile.ZipFile(self.path) as archive:
                check_members(archive)
                infos = [info for info in archive.infolist() if not info.filename.endswith('/')]
        except (*BROKEN_ZIP, OSError) as err:
            if isinstance(err, OSError) and err.errno != errno.EINVAL:  # of a place before the beginning
                raise
            raise UserError(f'{self._where}: not a zip file, or a damaged one ({shown(err)})') from err
        members, hidden = {}, {}
        for info in infos:
            name = info.filename
            if place := hidden_place(name):
                hidden[place] = None
                continue
            if not name or UNPRINTABLE.search(name) or _OUTSIDE.search(name):
                raise UserError(f'{self._where}: {name!a} is no name for a file in a data set')
            if name in members:
                raise UserError(f'{self._where}: {name} is in it twice')
            members[name] = info
        self.hidden = list(hidden)
        return members

    def read(self, name: str) -> bytes:
        info, where = self._members[name], f'{self._where}: {name}'
        check_size(info.file_size, info.compress_size, where)
        try:
            with open(self.path, 'rb') as file:
                return _unpack(info, file)
        except (ValueError, struct.error, zlib.error) as err:
            raise UserError(f'{where} can\'t be unpacked ({err})') from err


def _unpack(info: zipfile.ZipInfo, file: BinaryIO) -> bytes:
    if info.flag_bits & 1:
        raise ValueError('it is encrypted')
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ValueError('it is packed in an unusual way; repack the zip')
    file.seek(info.header_offset)
    signature, name_length, extra_length = struct.unpack('<4s22x2H', file.read(30))
    if signature != b'PK\3\4':
        raise ValueError('the zip is damaged')
    file.seek(name_length + extra_length, io.SEEK_CUR)
    data = file.read(info.compress_size)
    if info.compress_type == zipfile.ZIP_DEFLATED:
        data = zlib.decompressobj(-zlib.MAX_WBITS).decompress(data, info.file_size + 1)
    if len(data) != info.file_size or zlib.crc32(data) != info.CRC:
        raise ValueError('its contents are damaged')
    return data


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


def read_image(files: Folder | Zip, name: str, where: str) -> Image.Image:
    """A file as `decode_image` has it. Tells of frames after the first, once in a data set `where`."""
    image = decode_image(files.read(name), f'{where}: {name}')
    if image.info['frames'] > 1 and where not in _told_of_frames:
        _told_of_frames.add(where)
        note(f'{where}: of files with several frames or pages only the first is used; {name} has '
             f'{image.info["frames"]}')
    return image


def describe_shape(image_shape: tuple[int, int, int]) -> str:
    """What images [C, H, W] are, in words, such as 32x32 RGB: width, height, kind."""
    channels, height, width = image_shape
    return f'{width}x{height} {"grey" if channels == 1 else "RGB"}'
