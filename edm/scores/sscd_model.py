"""SSCD, the network that judges whether one image is a copy of another, from a TorchScript file.

"A Self-Supervised Descriptor for Image Copy Detection", arXiv 2202.10261. Paper 1 calls two images the same
if the inner product of their descriptors is above 0.6.

PyTorch is imported where it is needed, so that the names of descriptors are known without it.
"""

from __future__ import annotations

import contextlib
import json
import os
import warnings
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlparse

import click
import numpy as np
from PIL import Image

from torch_utils import downloads
from torch_utils.downloads import is_url, local_path
from torch_utils.errors import UserError
from torch_utils.files import sha256_file, write_json

if TYPE_CHECKING:
    import torch

NAME = 'sscd_disc_large.torchscript.pt'
URL = f'https://dl.fbaipublicfiles.com/sscd-copy-detection/{NAME}'
SHA256 = None  # of the published file; to be filled in by who has downloaded it and compared the digest
SIZE = 320  # pixels, height and width of what the network sees
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet's RGB channels, in 0..1

_UNIT = 1e-5  # how far float32 descriptors of a network that normalises them may be from length 1


# The file

def models_dir() -> Path:
    """Where models are kept: $SSCD_CACHE, else pretrainedmodels/ beside edm/."""
    folder = os.environ.get('SSCD_CACHE')
    return Path(folder) if folder else Path(__file__).resolve().parents[2] / 'pretrainedmodels'


def find_model(model: str | None = None) -> Path:
    """The TorchScript file to use: a path as it is, a URL (None: the published network) downloaded once.

    A download lies in `models_dir()` with a record of its length and SHA-256, NAME.json, beside it, and is
    checked against that on every use. So is a file that the user has put there, from its first use on.
    Raises UserError that says, where a download fails, which file to put where.
    """
    if model is not None and not is_url(model):
        return local_path(model, '--model')
    url = model or URL
    path = models_dir() / (Path(urlparse(url).path).name or NAME)
    if path.is_file() and _put_by_hand(path):
        return path
    try:
        return downloads.fetch(url, path, '--model')
    except UserError as err:
        raise UserError(f'{err}; without a connection, download {url} elsewhere and put it at {path}, or '
                        'give its place with --model') from err


def _record_path(path: Path) -> Path:
    return path.with_name(f'{path.name}.json')


def _record(path: Path) -> dict:
    try:
        record = json.loads(_record_path(path).read_text(encoding='utf-8'))
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}


def _put_by_hand(path: Path) -> bool:
    """Whether the user has put the file there, which is then recorded or compared with its record."""
    record = _record(path)
    if record.get('url') is not None:
        return False
    found = {'url': None, 'size': path.stat().st_size, 'sha256': sha256_file(path)}
    if not record:
        with contextlib.suppress(OSError):  # others may share the folder with us, but for reading
            write_json(_record_path(path), found)
    elif record != found:
        raise UserError(f'--model: {path} is not the file that was used before ({record.get("size")} bytes, '
                        f'now {found["size"]}; or another SHA-256); if it is right, delete '
                        f'{_record_path(path).name} beside it')
    return True


def is_published(path: Path) -> bool:
    """Whether it is the published network: by its SHA-256 if that is known, else as downloaded from URL."""
    if SHA256 is not None:
        return sha256_file(path) == SHA256
    return path.parent == models_dir() and _record(path).get('url') == URL


# The images

def resize(image: Image.Image) -> np.ndarray:
    """The image in RGB at SIZE x SIZE, uint8 [SIZE, SIZE, 3]: PIL's bilinear filter, antialiased."""
    return np.asarray(image.convert('RGB').resize((SIZE, SIZE), Image.Resampling.BILINEAR))


def normalize(images: np.ndarray, device: torch.device) -> torch.Tensor:
    """(images / 255 - MEAN) / STD, from uint8 [N, H, W, 3] to float32 [N, 3, H, W] on the device.

    Looked up in a table of its 3 * 256 values: no slower, and the same bits on all devices.
    """
    import torch

    mean, std = torch.tensor(MEAN)[:, None], torch.tensor(STD)[:, None]
    table = (torch.arange(256) / 255 - mean) / std
    shape = len(images), 3, *images.shape[1:3]
    if device.type == 'cpu':  # by numpy, image by image: all stays in the cache, and no threads are needed
        result = np.empty(shape, dtype=np.float32)
        for image, out in zip(images, result, strict=True):
            for channel in range(3):
                np.take(table[channel].numpy(), image[:, :, channel], out=out[channel], mode='clip')
        return torch.from_numpy(result)
    pixels = torch.from_numpy(images)
    pixels = (pixels.pin_memory() if device.type == 'cuda' else pixels).to(device, non_blocking=True)
    return look_up(pixels, table.to(device))


