"""What the closed-form denoisers of a data set share."""

import math
from collections.abc import Callable, Sequence

import torch

from data.pixels import Pixels, from_levels, to_levels
from torch_utils.errors import UserError

_LARGEST = 1e100  # beyond, sums of products may overflow


class DataDenoiser:
    """The interface of a network, and which images a label selects.

    pixels: the data set. class_ends: if given, images are sorted by class, those of class k end before row
        class_ends[k], and labels select a class; else labels have no effect.
    sigma_min, sigma_max, round_sigma, label_dim: as of a network.
    sharded: each process holds a part of the images; all denoise the same samples by the whole data set.
    """

    def __init__(self, pixels: Pixels, *, class_ends: Sequence[int] | None = None, label_dim: int = 0,
                 sigma_min: float = 0, sigma_max: float = math.inf, round_sigma: Callable = torch.as_tensor,
                 sharded: bool = False):
        if pixels.image_shape[1] != pixels.image_shape[2]:
            raise ValueError(f'images must be square, got {list(pixels.image_shape)}')
        self.img_channels, _, self.img_resolution = pixels.image_shape
        self.label_dim = label_dim
        self.sigma_min, self.sigma_max, self.round_sigma = sigma_min, sigma_max, round_sigma
        self._pixels, self._class_ends, self._sharded = pixels, class_ends, sharded

    @torch.no_grad()
    def __call__(self, x: torch.Tensor, sigma: torch.Tensor | float,
                 class_labels: torch.Tensor | None = None) -> torch.Tensor:
        """The denoised images.

        x: noisy images [B, C, H, W], clean ones being in [-1, 1]. sigma: noise level above 0, a scalar or
        [B]. class_labels: one-hot [B, label_dim], needed with `class_ends`.
        Returns [B, C, H, W] of x's dtype, on its device, to 1e-6 of the definition where float64
        scores tell images apart.
        Raises UserError if a value is not finite or sigma not above 0, ValueError if labels are missing.
        """
        noisy, sigma = self._in_levels(x, sigma)
        denoised = torch.empty_like(noisy)
        for samples, rows in self._groups(class_labels):
            denoised[samples] = self._denoise(noisy[samples], sigma[samples], rows)
        return from_levels(denoised).to(x.dtype).to(x.device).reshape(x.shape)

    @torch.no_grad()
    def jacobian(self, x: torch.Tensor, sigma: torch.Tensor | float,
                 class_labels: torch.Tensor | None = None) -> torch.Tensor:
        """The Jacobians dD(x; sigma)/dx in closed form, float64 [B, dim, dim]; arguments and errors as above.

        Raises UserError if this kind has none here.
        """
        noisy, sigma = self._in_levels(x, sigma)
        found = noisy.new_empty(len(x), noisy.shape[1], noisy.shape[1])
        for samples, rows in self._groups(class_labels):
            found[samples] = self._jacobian(noisy[samples], sigma[samples], rows)
        return found.to(x.device)

    def _in_levels(self, x: torch.Tensor, sigma: torch.Tensor | float) -> tuple[torch.Tensor, torch.Tensor]:
        """Checked images and noise levels in grey levels, float64 [B, D] and [B, 1]."""
        device = self._pixels.device  # x's, but for MPS, which has no float64
        noisy = to_levels(x.to(device).to(torch.float64).flatten(1))
        sigma = sigma.to(device) if isinstance(sigma, torch.Tensor) else sigma
        sigma = torch.as_tensor(sigma, dtype=torch.float64, device=device).reshape(-1, 1).expand(len(x), 1)
        (darkest, brightest), (lowest, highest) = noisy.aminmax(), sigma.aminmax()  # nan if one is
        if not (-_LARGEST < darkest and brightest < _LARGEST and 0 < lowest and highest < _LARGEST):
            raise UserError('the images to denoise must be finite and their noise levels above 0; options of '
                            'the sampler, such as --S_noise, may be too large')
        return noisy, sigma * 127.5

    def _groups(self, class_labels: torch.Tensor | None):
        """Pairs of samples (an index) and the rows (start, stop) of the images that denoise them."""
        if self._class_ends is None:
            yield slice(None), (0, self._pixels.shape[0])
            return
        if class_labels is None:
            raise ValueError('the denoiser of a data set with classes needs labels')
        classes = class_labels.argmax(dim=1).to(self._pixels.device)
        for k in classes.unique().tolist():
            yield (classes == k).nonzero()[:, 0], (self._class_ends[k - 1] if k else 0, self._class_ends[k])

    def _denoise(self, noisy: torch.Tensor, sigma: torch.Tensor, rows: tuple[int, int]) -> torch.Tensor:
        """Denoise by the images `rows`, all in grey levels as from `to_levels`.

        noisy: float64 [B, D]. sigma: float64 [B, 1]. Returns float64 [B, D].
        """
        raise NotImplementedError

    def _jacobian(self, noisy: torch.Tensor, sigma: torch.Tensor, rows: tuple[int, int]) -> torch.Tensor:
        """The Jacobians of `_denoise`, float64 [B, D, D]."""
        raise UserError(f'a {type(self).__name__} has no Jacobian in closed form here; the optimal and the '
                        'Gaussian denoiser have')
