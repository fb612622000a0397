"""What the denoisers share that weight each place's training windows by themselves."""

import math

import torch

from data.pixels import Pixels
from denoisers import windows
from denoisers.data_denoiser import DataDenoiser
from denoisers.softmax_sums import Sums, merge, merge_processes
from sampling.pace import one_thread_per_operation
from torch_utils.errors import UserError

CPU_SCORES, GPU_SCORES = 1 << 20, 1 << 26  # in work at a time, per thread
MIN_VARIANCE = 1e-150  # in squared grey levels; lest scores overflow
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
            part = sizes == size
            denoised[part] = self.denoise_by(size, noisy[part], sigma[part], rows)
        return denoised

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

    def _step(self, samples: int) -> int:
        """How many images to take at a time, so that their scores stay in the cache, or fill a GPU."""
        most = CPU_SCORES if self._pixels.device.type == 'cpu' else GPU_SCORES
        return max(16, most // (self.img_resolution**2 * samples))

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

    def _merge(self, parts: list[Sums]) -> Sums:
        """The sums over the images of all threads and processes."""
        found = merge(parts, 1.0)
        return merge_processes(found, 1.0) if self._sharded else found


def check_patch(size: int, resolution: int, *, odd: bool) -> None:
    """Raise UserError if windows of `size` pixels don't fit into images, or have no centre."""
    if not 1 <= size <= resolution:
        raise UserError(f'--patch {size}: expected 1 to {resolution}, for the images are '
                        f'{resolution}x{resolution}')
    if odd and size % 2 == 0:
        raise UserError(f'--patch {size}: expected an odd number, for windows have a pixel in their centre')


def window_scores(x: torch.Tensor, y: torch.Tensor, size: int, out: tuple | None) -> torch.Tensor:
    """`windows.scores` without the images that samples leave out."""
    found = windows.scores(x, y, size)
    if out is not None:
        found[:, :, out[0], out[1]] = LEFT_OUT
    return found


def add_scores(sums: Sums, found: torch.Tensor) -> tuple[Sums, torch.Tensor]:
    """A step of an online softmax over scores [..., n], which become their weights, also returned.

    In the sums that it returns, `weighted` lacks the images with these weights still.
    """
    top = torch.maximum(sums.top, found.amax(dim=-1, keepdim=True))
    weights = found.sub_(top).exp_()
    shrink = (sums.top - top).exp_()
    total = sums.total * shrink + weights.sum(dim=-1, keepdim=True)
    return Sums(top, total, sums.weighted.mul_(shrink)), weights
