"""Images and labels to train on: a folder, a zip or `.npz` files, decoded once and kept as one array."""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from data.image_stream import open_images
from data.labels import empty_classes
from torch_utils.errors import UserError, note


def kept_by_max_size(n: int, max_size: int, random_seed: int = 0) -> np.ndarray:
    """Which `max_size` of n images a data set keeps: a random choice by the seed, sorted; int64."""
    if max_size >= n:
        return np.arange(n)
    order = np.arange(n)
    np.random.RandomState(random_seed % (1 << 31)).shuffle(order)
    return np.sort(order[:max_size])


class ImageDataset:
    """Images uint8 [C, H, W], C 1 or 3, with labels float32 [label_dim].

    path: a folder or a `.zip`, searched recursively for images, in the order of their names as strings; or,
        where there are none, for `.npz` files, whose array `samples` (or `arr_0`) holds images uint8
        [N, H, W, C] and whose array `labels` (or `arr_1`), if any, one label each; or a single `.npz` file.
    use_labels: else label_dim is 0; None uses labels if there are any. Labels of image files come from
        `dataset.json` at the root. Integers become one-hot vectors as long as the largest label of all
        images + 1; lists of numbers are vectors.
    max_size: keep a random choice of this many images (`kept_by_max_size` with random_seed).
    xflip: append all images once more, mirrored in x.
    cache: decode all images at the first access and keep them; else decode each at every access.
    option: the command line's name for the path, for messages.
    Raises UserError, here or when a broken image is met; it names `option`, the path and the file.
    """

    def __init__(self, path: str | os.PathLike, *, use_labels: bool | None = False,
                 max_size: int | None = None, xflip: bool = False, random_seed: int = 0,
                 cache: bool = True, option: str = '--data'):
        if max_size is not None and max_size < 1:
            raise UserError(f'max_size must be at least 1, got {max_size}')
        self._option, self._cache = option, cache
        self._source = open_images(path, option)
        self.path = str(path)
        place = Path(path).resolve()
        self.name = place.name if place.is_dir() else place.stem
        self.image_shape = self._source.image_shape
        self.num_channels = self.image_shape[0]
        n = len(self._source.names)
        self._kept = np.arange(n) if max_size is None else kept_by_max_size(n, max_size, random_seed)
        copies = 2 if xflip else 1
        self._rows = np.tile(np.arange(len(self._kept)), copies)  # item -> place in _kept, and in _pixels
        self._mirrored = np.repeat([False, True][:copies], len(self._kept))
        self._pixels = None  # the decoded images once they are there, uint8 [len(_kept), C, H, W]
        self._classes, self._vectors, self.label_dim = None, None, 0
        labels = self._source.labels() if use_labels in (True, None) else None
        if use_labels and labels is None:
            raise UserError(f'--cond=1 needs class labels, and {option} {path} has none')
        if labels is not None and labels.ndim == 1:
            self._classes, self.label_dim = labels[self._kept], int(labels.max()) + 1
        elif labels is not None:
            self._vectors, self.label_dim = labels[self._kept].astype(np.float32), labels.shape[1]

    def check_classes(self) -> None:
        """Raise UserError if there are more classes than images; warn if there are some without."""
        if self._classes is None:
            return
        if self.label_dim > len(self._kept):
            raise UserError(f'{self._option} {self.path}: its largest label is {self.label_dim - 1}, so that '
                            f'there are {self.label_dim:,} classes, more than its {len(self._kept):,} images')
        for warning in empty_classes(self._classes, self.label_dim):
            note(f'{self._option} {self.path}: {warning}')

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        index = range(len(self))[index]
        return self.images([index])[0], self.labels([index])[0]

    @property
    def resolution(self) -> int:
        """Height and width. Raises UserError if they differ, for networks take square images only."""
        _, height, width = self.image_shape
        if height != width:
            raise UserError(f'{self._option} {self.path}: images are {width}x{height}, and networks take '
                            'square ones only; dataset_tool.py makes a square data set')
        return height

    @property
    def classes(self) -> np.ndarray | None:
        """The class of each item, int64 [N]; None if labels are vectors, missing or not used."""
        return None if self._classes is None else self._classes[self._rows]

    @property
    def file_names(self) -> list[str]:
        """The file of each item relative to the path; images in an .npz file are called file.npz[number]."""
        return [self._source.names[i] for i in self._kept[self._rows]]

    def images(self, indices: Sequence[int] | slice | None = None) -> np.ndarray:
        """Images uint8 [N, C, H, W] at `indices` (integers or a slice), or all; always a new array."""
        rows, mirrored = self._select(indices)
        if not self._cache:
            images = self._source.pixels(self._kept[rows])
        else:
            if self._pixels is None:
                self._pixels = self._source.pixels(self._kept)
            images = self._pixels[rows]
        images[mirrored] = images[mirrored, :, :, ::-1]
        return images

    def labels(self, indices: Sequence[int] | slice | None = None) -> np.ndarray:
        """Labels float32 [N, label_dim] at `indices` (integers or a slice), or all."""
        rows, _ = self._select(indices)
        if self._vectors is not None:
            return self._vectors[rows]
        labels = np.zeros((len(rows), self.label_dim), dtype=np.float32)
        if self._classes is not None:
            labels[np.arange(len(rows)), self._classes[rows]] = 1
        return labels

    def _select(self, indices) -> tuple[np.ndarray, np.ndarray]:
        if indices is None:
            indices = slice(None)
        elif not isinstance(indices, slice):
            indices = np.asarray(indices, dtype=np.int64)
        return self._rows[indices], self._mirrored[indices]
