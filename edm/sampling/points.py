"""Noisy images at which denoisers are studied: states of sampling trajectories, or real images with noise."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
import torch

from sampling.denoiser import Denoiser, FiniteOutput
from sampling.generation import begin
from sampling.plan import plan_steps
from sampling.sampler import generalized_sampler, widest_float


class Points(NamedTuple):
    """One noisy image per seed and noise level: x [seeds, levels, C, H, W], of type `widest_float`.

    class_labels: [seeds, label_dim], None if the denoiser has no classes. clean: the images without noise,
    [seeds, C, H, W], and image: which of the real images these are; both None on trajectories.
    """

    x: torch.Tensor
    class_labels: torch.Tensor | None
    clean: torch.Tensor | None = None
    image: list[int] | None = None


@dataclass(frozen=True, kw_only=True)
class Trajectories:
    """States along the EDM sampler's trajectory from each seed's noise, as in generate.py.

    sigmas: the noise levels wanted, a subset of `levels`, those that the sampler steps through.
    options: S_churn, S_min, S_max, S_noise. class_idx, vectors: as in `sampling.generation.begin`.
    """

    class_idx: int | None
    vectors: np.ndarray | None = None
    sigmas: list[float]
    levels: list[float]
    options: dict

    def points(self, net: Denoiser, seeds: Sequence[int], device: torch.device) -> Points:
        """The states of these seeds. Raises UserError if the denoiser's output is not finite."""
        draws, latents, class_labels = begin(net, seeds, device, self.class_idx, self.vectors)
        states, output = {}, FiniteOutput()

        def keep(i, sigma, x, denoised):
            output.note(sigma, denoised)
            if sigma in self.sigmas:
                states[sigma] = x.clone()

        generalized_sampler(net, latents, class_labels, on_step=keep, levels=self.levels,
                            num_steps=len(self.levels), randn=lambda x: draws.randn(x.shape[1:], x.dtype),
                            **self.options)
        output.check()
        return Points(torch.stack([states[sigma] for sigma in self.sigmas], dim=1), class_labels)


class Images(Protocol):
    """Real images by number, as `data.real_images.RealImages` has them."""

    def __len__(self) -> int:
        """How many there are."""

    def read(self, indices: Sequence[int]) -> torch.Tensor:
        """Images at `indices`, float32 [N, C, H, W], nominally in [-1, 1]."""

    def labels(self, indices: Sequence[int]) -> torch.Tensor:
        """Their labels, float32 [N, label_dim]."""


@dataclass(frozen=True, kw_only=True)
class NoisyImages:
    """Real images with noise, x0 + sigma n: each seed draws n, a class, and the index of x0, in this order.

    images: the x0, with labels unless `class_idx` overrides them. sigmas: the noise levels.
    """

    images: Images
    class_idx: int | None
    sigmas: list[float]

    def points(self, net: Denoiser, seeds: Sequence[int], device: torch.device) -> Points:
        """The images of these seeds, each with the same noise n at all `sigmas`."""
        draws, latents, class_labels = begin(net, seeds, device, self.class_idx)
        chosen = draws.randint(len(self.images)).tolist()
        x0 = self.images.read(chosen).to(device, widest_float(device))
        if class_labels is not None and self.class_idx is None:
            class_labels = self.images.labels(chosen).to(device)
        x = torch.stack([x0 + sigma * latents for sigma in self.sigmas], dim=1)
        return Points(x, class_labels, x0, chosen)


def noise_levels(net: Denoiser, sigmas: Sequence[float] | None, **grid) -> tuple[list[float], list[float]]:
    """Noise levels to study, and those of a sampler that steps through them, too; both from high to low.

    sigmas: levels within the denoiser's range, which rounds them; None for those of the sampler.
    grid: num_steps, sigma_min, sigma_max and rho of the sampler, as `plan_steps` takes and checks them.
    """
    own = [step.start.sigma for step in plan_steps(net, **grid)]
    if sigmas is None:
        return own, own
    wanted = set(net.round_sigma(torch.tensor(sigmas, dtype=torch.float64)).tolist())
    return sorted(wanted, reverse=True), sorted({*own, *wanted}, reverse=True)
