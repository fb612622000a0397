"""The equivariant local score machine: locality and translation equivariance, broken at the borders.

"An analytic theory of creativity in convolutional diffusion models" (Kamb & Ganguli 2024, arXiv 2412.20292),
its ELS machine with boundaries. Pixel p of D(x; sigma) is the sum over images i and places q of
w_iq(p) y_i[q] with w(p) = softmax_iq(-||x_W(p) - y_i,W(q)||^2 / (2 sigma^2)): W(p) is the window of P x P
pixels around p, and q runs over all places whose window the border cuts off in the same way as that of p. So
pixels in the interior see the interior windows of every place, and a corner sees itself alone.
"""

import torch

from denoisers import windows
from denoisers.softmax_sums import Sums, by_threads, merge, merge_processes
from denoisers.window_denoiser import LEFT_OUT, WindowDenoiser, add_scores

IMAGES = 32  # whose windows are processed at a time
# Windows of samples and of images in one product. On a CPU its cache is to hold their scores.
CPU_TILE, GPU_TILE = (128, 1024), (1 << 12, 1 << 14)


class EquivariantDenoiser(WindowDenoiser):
    """D(x; sigma) above, for odd P: a product of all windows with all windows, tile by tile.

    A score costs P^2 C multiplications, but the larger the windows, the fewer lie in the interior.
    """

    odd = True

    def denoise_by(self, size, noisy, sigma, rows, left_out=None):
        x = self._noisy_pixels(noisy, sigma)
        height, width, channels, count = x.shape
        groups = windows.groups((height, width), size)
        queries = [_queries(x, places, size) for places in groups]
        parts = by_threads(lambda part, _: self._sums(queries, groups, size, part, left_out), rows,
                           self._pixels.num_threads)
        denoised = x.new_empty(height, width, count, channels - 1)
        for (of_rows, of_columns), *found in zip(groups, *parts, strict=True):
            sums = merge(found, 1.0)
            sums = merge_processes(sums, 1.0) if self._sharded else sums
            denoised[of_rows.start:of_rows.stop, of_columns.start:of_columns.stop] = (
                sums.weighted / sums.total).reshape(len(of_rows), len(of_columns), count, -1)
        return denoised.permute(2, 3, 0, 1).reshape(count, -1)

    def _sums(self, queries: list[torch.Tensor], groups: list[windows.Places], size: int,
              rows: tuple[int, int], left_out: torch.Tensor | None) -> list[Sums]:
        """The sums of each group's places and samples, [places * B, ...]."""
        channels = self.img_channels
        tile, most_keys = CPU_TILE if self._pixels.device.type == 'cpu' else GPU_TILE
        found = [Sums(query.new_full((len(query), 1), -torch.inf), query.new_zeros(len(query), 1),
                      query.new_zeros(len(query), channels)) for query in queries]
        for y, out in self._chunks(rows, IMAGES, left_out):
            for query, places, sums in zip(queries, groups, found, strict=True):
                keys, values = _keys(y, places, size)
                hidden = None if out is None else _hidden(out, len(query), keys.shape[1], y.shape[3])
                for key in range(0, keys.shape[1], most_keys):
                    of_keys = slice(key, key + most_keys)
                    for first in range(0, len(query), tile):
                        of_queries = slice(first, first + tile)
                        scores = query[of_queries] @ keys[:, of_keys]
                        if hidden is not None:
                            scores.masked_fill_(hidden[of_queries, of_keys], LEFT_OUT)
                        part = Sums(*(of[of_queries] for of in sums))
                        part.weighted.add_(add_scores(part, scores) @ values[of_keys])
        return found


def _queries(x: torch.Tensor, places: windows.Places, size: int) -> torch.Tensor:
    """Windows of x, as from `windows.noisy_pixels`: [rows * columns * B, window pixels * C + 1]."""
    found = windows.around(x, places, size).transpose(2, 3)
    return torch.cat([found[:, :, :, :-1].flatten(3), found[:, :, :, -1, :1, 0]], dim=3).flatten(0, 2)


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
