"""From the data set to the device: endless micro-batches in the data order; what they need of a data set."""

from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

import numpy as np
import torch

from data.data_order import InfiniteSampler
from torch_utils import distributed

BATCHES_AHEAD = 2  # per worker


class Dataset(Protocol):
    """What training needs of a data set: images with labels, by number.

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


class Batches:
    """Iterator over this process's micro-batches (images [N, C, H, W], labels float32 [N, label_dim]).

    Images are float32 in [-1, 1], contiguous, on the device.

    size: N. seed: of the order, the same on every process.
    workers: threads that read batches ahead, for data sets that decode at every access; 0 reads in place.
    """

    def __init__(self, dataset: Dataset, *, size: int, seed: int, device: torch.device, workers: int = 0):
        self._dataset, self._size, self._device = dataset, size, device
        self._order = self._new_order(seed)
        # Reading ahead has its own place in the order: the state of the one above is that of the last batch
        # which was handed out.
        self._ahead = self._new_order(seed)
        self._pool = ThreadPoolExecutor(workers) if workers else None
        self._queue = deque()
        self._queue_length = workers * BATCHES_AHEAD

    def _new_order(self, seed: int) -> InfiniteSampler:
        return InfiniteSampler(len(self._dataset), rank=distributed.rank(), seed=seed,
                               num_replicas=distributed.world_size())

    def __iter__(self) -> 'Batches':
        return self

    def __next__(self) -> tuple[torch.Tensor, torch.Tensor]:
        indices = [next(self._order) for _ in range(self._size)]
        if self._pool is None:
            images, labels = self._read(indices)
        else:
            while len(self._queue) <= self._queue_length:
                later = [next(self._ahead) for _ in range(self._size)]
                self._queue.append(self._pool.submit(self._read, later))
            images, labels = self._queue.popleft().result()
        return self._to_device(images).to(torch.float32) / 127.5 - 1, self._to_device(labels)

    def _read(self, indices: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
        images = torch.from_numpy(self._dataset.images(indices))
        return images, torch.from_numpy(self._dataset.labels(indices))

    def _to_device(self, x: torch.Tensor) -> torch.Tensor:
        if self._device.type == 'cuda':  # pinned memory lets the copy run beside the GPU's work
            return x.pin_memory().to(self._device, non_blocking=True)
        return x.to(self._device)

    def state_dict(self) -> dict:
        """The place in the data order after the last batch that was handed out, for all processes."""
        return self._order.state_dict()

    def load_state_dict(self, state: dict) -> None:
        """Resume from `state_dict()`; only before the first batch."""
        self._order.load_state_dict(state)
        self._ahead.load_state_dict(state)

    def close(self) -> None:
        """Stop reading ahead."""
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
