"""Denoising losses (Karras et al. 2022, Eq. 8 and Table 1): what noise is added and what an error costs.

A loss is called as loss_fn(net, images, labels, augment_pipe):

net: preconditioned denoiser, net(x, sigma, class_labels, augment_labels=...).
images: float32 [B, C, H, W] in [-1, 1]. labels: float32 [B, label_dim] or None.
augment_pipe: maps images to (images, augmentation labels), as `AugmentPipe` does, or None.

It returns the loss of each pixel, [B, C, H, W]: weight(sigma) (D(y + n; sigma) - y)^2 with n = sigma times
standard normal noise. It draws from torch's default generator, on the images' device: the noise levels, then
what the augmentation draws, then the noise.

The text of this file travels inside snapshots and is executed by other software there.
"""

from collections.abc import Callable

import torch

from torch_utils import persistence


class _Loss:
    """A subclass draws the noise levels: draw([B, 1, 1, 1], device) gives sigma and weight(sigma)."""

    def __call__(self, net: torch.nn.Module, images: torch.Tensor, labels: torch.Tensor | None = None,
                 augment_pipe: Callable | None = None) -> torch.Tensor:
        sigma, weight = self.draw([images.shape[0], 1, 1, 1], images.device)
        augment_labels = None
        if augment_pipe is not None:
            images, augment_labels = augment_pipe(images)
        # Not randn_like, which fills images in channels_last order in another order.
        noise = torch.randn(images.shape, dtype=images.dtype, device=images.device)
        denoised = net(images + sigma * noise, sigma, labels, augment_labels=augment_labels)
        return weight * (denoised - images)**2


@persistence.persistent_class
class VPLoss(_Loss):
    """For `VPPrecond`: times uniform in [epsilon_t, 1], errors counted in units of the noise."""

    def __init__(self, beta_d: float = 19.9, beta_min: float = 0.1, epsilon_t: float = 1e-5):
        self.beta_d = beta_d
        self.beta_min = beta_min
        self.epsilon_t = epsilon_t

    def draw(self, shape, device):
        t = 1 + torch.rand(shape, device=device) * (self.epsilon_t - 1)
        sigma = ((0.5 * self.beta_d * t**2 + self.beta_min * t).exp() - 1).sqrt()  # as in VPPrecond
        return sigma, 1 / sigma**2


@persistence.persistent_class
class VELoss(_Loss):
    """For `VEPrecond`: log noise levels uniform, errors counted in units of the noise."""

    def __init__(self, sigma_min: float = 0.02, sigma_max: float = 100):
        self.sigma_min = sigma_min
        self.sigma_max = sigma_max

    def draw(self, shape, device):
        sigma = self.sigma_min * (self.sigma_max / self.sigma_min)**torch.rand(shape, device=device)
        return sigma, 1 / sigma**2


@persistence.persistent_class
class EDMLoss(_Loss):
    """For `EDMPrecond`: log noise levels normal; each level weighs the same at initialisation."""

    def __init__(self, P_mean: float = -1.2, P_std: float = 1.2, sigma_data: float = 0.5):
        self.P_mean = P_mean
        self.P_std = P_std
        self.sigma_data = sigma_data

    def draw(self, shape, device):
        sigma = (torch.randn(shape, device=device) * self.P_std + self.P_mean).exp()
        return sigma, (sigma**2 + self.sigma_data**2) / (sigma * self.sigma_data)**2
