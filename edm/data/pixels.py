"""A decoded data set to walk through in chunks: in memory while it fits, else in a memory-mapped file."""

import mmap
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import torch
from tqdm import tqdm

from torch_utils.errors import UserError

# Pixels in the chunks that are processed at a time. On a CPU, these in float64 (8 MiB) stay in the cache
# between conversion and product; a GPU wants kernels large enough to hide their launch.
CPU_CHUNKS, GPU_CHUNKS = 1 << 20, 1 << 24
_SMALLEST_CHUNK = 1 << 18
_DECODE_VALUES = 1 << 18


def to_levels(x: torch.Tensor) -> torch.Tensor:
    """Pixels in [-1, 1] in units of grey levels, 0 being the level 128."""
    return x * 127.5 - 0.5


def from_levels(levels: torch.Tensor) -> torch.Tensor:
    """Inverse of `to_levels`."""
    return (levels + 0.5) / 127.5


class Chunk(NamedTuple):
    """Consecutive images: levels int8 [n, D], and half_squares float64 [n] as in `Pixels`."""

    levels: torch.Tensor
    half_squares: torch.Tensor


class Pixels:
    """N images as rows of D grey levels minus 128, int8, each decoded once.

    dataset: has `images(indices)`, uint8 [n, C, H, W], as `data.dataset.ImageDataset` does; one that does
        not cache will do. indices: which images, in which order; any number.
    image_shape: (C, H, W). device: where chunks are wanted.
    cache_bytes: up to this many bytes the pixels are kept in the device's memory; more go to a memory-mapped
        file in the folder for temporary files, which vanishes with the process.
    chunk_values: most pixels in a chunk, by default CPU_CHUNKS over num_threads, or GPU_CHUNKS.
    show_progress: while decoding, on stderr.

    num_threads: how many are to walk through parts of the images at a time: PyTorch's on a CPU, else 1.

    half_squares: ||y||^2 / 2 of each row y, float64 [N] on the device; exact.
    """

    def __init__(self, dataset, indices: Sequence[int], image_shape: tuple[int, int, int], *,
                 device: torch.device | str, cache_bytes: float, chunk_values: int | None = None,
                 show_progress: bool = False):
        self.device = torch.device(device)
        self.image_shape = tuple(image_shape)
        self.shape = len(indices), int(np.prod(image_shape))
        on_cpu = self.device.type == 'cpu'
        self.num_threads = torch.get_num_threads() if on_cpu else 1
        values = chunk_values or (max(_SMALLEST_CHUNK, CPU_CHUNKS // self.num_threads) if on_cpu
                                  else GPU_CHUNKS)
        self.rows_per_chunk = max(1, min(values // self.shape[1], self.shape[0]))
        self.is_mapped = self.shape[0] * self.shape[1] > cache_bytes
        half_squares = np.empty(self.shape[0])
        blocks = self._decode(dataset, indices, half_squares, show_progress)
        self._store = (_InFile if self.is_mapped else _InMemory)(blocks, self.shape, self.device)
        self.half_squares = torch.from_numpy(half_squares).to(self.device)

    def _decode(self, dataset, indices: Sequence[int], half_squares: np.ndarray, show_progress: bool,
                ) -> Iterator[np.ndarray]:
        """Some rows at a time; fills in `half_squares`."""
        step = max(1, _DECODE_VALUES // self.shape[1])
        with tqdm(total=len(indices), unit='img', desc='decode', disable=not show_progress) as progress:
            for start in range(0, len(indices), step):
                images = dataset.images(indices[start:start + step])
                block = (images.reshape(len(images), self.shape[1]) ^ 0x80).view(np.int8)
                half_squares[start:start + len(block)] = np.square(block, dtype=np.float64).sum(axis=1) / 2
                yield block
                progress.update(len(block))

    def chunks(self, start: int, stop: int, most: int | None = None) -> Iterator[Chunk]:
        """The images `start` to `stop` - 1, at most `most` at a time, or `rows_per_chunk`, on the device.

        From a file, the next chunk is read, and on a GPU copied, beside the work on this one.
        """
        most = most or self.rows_per_chunk
        spans = [(row, min(row + most, stop)) for row in range(start, stop, most)]
        for (first, last), levels in zip(spans, self._store.read(spans), strict=True):
            yield Chunk(levels, self.half_squares[first:last])


class _InMemory:
    """All rows in one tensor on the device."""

    def __init__(self, blocks: Iterator[np.ndarray], shape: tuple[int, int], device: torch.device):
        rows, filled = np.empty(shape, dtype=np.int8), 0
        for block in blocks:
            rows[filled:filled + len(block)] = block
            filled += len(block)
        self._rows = torch.from_numpy(rows).to(device)

    def read(self, spans: Sequence[tuple[int, int]]) -> Iterator[torch.Tensor]:
        for start, stop in spans:
            yield self._rows[start:stop]


class _InFile:
    """All rows in a temporary file that has no name, so that nothing of it can be left behind."""

    def __init__(self, blocks: Iterator[np.ndarray], shape: tuple[int, int], device: torch.device):
        self._num_values, self._device = shape[1], device
        self._copying = torch.cuda.Stream(device) if device.type == 'cuda' else None
        with tempfile.TemporaryFile(buffering=0) as file:
            for block in blocks:
                _write(file, block, shape[0] * shape[1])
            self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)

    def read(self, spans: Sequence[tuple[int, int]]) -> Iterator[torch.Tensor]:
        with ThreadPoolExecutor(1) as reader:
            ahead = [reader.submit(self._fetch, *span) for span in spans[:1]]
            for i in range(len(spans)):
                levels = ahead.pop().result()
                if i + 1 < len(spans):
                    ahead.append(reader.submit(self._fetch, *spans[i + 1]))
                if self._copying is not None:  # this memory is the main stream's from now on
                    levels.record_stream(torch.cuda.current_stream(self._device))
                yield levels

    def _fetch(self, start: int, stop: int) -> torch.Tensor:
        first, size = start * self._num_values, (stop - start) * self._num_values
        rows = np.frombuffer(self._map, np.int8, count=size, offset=first).copy()
        if hasattr(mmap, 'MADV_DONTNEED'):  # give the pages back, lest the process grow to the file's size
            page = first // mmap.PAGESIZE * mmap.PAGESIZE
            self._map.madvise(mmap.MADV_DONTNEED, page, first + size - page)
        levels = torch.from_numpy(rows).reshape(stop - start, self._num_values)
        if self._copying is not None:
            with torch.cuda.stream(self._copying):
                levels = levels.pin_memory().to(self._device, non_blocking=True)
            self._copying.synchronize()
        return levels


def _write(file, block: np.ndarray, total: int) -> None:
    """Append a block to an unbuffered file; `total`: the bytes that are to come together."""
    left = memoryview(block).cast('B')
    try:
        while left:
            left = left[file.write(left):]
    except OSError as err:
        raise UserError(f'--cache_gb: {total / 1e9:.3g} GB of pixels, more than are kept in memory, do not '
                        f'fit into {tempfile.gettempdir()} ({err.strerror}); TMPDIR names another folder'
                        ) from err
