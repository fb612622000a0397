"""Where dataset_tool.py takes images from: folders, zips, and LSUN, CIFAR-10, MNIST as they are published."""

import itertools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from data.image_decoding import decode_image
from data.image_files import Folder, Zip
from data.image_stream import open_images
from data.labels import FileLabels, labels_from_folders, read_labels
from data.npz_images import NpzImages
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
    labels: of image files, with notes about them. by_folder: they come from folders' names.
    """

    where: str
    total: int
    images: Iterator[SourceImage]
    load: Callable[[SourceImage], Image.Image]
    skips_unreadable: bool = False  # those that can't be decoded do not count
    labels: FileLabels = field(default_factory=FileLabels)
    by_folder: bool = False

    def some(self, indices: np.ndarray) -> 'ImageSource':
        """The source of the images at these rising indices only."""
        chosen = np.zeros(self.total, dtype=bool)
        chosen[indices] = True
        return replace(self, total=len(indices), images=itertools.compress(self.images, chosen))

    def shuffled(self, seed: int) -> 'ImageSource':
        """The source of the same images in a random order; those of archives are all kept in memory."""
        images = list(self.images)
        order = np.random.RandomState(seed).permutation(len(images))
        return replace(self, images=(images[i] for i in order))


def open_source(path: str, option: str = '--source', *, class_order: str = 'names') -> ImageSource:
    """The images of a folder, `.zip` or `.npz`, an LSUN `*_lmdb` folder, or the archives CIFAR10 and MNIST.

    Folders are sorted by path components (a/x before a-b/x), zips by name as a string (a-b/x first).
    class_order: of folders that are classes, see `labels_from_folders`.
    Raises UserError naming `option` if the path is none of these or holds no images.
    """
    path, where = Path(path), f'{option} {path}'
    if path.is_dir() and path.name.endswith('_lmdb'):
        return _open_lmdb(path, where)
    if path.is_file() and path.name == CIFAR10:
        return _from_arrays(where, *read_cifar10(path, option))
    if path.is_file() and path.name == MNIST:
        return _from_arrays(where, *read_mnist(path, option))
    images = open_images(path, option, f'a folder, a .zip, an .npz file, {CIFAR10} or {MNIST}')
    if isinstance(images, NpzImages):
        return _from_npz(images, where)
    names = images.names
    if isinstance(images.files, Folder):
        names = sorted(names, key=lambda name: name.split('/'))
    labels = read_labels(images.files, names, where)
    # a zip that says it has no labels has none: dataset_tool.py puts each thousand images into a folder
    by_folder = not labels and not (isinstance(images.files, Zip) and 'dataset.json' in images.files.names)
    if by_folder:
        labels = labels_from_folders(names, class_order, where)
    return ImageSource(
        where=where, total=len(names), load=partial(_load, files=images.files, where=where), labels=labels,
        images=(SourceImage(name=name, label=label)
                for name, label in zip(names, labels.labels, strict=True)),
        by_folder=by_folder and bool(labels))


def _open_lmdb(path: Path, where: str) -> ImageSource:
    try:
        import lmdb
    except ImportError as err:
        raise UserError(f'{where}: LSUN folders need the package lmdb (pip install lmdb)') from err
    try:
        database = lmdb.open(str(path), readonly=True, lock=False)
        total = database.stat()['entries']
    except lmdb.Error as err:
        raise UserError(f'{where}: not a readable LMDB database ({err})') from err
    return ImageSource(where=where, total=total, images=_walk_lmdb(database), load=_load,
                       skips_unreadable=True)


def _walk_lmdb(database) -> Iterator[SourceImage]:
    with database.begin() as transaction:
        for key, value in transaction.cursor():
            yield SourceImage(name=key.decode('utf-8', 'replace'), label=None, data=value)


def _from_npz(images: NpzImages, where: str) -> ImageSource:
    labels = images.labels()
    labels = [None] * len(images.names) if labels is None else labels.tolist()
    pixels = (np.asarray(images.read(i)) for i in range(len(labels)))
    return _from_arrays(where, pixels, labels, images.names)


def _from_arrays(where: str, images: Iterable[np.ndarray], labels: list,
                 names: Iterable[str] = ()) -> ImageSource:
    names = names or (f'image {i}' for i in range(len(labels)))
    return ImageSource(where=where, total=len(labels), load=_load, images=(
        SourceImage(name=name, label=label, data=image)
        for name, label, image in zip(names, labels, images, strict=True)))


def _load(image: SourceImage, files: Folder | Zip | None = None, where: str = '') -> Image.Image:
    if isinstance(image.data, np.ndarray):
        return Image.fromarray(image.data)
    data = files.read(image.name) if image.data is None else image.data
    return decode_image(data, f'{where}: {image.name}')
