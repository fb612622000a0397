"""Inception-v3 of 2015, whose 2048 pooled features FID, KID and others are published with, as TorchScript."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from descriptors.torchscript import RUNS_CODE, TorchScriptDescriptor, download_record, find_network
from torch_utils.errors import note
from torch_utils.files import sha256_file

if TYPE_CHECKING:
    import torch

# A translation of the network of Heusel et al. 2017, which NVIDIA's metrics use.
URL = 'https://nvlabs-fi-cdn.nvidia.com/stylegan2-ada-pytorch/pretrained/metrics/inception-2015-12-05.pt'


class InceptionDescriptor(TorchScriptDescriptor):
    """The features before the last layer, as they are.

    The network takes pixels from 0 to 255 of any size, resizes them itself as the original does, and returns
    features if told to: network(uint8 [N, 3, H, W], return_features=True) -> float [N, 2048].
    """

    kind = 'inception'
    similarity = 'the inner product of Inception features'
    takes = ('model',)

    @classmethod
    def make(cls, device: torch.device, *, model: str | None = None) -> InceptionDescriptor:
        """That of `--model`, a file of the same interface, by default the published one, downloaded once."""
        path = find_network(model or URL)
        if download_record(path).get('url') != URL:
            note(f'--model {path}: not known to be the published Inception network; {RUNS_CODE}')
        return cls(path, device)

    def __init__(self, path, device: torch.device):
        super().__init__(path, device)
        self.identity = f'inception: its own preprocessing, TorchScript with SHA-256 {sha256_file(path)}'

    def inputs(self, images: np.ndarray) -> torch.Tensor:
        """uint8 [N, 3, H, W] on the device."""
        import torch

        return torch.from_numpy(images).to(self._device).permute(0, 3, 1, 2).contiguous()

    def run(self, inputs: torch.Tensor) -> torch.Tensor:
        """The features, [N, 2048] for the published network."""
        return self._network(inputs, return_features=True)
