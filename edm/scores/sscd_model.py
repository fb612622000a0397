"""SSCD, "A Self-Supervised Descriptor for Image Copy Detection" (arXiv 2202.10261), as TorchScript.

Paper 1 calls two images the same if the inner product of their descriptors is above 0.6.

PyTorch is imported where it is needed, so that the names of descriptors are known without it.
"""

from __future__ import annotations

import json
import os
import warnings
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlparse

import numpy as np
from PIL import Image

from torch_utils import downloads
from torch_utils.downloads import is_url, local_path
from torch_utils.errors import UserError, note
from torch_utils.files import sha256_file

if TYPE_CHECKING:
    import torch

NAME = 'sscd_disc_large.torchscript.pt'
URL = f'https://dl.fbaipublicfiles.com/sscd-copy-detection/{NAME}'
SHA256 = None  # of the published file, once somebody has downloaded it and compared the digest
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

    A download lies in `models_dir()` with a record beside it, NAME.json, and is checked against that on every
    use. A file of that name without a record, which the user has put there, is used as it is.
    Raises UserError that says, where a download fails, which file to put where.
    """
    if model is not None and not is_url(model):
        return local_path(model, '--model')
    url = model or URL
    path = models_dir() / (Path(urlparse(url).path).name or NAME)
    if path.is_file() and not _record(path):
        return path
    try:
        return downloads.fetch(url, path, '--model')
    except UserError as err:
        raise UserError(f'{err}; without a connection, download {url} elsewhere and put it at {path}, or '
                        'give its path with --model') from err


def _record(path: Path) -> dict:
    """What `downloads.fetch` has written beside a download; empty for other files."""
    try:
        record = json.loads(path.with_name(f'{path.name}.json').read_text(encoding='utf-8'))
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}


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
    """(images / 255 - MEAN) / STD, from uint8 [N, H, W, 3] to float32 [N, 3, H, W] on the device."""
    import torch

    mean, std = (torch.tensor(values, device=device)[:, None, None] for values in (MEAN, STD))
    pixels = torch.from_numpy(images).to(device).permute(0, 3, 1, 2).contiguous()
    return pixels.float().div_(255).sub_(mean).div_(std)


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
        """That of `--model`, by default the published network; a note names any other."""
        path = find_model(model)
        if not is_published(path):
            note(f'--model {path}: not known to be the published SSCD network; TorchScript runs code of its '
                 'own, which can write any file: make sure that you trust its source')
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
            if path.parent == models_dir() and _record(path):
                for each in path, path.with_name(f'{path.name}.json'):
                    each.unlink(missing_ok=True)
                deleted = ', so the download is deleted'
            raise UserError(f'--model {path}: not a TorchScript file ({_first_line(err)}){deleted}') from err

    def prepare(self, image: Image.Image) -> np.ndarray:
        """uint8 [SIZE, SIZE, 3]."""
        return resize(image)

    def compute(self, images: np.ndarray) -> np.ndarray:
        """float32 [N, D], rows of length 1, of uint8 [N, SIZE, SIZE, 3].

        Raises UserError if the network can't take the images or returns anything but finite floats [N, D].
        """
        import torch

        inputs = normalize(images, self._device)
        try:
            # Without fusion, so that the first and the hundredth batch run the same code.
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

        found, good = f'a {type(outputs).__name__}', False
        if isinstance(outputs, torch.Tensor) and not outputs.is_nested:
            shape = outputs.shape
            found = f'{outputs.layout} {outputs.dtype} {list(shape)}'
            good = outputs.layout == torch.strided and outputs.is_floating_point() and (
                len(shape) == 2 and shape[0] == n and shape[1] > 0)
        if not good:
            raise UserError(f'--model {self._path}: returns {found} for {n} images, expected a dense tensor '
                            f'of floats [{n}, D]')
        values = outputs.float().cpu().numpy()
        if not np.isfinite(values).all():
            raise UserError(f'--model {self._path}: returns numbers that are not finite')
        lengths = np.sqrt(np.einsum('nd,nd->n', values, values, dtype=np.float64))
        other = (abs(lengths - 1) > _UNIT) & (lengths > 0)
        values[other] /= lengths[other, None]
        return values


def _first_line(err: Exception) -> str:
    """The message of an error; TorchScript's stands in the last line, after the stack of its interpreter."""
    lines = [line.strip() for line in str(err).splitlines() if line.strip()] or ['']
    line = lines[-1 if lines[0].startswith('The following operation failed') else 0]
    return line if len(line) <= 150 else f'{line[:147]}...'
