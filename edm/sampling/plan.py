"""All steps of a sampling run, planned and checked before it starts: noise levels, times, weights, churn."""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import torch

from sampling.denoiser import Denoiser
from sampling.schedules import DISCRETIZATIONS, SCALINGS, SCHEDULES
from sampling.solvers import Point

_LOWEST, _HIGHEST = 1e-15, 1e15  # noise levels whose squares float32 holds


class Step(NamedTuple):
    """From `start`, churn with noise of std `noise` leads to `churned`, from there the solver to `end`."""

    start: Point
    churned: Point
    noise: float
    end: Point


def plan_steps(net: Denoiser, *, num_steps: int = 18, sigma_min: float | None = None,
               sigma_max: float | None = None, rho: float = 7, disc: str = 'edm',
               schedule: str = 'linear', scaling: str = 'none', S_churn: float = 0, S_min: float = 0,
               S_max: float = math.inf, S_noise: float = 1, levels: Sequence[float] | None = None,
               ) -> list[Step]:
    """The steps of a sampling run, from pure noise to t = 0.

    num_steps: at least 2. sigma_min, sigma_max, disc: see `clip_range`. rho: spacing of 'edm' levels, see
    `karras_sigmas`.
    disc, schedule, scaling: keys of DISCRETIZATIONS, SCHEDULES and SCALINGS.
    S_churn, S_min, S_max, S_noise: each step whose level lies in [S_min, S_max] first raises it by the factor
    1 + min(S_churn / num_steps, sqrt(2) - 1) with noise of S_noise times the fitting std.
    levels: `num_steps` noise levels from high to low within the range, in place of those of `disc`.
    Raises ValueError that begins with one of these names.
    """
    for name, value, choices in (('disc', disc, DISCRETIZATIONS), ('schedule', schedule, SCHEDULES),
                                 ('scaling', scaling, SCALINGS)):
        if value not in choices:
            raise ValueError(f'{name} is one of {", ".join(choices)}, got {value!r}')
    if num_steps < 2:
        raise ValueError(f'num_steps must be at least 2, got {num_steps}')
    if not S_min <= S_max:
        raise ValueError(f'S_min must not be above S_max, got {S_min:g} and {S_max:g}')
    sigma_min, sigma_max = clip_range(net, sigma_min, sigma_max, disc)
    if levels is None:
        levels = _round(net, DISCRETIZATIONS[disc].levels(num_steps, sigma_min, sigma_max, rho))
    spread = SCHEDULES[schedule](sigma_min, sigma_max)
    times = spread.time(torch.as_tensor(levels, dtype=torch.float64))

    def point(t: torch.Tensor) -> Point:
        sigma, sigma_deriv = spread.sigma(t), spread.sigma_deriv(t)
        s, s_deriv = SCALINGS[scaling](sigma, sigma_deriv)
        weight = sigma_deriv / sigma
        return Point(t=float(t), sigma=float(sigma), scale=float(s), x_weight=float(weight + s_deriv / s),
                     denoised_weight=float(weight * s))

    the_end = Point(t=0.0, sigma=0.0, scale=1.0, x_weight=0.0, denoised_weight=0.0)
    steps = []
    for t, (start, end) in zip(times, pairwise([*map(point, times), the_end]), strict=True):
        _check(start, f'sigma_min, sigma_max: schedule {schedule}', start.sigma)
        gamma = min(S_churn / num_steps, math.sqrt(2) - 1) if S_min <= start.sigma <= S_max else 0
        level = (1 + gamma) * spread.sigma(t)
        churned = point(spread.time(_round(net, level)))
        _check(churned, f'S_churn {S_churn:g}: schedule {schedule} from {sigma_min:g} to {sigma_max:g}',
               level)
        noise = math.sqrt(max(churned.sigma**2 - start.sigma**2, 0)) * churned.scale * S_noise
        steps.append(Step(start, churned, noise, end))
    return steps


def clip_range(net: Denoiser, sigma_min: float | None, sigma_max: float | None, disc: str = 'edm',
               ) -> tuple[float, float]:
    """The range of noise levels, by default that of `disc`, clipped to what `net` supports.

    Raises ValueError if it is empty, or so wide that float32 can't hold the squares of its levels.
    """
    low, high = DISCRETIZATIONS[disc].default_range
    low = max(low if sigma_min is None else sigma_min, float(net.sigma_min))
    high = min(high if sigma_max is None else sigma_max, float(net.sigma_max))
    if not 0 < low < high:
        raise ValueError(f'sigma_min must be above 0 and below sigma_max, got {low:g} and {high:g} (the '
                         f'denoiser takes {float(net.sigma_min):g} to {float(net.sigma_max):g})')
    if not _LOWEST <= low < high <= _HIGHEST:
        raise ValueError(f'sigma_min and sigma_max must lie within {_LOWEST:g} and {_HIGHEST:g}, got {low:g} '
                         f'and {high:g}')
    return low, high


def _check(point: Point, what: str, level: float) -> None:
    if not all(map(math.isfinite, point)):
        raise ValueError(f'{what} never reaches the noise level {float(level):g}')


def _round(net, sigma: torch.Tensor) -> torch.Tensor:
    return torch.as_tensor(net.round_sigma(sigma)).to('cpu', torch.float64)
