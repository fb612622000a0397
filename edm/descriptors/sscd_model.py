"""SSCD, "A Self-Supervised Descriptor for Image Copy Detection" (arXiv 2202.10261), as TorchScript.

Paper 1 calls two images the same if the inner product of their descriptors is above 0.6.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from descriptors.torchscript import (
    RUNS_CODE,
    TorchScriptDescriptor,
    download_record,
    find_network,
    models_dir,
)
from torch_utils.errors import note
from torch_utils.files import sha256_file

if TYPE_CHECKING:
    import torch

URL = 'https://dl.fbaipublicfiles.com/sscd-copy-detection/sscd_disc_large.torchscript.pt'
SHA256 = None  # of the published file, once somebody has downloaded it and compared the digest
SIZE = 320  # pixels, height and width of what the network sees
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet's RGB channels, in 0..1


def is_published(path: Path) -> bool:
    """Whether it is the published network: by its SHA-256 if that is known, else as downloaded from URL."""
    if SHA256 is not None:
        return sha256_file(path) == SHA256
    return path.parent == models_dir() and download_record(path).get('url') == URL


class SscdDescriptor(TorchScriptDescriptor):
    """An SSCD network, whose descriptors are brought to length 1."""

    kind = 'sscd'
    similarity = 'the inner product of SSCD descriptors'
    length = 'unit'
    takes = ('model',)

    @classmethod
    def make(cls, device: torch.device, *, model: str | None = None) -> SscdDescriptor:
        """That of `--model`, by default the published network; a note names any other."""
        path = find_network(model or URL)
        if not is_published(path):
            note(f'--model {path}: not known to be the published SSCD network; {RUNS_CODE}')
        return cls(path, device)

    def __init__(self, path: Path, device: torch.device):
        super().__init__(path, device, resolution=SIZE, mean=MEAN, std=STD, unit_length=True)
        self.identity = f'sscd: {SIZE}x{SIZE}, TorchScript with SHA-256 {sha256_file(path)}'
