"""Where Jacobians are taken: at noisy images along sampling trajectories, or made from real images."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch

from data.dataset import ImageDataset
from data.image_files import describe_shape
from data.molrg_data import load_molrg
from sampling.denoiser import Denoiser, FiniteOutput
from sampling.generation import begin
from sampling.plan import plan_steps
from sampling.sampler import generalized_sampler, widest_float
from torch_utils.errors import UserError
from torch_utils.images import from_uint8


class Points(NamedTuple):
    """One noisy image per seed and noise level: x [seeds, levels, C, H, W], of type `widest_float`.

    class_labels: [seeds, label_dim], None if the denoiser has no classes.
    """

    x: torch.Tensor
    class_labels: torch.Tensor | None


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


@dataclass(frozen=True, kw_only=True)
class RealImages:
    """Real images with noise, x0 + sigma n: each seed draws n, a class, and the index of x0, in this order.

    sigmas: the noise levels. count: number of images. read: the images of some indices, float32
    [N, C, H, W]. labels: of all images, [count, label_dim], unless `class_idx` overrides them.
    """

    class_idx: int | None
    sigmas: list[float]
    count: int
    read: Callable[[list[int]], torch.Tensor]
    labels: torch.Tensor | None = None

    def points(self, net: Denoiser, seeds: Sequence[int], device: torch.device) -> Points:
        """The images of these seeds, each with the same noise n at all `sigmas`."""
        draws, latents, class_labels = begin(net, seeds, device, self.class_idx)
        chosen = draws.randint(self.count).tolist()
        x0 = self.read(chosen).to(device, widest_float(device))
        if class_labels is not None and self.class_idx is None:
            class_labels = self.labels[chosen].to(device)
        return Points(torch.stack([x0 + sigma * latents for sigma in self.sigmas], dim=1), class_labels)


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


def open_images(path: str, net: Denoiser, class_idx: int | None, sigmas: list[float]) -> RealImages:
    """Real images of a zip, a folder, an .npz file or a MoLRG .pt file.

    Raises UserError naming --data if the network takes images of another size, or needs other labels.
    """
    labels, needs_labels = None, net.label_dim > 0 and class_idx is None
    if str(path).lower().endswith('.pt'):
        contents = load_molrg(path, None, None, '--data')
        images, classes = contents['data'].permute(0, 3, 1, 2), contents['conds'].long()
        count, shape, read = len(images), tuple(images.shape[1:]), images.__getitem__
        labels = torch.nn.functional.one_hot(classes).float()
        label_dim = labels.shape[1]
    else:
        dataset = ImageDataset(path, option='--data', cache=False, use_labels=None if needs_labels else False)
        count, shape = len(dataset), dataset.image_shape

        def read(indices):
            return from_uint8(torch.from_numpy(dataset.images(indices)))

        label_dim = dataset.label_dim
        if needs_labels and label_dim == net.label_dim:  # else they may be too many for the memory
            labels = torch.from_numpy(dataset.labels())
    expected = (net.img_channels, net.img_resolution, net.img_resolution)
    if tuple(shape) != expected:
        raise UserError(f'--data {path}: images are {describe_shape(shape)}, the network takes '
                        f'{describe_shape(expected)}')
    if needs_labels and label_dim != net.label_dim:
        found = f'labels of {label_dim}' if label_dim else 'none'
        raise UserError(f'--data {path}: the network needs labels of {net.label_dim} classes, and the '
                        f'images have {found}; --class chooses one for all')
    return RealImages(class_idx=class_idx, sigmas=sigmas, count=count, read=read, labels=labels)
