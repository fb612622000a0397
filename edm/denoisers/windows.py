"""Windows of images: how well each fits a noisy one, for all places at a cost that does not grow with P.

A window is a square of P x P pixels of all channels. Its score is (x_w.y_w - ||y_w||^2 / 2) / sigma^2: up to
a term common to all images the exponent -||x_w - y_w||^2 / (2 sigma^2) of its weight. Both terms are sums
over pixels, and a sum over a square is a sum over rows of sums over columns.
"""

from itertools import product

import torch

Places = tuple[range, range]  # rows and columns of pixels


def as_pixels(images: torch.Tensor, shape: tuple[int, int, int], extra: torch.Tensor) -> torch.Tensor:
    """Images [n, C * H * W] as [H, W, C + 1, n], in `extra`'s type, which is the last channel [H, W, n]."""
    channels, height, width = shape
    pixels = extra.new_empty(height, width, channels + 1, len(images))
    pixels[:, :, :channels] = images.T.reshape(channels, height, width, -1).permute(1, 2, 0, 3)
    pixels[:, :, channels] = extra
    return pixels


def noisy_pixels(noisy: torch.Tensor, variance: torch.Tensor, shape: tuple[int, int, int]) -> torch.Tensor:
    """x / sigma^2 and, as the last channel, 1 / sigma^2, so that a product with `clean_pixels` is a score.

    noisy: float64 [B, D]. variance: float64 [B, 1]. Returns [H, W, C + 1, B].
    """
    last = (1 / variance[:, 0]).expand(*shape[1:], -1)
    return as_pixels(noisy / variance, shape, last)


def clean_pixels(levels: torch.Tensor, shape: tuple[int, int, int]) -> torch.Tensor:
    """y and, as the last channel, -||y||^2 / 2, float64 [H, W, C + 1, n]. levels: int8 [n, D]."""
    channels, height, width = shape
    pixels = as_pixels(levels, shape, levels.new_zeros(height, width, len(levels), dtype=torch.float64))
    pixels[:, :, channels] = pixels[:, :, :channels].square().sum(dim=2).mul_(-0.5)
    return pixels


def pad(pixels: torch.Tensor, margin: int) -> torch.Tensor:
    """The images with `margin` zeros around, [H, W, ...] to [H + 2 margin, W + 2 margin, ...]."""
    return torch.nn.functional.pad(pixels, (0, 0) * (pixels.dim() - 2) + (margin,) * 4)


def scores(x: torch.Tensor, y: torch.Tensor, size: int) -> torch.Tensor:
    """The score of every image's window for every sample's at every place where it lies inside.

    x: of the samples, [H, W, C + 1, B], as from `noisy_pixels`. y: of the images, [H, W, C + 1, n]. size: P.
    Returns [H - P + 1, W - P + 1, B, n].
    """
    height, width, _, count = y.shape
    rows = x.new_empty(height, width - size + 1, x.shape[3], count)
    for row, (of_x, of_y) in enumerate(zip(x, y.contiguous(), strict=True)):
        # All pixels of a row's window lie side by side, so that windows need no copies.
        torch.bmm(_row_windows(of_x, size).transpose(1, 2), _row_windows(of_y, size), out=rows[row])
    return sliding_sum(rows, size)


def _row_windows(row: torch.Tensor, size: int) -> torch.Tensor:
    """[W - P + 1, P * channels, n] of a row's pixels, contiguous [W, channels, n]; shares its memory."""
    width, channels, count = row.shape
    return row.as_strided((width - size + 1, size * channels, count), (channels * count, count, 1))


def sliding_sum(values: torch.Tensor, size: int) -> torch.Tensor:
    """Sums of `size` consecutive entries along the first dimension, [L, ...] to [L - size + 1, ...].

    By doubling, with at most 2 log2(size) additions; no differences, which would lose digits.
    """
    length, width, done, total = len(values) - size + 1, 1, 0, None
    while True:
        if size & width:
            part = values[done:done + length]
            total = part.clone() if total is None else total.add_(part)
            done += width
        if done == size:
            return total
        values = values[:-width] + values[width:]
        width *= 2


def covered_sum(values: torch.Tensor, size: int) -> torch.Tensor:
    """Each entry gets the sum of those to which `sliding_sum` adds it, [L, ...] to [L + size - 1, ...]."""
    padding = values.new_zeros(size - 1, *values.shape[1:])
    return sliding_sum(torch.cat([padding, values, padding]), size)


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
