"""The width of windows by noise level: that of the lowest denoising error on images left out."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from tqdm import tqdm

from data.dataset import ImageDataset
from data.image_files import describe_shape
from data.pixels import to_levels
from denoisers.window_denoiser import WindowDenoiser
from sampling.schedules import karras_sigmas
from torch_utils import distributed
from torch_utils.errors import UserError, note

LEAST_IMAGES, MOST_IMAGES = 30, 64
RISEN, EQUAL = 1.02, 1.001  # times the lowest error
LEVELS, LOWEST, HIGHEST = 18, 0.002, 80  # the noise levels of the EDM sampler, within a network's range


class Examples(NamedTuple):
    """Images to measure the error on.

    levels: float64 [M, D], grey levels as from `to_levels`. class_labels: one-hot [M, label_dim] if the
    denoiser needs them. left_out: the row of the denoiser's images that each is, and that is left out for it;
    None for held-out images; -1 for rows of other processes.
    """

    levels: torch.Tensor
    class_labels: torch.Tensor | None
    left_out: torch.Tensor | None


def choose(denoiser: WindowDenoiser, examples: Examples, *, show_progress: bool = False) -> None:
    """Set the denoiser's `sizes`, the best P for LEVELS noise levels from high to low, and print them.

    All get the same noise. As the best P shrinks with the noise, a level tries sizes from just above that of
    the last level downwards, until the error clearly rises. Of sizes that differ by next to nothing, as all
    do at high noise levels, it takes the largest.
    """
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(examples.levels.shape, generator=generator, dtype=torch.float64)
    noise = noise.to(examples.levels.device)
    widths, chosen = candidates(denoiser.img_resolution, odd=denoiser.odd), {}
    sigmas = karras_sigmas(LEVELS, max(denoiser.sigma_min, LOWEST), min(denoiser.sigma_max, HIGHEST))
    start = len(widths) - 1
    for sigma in tqdm(sigmas.tolist(), desc='--patch auto', unit='sigma', disable=not show_progress):
        errors = {}
        for i in range(min(start + 1, len(widths) - 1), -1, -1):
            errors[i] = denoising_error(denoiser, examples, noise, sigma, widths[i])
            if errors[i] > RISEN * min(errors.values()):
                break
        start = max(i for i, error in errors.items() if error <= EQUAL * min(errors.values()))
        chosen[round(sigma, 6)] = widths[start]
    denoiser.sizes = distributed.from_rank0(chosen)
    note(f'--patch auto: {describe(denoiser.sizes)}')


def candidates(resolution: int, *, odd: bool) -> list[int]:
    """The widths to try: all up to 16, then in steps of about an eighth, up to that of the image."""
    sizes, unit = [1], 2 if odd else 1
    while sizes[-1] + unit <= resolution:
        largest = resolution - (resolution - 1) % unit
        sizes.append(min(sizes[-1] + unit * max(1, sizes[-1] // (8 * unit)), largest))
    return sizes


def denoising_error(denoiser: WindowDenoiser, examples: Examples, noise: torch.Tensor, sigma: float,
                    size: int) -> float:
    """Mean squared error over pixels in [-1, 1] on the examples with noise, [M, D] of unit variance."""
    sigmas = torch.full_like(noise[:, :1], 127.5 * sigma)
    denoised = denoiser.denoise_levels(examples.levels + sigmas * noise, sigmas, examples.class_labels,
                                       size=size, left_out=examples.left_out)
    return float((denoised - examples.levels).square().mean()) / 127.5**2


def describe(chosen: dict[float, int]) -> str:
    """One line, such as `P = 8 at sigma 80 to 19.4, 5 at sigma 12.9`."""
    runs = []
    for sigma, size in chosen.items():
        if runs and runs[-1][0] == size:
            runs[-1][1].append(sigma)
        else:
            runs.append((size, [sigma]))
    return 'P = ' + ', '.join(f'{size} at sigma ' + ' to '.join(f'{sigma:.3g}' for sigma in dict.fromkeys(
        (sigmas[0], sigmas[-1]))) for size, sigmas in runs)


def heldout_examples(path: str, shape: tuple[int, int, int], *, label_dim: int, class_idx: int | None,
                     device: torch.device) -> Examples:
    """Examples from held-out images; label_dim: above 0 if the denoiser needs classes.

    Raises UserError naming --heldout if they can't be read, are too few, or don't fit.
    """
    data, where = ImageDataset(path, use_labels=None, cache=False, option='--heldout'), f'--heldout {path}'
    if data.image_shape != shape:
        raise UserError(f'{where}: images are {describe_shape(data.image_shape)}, those of --dataset '
                        f'{describe_shape(shape)}')
    classes, rows = data.classes, np.arange(len(data))
    if class_idx is not None and classes is not None:
        rows = np.flatnonzero(classes == class_idx)
    elif label_dim and (classes is None or classes.max() >= label_dim):
        raise UserError(f'{where}: expected classes as --dataset has, 0 to {label_dim - 1}')
    rows = _pick(rows, where)
    return _examples(data, rows, classes if label_dim else None, label_dim, None, device)


def training_examples(data: ImageDataset, order: np.ndarray, classes: np.ndarray | None, *, label_dim: int,
                      device: torch.device, sharded: bool, where: str) -> Examples:
    """Examples from the denoiser's own images, each left out for itself.

    order: the denoiser's images in the order of its rows, before processes share them. classes: of each item
    of `data`, if the denoiser needs them. Raises UserError if there are too few images.
    """
    rows = np.arange(len(order))
    if classes is not None:  # without the only image of a class, nothing is left of it
        of_row = classes[order]
        rows = np.flatnonzero(np.bincount(of_row)[of_row] > 1)
    rows = _pick(rows, where)
    left_out = torch.from_numpy(rows)
    if sharded:
        mine = left_out % distributed.world_size() == distributed.rank()
        left_out = torch.where(mine, left_out // distributed.world_size(), -1)
    return _examples(data, order[rows], classes, label_dim, left_out.to(device), device)


def _pick(rows: np.ndarray, where: str) -> np.ndarray:
    if len(rows) < LEAST_IMAGES:
        raise UserError(f'--patch auto: {where} has {len(rows)} images to compare on, expected at least '
                        f'{LEAST_IMAGES}')
    return np.sort(np.random.default_rng(0).permutation(rows)[:MOST_IMAGES])


def _examples(data: ImageDataset, items: Sequence[int], classes: np.ndarray | None, label_dim: int,
              left_out: torch.Tensor | None, device: torch.device) -> Examples:
    images = torch.from_numpy(data.images(items)).to(device, torch.float64).flatten(1)
    labels = None if classes is None else torch.eye(label_dim)[torch.from_numpy(classes[items])].to(device)
    return Examples(to_levels(images / 127.5 - 1), labels, left_out)
