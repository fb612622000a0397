"""The equivariant local score machine: locality and translation equivariance, broken at the borders.

"An analytic theory of creativity in convolutional diffusion models" (Kamb & Ganguli 2024, arXiv 2412.20292),
its ELS machine with boundaries. Pixel p of D(x; sigma) is the sum over images i and places q of
w_iq(p) y_i[q] with w(p) = softmax_iq(-||x_W(p) - y_i,W(q)||^2 / (2 sigma^2)): W(p) is the window of P x P
pixels around p, and q runs over all places whose window the border cuts off in the same way as that of p. So
pixels in the interior see the interior windows of every place, and a corner sees itself alone.
"""

import math

import torch

from denoisers import online_softmax, windows
from denoisers.softmax_sums import Sums, by_threads, merge, merge_processes
from denoisers.window_denoiser import WindowDenoiser

IMAGES = 64  # whose windows are processed at a time
# Windows of samples and of images in one product. On a CPU its cache is to hold their scores.
CPU_TILE, GPU_TILE = (170, 1024), (1 << 12, 1 << 14)


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
        parts = by_threads(lambda part: self._sums(queries, groups, size, part, left_out), rows,
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
        most_queries, most_keys = CPU_TILE if self._pixels.device.type == 'cpu' else GPU_TILE
        found = [online_softmax.empty([len(query)], self.img_channels, query.device) for query in queries]
        parts = [[(part, query[part].clone(), Sums(*(of[part] for of in sums)))  # clones have own references
                  for part in _slices(len(query), most_queries)]
                 for query, sums in zip(queries, found, strict=True)]
        room = queries[0].new_empty(most_queries * most_keys)
        for y, out in self._chunks(rows, IMAGES, left_out):
            for of_group, query, places in zip(parts, queries, groups, strict=True):
                keys, values = _keys(y, places, size)
                hidden = None if out is None else _hidden(out, len(query), keys.shape[1], y.shape[3])
                for some in _slices(keys.shape[1], most_keys):
                    some_keys, some_values = keys[:, some], values[some]
                    for part, own, sums in of_group:
                        scores = room[:len(own) * some_keys.shape[1]].view(len(own), -1)
                        torch.neg(sums.top, out=own[:, -1:])
                        torch.mm(own, some_keys, out=scores)
                        if hidden is not None:
                            scores.masked_fill_(hidden[part, some], online_softmax.LEFT_OUT)
                        sums.weighted.addmm_(online_softmax.add(sums, scores, out=scores), some_values)
        return [online_softmax.finished(sums) for sums in found]


def _slices(length: int, most: int) -> list[slice]:
    return [slice(start, min(start + most, length)) for start in range(0, length, most)]


def _queries(x: torch.Tensor, places: windows.Places, size: int) -> torch.Tensor:
    """Windows of x, as from `windows.noisy_pixels`: [rows * columns * B, window pixels * C + 2].

    The last value makes room for a reference, which is subtracted from scores.
    """
    found = windows.around(x, places, size).transpose(2, 3)
    last = found[:, :, :, -1, :1, 0]
    return torch.cat([found[:, :, :, :-1].flatten(3), last, torch.zeros_like(last)], dim=3).flatten(0, 2)


def _keys(y: torch.Tensor, places: windows.Places, size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The images' windows, [window pixels * C + 2, rows * columns * n], and their centres [.., C], float64.

    y: as from `windows.clean_pixels`. A score is the product of a query and a key.
    """
    found = windows.around(y[:, :, :-1], places, size).permute(2, 4, 5, 0, 1, 3)
    keys = torch.ones(math.prod(found.shape[:3]) + 2, math.prod(found.shape[3:]), dtype=torch.float64,
                      device=y.device)
    keys[:-2].view(found.shape).copy_(found)
    torch.sum(keys[:-2].square(), dim=0, out=keys[-2]).div_(-2)
    of_rows, of_columns = places
    centres = y[of_rows.start:of_rows.stop, of_columns.start:of_columns.stop, :-1].transpose(2, 3)
    return keys, centres.reshape(-1, y.shape[2] - 1).to(torch.float64)


def _hidden(out: tuple[torch.Tensor, torch.Tensor], queries: int, keys: int, images: int) -> torch.Tensor:
    """Which keys belong to images that the sample of a query leaves out, bool [queries, keys]."""
    places = keys // images
    mask = torch.zeros(queries // places, images, dtype=torch.bool, device=out[0].device)
    mask[out] = True
    return mask.repeat(places, places)
