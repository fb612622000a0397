"""Networks from images to descriptors as TorchScript files: those of the user, and published ones.

TorchScript runs code of its own, so only files that the user names are loaded, and the published networks
that `--descriptor` names.

PyTorch is imported where it is needed, so that the names of descriptors are known without it.
"""

from __future__ import annotations

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
from torch_utils.errors import UserError, note
from torch_utils.files import sha256_file

if TYPE_CHECKING:
    import torch

RUNS_CODE = 'TorchScript runs code of its own, which can write any file: make sure that you trust its source'
_UNIT = 1e-5  # how far float32 descriptors of a network that normalises them may be from length 1


# The file

def models_dir() -> Path:
    """Where models are kept: $SSCD_CACHE, else pretrainedmodels/ beside edm/."""
    folder = os.environ.get('SSCD_CACHE')
    return Path(folder) if folder else Path(__file__).resolve().parents[2] / 'pretrainedmodels'


def find_network(model: str) -> Path:
    """The TorchScript file to use: a path as it is, a URL downloaded once.

    A download lies in `models_dir()` with a record beside it, NAME.json, and is checked against that on every
    use. A file of that name without a record, which the user has put there, is used as it is.
    Raises UserError that says, where a download fails, which file to put where.
    """
    if not is_url(model):
        return local_path(model, '--model')
    path = models_dir() / (Path(urlparse(model).path).name or 'model.pt')
    if path.is_file() and not download_record(path):
        return path
    try:
        return downloads.fetch(model, path, '--model')
    except UserError as err:
        raise UserError(f'{err}; without a connection, download {model} elsewhere and put it at {path}, or '
                        'give its path with --model') from err


def download_record(path: Path) -> dict:
    """What `downloads.fetch` has written beside a download; empty for other files."""
    try:
        record = json.loads(path.with_name(f'{path.name}.json').read_text(encoding='utf-8'))
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}


# The network

class TorchScriptDescriptor:
    """A TorchScript network from RGB images to descriptors, float32 [N, 3, H, W] -> [N, D], on a device.

    resolution: height and width to which images are resized by PIL's bilinear filter, antialiased; None: they
    keep theirs. mean, std: the network sees (pixels / 255 - mean) / std; one number, or one per channel.
    unit_length: scale its outputs to length 1.
    Raises UserError if the file holds no TorchScript; a download that doesn't is deleted.
    """

    kind = 'torchscript'
    similarity = 'the inner product of descriptors'
    length = 'raw'
    takes = ('model', 'resolution', 'mean', 'std', 'unit_length')

    @classmethod
    def make(cls, device: torch.device, *, model: str | None = None, **more) -> TorchScriptDescriptor:
        """That of `--model`, with a note that it runs code of its own."""
        if model is None:
            raise click.UsageError(f'--descriptor {cls.kind} needs --model, a TorchScript file')
        note(f'--model {model}: {RUNS_CODE}')
        return cls(find_network(model), device, **more)

    def __init__(self, path: Path, device: torch.device, *, resolution: int | None = None,
                 mean: tuple[float, ...] = (0.0,), std: tuple[float, ...] = (1.0,),
                 unit_length: bool = False):
        import torch

        self._path, self._device, self._resolution = path, device, resolution
        self._mean, self._std, self.length = mean, std, 'unit' if unit_length else 'raw'
        size = f'{resolution}x{resolution}' if resolution else 'images of any size'
        self.identity = (f'{self.kind}: {size}, mean {_listed(mean)}, std {_listed(std)}, length '
                         f'{self.length}, TorchScript with SHA-256 {sha256_file(path)}')
        torch.backends.cudnn.allow_tf32 = False
        torch.backends.cuda.matmul.allow_tf32 = False
        try:
            with warnings.catch_warnings():
                warnings.simplefilter('ignore', DeprecationWarning)  # SSCD is published as TorchScript
                self._network = torch.jit.load(path, map_location=device).eval()
        except (RuntimeError, ValueError) as err:
            deleted = ''
            if path.parent == models_dir() and download_record(path):
                for each in path, path.with_name(f'{path.name}.json'):
                    each.unlink(missing_ok=True)
                deleted = ', so the download is deleted'
            raise UserError(f'--model {path}: not a TorchScript file ({_first_line(err)}){deleted}') from err

    def prepare(self, image: Image.Image) -> np.ndarray:
        """uint8 [H, W, 3] of an image of any mode."""
        return resize(image, self._resolution)

    def compute(self, images: np.ndarray) -> np.ndarray:
        """float32 [N, D] of prepared images, uint8 [N, H, W, 3].

        Raises UserError if the network can't take the images or returns anything but finite floats [N, D].
        """
        import torch

        inputs = self.inputs(images)
        try:
            # Without fusion, so that the first and the hundredth batch run the same code.
            with torch.inference_mode(), torch.jit.optimized_execution(False):
                outputs = self.run(inputs)
        except torch.OutOfMemoryError as err:
            raise UserError(f'--batch {len(images)}: more than the memory of {self._device} holds') from err
        except RuntimeError as err:
            raise UserError(f'--model {self._path}: fails on images {list(inputs.shape)} '
                            f'({_first_line(err)})') from err
        return self._checked(outputs, len(images))

    def inputs(self, images: np.ndarray) -> torch.Tensor:
        """The network's input for prepared images, float32 [N, 3, H, W]."""
        return normalize(images, self._device, self._mean, self._std)

    def run(self, inputs: torch.Tensor) -> torch.Tensor:
        """The network's outputs."""
        return self._network(inputs)

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
        if self.length == 'unit':
            lengths = np.sqrt(np.einsum('nd,nd->n', values, values, dtype=np.float64))
            other = (abs(lengths - 1) > _UNIT) & (lengths > 0)
            values[other] /= lengths[other, None]
        return values


def resize(image: Image.Image, resolution: int | None) -> np.ndarray:
    """The image in RGB, uint8 [H, W, 3], resized by PIL's bilinear filter, antialiased, unless told None."""
    image = image.convert('RGB')
    if resolution is not None:
        image = image.resize((resolution, resolution), Image.Resampling.BILINEAR)
    return np.asarray(image)


def normalize(images: np.ndarray, device: torch.device, mean: tuple[float, ...],
              std: tuple[float, ...]) -> torch.Tensor:
    """(images / 255 - mean) / std, from uint8 [N, H, W, 3] to float32 [N, 3, H, W] on the device."""
    import torch

    mean, std = (torch.tensor(values, device=device)[:, None, None] for values in (mean, std))
    pixels = torch.from_numpy(images).to(device).permute(0, 3, 1, 2).contiguous()
    return pixels.float().div_(255).sub_(mean).div_(std)


def _listed(numbers: tuple[float, ...]) -> str:
    return ','.join(f'{number:g}' for number in numbers)


def _first_line(err: Exception) -> str:
    """The message of an error; TorchScript's is in the last line, after its interpreter's stack."""
    lines = [line.strip() for line in str(err).splitlines() if line.strip()] or ['']
    line = lines[-1 if lines[0].startswith('The following operation failed') else 0]
    return line if len(line) <= 150 else f'{line[:147]}...'
