"""What the denoisers share that weight each place's training windows by themselves."""

import math
from collections.abc import Callable, Iterator, Sequence

import torch

from data.pixels import Pixels
from denoisers import online_softmax, windows
from denoisers.data_denoiser import DataDenoiser
from denoisers.softmax_sums import Sums, by_threads, merge, merge_processes
from sampling.pace import one_thread_per_operation
from torch_utils.errors import UserError

# Scores, per thread, and pixels of images at a time: enough for operations to take longer than their calls.
CPU_SCORES, GPU_SCORES = 1 << 19, 1 << 24
CPU_PIXELS, GPU_PIXELS = 1 << 22, 1 << 26
CPU_SAMPLES = 64  # processed at a time
MIN_VARIANCE = 2.0**-20  # in squared grey levels: scores of images without noise stay exact


class WindowDenoiser(DataDenoiser):
    """Each place of an image is denoised by windows of P x P pixels there, by a softmax of its own.

    Roundings of scores grow with windows and fall with noise: at sigma = 0.002, midway between two images,
    they move pixels by up to 1e-6 for windows of 31 x 31 pixels, and 6e-6 for 63 x 63.

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
        [places, B, num_values], the weights [places, B, n] of some images, these [H, W, C + 1, n], and the
        number of the row; adds the latter. Without it, there are no weighted sums.
        """
        def sums(part):
            found = online_softmax.empty((len(x) - size + 1,) * 2 + (x.shape[3],), num_values, x.device)
            for row, scores, room, images in self._scores(x, size, part, left_out, found.top):
                of_row = Sums(*(of[row] for of in found))
                weights = online_softmax.add(of_row, scores, out=room)
                if add is not None:
                    add(of_row.weighted, weights, images, row)
            return online_softmax.finished(found)

        found = merge(by_threads(sums, rows, self._pixels.num_threads), 1.0)
        return merge_processes(found, 1.0) if self._sharded else found

    def _scores(self, x: torch.Tensor, size: int, rows: tuple[int, int], left_out: torch.Tensor | None,
                reference: torch.Tensor) -> Iterator[tuple[int, torch.Tensor, torch.Tensor, torch.Tensor]]:
        """For some images at a time and each row of places from the first to the last, its scores.

        x: as in `_window_sums`. reference: subtracted from scores, [places, places, B, 1]; that of a row may
        change once its scores are there. Yields the number of the row, scores and room for weights, both as
        from `windows.Scores.rows`, and the images [H, W, C + 1, n].
        """
        places, samples, on_cpu = len(x) - size + 1, x.shape[3], self._pixels.device.type == 'cpu'
        step = min((CPU_SCORES if on_cpu else GPU_SCORES) // (places * samples),
                   (CPU_PIXELS if on_cpu else GPU_PIXELS) // self._pixels.shape[1])
        step = step // 64 * 64 or max(step, 16)  # odd lengths are slow
        step = min(step, max(rows[1] - rows[0], 1))
        scores_of = windows.Scores(x, size, step)
        for y, out in self._chunks(rows, step, left_out):
            y = windows.pad(y, (len(x) - self.img_resolution) // 2)
            for row, (scores, room) in enumerate(scores_of.rows(y, reference)):
                if out is not None:
                    scores = room.copy_(scores)
                    scores[:, out[0], out[1]] = online_softmax.LEFT_OUT
                yield row, scores, room, y

    def _noisy_pixels(self, noisy: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        return windows.noisy_pixels(noisy, sigma.square().clamp(min=MIN_VARIANCE), self._pixels.image_shape)

    def _chunks(self, rows: tuple[int, int], step: int, left_out: torch.Tensor | None):
        """The images `rows`, `step` at a time: `windows.clean_pixels`, and pairs (sample, image) left out."""
        shape, row = self._pixels.image_shape, rows[0]
        for levels, _ in self._pixels.chunks(*rows, step):
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
