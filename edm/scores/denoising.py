"""How far denoisers are from the clean images, or from each other, noise level by noise level.

The denoising error E |D(x0 + sigma n; sigma) - x0|^2 on training and on held-out images tells memorization
from generalization without sampling or thresholds (Kadkhodaie et al. 2024, arXiv 2310.02557, figure 1).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from tqdm import tqdm

from sampling.denoiser import Denoiser, FiniteOutput
from sampling.points import Points
from sampling.sampler import widest_float
from torch_utils import distributed


@dataclass(frozen=True, kw_only=True)
class Differences:
    """Squared differences between denoised images and a target, means over pixels, float64.

    squares: of each denoiser, seed and noise level, [D, S, L]. variance: that of the target over the seeds,
    mean over pixels, [L]. image: the number of each seed's clean image, int64 [S], None on trajectories.
    """

    squares: np.ndarray
    variance: np.ndarray
    image: np.ndarray | None

    def mean(self) -> np.ndarray:
        """Mean over the seeds, [D, L]."""
        return self.squares.mean(axis=1)

    def standard_error(self, *, of_population: bool = False) -> np.ndarray:
        """Standard error of `mean`, [D, L]; from at least two seeds.

        The seeds' noises are independent, and so is their choice of images, with replacement.
        of_population: as an estimate for all images like these, not for these themselves: seeds that share an
            image then count together. Infinite with one image alone.
        """
        groups = np.arange(self.squares.shape[1])
        if of_population and self.image is not None:
            groups = np.unique(self.image, return_inverse=True)[1]
        count = groups.max() + 1
        if count < 2:
            return np.full(self.mean().shape, np.inf)
        sums = np.zeros((count, *self.mean().shape))
        np.add.at(sums, groups, (self.squares - self.mean()[:, None]).swapaxes(0, 1))
        return np.sqrt(np.square(sums).sum(axis=0) * count / (count - 1)) / len(groups)


def measure(denoisers: dict[str, Denoiser], points: Callable[[list[int]], Points], sigmas: Sequence[float],
            seeds: Sequence[int], device: torch.device, *, reference: Denoiser | None = None,
            batch: int = 64) -> Differences:
    """Squared differences of denoisers, by name, from the clean images, or from the output of `reference`.

    points: makes the noisy images of some seeds at all `sigmas`. batch: seeds at a time.
    Processes share the seeds; each returns the whole result. Sums are float64.
    Raises UserError if the output of a denoiser, which it names, is not finite.
    """
    order = list(seeds[distributed.rank()::distributed.world_size()])
    parts, images, sums, energy = [], [], 0.0, 0.0
    progress = tqdm(total=len(order), unit='seed', desc=', '.join(denoisers), leave=False,
                    disable=distributed.rank() != 0)
    with distributed.shared_errors(), torch.inference_mode(), progress:
        for start in range(0, len(order), batch):
            made = points(order[start:start + batch])
            targets = made.clean.unsqueeze(1).expand_as(made.x) if reference is None else _denoised(
                'the reference', reference, made, sigmas, device)
            parts.append(torch.stack([
                (_denoised(name, net, made, sigmas, device) - targets).square().flatten(2).mean(2)
                for name, net in denoisers.items()]).cpu().numpy())
            images += made.image or []
            sums = sums + targets.sum(dim=0).flatten(1).cpu().numpy()
            energy = energy + targets.square().sum(dim=0).flatten(1).cpu().numpy()
            progress.update(len(made.x))
    shared = distributed.gather((order, parts, images, sums, energy))
    places = np.argsort([seeds.index(seed) for own, *_ in shared for seed in own])
    squares = np.concatenate([part for own in shared for part in own[1]], axis=1)[:, places]
    images = np.array([image for own in shared for image in own[2]], dtype=np.int64)
    mean, energy = (sum(own[i] for own in shared) / len(seeds) for i in (3, 4))
    variance = (energy - mean**2).clip(min=0).mean(axis=1) * len(seeds) / max(len(seeds) - 1, 1)
    return Differences(squares=squares, variance=variance, image=images[places] if len(images) else None)


def _denoised(name: str, net: Denoiser, made: Points, sigmas: Sequence[float], device: torch.device,
              ) -> torch.Tensor:
    """The denoised images at all noise levels, of type `widest_float`, [S, L, C, H, W]."""
    output, dtype = FiniteOutput(), widest_float(device)
    labels = made.class_labels if net.label_dim else None
    levels = []
    for i, sigma in enumerate(sigmas):
        denoised = net(made.x[:, i], torch.tensor(sigma, dtype=dtype, device=device), labels)
        output.note(sigma, denoised)
        levels.append(denoised.to(dtype))
    output.check(f'output ({name})')
    return torch.stack(levels, dim=1)
