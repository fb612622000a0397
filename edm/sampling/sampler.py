"""The generalised sampler of Karras et al. 2022 (Table 1), from unit noise to images.

With sigma(t) = t and s(t) = 1, the defaults, it is the EDM sampler (Algorithm 2).
"""

from collections import deque
from collections.abc import Callable

import torch

from sampling.denoiser import Denoiser
from sampling.plan import plan_steps
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
    if solver not in SOLVERS:
        raise ValueError(f'solver is one of {", ".join(SOLVERS)}, got {solver!r}')
    steps = plan_steps(net, **options)
    churns = options.get('S_churn', 0) > 0
    if churns and randn is None:
        raise ValueError('S_churn > 0 adds noise, so the sampler needs randn')
    device, dtype = latents.device, widest_float(latents.device)

    def evaluate(x, point):
        sigma = torch.tensor(point.sigma, dtype=dtype).to(device, non_blocking=True)
        denoised = net(x / point.scale, sigma, class_labels).to(dtype)
        return Evaluation(point, point.x_weight * x - point.denoised_weight * denoised, denoised)

    past = deque(maxlen=PAST)
    x = latents.to(dtype) * (steps[0].start.sigma * steps[0].start.scale)
    for i, (start, churned, noise, end) in enumerate(steps):
        x_hat = churned.scale / start.scale * x
        if churns:
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
