"""Where dataset_tool.py takes images from: folders, zips, and LSUN, CIFAR-10, MNIST as they are published."""

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from data.image_decoding import decode_image
from data.image_files import Folder, Zip, is_image_name, open_files, read_labels
from data.published_sets import CIFAR10, MNIST, read_cifar10, read_mnist
from torch_utils.errors import UserError


@dataclass(frozen=True, kw_only=True)
class SourceImage:
    """An image that is still to be decoded. data: what the source's `load` needs besides the name; small."""

    name: str
    label: int | list | None
    data: bytes | np.ndarray | None = None


@dataclass(frozen=True, kw_only=True)
class ImageSource:
    """Images in a fixed order.

    where: option and path, which lead messages. images: can be walked through once. load: from one of them to
    its PIL image, mode L or RGB; can be sent to other processes; raises UserError if it can't be decoded.
    """

    where: str
    total: int
    images: Iterator[SourceImage]
    load: Callable[[SourceImage], Image.Image]
    skips_unreadable: bool = False  # those that can't be decoded do not count

    def some(self, indices: np.ndarray) -> 'ImageSource':
        """The source of the images at these rising indices only."""
        chosen = np.zeros(self.total, dtype=bool)
        chosen[indices] = True
        return replace(self, total=len(indices), images=itertools.compress(self.images, chosen))


def open_source(path: str, option: str = '--source') -> ImageSource:
    """The images of a folder, a `.zip`, an LSUN `*_lmdb` folder or one of the archives CIFAR10 and MNIST.

    Folders are sorted by path components (a/x before a-b/x), zips by name as a string (a-b/x first).
    Raises UserError naming `option` if the path is none of these or holds no images.
    """
    path = Path(path)
    if path.is_dir() and path.name.endswith('_lmdb'):
        return _open_lmdb(path, option)
    if path.is_file() and path.name == CIFAR10:
        return _from_arrays(f'{option} {path}', *read_cifar10(path, option))
    if path.is_file() and path.name == MNIST:
        return _from_arrays(f'{option} {path}', *read_mnist(path, option))
    return _open_files(path, option)


def _open_files(path: Path, option: str) -> ImageSource:
    files = open_files(path, option, expected=f'a folder, a .zip, {CIFAR10} or {MNIST}')
    names = [name for name in files.names if is_image_name(name)]
    if not names:
        raise UserError(f'{option} {path}: no images in it ({len(files.names)} files in all)')
    labels = read_labels(files, option)
    if isinstance(files, Folder):
        names.sort(key=lambda name: name.split('/'))
        labels = labels or _labels_from_folders(names)
    images = (SourceImage(name=name, label=labels.get(name)) for name in names)
    return ImageSource(where=f'{option} {path}', total=len(names), images=images,
                       load=partial(_load_file, files, option))


def _load_file(files: Folder | Zip, option: str, image: SourceImage) -> Image.Image:
    return decode_image(files.read(image.name), f'{option} {files.path}: {image.name}')


def _labels_from_folders(names: list[str]) -> dict[str, int]:
    folders = [name.split('/')[0] if '/' in name else '' for name in names]
    numbers = {folder: number for number, folder in enumerate(sorted(set(folders)))}
    if len(numbers) < 2:
        return {}
    return {name: numbers[folder] for name, folder in zip(names, folders, strict=True)}


def _open_lmdb(path: Path, option: str) -> ImageSource:
    try:
        import lmdb
    except ImportError as err:
        raise UserError(f'{option} {path}: LSUN folders need the package lmdb (pip install lmdb)') from err
    try:
        database = lmdb.open(str(path), readonly=True, lock=False)
        total = database.stat()['entries']
    except lmdb.Error as err:
        raise UserError(f'{option} {path}: not a readable LMDB database ({err})') from err
    return ImageSource(where=f'{option} {path}', total=total, images=_walk_lmdb(database), load=_load_value,
                       skips_unreadable=True)


def _walk_lmdb(database) -> Iterator[SourceImage]:
    with database.begin() as transaction:
        for key, value in transaction.cursor():
            yield SourceImage(name=key.decode('utf-8', 'replace'), label=None, data=value)


def _load_value(image: SourceImage) -> Image.Image:
    return decode_image(image.data, image.name)


def _from_arrays(where: str, images: np.ndarray, labels: list[int]) -> ImageSource:
    return ImageSource(where=where, total=len(images), load=_load_array, images=(
        SourceImage(name=f'image {i}', label=label, data=image)
        for i, (image, label) in enumerate(zip(images, labels, strict=True))))


def _load_array(image: SourceImage) -> Image.Image:
    return Image.fromarray(image.data)
