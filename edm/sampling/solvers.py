"""ODE solvers: how a step of the sampler gets from one time to the next (Karras et al. 2022, Sec. 3).

A solver is a function step(x, now, end, evaluate, past) that returns the state at `end`:
  x: the state at now.point. now: what the denoiser gave there.
  evaluate: evaluate(x, point) asks the denoiser once more and gives an Evaluation.
  past: the Evaluations at the beginnings of the steps before, the newest last and at most PAST, from which
      multistep solvers take previous slopes or denoised images.
A new one is such a function and its line in SOLVERS. Imports no torch.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from torch import Tensor

PAST = 2  # steps that a multistep solver can look back on


@dataclass(frozen=True, kw_only=True)
class Point:
    """A time t on the way from noise to image, in Python floats, with what a solver needs there.

    sigma, scale: sigma(t) and s(t). The slope dx/dt at (x, t) is x_weight * x minus denoised_weight times the
    denoised image (Karras et al. 2022, Eq. 81 in terms of D).
    """

    t: float
    sigma: float
    scale: float
    x_weight: float
    denoised_weight: float


class Evaluation(NamedTuple):
    """At `point`, for some state x: the slope dx/dt, and the denoised images of x / s(t)."""

    point: Point
    slope: 'Tensor'
    denoised: 'Tensor'


def euler(x: 'Tensor', now: Evaluation, end: Point, evaluate: Callable, past: Sequence[Evaluation],
          ) -> 'Tensor':
    """Along the slope at the beginning: first order, one evaluation per step."""
    return x + (end.t - now.point.t) * now.slope


def heun(x: 'Tensor', now: Evaluation, end: Point, evaluate: Callable, past: Sequence[Evaluation],
         ) -> 'Tensor':
    """Along the mean of the slopes at both ends: second order; Euler's step to t = 0, where there is none."""
    predicted = euler(x, now, end, evaluate, past)
    if end.t == 0:
        return predicted
    return x + (end.t - now.point.t) * (0.5 * now.slope + 0.5 * evaluate(predicted, end).slope)


SOLVERS = {'euler': euler, 'heun': heun}
