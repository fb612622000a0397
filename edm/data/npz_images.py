"""Images and labels in `.npz` files, of which no more comes into memory than is asked for."""

import io
import os
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image

from data.image_files import Folder, Zip, describe_shape
from data.labels import check_array
from torch_utils.errors import UserError
from torch_utils.npz import open_npz


class NpzPart(NamedTuple):
    """One file: samples, uint8 [N, H, W, C], to be indexed by integers; labels as `read_npz` returns them.

    numbers: of each sample, in its name: its seed if there is an array `seeds`, else 0, 1, 2, ..
    """

    name: str
    samples: 'np.ndarray | StoredArray'
    labels: np.ndarray | None
    numbers: Sequence[int]

    @property
    def image_shape(self) -> tuple[int, int, int]:
        _, height, width, channels = self.samples.shape
        return channels, height, width


class NpzImages:
    """The images of one or several files in a row.

    names: of each image, file.npz[its seed or number]. image_shape: (C, H, W), the first one's.
    Raises UserError if images or labels of two files differ in kind.
    """

    def __init__(self, parts: list[NpzPart], where: str):
        first = parts[0]
        self.image_shape = first.image_shape
        for part in parts:
            if part.image_shape != self.image_shape:
                raise UserError(f'{where}: {part.name} has {describe_shape(part.image_shape)} images, '
                                f'{first.name} {describe_shape(self.image_shape)}; all must be alike')
            if (part.labels is None) != (first.labels is None) or (
                    part.labels is not None and part.labels.shape[1:] != first.labels.shape[1:]):
                raise UserError(f'{where}: the labels in {part.name} and {first.name} differ in kind or '
                                'length')
        self._where = where
        self.names = [f'{part.name}[{i}]' for part in parts for i in part.numbers]
        self._samples = [part.samples for part in parts]
        self._ends = np.cumsum([part.samples.shape[0] for part in parts])
        self._labels = None if first.labels is None else np.concatenate([part.labels for part in parts])

    def where(self, index: int) -> str:
        """What messages call an image."""
        return f'{self._where}: {self.names[index]}'

    def read(self, index: int) -> Image.Image:
        """An image, of mode L or RGB; several threads may read."""
        pixels = self.pixels(np.array([index]))[0]
        return Image.fromarray(pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0))

    def pixels(self, indices: np.ndarray) -> np.ndarray:
        """Images uint8 [N, C, H, W], read now. Raises UserError if some can't be used."""
        images = np.empty((len(indices), *self.image_shape), dtype=np.uint8)
        places = np.searchsorted(self._ends, indices, side='right')
        for place in np.unique(places):
            samples, chosen = self._samples[place], np.flatnonzero(places == place)
            rows = indices[chosen] - (self._ends[place] - samples.shape[0])
            images[chosen] = samples[rows].transpose(0, 3, 1, 2)
        return images

    def labels(self) -> np.ndarray | None:
        """Classes int64 [N] or vectors float64 [N, label_dim] of all images, None if there are none."""
        return self._labels


class StoredArray:
    """An uncompressed array in an `.npz` file; rows are read from the disk whenever they are asked for."""

    def __init__(self, path: str | os.PathLike, offset: int, shape: tuple[int, ...]):
        self.shape = shape
        self._path, self._offset = path, offset

    def __getitem__(self, indices: np.ndarray) -> np.ndarray:
        rows = np.empty((len(indices), *self.shape[1:]), dtype=np.uint8)
        with open(self._path, 'rb', buffering=0) as file:
            for row, index in zip(rows.reshape(len(indices), -1), indices, strict=True):
                file.seek(self._offset + int(index) * row.nbytes)
                if file.readinto(row) != row.nbytes:
                    raise UserError(f'{self._path}: has been cut off since it was opened')
        return rows


def open_npz_files(files: Folder | Zip, where: str) -> NpzImages | None:
    """The images of all `.npz` files in a folder or zip, in the order of their names; None if it has none."""
    names = [name for name in files.names if name.lower().endswith('.npz')]
    inside = isinstance(files, Zip)
    parts = [read_npz(io.BytesIO(files.read(name)) if inside else files.path / name, name, f'{where}: {name}')
             for name in names]
    return NpzImages(parts, where) if parts else None


def read_npz(file, name: str, where: str) -> NpzPart:
    """The samples and labels of an `.npz` file; names and forms as in `data.dataset.ImageDataset`.

    file: a path, from which uncompressed samples are read later, or an open file, read now. All of it is
    checked against its checksums.
    labels: None, classes int64 [N] or vectors float64 [N, label_dim].
    Raises UserError beginning with `where`.
    """
    with open_npz(file, where) as arrays:
        key = next((key for key in ('samples', 'arr_0') if key in arrays), None)
        if key is None:
            raise UserError(f'{where}: expected an array `samples`, found {", ".join(arrays) or "nothing"}')
        shape, dtype = arrays.headers[key]
        if dtype != np.uint8 or len(shape) != 4 or shape[3] not in (1, 3) or 0 in shape:
            raise UserError(f'{where}: `{key}` is {dtype} {list(shape)}, expected uint8 [N, H, W, C] with C '
                            '1 or 3')
        if shape[1] * shape[2] > Image.MAX_IMAGE_PIXELS:
            raise UserError(f'{where}: `{key}` is {list(shape)}, with more than {Image.MAX_IMAGE_PIXELS:,} '
                            'pixels an image')
        place = arrays.place(key) if isinstance(file, os.PathLike) else None
        samples = arrays[key] if place is None else StoredArray(file, place, shape)
        labels = arrays.get({'samples': 'labels', 'arr_0': 'arr_1'}[key])
        seeds = arrays.get('seeds', np.arange(shape[0]))
    if seeds.shape != shape[:1] or seeds.dtype.kind not in 'iu' or seeds.min() < 0 or (
            len(np.unique(seeds)) < len(seeds)):
        raise UserError(f'{where}: `seeds` is {seeds.dtype} {list(seeds.shape)}, expected {shape[0]} '
                        'different integers of at least 0')
    if labels is not None:
        labels = check_array(labels, shape[0], f'{where}: `{"labels" if key == "samples" else "arr_1"}`')
    return NpzPart(name, samples, labels, seeds.tolist())
