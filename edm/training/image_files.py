"""Files that hold images, in a folder or a zip, and the one way in which all of them are decoded."""

import io
import json
import math
import os
import struct
import zipfile
import zlib
from pathlib import Path

from PIL import Image, ImageOps, UnidentifiedImageError

from torch_utils.errors import UserError

_EXIF_ORIENTATION = 0x0112
_BROKEN_IMAGE = (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error,
                 Image.DecompressionBombError)


class Folder:
    """All files below a folder; `names` are their paths relative to it, with slashes, sorted as strings."""

    def __init__(self, path: Path):
        self.path = path
        self.names = sorted(self._walk())

    def _walk(self):
        seen = set()  # linked folders are followed, but not in circles
        for root, folders, files in os.walk(self.path, followlinks=True):
            seen.add(os.path.realpath(root))
            folders[:] = [name for name in folders if os.path.realpath(os.path.join(root, name)) not in seen]
            for name in files:
                yield Path(root, name).relative_to(self.path).as_posix()

    def read(self, name: str) -> bytes:
        return (self.path / name).read_bytes()


class Zip:
    """All files in a zip, with the interface of `Folder`. Every process opens the file for itself."""

    def __init__(self, path: Path, option: str):
        self.path = path
        self._option = option
        self._file, self._pid = None, None
        self.names = sorted({name for name in self._open().namelist() if not name.endswith('/')})

    def _open(self) -> zipfile.ZipFile:
        if self._pid != os.getpid():  # processes that share a handle would move each other's read position
            try:
                self._file, self._pid = zipfile.ZipFile(self.path), os.getpid()
            except zipfile.BadZipFile as err:
                raise UserError(f'{self._option} {self.path}: not a zip file, or a truncated one') from err
        return self._file

    def __getstate__(self):
        return self.__dict__ | {'_file': None, '_pid': None}

    def read(self, name: str) -> bytes:
        try:
            return self._open().read(name)
        except (zipfile.BadZipFile, RuntimeError, NotImplementedError, EOFError, zlib.error) as err:
            # RuntimeError: encrypted (or, as NotImplementedError, packed in a way that Python cannot unpack)
            raise UserError(f'{self._option} {self.path}: {name} can\'t be unpacked ({err})') from err


def open_files(path: str | os.PathLike, option: str, expected: str = 'a folder or a .zip') -> Folder | Zip:
    """The files of a folder or a `.zip`.

    Raises UserError naming `option`, and what is `expected`, if the path is neither.
    """
    path = Path(path)
    if path.is_dir():
        return Folder(path)
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
        image = Image.open(io.BytesIO(data))
        stored = [str(tile[3]) for tile in image.tile]  # PIL itself would cut 16-bit RGB to 8 bits in silence
        image.load()
        if image.getexif().get(_EXIF_ORIENTATION, 1) != 1:
            image = ImageOps.exif_transpose(image)
    except _BROKEN_IMAGE as err:
        reason = 'PIL finds no image in it' if isinstance(err, UnidentifiedImageError) else err
        raise UserError(f'{where}: not a readable image ({reason})') from err
    if any(';16' in mode for mode in stored):
        raise UserError(f'{where}: has 16 bits a channel; convert it to 8 bits first')
    if image.mode == '1':
        return image.convert('L')
    if image.mode in ('L', 'RGB') and 'transparency' not in image.info:
        return image
    if image.mode in ('L', 'LA', 'RGB', 'RGBA', 'P', 'PA'):
        return _drop_alpha(image, where)
    raise UserError(f'{where}: mode {image.mode} doesn\'t fit 8-bit grey or RGB; convert it first')


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

    A label is an integer >= 0 (a class) or a list of numbers. Raises UserError naming `option` if the file is
    not of the form {"labels": [[name, label], ...]} or {"labels": null}, or mixes kinds of labels.
    """
    if 'dataset.json' not in files.names:
        return {}
    where = f'{option} {files.path}: dataset.json'
    try:
        entries = json.loads(files.read('dataset.json'))
    except (UnicodeDecodeError, json.JSONDecodeError) as err:
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
        good = len(label) > 0 and all(_is_number(x) and math.isfinite(x) for x in label)
    else:
        good = _is_number(label) and isinstance(label, int) and 0 <= label < 2 ** 31
    if not good:
        raise UserError(f'{what} is {_short(label)}; expected an integer from 0 up or a list of numbers')


def _is_number(value) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _short(value) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + '...'
