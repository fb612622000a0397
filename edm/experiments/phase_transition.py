"""How many samples training needs to find a low-rank class: paper 2 (arXiv 2409.02426), Theorem 3 and Fig. 4.

Low-rank denoisers are trained on mixtures of K classes, each of dimension d with N samples. With N < d the
samples of a class don't span its subspace, and the rest of it can't be known. With N >= d they do, and a
closed form, which is measured as control, finds it: what is missing there is due to training. All trials of
one (d, N) are trained as one batch, with the loss and network of trainMoLRG.py --arch=param-mlp.
"""

import math
import sys
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch.func import functional_call, vmap
from tqdm import tqdm

from data.molrg_data import MoLRGShape, make_molrg
from denoisers.subspace_clustering import closed_form_bases
from scores.recovery import Point, recovery_errors
from training.config import LR_DECAYS
from training.loss import EDMLoss
from training.low_rank import LowRankDenoiser


@dataclass(frozen=True, kw_only=True)
class Transition:
    """The experiment's settings.

    dims: d. ratios: N / d; N is rounded, at least 1, and each is measured once.
    trials: data sets per (d, N), each with a basis and samples of its own.
    start: of training, a key of STARTS: samples is that of trainMoLRG.py, closed-form the control itself.
    restarts: trainings per trial, of which the one with the smallest training loss counts.
    steps, batch, lr: of Adam, with cosine decay.
    """

    img_res: int = 4
    class_num: int = 2
    dims: tuple[int, ...]
    ratios: tuple[float, ...]
    trials: int
    start: str = 'samples'
    restarts: int
    steps: int
    batch: int = 64
    lr: float = 0.01
    seed: int = 0

    def shapes(self) -> list[MoLRGShape]:
        """The data sets' sizes. Raises UserError if K d exceeds the dimension."""
        numbers = [(d, n) for d in self.dims
                   for n in dict.fromkeys(max(round(ratio * d), 1) for ratio in self.ratios)]
        return [MoLRGShape(resolution=self.img_res, class_num=self.class_num, per_class_dim=d,
                           sample_per_class=n) for d, n in numbers]


def _start_from_closed_form(net: LowRankDenoiser, samples: torch.Tensor) -> None:
    class_num, _, per_class_dim = net.bases.shape
    with torch.no_grad():
        net.bases.copy_(closed_form_bases(samples, class_num, per_class_dim))


STARTS = {'samples': LowRankDenoiser.start_from, 'closed-form': _start_from_closed_form}


def measure_all(job: Transition, device: torch.device) -> list[Point]:
    """The trials of all sizes; prints a line for each. Raises UserError as `Transition.shapes` does."""
    points = []
    for shape in tqdm(job.shapes(), unit='size', disable=None):
        points.append(measure(job, shape, device))
        tqdm.write(f'd = {shape.per_class_dim}, N = {shape.sample_per_class}: found in '
                   f'{points[-1].found.mean():.0%} of {job.trials} trials', file=sys.stdout)
    return points


def measure(job: Transition, shape: MoLRGShape, device: torch.device) -> Point:
    """Run all trials of one size. Draws from torch's default generators, which it seeds."""
    numbers = (job.seed, shape.per_class_dim, shape.sample_per_class)
    own_seed, *seeds = np.random.SeedSequence(numbers).generate_state(1 + job.trials).tolist()
    torch.manual_seed(own_seed)
    contents = [make_molrg(shape, seed) for seed in seeds]
    samples = torch.stack([content['data'].flatten(1) for content in contents]).to(device)
    bases = train_together(job, shape, samples.repeat_interleave(job.restarts, dim=0))
    control = torch.stack([closed_form_bases(own, shape.class_num, shape.per_class_dim) for own in samples])
    bases = bases.unflatten(0, (job.trials, job.restarts))
    losses = _losses(shape, torch.cat([bases, control[:, None].to(bases)], dim=1), samples)
    best = losses[:, :-1].argmin(dim=1)
    found = bases[torch.arange(job.trials), best]
    errors, closed_form = (torch.stack([recovery_errors(own, content['basis'])
                                        for own, content in zip(each, contents, strict=True)]).numpy()
                           for each in (found, control))
    excess = losses[:, :-1].amin(dim=1) - losses[:, -1]
    return Point(per_class_dim=shape.per_class_dim, samples=shape.sample_per_class, errors=errors,
                 closed_form=closed_form, excess=excess.cpu().numpy())


def train_together(job: Transition, shape: MoLRGShape, samples: torch.Tensor) -> torch.Tensor:
    """Train a low-rank denoiser on each data set; its bases, [R, K, n, d]. samples: [R, K N, n]."""
    losses_of = vmap(_loss(shape), randomness='different')
    starts = []
    for own in samples:
        net = LowRankDenoiser(1, shape.dim, class_num=shape.class_num, per_class_dim=shape.per_class_dim)
        STARTS[job.start](net.to(samples.device), own)
        starts.append(net.bases.detach())
    bases = torch.stack(starts).requires_grad_()
    optimizer = torch.optim.Adam([bases], lr=job.lr)
    rows = torch.arange(len(samples), device=samples.device)[:, None]
    for step in range(job.steps):
        optimizer.param_groups[0]['lr'] = job.lr * LR_DECAYS['cosine'](step / job.steps)
        chosen = torch.randint(samples.shape[1], (len(samples), job.batch), device=samples.device)
        optimizer.zero_grad()
        losses_of(bases, samples[rows, chosen]).sum().backward()
        optimizer.step()
    return bases.detach()


def _losses(shape: MoLRGShape, bases: torch.Tensor, samples: torch.Tensor) -> torch.Tensor:
    """Training loss of each trial's bases [trials, B, K, n, d] under the same noise, [trials, B]."""
    per_trial = vmap(_loss(shape), in_dims=(0, None), randomness='same')
    noises = math.ceil(4096 / samples.shape[1])  # per sample
    return torch.stack([per_trial(own, x.repeat(noises, 1)) for own, x in zip(bases, samples, strict=True)])


def _loss(shape: MoLRGShape) -> Callable:
    """The loss of a low-rank denoiser with given bases on given samples [B, n], a mean over these."""
    with torch.device('meta'):
        net = LowRankDenoiser(1, shape.dim, class_num=shape.class_num, per_class_dim=shape.per_class_dim)
    loss_fn = EDMLoss()

    def loss(bases, samples):
        def denoise(x, sigma, labels, augment_labels=None):
            return functional_call(net, {'bases': bases}, (x, sigma))
        return loss_fn(denoise, samples[:, :, None, None]).sum() / len(samples)
    return loss
