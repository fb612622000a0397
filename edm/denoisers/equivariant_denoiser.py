"""The equivariant local score machine: locality and translation equivariance, broken at the borders.

"An analytic theory of creativity in convolutional diffusion models" (Kamb & Ganguli 2024, arXiv 2412.20292),
its ELS machine with boundaries. Pixel p of D(x; sigma) is the sum over images i and places q of
w_iq(p) y_i[q] with w(p) = softmax_iq(-||x_W(p) - y_i,W(q)||^2 / (2 sigma^2)): W(p) is the window of P x P
pixels around p, and q runs over all places whose window the border cuts off in the same way as that of p. So
pixels in the interior see the interior windows of every place, and a corner sees itself alone.
"""

from typing import NamedTuple

import torch

from denoisers import windows
from denoisers.softmax_sums import SMALLEST, Sums, by_threads, merge, merge_processes
from denoisers.split_scores import Split, split
from denoisers.window_denoiser import LEFT_OUT, MIN_VARIANCE, WindowDenoiser

IMAGES = 32  # whose windows are processed at a time
# Windows of samples and of images in one product. On a CPU its cache is to hold their scores.
CPU_TILE, GPU_TILE = (256, 1024), (1 << 12, 1 << 14)


class EquivariantDenoiser(WindowDenoiser):
    """D(x; sigma) above, for odd P: a product of all windows with all windows, tile by tile.

    A score costs P^2 C multiplications, but the larger the windows, the fewer lie in the interior. Scores and
    weights are float32 where that moves no pixel by 1e-6 (`split_scores`), float64 at low noise levels.
    """

    odd = True

    def denoise_by(self, size, noisy, sigma, rows, left_out=None):
        variance = sigma.square().clamp(min=MIN_VARIANCE)
        x = windows.noisy_pixels(noisy, torch.ones_like(variance), self._pixels.image_shape)
        height, width, channels, count = x.shape
        groups = windows.groups((height, width), size)
        queries = [_Queries.of(x, variance, places, size) for places in groups]
        parts = by_threads(lambda part, _: self._sums(queries, groups, size, part, left_out), rows,
                           self._pixels.num_threads)
        denoised = x.new_empty(height, width, count, channels - 1)
        for (of_rows, of_columns), query, *found in zip(groups, queries, *parts, strict=True):
            sums = merge(found, query.variance)
            sums = merge_processes(sums, query.variance) if self._sharded else sums
            denoised[of_rows.start:of_rows.stop, of_columns.start:of_columns.stop] = (
                sums.weighted / sums.total).reshape(len(of_rows), len(of_columns), count, -1)
        return denoised.permute(2, 3, 0, 1).reshape(count, -1)

    def _sums(self, queries: list['_Queries'], groups: list[windows.Places], size: int,
              rows: tuple[int, int], left_out: torch.Tensor | None) -> list[Sums]:
        """The sums of each group's places and samples, [places * B, ...]."""
        tile, most_keys = CPU_TILE if self._pixels.device.type == 'cpu' else GPU_TILE
        found = [Sums(query.x.new_full((len(query.x), 1), -torch.inf), query.x.new_zeros(len(query.x), 1),
                      query.x.new_zeros(len(query.x), self.img_channels)) for query in queries]
        for y, out in self._chunks(rows, IMAGES, left_out):
            for query, places, sums in zip(queries, groups, found, strict=True):
                keys, values = _keys(y, places, size)
                keys, values = query.fit(keys), values if query.split is None else values.to(torch.float32)
                hidden = None if out is None else _hidden(out, len(query.x), keys.shape[1], y.shape[3])
                for key in range(0, keys.shape[1], most_keys):
                    of_keys = slice(key, key + most_keys)
                    for first in range(0, len(query.x), tile):
                        of_queries = slice(first, first + tile)
                        query.add(Sums(*(of[of_queries] for of in sums)), of_queries, keys[:, of_keys],
                                  values[of_keys], None if hidden is None else hidden[of_queries, of_keys])
        return found


