"""Images one at a time, of any size, decoded by threads ahead of what uses them."""

import contextlib
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

from PIL import Image

from torch_utils.processes import usable_cores
from training.dataset import ImageDataset
from training.image_files import decode_image, is_image_name, open_files

Item, Result = TypeVar('Item'), TypeVar('Result')


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
        names = [name for name in files.names if is_image_name(name)]
        if names:
            def where(index: int) -> str:
                return f'{option} {path}: {names[index]}'
            return ImageStream(names=names, where=where,
                               read=lambda i: decode_image(files.read(names[i]), where(i)))
    arrays = ImageDataset(path, cache=False, option=option)

    def read(index: int) -> Image.Image:
        pixels = arrays.images([index])[0]
        return Image.fromarray(pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0))
    return ImageStream(names=arrays.file_names, read=read,
                       where=lambda i: f'{option} {path}: {arrays.file_names[i]}')


def default_workers() -> int:
    """Threads that decode images: as many as there are cores for each process of this machine, at most 8."""
    return max(1, min(8, usable_cores() // int(os.environ.get('LOCAL_WORLD_SIZE', 1))))


def map_ahead(function: Callable[[Item], Result], items: Iterable[Item], workers: int,
              ahead: int) -> Iterator[Result]:
    """function(item) in order of the items, by `workers` threads that are at most `ahead` items in front."""
    pool, pending = ThreadPoolExecutor(workers), deque()
    with contextlib.ExitStack() as stack:
        stack.callback(pool.shutdown, wait=True, cancel_futures=True)
        for item in items:
            pending.append(pool.submit(function, item))
            if len(pending) > ahead:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
