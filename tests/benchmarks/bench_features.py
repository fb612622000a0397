"""Extraction of features, on the CPU.

- `outside the network`: of the time in which `sscd.py feature` goes through images, the share in which the
  network does not compute. The network is a ResNet-50 of random weights as TorchScript, the images are 32x32
  PNG files in a zip; one process.
- `preprocessing of 32x32 images`: from PIL images to the network's input, by two threads, beside a loop that
  resizes each image with PIL, makes a tensor of it and normalises it. Both give the same bits.
- `pixel descriptors`: images per second from PNG files to the file of descriptors.
"""

import tempfile
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from measure import Row, side_by_side
from PIL import Image

from data.image_stream import open_images
from descriptors.extraction import extract
from descriptors.pixel_descriptors import PixelDescriptor
from descriptors.sscd_model import MEAN, SIZE, STD, SscdDescriptor
from descriptors.torchscript import normalize, resize
from image_sets import encode
from scripted import save
from torch_utils.processes import default_workers, map_ahead

_BATCH = 16


def rows() -> Iterator[Row]:
    """The rows of the table."""
    pixels = np.random.default_rng(0).integers(256, size=(2000, 32, 32, 3), dtype=np.uint8)
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        yield _outside(folder, pixels[:64])
        yield _preprocessing([Image.fromarray(image) for image in pixels[:256]])
        yield _pixel(folder, pixels)


def _outside(folder: Path, pixels: np.ndarray) -> Row:
    model = save(folder / 'resnet50.pt', resnet50(), torch.rand(2, 3, 64, 64))
    descriptor = SscdDescriptor(model, torch.device('cpu'))
    network, inside = descriptor._network, 0.0

    def timed(inputs):
        nonlocal inside
        start = time.perf_counter()
        outputs = network(inputs)
        inside += time.perf_counter() - start
        return outputs

    descriptor._network = timed
    images = open_images(str(_write_zip(folder / 'few.zip', pixels)), '--images')
    options = {'batch': _BATCH, 'workers': default_workers(), 'provenance': {}}
    extract(images, descriptor, folder / 'warm-up.npz', **options)
    inside, start = 0.0, time.perf_counter()
    extract(images, descriptor, folder / 'f.npz', **options)
    total = time.perf_counter() - start
    share = 1 - inside / total
    return Row(what='feature, ResNet-50 of 320x320: time outside the network', ours=100 * share, unit='%',
               must='< 10 %', reached=share < 0.1,
               note=f'{total / len(pixels):.2f} s an image, {torch.get_num_threads()} threads')


def _preprocessing(images: list[Image.Image]) -> Row:
    mean, std = (torch.tensor(values)[:, None, None] for values in (MEAN, STD))

    batches = [images[i:i + _BATCH] for i in range(0, len(images), _BATCH)]

    def ours():
        resized = map_ahead(lambda batch: np.stack([resize(image, SIZE) for image in batch]), batches, 2,
                            ahead=4)
        return [normalize(pixels, torch.device('cpu'), MEAN, STD) for pixels in resized]

    def loop():
        return [torch.stack([one(image) for image in batch]) for batch in batches]

    def one(image):
        resized = np.array(image.resize((SIZE, SIZE), Image.Resampling.BILINEAR))
        return (torch.from_numpy(resized).permute(2, 0, 1).float() / 255 - mean) / std

    assert all(torch.equal(a, b) for a, b in zip(ours(), loop(), strict=True))
    times = side_by_side([ours, loop])
    ours, baseline = (1000 * each / len(images) for each in times)
    return Row(what='preprocessing of 32x32 images', ours=ours, unit='ms per image', baseline=baseline,
               ratio=baseline / ours, must='>= 1.7 times the baseline', reached=baseline / ours >= 1.7,
               note='baseline: per-image PIL loop; bit-equal results')


def _pixel(folder: Path, pixels: np.ndarray) -> Row:
    images = open_images(str(_write_zip(folder / 'many.zip', pixels)), '--images')
    start = time.perf_counter()
    extract(images, PixelDescriptor(), folder / 'p.npz', batch=64, workers=default_workers(), provenance={})
    return Row(what='feature, pixel descriptors of 32x32 images',
               ours=len(pixels) / (time.perf_counter() - start), unit='images/s')


def _write_zip(path: Path, pixels: np.ndarray) -> Path:
    with zipfile.ZipFile(path, 'w') as archive:
        for i, image in enumerate(pixels):
            archive.writestr(f'{i:06d}.png', encode(image))
    return path


class Bottleneck(torch.nn.Module):
    """A residual block of a ResNet-50: 1x1, 3x3, 1x1, four times as wide in the end."""

    def __init__(self, channels: int, width: int, stride: int):
        super().__init__()
        sizes = ((channels, width, 1, 1), (width, width, 3, stride), (width, 4 * width, 1, 1))
        layers = []
        for a, b, kernel, step in sizes:
            layers += [torch.nn.Conv2d(a, b, kernel, step, kernel // 2, bias=False), torch.nn.BatchNorm2d(b),
                       torch.nn.ReLU()]
        self.layers = torch.nn.Sequential(*layers[:-1])
        self.shortcut = torch.nn.Identity() if channels == 4 * width else torch.nn.Sequential(
            torch.nn.Conv2d(channels, 4 * width, 1, stride, bias=False), torch.nn.BatchNorm2d(4 * width))

    def forward(self, x):
        return torch.relu(self.layers(x) + self.shortcut(x))


def resnet50(dim: int = 512) -> torch.nn.Module:
    """A ResNet-50 (He et al. 2016, table 1) of random weights that ends in `dim` numbers."""
    layers = [torch.nn.Conv2d(3, 64, 7, 2, 3, bias=False), torch.nn.BatchNorm2d(64), torch.nn.ReLU(),
              torch.nn.MaxPool2d(3, 2, 1)]
    channels = 64
    for width, depth in ((64, 3), (128, 4), (256, 6), (512, 3)):
        for i in range(depth):
            layers.append(Bottleneck(channels, width, 2 if i == 0 and width > 64 else 1))
            channels = 4 * width
    layers += [torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(channels, dim)]
    return torch.nn.Sequential(*layers).eval()
