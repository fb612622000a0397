"""Windows of images: how well each fits a noisy one, for all places at a cost that does not grow with P.

A window is a square of P x P pixels of all channels. Its score is (x_w.y_w - ||y_w||^2 / 2) / sigma^2: up to
a term common to all images the exponent -||x_w - y_w||^2 / (2 sigma^2) of its weight. Both terms are sums
over pixels, and a sum over a square is one over rows, which moves from place to place.
"""

from collections.abc import Iterator
from itertools import product

import torch

Places = tuple[range, range]  # rows and columns of pixels


def noisy_pixels(noisy: torch.Tensor, variance: torch.Tensor, shape: tuple[int, int, int]) -> torch.Tensor:
    """x / sigma^2 and, as the last channel, 1 / sigma^2, so that a product with `clean_pixels` is a score.

    noisy: float64 [B, D]. variance: float64 [B, 1]. Returns [H, W, C + 1, B].
    """
    return _as_pixels(noisy / variance, shape, (1 / variance[:, 0]).expand(*shape[1:], -1))


def clean_pixels(levels: torch.Tensor, shape: tuple[int, int, int]) -> torch.Tensor:
    """y and, as the last channel, -||y||^2 / 2, float64 [H, W, C + 1, n]. levels: int8 [n, D]."""
    channels = shape[0]
    pixels = _as_pixels(levels, shape, torch.zeros([], dtype=torch.float64, device=levels.device))
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
    return torch.nn.functional.pad(pixels, (0, 0) * (pixels.dim() - 2) + (margin,) * 4)


def scores(x: torch.Tensor, y: torch.Tensor, size: int, buffer: torch.Tensor) -> Iterator[torch.Tensor]:
    """The score of every image's window for every sample's, for each row of places where windows lie inside.

    From row to row, the pixels that come in are added and those that go out subtracted, each by one product.
    x: of the samples, [H, W, C + 1, B], as from `noisy_pixels`. y: of the images, [H, W, C + 1, n]. size: P.
    buffer: float64, of at least (W - P + 1) * B * n values.
    Yields H - P + 1 times [W - P + 1, B, n], which the next one overwrites.
    """
    height, width, _, count = y.shape
    found = buffer[:(width - size + 1) * x.shape[3] * count].view(width - size + 1, x.shape[3], count)

    def add(of_x, row, keep=1):
        found.baddbmm_(row_windows(of_x[row], size).transpose(1, 2), row_windows(y[row], size), beta=keep)

    minus = -x
    for row in range(height):
        add(x, row, keep=min(row, 1))
        if row >= size:
            add(minus, row - size)
        if row >= size - 1:
            yield found


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
