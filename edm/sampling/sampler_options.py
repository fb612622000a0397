"""Options of the scripts that sample: of the sampler, and of the class. Imports no torch."""

import math

import click

from torch_utils import cli
from torch_utils.errors import note

MAX_STEPS = 100_000  # all are planned before the first

OPTIONS = (
    click.option('--steps', metavar='INT', type=click.IntRange(2, MAX_STEPS), default=18,
                 help='Number of noise levels, with a sampling step from each.'),
    click.option('--sigma_min', metavar='FLOAT', type=cli.FiniteRange(min=0, min_open=True),
                 help='Lowest noise level.  [default: 0.002 for edm, within the network\'s range]'),
    click.option('--sigma_max', metavar='FLOAT', type=cli.FiniteRange(min=0, min_open=True),
                 help='Highest noise level.  [default: 80 for edm, within the network\'s range]'),
    click.option('--rho', metavar='FLOAT', type=cli.FiniteRange(min=0, min_open=True), default=7,
                 help='Exponent of the EDM noise levels: 1 spaces them evenly, larger puts more near 0.'),
    click.option('--S_churn', 'S_churn', metavar='FLOAT', type=cli.FiniteRange(min=0), default=0,
                 help='Stochasticity strength.'),
    click.option('--S_min', 'S_min', metavar='FLOAT', type=cli.FiniteRange(min=0), default=0,
                 help='Lowest noise level with stochasticity.'),
    click.option('--S_max', 'S_max', metavar='FLOAT', type=cli.FiniteRange(min=0, infinite=True),
                 default=math.inf, help='Highest noise level with stochasticity.'),
    click.option('--S_noise', 'S_noise', metavar='FLOAT', type=cli.FiniteRange(min=0), default=1,
                 help='Factor on the noise that stochasticity adds.'),
)


def check_churn(opts: dict) -> None:
    """Refuse churn options that contradict each other; a line names those without effect."""
    if opts['S_min'] > opts['S_max']:
        raise click.UsageError(f'--S_min {opts["S_min"]:g} is above --S_max {opts["S_max"]:g}')
    idle = [f'--{name}' for name in ('S_min', 'S_max', 'S_noise') if cli.given(name)]
    if idle and not opts['S_churn']:
        note(f'note: without --S_churn above 0, {", ".join(idle)} has no effect')


def check_class(class_idx: int | None, label_dim: int, *, vectors: bool = False) -> None:
    """Refuse a `--class` that is none of a network's `label_dim` classes, or whose labels are `vectors`."""
    if class_idx is None:
        return
    if vectors:
        raise click.UsageError(f'--class {class_idx}: the network was trained on label vectors, not classes; '
                               'samples draw theirs from its training set')
    if label_dim == 0:
        raise click.UsageError(f'--class {class_idx} needs a class-conditional network, and this one has no '
                               'classes')
    if class_idx >= label_dim:
        raise click.UsageError(f'--class {class_idx}: the network has the classes 0 to {label_dim - 1}')
