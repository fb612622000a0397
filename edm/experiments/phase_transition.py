"""From how many samples on training finds a low-rank class: paper 2 (arXiv 2409.02426), Theorem 3 and Fig. 4.

Low-rank denoisers are trained on mixtures of K classes, each of dimension d with N samples. With N < d the
samples of a class don't span its subspace, and the rest of it can't be known. All trials of one (d, N) are
trained at once, as one batched computation of the loss and network that trainMoLRG.py --arch=param-mlp uses.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch.func import functional_call, vmap

from data.molrg_data import MoLRGShape, make_molrg
from denoisers.molrg_denoiser import recovery_errors
from torch_utils import provenance
from torch_utils.files import write_json
from torch_utils.json_place import Place, load_json
from training.config import LR_DECAYS
from training.loss import EDMLoss
from training.low_rank import LowRankDenoiser

RECOVERED = 0.1  # an error up to which a subspace counts as found: an angle of 6 degrees


@dataclass(frozen=True, kw_only=True)
class Transition:
    """The experiment's settings.

    dims: d. ratios: N / d, of which those are taken that give different N >= 1 when rounded.
    trials: data sets per (d, N), each with a basis and samples of its own.
    restarts: trainings per trial, of which the one with the smallest training loss counts.
    steps, batch, lr: of Adam, with cosine decay.
    """

    img_res: int = 4
    class_num: int = 2
    dims: tuple[int, ...]
    ratios: tuple[float, ...]
    trials: int
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


@dataclass(frozen=True, kw_only=True)
class Point:
    """All trials of one size: errors [trials, K] as of `denoisers.molrg_denoiser.recovery_errors`."""

    per_class_dim: int
    samples: int
    errors: np.ndarray

    @property
    def found(self) -> np.ndarray:
        """Whether all classes of a trial were found, [trials]."""
        return (self.errors <= RECOVERED).all(axis=1)


def measure(job: Transition, shape: MoLRGShape, device: torch.device) -> Point:
    """Run all trials of one size. Draws from torch's default generators, which it seeds."""
    numbers = (job.seed, shape.per_class_dim, shape.sample_per_class)
    own_seed, *seeds = np.random.SeedSequence(numbers).generate_state(1 + job.trials).tolist()
    torch.manual_seed(own_seed)
    contents = [make_molrg(shape, seed) for seed in seeds]
    samples = torch.stack([content['data'].flatten(1) for content in contents]).to(device)
    bases = train_together(job, shape, samples.repeat_interleave(job.restarts, dim=0))
    errors = [recovery_errors(found, content['basis'])
              for found, content in zip(_best(job, bases, samples), contents, strict=True)]
    return Point(per_class_dim=shape.per_class_dim, samples=shape.sample_per_class,
                 errors=torch.stack(errors).numpy())


def train_together(job: Transition, shape: MoLRGShape, samples: torch.Tensor) -> torch.Tensor:
    """Train a low-rank denoiser on each data set; its bases, [R, K, n, d]. samples: [R, K N, n]."""
    losses_of = vmap(_loss(shape), randomness='different')
    starts = []
    for own in samples:
        net = LowRankDenoiser(1, shape.dim, class_num=shape.class_num, per_class_dim=shape.per_class_dim)
        net.to(samples.device).start_from(own)
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


def _best(job: Transition, bases: torch.Tensor, samples: torch.Tensor) -> torch.Tensor:
    """Of each trial's restarts the bases with the smallest training loss, all under the same noise."""
    bases = bases.unflatten(0, (job.trials, job.restarts))
    shape = MoLRGShape(resolution=job.img_res, class_num=bases.shape[2], per_class_dim=bases.shape[4],
                       sample_per_class=samples.shape[1] // bases.shape[2])
    per_trial = vmap(_loss(shape), in_dims=(0, None), randomness='same')
    noises = math.ceil(4096 / samples.shape[1])  # per sample
    losses = torch.stack([per_trial(own, x.repeat(noises, 1)) for own, x in zip(bases, samples, strict=True)])
    return bases[torch.arange(job.trials), losses.argmin(dim=1)]


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


def save_points(path: Path, job: Transition, points: list[Point]) -> None:
    """Write settings, errors and what made them as JSON."""
    write_json(path, {
        'settings': asdict(job), 'recovered_below': RECOVERED,
        'points': [{'per_class_dim': point.per_class_dim, 'samples': point.samples,
                    'errors': [[float(f'{error:.4g}') for error in trial] for trial in point.errors]}
                   for point in points],
        'made_by': provenance.record()})


def load_points(paths: Sequence[str], option: str = '--results') -> tuple[list[Point], dict]:
    """Read files of `save_points`: all points, and the settings, in which all but the dimensions must agree.

    Raises UserError that says what is wrong where.
    """
    points, settings = [], []
    for path in paths:
        content = load_json(path, option)
        points += [_point(place) for place in content.get('points').items()]
        settings.append(content.get('settings'))
        for key in ('img_res', 'class_num', 'trials', 'restarts', 'steps', 'batch'):
            number = settings[-1].get(key)
            if number.integer() != settings[0].value[key]:
                raise number.error(f'{settings[0].value[key]}, as in {paths[0]}')
    return points, settings[0].value


def _point(place: Place) -> Point:
    trials = [[error.number(0, 1.000001) for error in trial.items()] for trial in place.get('errors').items()]
    if len({len(trial) for trial in trials}) > 1:
        raise place.get('errors').error('lists of equal length')
    return Point(per_class_dim=place.get('per_class_dim').integer(), samples=place.get('samples').integer(),
                 errors=np.array(trials))
