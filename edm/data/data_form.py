"""What the training loop needs of a data set; folders, archives and MoLRG samples have it."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np


class Dataset(Protocol):
    """Images with labels, by number.

    name: for the run's folder. resolution, num_channels: of the images. label_dim: length of a label, or 0.
    """

    name: str
    resolution: int
    num_channels: int
    label_dim: int

    def __len__(self) -> int:
        """How many images there are."""

    def images(self, indices: Sequence[int]) -> np.ndarray:
        """Images [N, C, H, W] on the 0..255 scale, uint8 or float32."""

    def labels(self, indices: Sequence[int]) -> np.ndarray:
        """Their labels, float32 [N, label_dim]."""
