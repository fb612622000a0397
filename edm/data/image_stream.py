"""Images in a folder, a zip or `.npz` files: one at a time, of any size, or many at once, all alike."""

import functools
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from data.image_files import Folder, Zip, describe_shape, open_files, read_image
from data.image_names import image_names, refuse_images
from data.labels import read_labels
from data.npz_images import NpzImages, open_npz_files, read_npz
from torch_utils.errors import UserError


class EncodedImages:
    """The image files of a folder or a zip, with the interface of `NpzImages`."""

    def __init__(self, files: Folder | Zip, names: Sequence[str], where: str):
        self.names, self.files = names, files
        self._where = where

    def where(self, index: int) -> str:
        return f'{self._where}: {self.names[index]}'

    def read(self, index: int) -> Image.Image:
        return read_image(self.files, self.names[index], self._where)

    @functools.cached_property
    def image_shape(self) -> tuple[int, int, int]:
        return self._decode(0).shape

    def pixels(self, indices: np.ndarray) -> np.ndarray:
        images, faults = np.empty((len(indices), *self.image_shape), dtype=np.uint8), []
        for row, index in enumerate(indices):
            try:
                image = self._decode(index)
            except UserError as err:
                faults.append(str(err).removeprefix(f'{self._where}: '))
                continue
            if image.shape == self.image_shape:
                images[row] = image
            else:
                faults.append(f'{self.names[index]} is {describe_shape(image.shape)}, and {self.names[0]} is '
                              f'{describe_shape(self.image_shape)}; all must be alike')
        refuse_images(faults, len(indices), self._where)
        return images

    def labels(self) -> np.ndarray | None:
        found = read_labels(self.files, self.names, self._where)
        if found.problem:
            raise UserError(f'{self._where}: {found.problem}')
        return np.array(found.labels) if found else None

    def _decode(self, index: int) -> np.ndarray:
        pixels = np.asarray(self.read(index))
        return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)


ImageStream = EncodedImages | NpzImages


def open_images(path: str | os.PathLike, option: str, expected: str = 'a folder, a .zip or an .npz file',
                ) -> ImageStream:
    """The images in a folder or a `.zip`, or of its `.npz` files if there are none, or of a single `.npz`.

    Names are sorted as strings. Raises UserError naming `option` if the path is not what is `expected`, or
    holds no images.
    """
    path, where = Path(path), f'{option} {path}'
    if path.is_file() and path.suffix.lower() == '.npz':
        return NpzImages([read_npz(path, path.name, where)], where)
    files = open_files(path, option, expected)
    if names := image_names(files, where):
        return EncodedImages(files, names, where)
    if images := open_npz_files(files, where):
        return images
    raise UserError(f'{where}: no images and no .npz files in it ({len(files.names)} files in all)')
