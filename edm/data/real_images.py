"""Real images for denoisers, of a zip, folder, `.npz` file or MoLRG `.pt` file, and which are equal."""

import hashlib
import os
from collections.abc import Iterable, Sequence

import numpy as np
import torch
from tqdm import tqdm

from data.dataset import ImageDataset
from data.image_files import describe_shape
from data.molrg_data import load_molrg
from torch_utils.errors import UserError
from torch_utils.images import from_uint8

_BLOCK = 1024  # images decoded together


class RealImages:
    """Images by number, decoded at every access.

    shape: (C, H, W) that they must have. label_dim: length of the labels that they must have; with 0 none are
        read.
    Raises UserError naming `option` for images that can't be read, or of another shape or other labels.
    """

    def __init__(self, path: str | os.PathLike, shape: tuple[int, int, int], *, label_dim: int = 0,
                 option: str = '--data'):
        self._name = f'{option} {path}'
        if str(path).lower().endswith('.pt'):
            contents = load_molrg(path, None, None, option)
            self._dataset, self._samples = None, contents['data'].permute(0, 3, 1, 2)
            self._labels = torch.nn.functional.one_hot(contents['conds'].long()).float()
            found, found_dim, count = self._samples.shape[1:], self._labels.shape[1], len(self._samples)
        else:
            self._dataset = ImageDataset(path, option=option, cache=False,
                                         use_labels=None if label_dim else False)
            found, found_dim, count = self._dataset.image_shape, self._dataset.label_dim, len(self._dataset)
        if tuple(found) != tuple(shape):
            raise UserError(f'{self._name}: images are {describe_shape(found)}, the network takes '
                            f'{describe_shape(shape)}')
        if label_dim and found_dim != label_dim:
            has = f'labels of {found_dim}' if found_dim else 'none'
            raise UserError(f'{self._name}: the network needs labels of {label_dim} classes, and the images '
                            f'have {has}; --class chooses one for all')
        self._kept = np.arange(count)

    def __len__(self) -> int:
        return len(self._kept)

    def read(self, indices: Sequence[int]) -> torch.Tensor:
        """Images at `indices`, float32 [N, C, H, W], in [-1, 1]; samples of MoLRG are unbounded."""
        rows = self._kept[indices]
        if self._dataset is None:
            return self._samples[rows]
        return from_uint8(torch.from_numpy(self._dataset.images(rows)))

    def labels(self, indices: Sequence[int]) -> torch.Tensor:
        """Their labels, float32 [N, label_dim]."""
        rows = self._kept[indices]
        return self._labels[rows] if self._dataset is None else torch.from_numpy(self._dataset.labels(rows))

    def fingerprints(self, *, show_progress: bool = False) -> list[bytes]:
        """A hash of each image's pixels."""
        starts = tqdm(range(0, len(self), _BLOCK), desc='compare', disable=not show_progress)
        blocks = (self.read(range(start, min(start + _BLOCK, len(self)))) for start in starts)
        return [hashlib.sha256(image.tobytes()).digest() for block in blocks
                for image in np.ascontiguousarray(block.numpy())]

    def equal_to(self, others: Iterable['RealImages'], *, show_progress: bool = False) -> np.ndarray:
        """Which of these images `others` have, too, pixel by pixel; bool [N]."""
        theirs = {mark for other in others for mark in other.fingerprints(show_progress=show_progress)}
        return np.array([mark in theirs for mark in self.fingerprints()], dtype=bool)

    def drop(self, which: np.ndarray) -> None:
        """Leave out images, bool [N]. Raises UserError if none remains."""
        if which.all():
            raise UserError(f'{self._name}: all of its {len(self):,} images are training images')
        self._kept = self._kept[~which]
