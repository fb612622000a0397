"""The sampler of Karras et al. 2022: from unit noise to images, for networks and the optimal denoiser.

There is one loop, the generalised sampler of the paper's Table 1. With sigma(t) = t and s(t) = 1 it is the
EDM sampler, Algorithm 2. A denoiser `net` is anything with sigma_min, sigma_max, round_sigma(sigma) and
net(x, sigma, class_labels), which takes a sigma for the whole batch.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import torch

from sampling.denoiser import Denoiser
from sampling.schedules import DEFAULT_RANGES, DISCRETIZATIONS, SCALINGS, SCHEDULES

SOLVERS = ('euler', 'heun')


def edm_sampler(net: Denoiser, latents: torch.Tensor, class_labels: torch.Tensor | None = None, *,
                solver: str = 'heun', randn: Callable | None = None, num_steps: int = 18,
                sigma_min: float = 0.002, sigma_max: float = 80, rho: float = 7, S_churn: float = 0,
                S_min: float = 0, S_max: float = math.inf, S_noise: float = 1,
                on_step: Callable | None = None) -> torch.Tensor:
    """The EDM sampler (Karras et al. 2022, Algorithm 2); solver 'euler' leaves Heun's correction out.

    Arguments, result and errors are those of `generalized_sampler`.
    """
    return generalized_sampler(net, latents, class_labels, solver=solver, randn=randn, num_steps=num_steps,
                               sigma_min=sigma_min, sigma_max=sigma_max, rho=rho, S_churn=S_churn,
                               S_min=S_min, S_max=S_max, S_noise=S_noise, on_step=on_step)


@torch.no_grad()
def generalized_sampler(net: Denoiser, latents: torch.Tensor, class_labels: torch.Tensor | None = None, *,
                        solver: str = 'heun', randn: Callable | None = None,
                        on_step: Callable | None = None, **options) -> torch.Tensor:
    """The generalised sampler (Karras et al. 2022, Table 1 and Sec. 4).

    latents: unit noise [N, C, H, W]. class_labels: [N, label_dim] or None, handed on to `net`.
    solver: 'heun', which corrects each step but the last to second order, or 'euler'.
    randn: gives standard normal noise like its argument; needed if S_churn > 0. It is called at every step,
        so that the numbers a step sees don't depend on where churn is on, and not at all without churn.
    on_step: called at each step with i, the noise level sigma(t_i) as a float, the state before the step in
        image units, x_i / s(t_i), and the denoised images.
    options: num_steps, the range and spacing of the noise levels and churn, as `plan_steps` takes them.
    Returns images [N, C, H, W], nominally in [-1, 1], float64 (on a device without it, `widest_float`).
    Raises ValueError for a bad option, see `plan_steps`, and for churn without `randn`.
    """
    if solver not in SOLVERS:
        raise ValueError(f'solver is one of {", ".join(SOLVERS)}, got {solver!r}')
    plan = plan_steps(net, **options)
    if plan.has_noise and randn is None:
        raise ValueError('S_churn > 0 adds noise, so the sampler needs randn')
    device, dtype = latents.device, widest_float(latents.device)

    def slope(x, point):
        sigma = torch.tensor(point.sigma, dtype=dtype).to(device, non_blocking=True)
        denoised = net(x / point.scale, sigma, class_labels).to(dtype)
        return point.x_weight * x - point.denoised_weight * denoised, denoised

    x = latents.to(dtype) * (plan.steps[0].start.sigma * plan.steps[0].start.scale)
    for i, (start, churned, noise, end) in enumerate(plan.steps):
        x_hat = churned.scale / start.scale * x
        if plan.has_noise:
            x_hat += noise * randn(x)
        h = end.t - churned.t
        d, denoised = slope(x_hat, churned)
        if on_step is not None:
            on_step(i, start.sigma, x / start.scale, denoised)
        x = x_hat + h * d
        if solver == 'heun' and end.t > 0:
            d_end, _ = slope(x, end)
            x = x_hat + h * (0.5 * d + 0.5 * d_end)
    return x


@dataclass(frozen=True, kw_only=True)
class Point:
    """A time t on the way from noise to image, in Python floats, with what the sampler needs there.

    sigma, scale: sigma(t) and s(t). The slope dx/dt at (x, t) is x_weight * x minus denoised_weight times the
    denoised image (Karras et al. 2022, Eq. 81 in terms of D).
    """

    t: float
    sigma: float
    scale: float
    x_weight: float
    denoised_weight: float


class Step(NamedTuple):
    """From `start` to `end`: churn adds noise of std `noise`, which leads to `churned`; then the solver."""

    start: Point
    churned: Point
    noise: float
    end: Point


@dataclass(frozen=True, kw_only=True)
class Plan:
    """All steps, from pure noise to t = 0; has_noise: whether noise is to be drawn on the way."""

    steps: list[Step]
    has_noise: bool


def plan_steps(net: Denoiser, *, num_steps: int = 18, sigma_min: float | None = None,
               sigma_max: float | None = None, rho: float = 7, disc: str = 'edm',
               schedule: str = 'linear', scaling: str = 'none', S_churn: float = 0, S_min: float = 0,
               S_max: float = math.inf, S_noise: float = 1, levels: Sequence[float] | None = None) -> Plan:
    """Noise levels, times and weights of a sampling run, all known before it begins.

    num_steps: at least 2. sigma_min, sigma_max: range of the levels, None for the usual one of `disc`
    (DEFAULT_RANGES); clipped to what `net` supports. rho: spacing of 'edm' levels, see `karras_sigmas`.
    disc, schedule, scaling: keys of DISCRETIZATIONS, SCHEDULES and SCALINGS.
    S_churn, S_min, S_max, S_noise: each step whose level lies in [S_min, S_max] first raises it by the factor
    1 + min(S_churn / num_steps, sqrt(2) - 1) with noise of S_noise times the fitting std.
    levels: `num_steps` noise levels from high to low within the range, in place of those of `disc`.
    Raises ValueError in terms of these names.
    """
    for name, value, choices in (('disc', disc, DISCRETIZATIONS), ('schedule', schedule, SCHEDULES),
                                 ('scaling', scaling, SCALINGS)):
        if value not in choices:
            raise ValueError(f'{name} is one of {", ".join(choices)}, got {value!r}')
    if num_steps < 2:
        raise ValueError(f'num_steps must be at least 2, got {num_steps}')
    sigma_min, sigma_max = clip_range(net, sigma_min, sigma_max, disc)
    options = {'rho': rho} if disc == 'edm' else {}
    if levels is None:
        levels = _round(net, DISCRETIZATIONS[disc](num_steps, sigma_min, sigma_max, **options))
    spread = SCHEDULES[schedule](sigma_min, sigma_max)
    times = spread.time(torch.as_tensor(levels, dtype=torch.float64))

    def point(t):
        return _point(t, spread, SCALINGS[scaling])

    the_end = Point(t=0.0, sigma=0.0, scale=1.0, x_weight=0.0, denoised_weight=0.0)
    steps = []
    for t, (start, end) in zip(times, pairwise([*map(point, times), the_end]), strict=True):
        gamma = min(S_churn / num_steps, math.sqrt(2) - 1) if S_min <= start.sigma <= S_max else 0
        churned = point(spread.time(_round(net, (1 + gamma) * spread.sigma(t))))
        noise = math.sqrt(max(churned.sigma**2 - start.sigma**2, 0)) * churned.scale * S_noise
        steps.append(Step(start, churned, noise, end))
    return Plan(steps=steps, has_noise=S_churn > 0)


def clip_range(net: Denoiser, sigma_min: float | None, sigma_max: float | None, disc: str = 'edm',
               ) -> tuple[float, float]:
    """The range of noise levels for a denoiser: as given, None meaning the usual one of `disc`, but no wider
    than what `net` supports.

    Raises ValueError if it is empty.
    """
    low, high = DEFAULT_RANGES[disc]
    low = max(low if sigma_min is None else sigma_min, float(net.sigma_min))
    high = min(high if sigma_max is None else sigma_max, float(net.sigma_max))
    if not 0 < low < high:
        raise ValueError(f'sigma_min must be above 0 and below sigma_max, got {low:g} and {high:g} (the '
                         f'denoiser takes {float(net.sigma_min):g} to {float(net.sigma_max):g})')
    return low, high


def widest_float(device: torch.device) -> torch.dtype:
    """float64, or float32 on MPS, which has no wider type."""
    return torch.float32 if torch.device(device).type == 'mps' else torch.float64


def _round(net, sigma: torch.Tensor) -> torch.Tensor:
    return torch.as_tensor(net.round_sigma(sigma)).to('cpu', torch.float64)


def _point(t: torch.Tensor, schedule, scaling) -> Point:
    sigma, deriv = schedule.sigma(t), schedule.sigma_deriv(t)
    s, s_deriv = scaling(sigma, deriv)
    weight = deriv / sigma
    return Point(t=float(t), sigma=float(sigma), scale=float(s), x_weight=float(weight + s_deriv / s),
                 denoised_weight=float(weight * s))
