"""Windows of images: how well each fits a noisy one, for all places at a cost that hardly grows with P.

A window is a square of P x P pixels of all channels. Its score is (x_w.y_w - ||y_w||^2 / 2) / sigma^2: up to
a term common to all images the exponent -||x_w - y_w||^2 / (2 sigma^2) of its weight. Both terms are sums
over pixels, and a sum over a square is one over columns, which move from place to place.
"""

from collections.abc import Iterator
from itertools import pairwise, product

import torch

NARROW = 4  # the largest P for which the product of pixels sums all columns of a window
STRIP = 10  # places whose windows are summed from columns by one product
Places = tuple[range, range]  # rows and columns of pixels


def noisy_pixels(noisy: torch.Tensor, variance: torch.Tensor, shape: tuple[int, int, int]) -> torch.Tensor:
    """x / sigma^2 and, as the last channel, 1 / sigma^2, so that a product with `clean_pixels` is a score.

    noisy: float64 [B, D]. variance: float64 [B, 1]. Returns [H, W, C + 1, B].
    """
    return _as_pixels(noisy / variance, shape, (1 / variance[:, 0]).expand(*shape[1:], -1))


def clean_pixels(levels: torch.Tensor, shape: tuple[int, int, int]) -> torch.Tensor:
    """y and, as the last channel, -||y||^2 / 2, float32 [H, W, C + 1, n], exact. levels: int8 [n, D]."""
    channels = shape[0]
    pixels = _as_pixels(levels, shape, torch.zeros([], device=levels.device))
    last = pixels[:, :, channels]
    for channel in range(channels):
        last.addcmul_(pixels[:, :, channel], pixels[:, :, channel], value=-0.5)
    return pixels


def _as_pixels(images: torch.Tensor, shape: tuple[int, int, int], last: torch.Tensor) -> torch.Tensor:
    """Images [n, C * H * W] as [H, W, C + 1, n], in the type of `last`, the last channel."""
    channels, height, width = shape
    pixels = last.new_empty(height, width, channels + 1, len(images))
    pixels[:, :, :channels] = images.T.contiguous().reshape(channels, height, width, -1).permute(1, 2, 0, 3)
    pixels[:, :, channels] = last
    return pixels


def pad(pixels: torch.Tensor, margin: int) -> torch.Tensor:
    """The images with `margin` zeros around, [H, W, ...] to [H + 2 margin, W + 2 margin, ...]."""
    return torch.nn.functional.pad(pixels, (0, 0) * (pixels.dim() - 2) + (margin,) * 4) if margin else pixels


class Scores:
    """The score of every image's window for every sample's, at all places.

    Pixels' products are summed over columns of P pixels, which move from row to row, by one product for the
    pixels that come in and those that go out. In narrow windows this product adds up the columns, too, else
    products with ones do.
    x: of the samples, as from `noisy_pixels`. size: P. most: how many images at most are scored at a time.
    """

    def __init__(self, x: torch.Tensor, size: int, most: int):
        _, width, _, samples = x.shape
        places, self._size = width - size + 1, size
        self._at_once = size if size <= NARROW else 1  # columns
        room = torch.zeros_like(x[:, :, :1])  # for the reference
        self._first = torch.cat([*x[:size], room[0]], dim=1)
        self._next = torch.cat([x[size:], -x[:-size], room[size:]], dim=2)
        self._lengths = width - self._at_once + 1, places
        self._buffers = [x.new_empty(length * samples * most) for length in self._lengths]
        # Turns a value for each place into values for columns, which add up to it over a window's columns.
        self._spread = torch.cat([x.new_zeros(size - 1, places),
                                  torch.linalg.inv(x.new_ones(places, places).tril().triu(1 - size))])
        self._ones = x.new_ones(STRIP, STRIP + size - 1).triu().tril(size - 1)

    def rows(self, y: torch.Tensor, reference: torch.Tensor) -> Iterator[torch.Tensor]:
        """The scores of images y for each row of places, less a reference as it is at the start.

        y: float32 [H, W, C + 1, n], as from `clean_pixels`. reference: float64 [H - P + 1, W - P + 1, B, 1].
        Yields scores float64 [W - P + 1, B, n], and room for as many weights; in both the next are made.
        """
        size, at_once, (width, channels, count) = self._size, self._at_once, y.shape[1:]
        places, samples = reference.shape[1:3]
        columns, found = (buffer[:length * samples * count].view(length, samples, count)
                          for buffer, length in zip(self._buffers, self._lengths, strict=True))
        strips = [(self._ones[:last - first, :last - first + size - 1],
                   columns[first:last + size - 1].flatten(1), found[first:last].flatten(1))
                  for first, last in _split(places, STRIP)] if at_once < size else []
        torch.mm(self._spread, -reference[0, :, :, 0], out=self._first[:, -1])
        self._next[:, :, -1] = self._spread @ (reference[:-1] - reference[1:])[..., 0]
        pixels = torch.cat([*y[:size], torch.ones_like(y[0, :, :1])], dim=1).to(columns.dtype)
        torch.bmm(row_windows(self._first, at_once).transpose(1, 2), row_windows(pixels, at_once),
                  out=columns)
        pixels = columns.new_ones(width, 2 * channels + 1, count)
        for row in range(places):
            if row:
                pixels[:, :channels] = y[row + size - 1]
                pixels[:, channels:-1] = y[row - 1]
                x = row_windows(self._next[row - 1], at_once)
                columns.baddbmm_(x.transpose(1, 2), row_windows(pixels, at_once))
            for ones, over, out in strips:
                torch.mm(ones, over, out=out)
            yield (found if strips else columns), found


def _split(length: int, most: int) -> list[tuple[int, int]]:
    """0 to `length` in as few parts of nearly equal length as have `most` at most: (start, stop) of each."""
    count = -(-length // most)
    return list(pairwise(length * i // count for i in range(count + 1)))


def row_windows(row: torch.Tensor, size: int) -> torch.Tensor:
    """All windows [W - P + 1, P * channels, n] of a row of pixels [W, channels, n], sharing its memory."""
    width, channels, count = row.shape
    return row.as_strided((width - size + 1, size * channels, count), (channels * count, count, 1),
                          row.storage_offset())


def groups(image: tuple[int, int], size: int) -> list[Places]:
    """All pixels of an image (H, W), grouped by how its border cuts off windows around them. size: odd P."""
    return list(product(*(_cuts(length, size // 2) for length in image)))


def _cuts(length: int, margin: int) -> list[range]:
    """The groups along one axis; the inner one, whose windows are whole, alone has several places."""
    inner = range(margin, max(length - margin, margin))
    ends = (*range(margin), *range(inner.stop, length)) if inner else range(length)
    alone = [range(place, place + 1) for place in ends]
    return [*alone, inner] if inner else alone


def around(pixels: torch.Tensor, places: Places, size: int) -> torch.Tensor:
    """The windows around the places of one group, [rows, columns, channels, n, window height, window width].

    pixels: [H, W, channels, n].
    """
    for axis, of in enumerate(places):
        start, stop = max(of.start - size // 2, 0), min(of.stop + size // 2, pixels.shape[axis])
        pixels = pixels.narrow(axis, start, stop - start).unfold(axis, stop - start - len(of) + 1, 1)
    return pixels
