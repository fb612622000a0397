"""Small data sets, in memory and on the disk."""

import gzip
import io
import json
import struct
import tarfile
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image


class Images:
    """A data set in memory."""

    def __init__(self, images, labels=None):
        self._images = images
        self._labels = np.zeros((len(images), 0), np.float32) if labels is None else labels
        self.resolution, self.num_channels = images.shape[2], images.shape[1]
        self.label_dim = self._labels.shape[1]

    def __len__(self):
        return len(self._images)

    def images(self, indices):
        return self._images[indices]

    def labels(self, indices):
        return self._labels[indices]


def encode(pixels: np.ndarray | Image.Image, format: str = 'PNG', **options) -> bytes:  # noqa: A002, PIL's word
    """An image file of uint8 pixels [H, W] or [H, W, C], or of a PIL image."""
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    file = io.BytesIO()
    image.save(file, format=format, **options)
    return file.getvalue()


def idx(*sizes: int, values) -> bytes:
    """A file as MNIST's: `values`, bytes or a number of zeros, of an array of these sizes."""
    header = bytes([0, 0, 8, len(sizes)]) + struct.pack(f'>{len(sizes)}I', *sizes)
    return gzip.compress(header + bytes(values))


def write(path: Path, files: dict) -> Path:
    """A folder, .zip or .tar.gz of {name: bytes, pixels (as PNG) or JSON value}; returns path."""
    files = {name: data if isinstance(data, bytes) else encode(data) if isinstance(data, np.ndarray)
             else json.dumps(data).encode() for name, data in files.items()}
    if path.suffix == '.zip':
        with zipfile.ZipFile(path, 'w') as archive:
            for name, data in files.items():
                archive.writestr(name, data)
    elif path.suffix == '.gz':
        with tarfile.open(path, 'w:gz') as archive:
            for name, data in files.items():
                info = tarfile.TarInfo(name)
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
    else:
        for name, data in files.items():
            (path / name).parent.mkdir(parents=True, exist_ok=True)
            (path / name).write_bytes(data)
    return path
