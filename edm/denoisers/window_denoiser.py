"""What the denoisers share that weight each place's training windows by themselves."""

import math
from collections.abc import Callable, Iterator, Sequence

import torch

from data.pixels import Pixels
from denoisers import windows
from denoisers.data_denoiser import DataDenoiser
from denoisers.softmax_sums import SMALLEST, Sums, by_threads, merge, merge_processes
from sampling.pace import one_thread_per_operation
from torch_utils.errors import UserError

# Scores computed at a time, per thread. On a CPU, these in float64 (1 MiB) stay in the cache.
CPU_SCORES, GPU_SCORES = 1 << 17, 1 << 24
CPU_SAMPLES = 64  # processed at a time
MOST_IN_FLOAT32 = 64  # images in a weighted float32 sum: rounding errors of one sign stay below 1e-6
MIN_VARIANCE = 1e-150  # in squared grey levels, so that scores don't overflow
LEFT_OUT = -1e300  # score of an image that a sample leaves out


class WindowDenoiser(DataDenoiser):
    """Each place of an image is denoised by windows of P x P pixels there, by a softmax of its own.

    patch: P, or 'auto' for sizes that `sizes` is to give, noise level by noise level.
    Raises UserError, naming --patch, if a window is larger than an image, or, with `odd`, without a centre.

    sizes: P by noise level; at others, that of the nearest level on a logarithmic scale is used.
    """

    odd = False  # whether windows need a pixel in the centre

    def __init__(self, pixels: Pixels, *, patch: int | str, **options):
        super().__init__(pixels, **options)
        self.sizes = {}
        if patch != 'auto':
            check_patch(patch, self.img_resolution, odd=self.odd)
            self.sizes = {1.0: patch}

    def __call__(self, x, sigma, class_labels=None):
        with one_thread_per_operation():
            return super().__call__(x, sigma, class_labels)

    def _denoise(self, noisy, sigma, rows):
        sizes = torch.tensor([self._size(level) for level in (sigma[:, 0] / 127.5).tolist()]).to(noisy.device)
        denoised = torch.empty_like(noisy)
        for size in sizes.unique().tolist():
            for part in self._parts((sizes == size).nonzero()[:, 0]):
                denoised[part] = self.denoise_by(size, noisy[part], sigma[part], rows)
        return denoised

    def _parts(self, samples: torch.Tensor) -> Sequence[torch.Tensor]:
        return samples.split(CPU_SAMPLES) if self._pixels.device.type == 'cpu' else [samples]

    def _size(self, sigma: float) -> int:
        return self.sizes[min(self.sizes, key=lambda level: abs(math.log(level / sigma)))]

    @torch.no_grad()
    def denoise_levels(self, noisy: torch.Tensor, sigma: torch.Tensor, class_labels: torch.Tensor | None, *,
                       size: int, left_out: torch.Tensor | None = None) -> torch.Tensor:
        """Denoise grey levels as from `to_levels`, float64 [B, D], by windows of `size` pixels.

        sigma: in grey levels, float64 [B, 1]. left_out: the row of the images that each sample leaves out,
        int64 [B]; -1 for none, and on processes that do not hold it.
        """
        denoised = torch.empty_like(noisy)
        with one_thread_per_operation():
            for samples, rows in self._groups(class_labels):
                denoised[samples] = self.denoise_by(size, noisy[samples], sigma[samples], rows,
                                                    None if left_out is None else left_out[samples])
        return denoised

    def denoise_by(self, size: int, noisy: torch.Tensor, sigma: torch.Tensor, rows: tuple[int, int],
                   left_out: torch.Tensor | None = None) -> torch.Tensor:
        """As `_denoise`, with windows of `size` pixels. left_out: the row that a sample leaves out, [B]."""
        raise NotImplementedError

    def _window_sums(self, x: torch.Tensor, size: int, rows: tuple[int, int], left_out: torch.Tensor | None,
                     num_values: int = 0, add: Callable | None = None) -> Sums:
        """The sums of each place and sample, [places, places, B, ...], of windows that lie inside the image.

        x: as from `windows.noisy_pixels`. add: called with the weighted sums of a row of places
        [places, B, num_values], the weights [places, B, n] of some images, these [H, W, C, n], and the number
        of the row; adds the latter. Without it, there are no weighted sums.
        """
        def sums(part, _):
            shape = (len(x) - size + 1,) * 2 + (x.shape[3],)
            found = Sums(x.new_full((*shape, 1), -torch.inf), x.new_zeros(*shape, 1),
                         x.new_zeros(*shape, num_values))
            for row, scores, values in self._scores(x, size, part, left_out):
                parts = Sums(*(of[row] for of in found))
                weights = add_scores(parts, scores, values.dtype)
                if add is not None:
                    add(parts.weighted, weights, values, row)
            return found

        found = merge(by_threads(sums, rows, self._pixels.num_threads), 1.0)
        return merge_processes(found, 1.0) if self._sharded else found

    def _scores(self, x: torch.Tensor, size: int, rows: tuple[int, int], left_out: torch.Tensor | None,
                ) -> Iterator[tuple[int, torch.Tensor, torch.Tensor]]:
        """For some images at a time and each row of places from the first to the last, its scores.

        x: as in `_window_sums`. Yields the number of the row, the scores [places, B, n], which the next ones
        overwrite, and the images [H, W, C, n] in the type for weighted sums, float32 if they are few.
        """
        places, samples = len(x) - size + 1, x.shape[3]
        most = CPU_SCORES if self._pixels.device.type == 'cpu' else GPU_SCORES
        step = max(16, most // (places * samples))
        if samples > MOST_IN_FLOAT32 // 4:  # else the work on images would outweigh that on scores
            step = min(step, MOST_IN_FLOAT32)
        buffer = x.new_empty(places * samples * min(step, rows[1] - rows[0]))
        for y, out in self._chunks(rows, step, left_out):
            y = windows.pad(y, (len(x) - self.img_resolution) // 2)
            dtype = torch.float32 if y.shape[3] <= MOST_IN_FLOAT32 else torch.float64
            values = y[:, :, :-1].to(dtype).contiguous()
            for row, scores in enumerate(windows.scores(x, y, size, buffer)):
                if out is not None:
                    scores = scores.clone()
                    scores[:, out[0], out[1]] = LEFT_OUT
                yield row, scores, values

    def _noisy_pixels(self, noisy: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        return windows.noisy_pixels(noisy, sigma.square().clamp(min=MIN_VARIANCE), self._pixels.image_shape)

    def _chunks(self, rows: tuple[int, int], step: int, left_out: torch.Tensor | None):
        """The images `rows`, `step` at a time: `windows.clean_pixels`, and pairs (sample, image) left out."""
        shape, row = self._pixels.image_shape, rows[0]
        for chunk in self._pixels.chunks(*rows):
            for levels in chunk.levels.split(step):
                out = None
                if left_out is not None:
                    own = ((left_out >= row) & (left_out < row + len(levels))).nonzero()[:, 0]
                    out = (own, left_out[own] - row)
                yield windows.clean_pixels(levels, shape), out
                row += len(levels)


def check_patch(size: int, resolution: int, *, odd: bool) -> None:
    """Raise UserError if windows of `size` pixels don't fit into images, or have no centre."""
    if not 1 <= size <= resolution:
        raise UserError(f'--patch {size}: expected 1 to {resolution}, for the images are '
                        f'{resolution}x{resolution}')
    if odd and size % 2 == 0:
        raise UserError(f'--patch {size}: expected an odd number, for windows have a pixel in their centre')


def add_scores(sums: Sums, scores: torch.Tensor, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    """A step of an online softmax, in place: the weights, of type `dtype`, of scores [..., n].

    Updates `sums` but for the images that have these weights, which `sums.weighted` lacks then.
    """
    top = torch.maximum(sums.top, scores.amax(dim=-1, keepdim=True))
    shrink = (sums.top - top).exp_()
    shrink.masked_fill_(shrink < 1e-30, 0)  # numbers that sink out of float64's range are slow, too
    weights = torch.sub(scores, top, out=torch.empty(scores.shape, dtype=dtype, device=top.device))
    weights.clamp_(min=SMALLEST).exp_()
    sums.top.copy_(top)
    sums.total.mul_(shrink).add_(weights.sum(dim=-1, keepdim=True))
    sums.weighted.mul_(shrink)
    return weights
