"""The generalised sampler of Karras et al. 2022 (Table 1), from unit noise to images, and back.

With sigma(t) = t and s(t) = 1, the defaults, it is the EDM sampler (Algorithm 2).
"""

from collections import deque
from collections.abc import Callable, Sequence
from itertools import pairwise

import torch

from sampling.denoiser import Denoiser
from sampling.plan import Step, plan_steps
from sampling.solvers import PAST, SOLVERS, Evaluation


@torch.no_grad()
def generalized_sampler(net: Denoiser, latents: torch.Tensor, class_labels: torch.Tensor | None = None, *,
                        solver: str = 'heun', randn: Callable | None = None,
                        on_step: Callable | None = None, **options) -> torch.Tensor:
    """Images [N, C, H, W], nominally in [-1, 1], of type `widest_float`.

    latents: unit noise [N, C, H, W]. class_labels: [N, label_dim] or None, passed to `net`, which gets one
        noise level for the whole batch.
    solver: a key of SOLVERS.
    randn: draws standard normal noise like its argument, for churn: at every step, so that the numbers a step
        sees don't depend on where churn is on, or, without churn, never.
    on_step: called at each step with i, the noise level sigma(t_i) as a float, the state before the step in
        image units, x_i / s(t_i), and the denoised images.
    options: those of `plan_steps`, whose ValueErrors these are.
    Raises ValueError for churn without `randn`.
    """
    steps = plan_steps(net, **options)
    churns = options.get('S_churn', 0) > 0
    if churns and randn is None:
        raise ValueError('S_churn > 0 adds noise, so the sampler needs randn')
    start = steps[0].start
    x = latents.to(widest_float(latents.device)) * (start.sigma * start.scale)
    return _follow(net, x, steps, class_labels, solver, randn if churns else None, on_step)


@torch.no_grad()
def invert(net: Denoiser, images: torch.Tensor, class_labels: torch.Tensor | None = None, *,
           solver: str = 'heun', on_step: Callable | None = None, **options) -> torch.Tensor:
    """Latents [N, C, H, W] from which the sampler returns to `images`: its ODE without churn, backwards.

    The noise levels are those of the sampler, rising. At sigma = 0 the ODE has no slope that a network could
    give, so images count as the state at the lowest level, and that noise is missing from them.

    images: [N, C, H, W] in [-1, 1]. Other arguments and errors as in `generalized_sampler`, `randn` aside.
    Returns the state at the highest level divided by it: unit noise, as far as `images` are like the
    samples of `net`, of type `widest_float`.
    """
    if options.get('S_churn'):
        raise ValueError('S_churn adds noise, which can\'t be taken back')
    points = [step.start for step in plan_steps(net, **options)][::-1]
    rising = [Step(low, low, 0.0, high) for low, high in pairwise(points)]
    x = images.to(widest_float(images.device)) * points[0].scale
    x = _follow(net, x, rising, class_labels, solver, None, on_step)
    return x / (points[-1].sigma * points[-1].scale)


def _follow(net: Denoiser, x: torch.Tensor, steps: Sequence[Step], class_labels: torch.Tensor | None,
            solver: str, randn: Callable | None, on_step: Callable | None) -> torch.Tensor:
    """The state at the end of `steps` from the state `x` at their start."""
    if solver not in SOLVERS:
        raise ValueError(f'solver is one of {", ".join(SOLVERS)}, got {solver!r}')

    def evaluate(x, point):
        sigma = x.new_full((), point.sigma)
        denoised = net(x / point.scale, sigma, class_labels).to(x.dtype)
        return Evaluation(point, point.x_weight * x - point.denoised_weight * denoised, denoised)

    past = deque(maxlen=PAST)
    for i, (start, churned, noise, end) in enumerate(steps):
        x_hat = churned.scale / start.scale * x
        if randn is not None:
            x_hat += noise * randn(x)
        now = evaluate(x_hat, churned)
        if on_step is not None:
            on_step(i, start.sigma, x / start.scale, now.denoised)
        x = SOLVERS[solver](x_hat, now, end, evaluate, past)
        past.append(now)
    return x


edm_sampler = generalized_sampler  # whose defaults are the EDM sampler, Algorithm 2


def widest_float(device: torch.device) -> torch.dtype:
    """float64, or float32 on MPS, which has no wider type."""
    return torch.float32 if torch.device(device).type == 'mps' else torch.float64