class _Queries(NamedTuple):
    """The windows of one group's places and samples, [rows * columns * B, window pixels * C], and sigma^2.

    split: these in float32, where that will do.
    """

    x: torch.Tensor
    variance: torch.Tensor
    split: Split | None

    @classmethod
    def of(cls, x: torch.Tensor, variance: torch.Tensor, places: windows.Places, size: int) -> '_Queries':
        """x: as from `windows.noisy_pixels`. variance: [B, 1]."""
        windows_of_x = windows.around(x, places, size).transpose(2, 3)[:, :, :, :-1].flatten(3).flatten(0, 2)
        variance = variance.repeat(len(windows_of_x) // len(variance), 1)
        return cls(windows_of_x, variance, split(windows_of_x, variance))

    def fit(self, keys: torch.Tensor) -> torch.Tensor:
        """The keys in the type of the products."""
        if self.split is None:
            return keys
        if self.split.grid > 0.5:
            keys[-1].div_(self.split.grid).round_().mul_(self.split.grid)
        return keys.to(torch.float32)

    def add(self, sums: Sums, rows: slice, keys: torch.Tensor, values: torch.Tensor,
            hidden: torch.Tensor | None) -> None:
        """A step of an online softmax for some queries, in place. values: [n, C] of keys [.., n]."""
        if self.split is None:
            scores = torch.addmm(keys[-1], self.x[rows], keys[:-1])
        else:
            scores = self.split.high[rows] @ keys
        if hidden is not None:
            scores.masked_fill_(hidden, LEFT_OUT if self.split is None else -1e30)
        top = torch.maximum(sums.top, scores.amax(dim=1, keepdim=True))
        scores.sub_(top.to(scores.dtype))
        if self.split is None:
            scores.div_(self.variance[rows])
        else:
            scores.addmm_(self.split.low[rows], keys[:-1], beta=self.split.scale)
        add_weights(sums, top, scores.clamp_(min=SMALLEST).exp_(), values, self.variance[rows])


def add_weights(sums: Sums, top: torch.Tensor, weights: torch.Tensor, values: torch.Tensor,
                variance: torch.Tensor) -> None:
    """Add values [n, C] with weights [Q, n], relative to a new highest score `top`, to `sums`, in place."""
    shrink = ((sums.top - top) / variance).exp_()
    shrink.masked_fill_(shrink < 1e-30, 0)  # numbers that sink out of float64's range are slow
    sums.top.copy_(top)
    sums.total.mul_(shrink).add_(weights.sum(dim=1, keepdim=True))
    sums.weighted.mul_(shrink)
    if weights.dtype == torch.float64:
        sums.weighted.add_(weights @ values)
        return
    for channel, of_channel in enumerate(values.T):  # sums by halves, unlike products, and
        sums.weighted[:, channel] += (weights * of_channel).sum(dim=1)  # as fast as those of a few columns


def _keys(y: torch.Tensor, places: windows.Places, size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The images' windows, [window pixels * C + 1, rows * columns * n], and their centres [.., C].

    y: as from `windows.clean_pixels`. A score is the product of a query and a key.
    """
    found = windows.around(y, places, size).permute(2, 4, 5, 0, 1, 3)
    keys = torch.cat([found[:-1].flatten(0, 2), found[-1].sum(dim=(0, 1))[None]])
    of_rows, of_columns = places
    centres = y[of_rows.start:of_rows.stop, of_columns.start:of_columns.stop, :-1].transpose(2, 3)
    return keys.flatten(1), centres.reshape(-1, y.shape[2] - 1)


def _hidden(out: tuple[torch.Tensor, torch.Tensor], queries: int, keys: int, images: int) -> torch.Tensor:
    """Which keys belong to images that the sample of a query leaves out, bool [queries, keys]."""
    places = keys // images
    mask = torch.zeros(queries // places, images, dtype=torch.bool, device=out[0].device)
    mask[out] = True
    return mask.repeat(places, places)
