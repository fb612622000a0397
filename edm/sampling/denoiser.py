"""The protocol of denoisers, which networks and closed forms have, and checks of their output."""

from typing import Protocol

import torch

from torch_utils.errors import UserError


class Denoiser(Protocol):
    """D(x; sigma), the estimate of the clean images in x, noisy images of noise level sigma.

    sigma_min, sigma_max: the noise levels it supports. img_channels, img_resolution: of its images.
    label_dim: length of labels, 0 without classes.
    """

    sigma_min: float
    sigma_max: float
    img_channels: int
    img_resolution: int
    label_dim: int

    def round_sigma(self, sigma: torch.Tensor) -> torch.Tensor:
        """The nearest noise levels that it supports, in sigma's shape."""

    def __call__(self, x: torch.Tensor, sigma: torch.Tensor, class_labels: torch.Tensor | None = None,
                 ) -> torch.Tensor:
        """Denoise x [N, C, H, W]; sigma: a scalar or [N]. class_labels: [N, label_dim] or None."""


class FiniteOutput:
    """Counts NaN and infinity in a denoiser's output; `counts` stay on the device until `check`."""

    def __init__(self):
        self.counts, self._noted = [], []

    def note(self, sigma: float, denoised: torch.Tensor) -> None:
        """Count what is not finite in the output at noise level `sigma`."""
        self.counts.append((~denoised.isfinite()).sum())
        self._noted.append((sigma, denoised.numel()))

    def check(self, of: str = 'output') -> None:
        """Raise UserError that names the first noise level with values that are not finite, if any."""
        for count, (sigma, size) in zip(torch.stack(self.counts).tolist(), self._noted, strict=True):
            if count:
                raise UserError(f'the denoiser fails at noise level {sigma:g}: {count:,} of {size:,} values '
                                f'of its {of} are NaN or infinite')


def check_finite(values: torch.Tensor, sigma: float, of: str = 'output') -> None:
    """Raise UserError if some of these values `of` a denoiser at noise level `sigma` are not finite."""
    output = FiniteOutput()
    output.note(sigma, values)
    output.check(of)
