"""Images one at a time, of any size, decoded by threads ahead of what uses them."""

import os
from collections.abc import Callable
from dataclasses import dataclass

from PIL import Image

from data.dataset import ImageDataset
from data.image_files import open_files, read_image
from data.image_names import image_names


@dataclass(frozen=True, kw_only=True)
class ImageStream:
    """names: of all images, sorted. read: image number i, of mode L or RGB; may be called by several threads.

    where: what messages call image number i. `read` raises UserError, by that name, if it can't be decoded.
    """

    names: list[str]
    read: Callable[[int], Image.Image]
    where: Callable[[int], str]


def open_images(path: str, option: str) -> ImageStream:
    """The images of a folder, a `.zip` or an `.npz`, as `ImageDataset` has them, but each of its own size.

    Raises UserError naming `option` if there are none.
    """
    if not (os.path.isfile(path) and path.lower().endswith('.npz')):
        files = open_files(path, option, expected='a folder, a .zip or an .npz file')
        if names := image_names(files, f'{option} {path}'):
            def where(index: int) -> str:
                return f'{option} {path}: {names[index]}'
            return ImageStream(names=names, where=where,
                               read=lambda i: read_image(files, names[i], f'{option} {path}'))
    arrays = ImageDataset(path, cache=False, option=option)

    def read(index: int) -> Image.Image:
        pixels = arrays.images([index])[0]
        return Image.fromarray(pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0))
    return ImageStream(names=arrays.file_names, read=read,
                       where=lambda i: f'{option} {path}: {arrays.file_names[i]}')
