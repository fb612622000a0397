"""Pixels: between uint8 and the range [-1, 1] of the networks, as PNG files, side by side on one sheet."""

import os

import numpy as np
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from torch_utils.files import atomic_write

PNG_END = b'\0\0\0\0IEND\xaeB`\x82'  # its last chunk, which holds nothing


def to_uint8(x: torch.Tensor) -> torch.Tensor:
    """Pixels from [-1, 1] to 0..255: x * 127.5 + 128, clipped, then truncated. uint8 on x's device."""
    return (x * 127.5 + 128).clip(0, 255).to(torch.uint8)


def from_uint8(images: torch.Tensor) -> torch.Tensor:
    """Pixels from 0..255 to float32 in [-1, 1]: images / 127.5 - 1. `to_uint8` restores all 256 values."""
    return images.to(torch.float32) / 127.5 - 1


def write_png(path: str | os.PathLike, image: np.ndarray, *, durable: bool = True, title: str = '') -> None:
    """Write one image, uint8 [H, W, 1] (mode L) or [H, W, 3] (RGB), whole or not at all.

    durable: see `atomic_write`. title: text for the file's metadata.
    Raises ValueError for another shape or dtype.
    """
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] not in (1, 3):
        raise ValueError(f'a PNG takes uint8 [H, W, 1 or 3], got {image.dtype} {list(image.shape)}')
    pixels = np.ascontiguousarray(image[:, :, 0] if image.shape[2] == 1 else image)
    info = PngInfo()
    if title:
        info.add_text('Title', title)
    with atomic_write(path, durable=durable) as file:
        Image.fromarray(pixels).save(file, format='PNG', pnginfo=info)


def is_whole_png(path: str | os.PathLike) -> bool:
    """Whether the file is there and ends as a PNG does."""
    try:
        with open(path, 'rb') as file:
            file.seek(-len(PNG_END), os.SEEK_END)
            return file.read() == PNG_END
    except OSError:  # also of a file that is shorter
        return False


def make_grid(images: np.ndarray | torch.Tensor, columns: int) -> np.ndarray:
    """Lay images side by side, row by row; cells left over in the last row are white.

    images: uint8 [N, C, H, W], N >= 1. Returns uint8 [ceil(N / columns) * H, columns * W, C].
    """
    images = np.asarray(images)
    n, channels, height, width = images.shape
    rows = -(-n // columns)
    cells = np.full((rows * columns, channels, height, width), 255, np.uint8)
    cells[:n] = images
    cells = cells.reshape(rows, columns, channels, height, width)
    return cells.transpose(0, 3, 1, 4, 2).reshape(rows * height, columns * width, channels)