def look_up(pixels: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
    """table[channel, value] of uint8 [N, H, W, 3]: float32 [N, 3, H, W] on the device of both."""
    import torch

    return torch.stack([values[pixels[..., channel].int()] for channel, values in enumerate(table)], dim=1)


# The network

class SscdDescriptor:
    """A TorchScript network from images to descriptors, [N, 3, SIZE, SIZE] -> [N, D], on a device.

    Raises UserError if the file holds no TorchScript; a download that doesn't is deleted.
    """

    kind = 'sscd'
    similarity = 'the inner product of SSCD descriptors'
    takes_model = True

    @classmethod
    def make(cls, model: str | None, device: torch.device) -> SscdDescriptor:
        """That of `--model`, by default the published one; a line on stderr names any other."""
        path = find_model(model)
        if not is_published(path) and os.environ.get('RANK', '0') == '0':
            click.echo(f'--model {path}: not known to be the published SSCD network; TorchScript runs code '
                       'of its own, which can write any file: trust where it comes from', err=True)
        return cls(path, device)

    def __init__(self, path: Path, device: torch.device):
        import torch

        self._path, self._device = path, device
        self.identity = f'sscd: {SIZE}x{SIZE}, TorchScript with SHA-256 {sha256_file(path)}'
        torch.backends.cudnn.allow_tf32 = False
        torch.backends.cuda.matmul.allow_tf32 = False
        try:
            with warnings.catch_warnings():
                warnings.simplefilter('ignore', DeprecationWarning)  # SSCD is published as TorchScript
                self._network = torch.jit.load(path, map_location=device).eval()
        except (RuntimeError, ValueError) as err:
            deleted = ''
            if path.parent == models_dir() and _record(path).get('url'):
                path.unlink(missing_ok=True)
                _record_path(path).unlink(missing_ok=True)
                deleted = ', so it is deleted'
            raise UserError(f'--model {path}: not a TorchScript file ({_first_line(err)}){deleted}') from err

    def prepare(self, image: Image.Image) -> np.ndarray:
        """uint8 [SIZE, SIZE, 3]."""
        return resize(image)

    def compute(self, images: np.ndarray) -> np.ndarray:
        """float32 [N, D], of length 1, of uint8 [N, SIZE, SIZE, 3].

        Raises UserError if the network can't take the images or gives anything but finite numbers [N, D].
        """
        import torch

        inputs = normalize(images, self._device)
        try:
            # Unfused, so that the first and the hundredth batch go the same way.
            with torch.inference_mode(), torch.jit.optimized_execution(False):
                outputs = self._network(inputs)
        except torch.OutOfMemoryError as err:
            raise UserError(f'--batch {len(images)}: more than the memory of {self._device} holds') from err
        except RuntimeError as err:
            raise UserError(f'--model {self._path}: fails on images {list(inputs.shape)} '
                            f'({_first_line(err)})') from err
        return self._checked(outputs, len(images))

    def _checked(self, outputs, n: int) -> np.ndarray:
        import torch

        found = f'a {type(outputs).__name__}'
        if isinstance(outputs, torch.Tensor):
            plain = outputs.layout == torch.strided and outputs.is_floating_point() and not outputs.is_nested
            found = f'a tensor {outputs.dtype}, {outputs.layout}' if not plain else (
                '' if outputs.ndim == 2 and len(outputs) == n and outputs.shape[1] > 0
                else f'a tensor {list(outputs.shape)}')
        if found:
            raise UserError(f'--model {self._path}: gives {found} for {n} images, expected a dense tensor '
                            f'of floats [{n}, D]')
        values = outputs.float().cpu().numpy()
        if not np.isfinite(values).all():
            raise UserError(f'--model {self._path}: gives numbers that are not finite')
        lengths = np.sqrt(np.einsum('nd,nd->n', values, values, dtype=np.float64))
        other = (abs(lengths - 1) > _UNIT) & (lengths > 0)
        values[other] /= lengths[other, None]
        return values


def _first_line(err: Exception) -> str:
    """What an error says: in one of TorchScript's the last line, behind the stack of its interpreter."""
    lines = [line.strip() for line in str(err).splitlines() if line.strip()] or ['']
    line = lines[-1 if lines[0].startswith('The following operation failed') else 0]
    return line if len(line) <= 150 else f'{line[:147]}...'
