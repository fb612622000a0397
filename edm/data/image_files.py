"""Files that hold images, in a folder or a zip, and the one way in which all of them are decoded."""

import errno
import functools
import io
import json
import os
import re
import struct
import warnings
import zipfile
import zlib
from pathlib import Path
from typing import BinaryIO

from PIL import Image, ImageOps, UnidentifiedImageError

from torch_utils.errors import UserError, shown
from torch_utils.npz import check_size

MAX_CLASSES = 1_000_000  # more would make one-hot labels larger than images
LARGEST = 3e38  # number in a label that is a list; float32 ends there

_OUTSIDE = re.compile(r'^[/\\]|^[A-Za-z]:|(^|[/\\])\.\.([/\\]|$)')  # names of places outside a folder
_EXIF_ORIENTATION = 0x0112
# Whatever PIL's many readers raise for broken or hostile files.
_BROKEN_IMAGE = (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error, IndexError, KeyError,
                 TypeError, AttributeError, NotImplementedError, OverflowError, MemoryError, RuntimeError,
                 Image.DecompressionBombError, Warning)
warnings.filterwarnings('ignore', category=UserWarning, module=r'PIL\.')  # such as odd EXIF data
warnings.simplefilter('error', Image.DecompressionBombWarning)  # from 89 million pixels on


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


def decode_image(data: bytes, where: str) -> Image.Image:
    """Decode an encoded image to mode L or RGB, 8 bits a channel, upright.

    A camera's EXIF orientation is applied. What fits without loss is converted: bilevel to L, palette to RGB,
    and an alpha channel that is opaque throughout is dropped. Of several frames the first counts.
    where: what errors call the image. Raises UserError if it is unreadable or of any other kind.
    """
    try:
        _check_whole(data)
        image = Image.open(io.BytesIO(data), formats=_formats())
        stored = [str(tile[3]) for tile in image.tile]  # PIL itself would cut 16-bit RGB to 8 bits in silence
        image.load()
        if image.getexif().get(_EXIF_ORIENTATION, 1) != 1:
            image = ImageOps.exif_transpose(image)
    except _BROKEN_IMAGE as err:
        reason = 'PIL finds no image in it' if isinstance(err, UnidentifiedImageError) else err
        raise UserError(f'{where}: not a readable image ({reason})') from err
    if 0 in image.size:
        raise UserError(f'{where}: not a readable image (it has no pixels)')
    if any(';16' in mode for mode in stored):
        raise UserError(f'{where}: has 16 bits a channel; convert it to 8 bits first')
    if image.mode == '1':
        return image.convert('L')
    if image.mode in ('L', 'RGB') and 'transparency' not in image.info:
        return image
    if image.mode in ('L', 'LA', 'RGB', 'RGBA', 'P', 'PA'):
        return _drop_alpha(image, where)
    raise UserError(f'{where}: mode {image.mode} doesn\'t fit 8-bit grey or RGB; convert it first')


@functools.cache
def _formats() -> list[str]:
    """What PIL decodes by itself: for an EPS file it would start another program."""
    Image.init()
    return [name for name in Image.ID if name != 'EPS']


def _check_whole(data: bytes) -> None:
    """Raise ValueError for a PNG or JPEG that is cut short or a PNG that was changed: PIL may take it.

    It stops reading with the last pixel, and looks at no checksum of them.
    """
    if data.startswith(b'\xff\xd8'):
        if data.rfind(b'\xff\xd9') < data.rfind(b'\xff\xda'):
            raise ValueError('it is cut short')
    elif data.startswith(b'\x89PNG\r\n\x1a\n'):
        start, view = 8, memoryview(data)
        while True:
            if start + 12 > len(data):
                raise ValueError('it is cut short')
            end = start + 8 + int.from_bytes(data[start:start + 4])
            if zlib.crc32(view[start + 4:end]) != int.from_bytes(data[end:end + 4]):
                raise ValueError('it is damaged or cut short')
            if data[start + 4:start + 8] == b'IEND':
                return
            start = end + 4


def _drop_alpha(image: Image.Image, where: str) -> Image.Image:
    mode = 'L' if image.mode in ('L', 'LA') else 'RGB'
    if image.mode in ('LA', 'RGBA', 'PA') or 'transparency' in image.info:
        with_alpha = image.convert(f'{mode}A')
        if with_alpha.getchannel('A').getextrema()[0] < 255:
            raise UserError(f'{where}: has transparent pixels (mode {image.mode}); make it opaque first')
        image = with_alpha
    return image.convert(mode)


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
