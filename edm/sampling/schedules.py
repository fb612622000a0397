"""Noise levels to step through, and how noise and scale depend on time (Karras et al. 2022, Table 1).

Levels and times are float64 tensors on the CPU. A new discretization, schedule or scaling is a function and
its line in the dicts at the end. Imports torch only where a function needs it, so that `--help` is quick.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import torch

VP_EPSILON = 1e-3  # the time at which VP reaches the lowest level
IDDPM_M, IDDPM_C1, IDDPM_C2 = 1000, 0.001, 0.008  # Nichol & Dhariwal 2021


def karras_sigmas(num_steps: int, sigma_min: float, sigma_max: float, rho: float = 7) -> torch.Tensor:
    """Noise levels from sigma_max down to sigma_min (Karras et al. 2022, Eq. 5), without the final 0.

    sigma_min, sigma_max: standard deviation of the noise where images span [-1, 1].
    rho: 1 spaces the levels evenly; the larger, the more of them lie near sigma_min.
    Returns float64 [num_steps].
    Raises ValueError for a rho with which float64 can't hold the levels.
    """
    try:
        first, last = sigma_max ** (1 / rho), sigma_min ** (1 / rho)
    except OverflowError:
        first = last = math.inf
    levels = (first + _ramp(num_steps) * (last - first)) ** rho
    if not (last > 0 and abs(levels[0] / sigma_max - 1) < 1e-3 and abs(levels[-1] / sigma_min - 1) < 1e-3):
        raise ValueError(f'rho {rho:g} is beyond what float64 can space levels from {sigma_max:g} to '
                         f'{sigma_min:g} with; expected about 1 to 10')
    return levels


def vp_sigmas(num_steps: int, sigma_min: float, sigma_max: float, rho: float = 7) -> torch.Tensor:
    """Noise levels of VP at evenly spaced times (Song et al. 2021, DDPM), float64 [num_steps], falling."""
    return vp_schedule(sigma_min, sigma_max).sigma(1 + _ramp(num_steps) * (VP_EPSILON - 1))


def ve_sigmas(num_steps: int, sigma_min: float, sigma_max: float, rho: float = 7) -> torch.Tensor:
    """Noise levels in geometric progression (Song et al. 2021, SMLD), float64 [num_steps], falling."""
    return (sigma_max**2 * (sigma_min**2 / sigma_max**2) ** _ramp(num_steps)).sqrt()


def iddpm_sigmas(num_steps: int, sigma_min: float, sigma_max: float, rho: float = 7) -> torch.Tensor:
    """Evenly spaced choice of the 1000 noise levels of iDDPM's cosine schedule, float64 [num_steps], falling.

    Levels repeat if there are fewer in the range than steps. The ratios are float32, as in the networks
    trained with them, while the levels themselves are float64.
    Raises ValueError if none lies within the range.
    """
    import torch

    steps = torch.arange(IDDPM_M + 1)
    alpha_bar = (0.5 * math.pi * steps / IDDPM_M / (IDDPM_C2 + 1)).sin() ** 2
    u = [0.0]
    for ratio in reversed((alpha_bar[:-1] / alpha_bar[1:]).clip(min=IDDPM_C1).tolist()):
        u.append(math.sqrt((u[-1] ** 2 + 1) / ratio - 1))
    within = [level for level in reversed(u) if sigma_min <= level <= sigma_max]
    if not within:
        raise ValueError('sigma_min, sigma_max: iDDPM has no noise level between '
                         f'{sigma_min:g} and {sigma_max:g}')
    ramp = torch.arange(num_steps, dtype=torch.float64)
    index = ((len(within) - 1) / (num_steps - 1) * ramp).round().to(torch.int64)  # halves to even
    return torch.tensor(within, dtype=torch.float64)[index]


def _ramp(num_steps: int) -> torch.Tensor:
    """0, 1/(num_steps - 1), .., 1 in float64."""
    import torch

    return torch.arange(num_steps, dtype=torch.float64) / (num_steps - 1)


class Schedule(NamedTuple):
    """The noise level over time: sigma(t), its derivative, and its inverse t(sigma)."""

    sigma: Callable[[torch.Tensor], torch.Tensor]
    sigma_deriv: Callable[[torch.Tensor], torch.Tensor]
    time: Callable[[torch.Tensor], torch.Tensor]


def linear_schedule(sigma_min: float, sigma_max: float) -> Schedule:
    """sigma(t) = t (the paper's own choice)."""
    return Schedule(lambda t: t, lambda t: t.new_ones(t.shape), lambda sigma: sigma)


def ve_schedule(sigma_min: float, sigma_max: float) -> Schedule:
    """sigma(t) = sqrt(t)."""
    return Schedule(lambda t: t.sqrt(), lambda t: 0.5 / t.sqrt(), lambda sigma: sigma**2)


def vp_schedule(sigma_min: float, sigma_max: float) -> Schedule:
    """sigma(t) = sqrt(exp(beta_d t^2 / 2 + beta_min t) - 1), from sigma_min at VP_EPSILON to sigma_max at 1.

    Raises ValueError where it would not rise all the way between: sigma_min is too large for sigma_max.
    """
    low, high = math.log(sigma_min**2 + 1), math.log(sigma_max**2 + 1)
    beta_d = 2 * (low / VP_EPSILON - high) / (VP_EPSILON - 1)
    beta_min = high - 0.5 * beta_d
    if min(beta_min + beta_d * VP_EPSILON, beta_min + beta_d) <= 0:
        raise ValueError('sigma_min, sigma_max: a VP schedule can\'t span noise levels from '
                         f'{sigma_min:g} to {sigma_max:g}')

    def sigma(t):
        return ((0.5 * beta_d * t**2 + beta_min * t).exp() - 1).sqrt()

    def sigma_deriv(t):
        level = sigma(t)
        return 0.5 * (beta_min + beta_d * t) * (level + 1 / level)

    def time(level):
        growth = 2 * beta_d * (1 + level**2).log()
        return ((beta_min**2 + growth).sqrt() - beta_min) / beta_d

    return Schedule(sigma, sigma_deriv, time)


def no_scale(sigma: torch.Tensor, sigma_deriv: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """s(t) = 1 and its derivative."""
    return sigma.new_ones(sigma.shape), sigma.new_zeros(sigma.shape)


def vp_scale(sigma: torch.Tensor, sigma_deriv: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """s(t) = 1 / sqrt(1 + sigma(t)^2), which keeps the variance of noisy images near 1, and s'(t)."""
    s = 1 / (1 + sigma**2).sqrt()
    return s, -sigma * sigma_deriv * s**3


class Discretization(NamedTuple):
    """Noise levels from num_steps, sigma_min, sigma_max and rho; their usual range; whether rho counts."""

    levels: Callable[[int, float, float, float], torch.Tensor]
    default_range: tuple[float, float]
    has_rho: bool = False


DISCRETIZATIONS = {
    'vp': Discretization(vp_sigmas, tuple(  # beta_d and beta_min of Song et al. 2021
        math.sqrt(math.exp(0.5 * 19.9 * t**2 + 0.1 * t) - 1) for t in (VP_EPSILON, 1))),
    've': Discretization(ve_sigmas, (0.02, 100.0)),
    'iddpm': Discretization(iddpm_sigmas, (0.002, 81.0)),
    'edm': Discretization(karras_sigmas, (0.002, 80.0), has_rho=True),
}
SCHEDULES = {'vp': vp_schedule, 've': ve_schedule, 'linear': linear_schedule}
SCALINGS = {'vp': vp_scale, 'none': no_scale}
