"""Denoisers from networks with discrete time steps: the diffusion of DDPM as schedulers describe it.

At step t such a network gets x_t = sqrt(a_t) (y + sigma_t n), where a_t is the product of 1 - beta up to t,
and sigma_t^2 = (1 - a_t) / a_t (Ho et al. 2020). It predicts the noise n ("epsilon"), the clean images y
("sample") or v = sqrt(a_t) n - sqrt(1 - a_t) y ("v_prediction", Salimans & Ho 2022).
"""

import math
from collections.abc import Sequence
from itertools import pairwise

import torch

PREDICTIONS = ('epsilon', 'v_prediction', 'sample')


def linear_betas(start: float, end: float, count: int) -> torch.Tensor:
    """Equal steps from start to end (Ho et al. 2020), float32 [count]."""
    return torch.linspace(start, end, count, dtype=torch.float32, device='cpu')


def scaled_linear_betas(start: float, end: float, count: int) -> torch.Tensor:
    """Square roots in equal steps (Rombach et al. 2022), float32 [count]."""
    return torch.linspace(start**0.5, end**0.5, count, dtype=torch.float32, device='cpu')**2


def cosine_betas(start: float, end: float, count: int) -> torch.Tensor:
    """Nichol & Dhariwal 2021, Eq. 17, at most 0.999, float32 [count]; start and end have no effect."""
    shares = [math.cos((i / count + 0.008) / 1.008 * math.pi / 2)**2 for i in range(count + 1)]
    betas = [min(1 - after / before, 0.999) for before, after in pairwise(shares)]
    return torch.tensor(betas, dtype=torch.float32, device='cpu')


def sigmoid_betas(start: float, end: float, count: int) -> torch.Tensor:
    """A sigmoid from -6 to 6, scaled to start and end, float32 [count]."""
    ramp = torch.linspace(-6, 6, count, dtype=torch.float32, device='cpu')
    return ramp.sigmoid() * (end - start) + start


BETAS = {'linear': linear_betas, 'scaled_linear': scaled_linear_betas, 'squaredcos_cap_v2': cosine_betas,
         'sigmoid': sigmoid_betas}  # by diffusers' names; float32, as networks were trained with


class DiscreteDenoiser(torch.nn.Module):
    """D(x; sigma) of a network F(x_t, t, class_labels), between its steps too.

    model: F, with further output channels, such as a variance, behind those of the images.
    betas: float [T], each in (0, 1). prediction: one of PREDICTIONS.
    clip: clip denoised images to [-clip, clip], as samplers of such networks often do; None: don't clip.

    x, a clean image with noise of level sigma, is scaled by 1 / sqrt(1 + sigma^2), and t is interpolated
    linearly between the points (log sigma_t, t), and clamped to the first and the last step.
    Raises ValueError if no noise is left at the first step, or no image at the last.
    """

    def __init__(self, model: torch.nn.Module, *, img_resolution: int, img_channels: int, label_dim: int,
                 betas: torch.Tensor | Sequence[float], prediction: str = 'epsilon',
                 clip: float | None = None):
        super().__init__()
        if prediction not in PREDICTIONS:
            raise ValueError(f'prediction is one of {", ".join(PREDICTIONS)}, got {prediction!r}')
        alphas_cumprod = (1 - torch.as_tensor(betas, dtype=torch.float32, device='cpu')).cumprod(dim=0)
        left = alphas_cumprod.to(torch.float64)
        sigmas = ((1 - left) / left).sqrt()
        if not (sigmas[0] > 0 and sigmas.isfinite().all() and (sigmas.diff() > 0).all()):
            raise ValueError(f'noise levels must rise from above 0 to a finite one, got {sigmas[0]:g} to '
                             f'{sigmas[-1]:g}')
        self.img_resolution, self.img_channels, self.label_dim = img_resolution, img_channels, label_dim
        self.sigma_min, self.sigma_max = sigmas[0].item(), sigmas[-1].item()
        self.model, self.prediction, self.clip = model, prediction, clip
        self._log_sigmas = sigmas.log()

    def round_sigma(self, sigma: torch.Tensor) -> torch.Tensor:
        """The nearest noise levels that it supports; all, as time steps may be fractions."""
        return torch.as_tensor(sigma)

    def time_steps(self, sigma: torch.Tensor) -> torch.Tensor:
        """The time steps of noise levels [B], float64."""
        log_sigma, known = sigma.log(), self._log_sigmas.to(sigma.device)
        low = (torch.searchsorted(known, log_sigma, right=True) - 1).clamp(0, len(known) - 2)
        share = (log_sigma - known[low]) / (known[low + 1] - known[low])
        return low + share.clamp(0, 1)

    def forward(self, x: torch.Tensor, sigma: torch.Tensor | float, class_labels: torch.Tensor | None = None,
                ) -> torch.Tensor:
        """Estimate the clean images in `x`, in float32.

        x: noisy images [B, C, H, W]. sigma: their noise levels, a scalar or [B].
        class_labels: one-hot [B, label_dim]; None or zeros for no class.
        """
        x = x.to(torch.float32)
        exact = 'cpu' if x.device.type == 'mps' else x.device  # MPS has no float64
        level = torch.as_tensor(sigma).to(exact, torch.float64).reshape(-1)
        t = self.time_steps(level).to(x.device, torch.float32).expand(len(x))
        scale = (1 / (1 + level**2).sqrt()).to(x.device, torch.float32).reshape(-1, 1, 1, 1)
        level = level.to(x.device, torch.float32).reshape(-1, 1, 1, 1)
        if class_labels is not None:
            class_labels = class_labels.to(torch.float32)
        out = self.model(x * scale, t, class_labels)[:, :self.img_channels]
        if self.prediction == 'epsilon':
            out = x - level * out
        elif self.prediction == 'v_prediction':
            out = scale * (scale * x - level * out)
        return out if self.clip is None else out.clamp(-self.clip, self.clip)
