"""A decoded data set to walk through in chunks: in memory while it fits, else in a memory-mapped file."""

import mmap
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import torch
from tqdm import tqdm

CENTRE = 127.5  # of the grey levels 0..255: y in [-1, 1] is the level CENTRE + CENTRE * y
# Pixels per chunk. On a CPU a chunk in float64 (16 MiB) stays in the cache between conversion and product; a
# GPU wants kernels large enough to hide their launch.
CHUNK_VALUES = {'cpu': 1 << 21, 'cuda': 1 << 24}


class Chunk(NamedTuple):
    """Consecutive images: pixels uint8 [n, D], and half_squares float64 [n] as in `Pixels`."""

    pixels: torch.Tensor
    half_squares: torch.Tensor


class Pixels:
    """N images as rows of D grey levels, uint8, each decoded once.

    dataset: has `images(indices)`, uint8 [n, C, H, W], as `training.dataset.ImageDataset` does; one that does
        not cache will do. indices: which images, in which order; any number.
    image_shape: (C, H, W). device: where chunks are wanted.
    cache_bytes: up to so many bytes the pixels are kept in the device's memory; more go to a memory-mapped
        file in the folder for temporary files, which vanishes with the process.
    chunk_values: most pixels in a chunk, by default CHUNK_VALUES. show_progress: while decoding, on stderr.

    half_squares: ||y - CENTRE||^2 / 2 of each image y, float64 [N] on the device; exact.
    """

    def __init__(self, dataset, indices: Sequence[int], image_shape: tuple[int, int, int], *,
                 device: torch.device | str, cache_bytes: float, chunk_values: int | None = None,
                 show_progress: bool = False):
        self.device = torch.device(device)
        self.image_shape = tuple(image_shape)
        self.shape = len(indices), int(np.prod(image_shape))
        values = chunk_values or CHUNK_VALUES.get(self.device.type, CHUNK_VALUES['cpu'])
        self.rows_per_chunk = max(1, min(values // self.shape[1], self.shape[0]))
        self.is_mapped = self.shape[0] * self.shape[1] > cache_bytes
        half_squares = np.empty(self.shape[0])

        def blocks():
            rows = max(1, CHUNK_VALUES['cpu'] // self.shape[1])
            progress = tqdm(total=len(indices), unit='img', desc='decode', disable=not show_progress)
            with progress:
                for start in range(0, len(indices), rows):
                    images = dataset.images(indices[start:start + rows])
                    block = np.ascontiguousarray(images).reshape(len(images), self.shape[1])
                    half_squares[start:start + len(block)] = _half_squares(block)
                    yield block
                    progress.update(len(block))

        self._store = (_InFile if self.is_mapped else _InMemory)(blocks(), self.shape, self.device)
        self.half_squares = torch.from_numpy(half_squares).to(self.device)

    def chunks(self, start: int, stop: int) -> Iterator[Chunk]:
        """The images `start` to `stop` - 1, at most `rows_per_chunk` at a time, on the device.

        From a file, the next chunk is read, and on a GPU copied, beside the work on this one.
        """
        spans = [(row, min(row + self.rows_per_chunk, stop))
                 for row in range(start, stop, self.rows_per_chunk)]
        for (first, last), pixels in zip(spans, self._store.read(spans), strict=True):
            yield Chunk(pixels, self.half_squares[first:last])


class _InMemory:
    """All rows in one tensor on the device."""

    def __init__(self, blocks: Iterator[np.ndarray], shape: tuple[int, int], device: torch.device):
        self._rows = torch.empty(shape, dtype=torch.uint8, device=device)
        filled = 0
        for block in blocks:
            self._rows[filled:filled + len(block)] = torch.from_numpy(block)
            filled += len(block)

    def read(self, spans: Sequence[tuple[int, int]]) -> Iterator[torch.Tensor]:
        for start, stop in spans:
            yield self._rows[start:stop]


class _InFile:
    """All rows in a temporary file that has no name, so that nothing of it can be left behind."""

    def __init__(self, blocks: Iterator[np.ndarray], shape: tuple[int, int], device: torch.device):
        self._num_values, self._device = shape[1], device
        self._copying = torch.cuda.Stream(device) if device.type == 'cuda' else None
        with tempfile.TemporaryFile() as file:
            for block in blocks:
                file.write(block.data)
            file.flush()
            self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)

    def read(self, spans: Sequence[tuple[int, int]]) -> Iterator[torch.Tensor]:
        with ThreadPoolExecutor(1) as reader:
            ahead = [reader.submit(self._fetch, *span) for span in spans[:1]]
            for i in range(len(spans)):
                pixels = ahead.pop().result()
                if i + 1 < len(spans):
                    ahead.append(reader.submit(self._fetch, *spans[i + 1]))
                if self._copying is not None:  # this memory is the main stream's from now on
                    pixels.record_stream(torch.cuda.current_stream(self._device))
                yield pixels

    def _fetch(self, start: int, stop: int) -> torch.Tensor:
        first, size = start * self._num_values, (stop - start) * self._num_values
        rows = np.frombuffer(self._map, np.uint8, count=size, offset=first).copy()
        if hasattr(mmap, 'MADV_DONTNEED'):  # give the pages back, lest the process grow to the file's size
            page = first // mmap.PAGESIZE * mmap.PAGESIZE
            self._map.madvise(mmap.MADV_DONTNEED, page, first + size - page)
        pixels = torch.from_numpy(rows).reshape(stop - start, self._num_values)
        if self._copying is not None:
            with torch.cuda.stream(self._copying):
                pixels = pixels.pin_memory().to(self._device, non_blocking=True)
            self._copying.synchronize()
        return pixels


def _half_squares(block: np.ndarray) -> np.ndarray:
    """Half the squared norms of rows, float64 [n]; exact, for they are sums of quarters below 2^50."""
    centred = block.astype(np.float64) - CENTRE
    return np.einsum('nd,nd->n', centred, centred) / 2
