"""ODE solvers: how a step of the sampler gets from one time to the next (Karras et al. 2022, Sec. 3).

A solver is a function step(x, now, end, evaluate, past) that returns the state at `end`:
  x: the state at now.point. now: the denoiser's Evaluation there.
  evaluate: evaluate(x, point) calls the denoiser once more and returns an Evaluation.
  past: Evaluations at the starts of at most PAST previous steps, newest last, for multistep solvers.
A new solver is such a function and its line in SOLVERS. Imports no torch.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from torch import Tensor

PAST = 2


class Point(NamedTuple):
    """A time t of the trajectory, in Python floats, with what a solver needs there.

    sigma, scale: sigma(t) and s(t). The slope dx/dt at (x, t) is x_weight * x minus denoised_weight times the
    denoised image (Karras et al. 2022, Eq. 81 in terms of D).
    """

    t: float
    sigma: float
    scale: float
    x_weight: float
    denoised_weight: float


class Evaluation(NamedTuple):
    """At `point` and a state x: the slope dx/dt, and the denoised images of x / s(t)."""

    point: Point
    slope: 'Tensor'
    denoised: 'Tensor'


def euler(x: 'Tensor', now: Evaluation, end: Point, evaluate: Callable, past: Sequence[Evaluation],
          ) -> 'Tensor':
    """Along the slope at the start: first order, one evaluation per step."""
    return x + (end.t - now.point.t) * now.slope


def heun(x: 'Tensor', now: Evaluation, end: Point, evaluate: Callable, past: Sequence[Evaluation],
         ) -> 'Tensor':
    """Along the mean of the slopes at both ends: second order; an Euler step to t = 0, which has no slope."""
    predicted = euler(x, now, end, evaluate, past)
    if end.t == 0:
        return predicted
    return x + (end.t - now.point.t) * (0.5 * now.slope + 0.5 * evaluate(predicted, end).slope)


SOLVERS = {'euler': euler, 'heun': heun}
