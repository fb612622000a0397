"""What a sampler needs of a denoiser; networks have it, and so do the denoisers in closed form."""

from typing import Protocol

import torch


class Denoiser(Protocol):
    """D(x; sigma), the estimate of the clean images in x, noisy images of noise level sigma.

    sigma_min, sigma_max: the noise levels it supports. img_channels, img_resolution: of its images.
    label_dim: length of class labels, 0 for none.
    """

    sigma_min: float
    sigma_max: float
    img_channels: int
    img_resolution: int
    label_dim: int

    def round_sigma(self, sigma: torch.Tensor) -> torch.Tensor:
        """The nearest noise levels that it knows, in sigma's shape."""

    def __call__(self, x: torch.Tensor, sigma: torch.Tensor, class_labels: torch.Tensor | None = None,
                 ) -> torch.Tensor:
        """Denoise x [N, C, H, W]; sigma: a scalar or [N]. class_labels: [N, label_dim] or None."""
