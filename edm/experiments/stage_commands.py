"""Sub-commands of reproduce.py that are stages of an experiment by themselves. Imports no torch."""

from dataclasses import asdict
from pathlib import Path

import click

from torch_utils import cli

BETAS = ('linear', 'scaled_linear', 'squaredcos_cap_v2', 'sigmoid')  # keys of adapters.discrete_denoiser's


def different_numbers(ctx, param, numbers: list | None) -> tuple | None:
    """Callback: refuse numbers given twice or out of range, and a single width. Sizes are sorted."""
    if numbers is None:
        return None
    least, between = 2 if param.name == 'widths' else 1, param.name == 'thresholds'
    fits = max(numbers) < 1 if between else min(numbers) >= 1
    if not fits or len(set(numbers)) < max(len(numbers), least):
        raise click.UsageError(f'--{param.name} {",".join(map(str, numbers))}: expected at least {least} '
                               f'different numbers {"between 0 and 1" if between else "above 0"}')
    return tuple(sorted(numbers) if param.name == 'sizes' else numbers)


def print_paths(*paths: Path | str) -> None:
    """Print what was written."""
    for path in paths:
        print(f'wrote {path}')


@cli.command('phase-transition', context_settings={'show_default': True})
@cli.options('Main options',
    click.option('--dims', metavar='LIST', type=cli.IntList(), default='3,6,12',
                 help='Dimensions d of a class.'),
    click.option('--ratios', metavar='LIST', type=cli.FloatList(), default='0.5,0.75,1,1.25,1.5,2,3',
                 help='Samples per class as multiples of d, rounded.'),
    click.option('--img_res', metavar='INT', type=click.IntRange(min=1), default=4,
                 help='Height and width r of the images; a sample has 3 r^2 dimensions.'),
    click.option('--class_num', metavar='INT', type=click.IntRange(min=1), default=2,
                 help='Number of classes.'),
    click.option('--trials', metavar='INT', type=click.IntRange(min=1), default=20,
                 help='Number of data sets of each size.'))
@cli.options('Training',
    click.option('--start', type=click.Choice(['samples', 'closed-form']), default='samples',
                 help='Bases that training starts from: a sample and random directions, as trainMoLRG.py has '
                      'them; or what the closed form finds.'),
    click.option('--restarts', metavar='INT', type=click.IntRange(min=1), default=4,
                 help='Trainings per data set; the one with the smallest loss counts.'),
    click.option('--steps', metavar='INT', type=click.IntRange(min=1), default=1000,
                 help='Steps of each training.'),
    click.option('--lr', metavar='FLOAT', type=cli.FiniteRange(min=0, min_open=True), default=0.01,
                 help='Learning rate, before its cosine decay.'),
    click.option('--seed', metavar='INT', type=click.IntRange(min=0, max=2**32 - 1), default=0,
                 help='Random seed.'))
@cli.options('Output',
    click.option('--out', metavar='JSON', required=True, help='File for the recovery errors.'))
@cli.options('Training', cli.device_option)
@cli.writes([], out='recovery errors')
def phase_transition(out, device, dims, ratios, **options):
    """Measure how many samples training needs to find low-rank classes.

    All trials of one size are trained together. plot.py phase-transition draws the result.

    Example: python edm/reproduce.py phase-transition --dims=3,6 --out=transition.json
    """
    from experiments.phase_transition import Transition, measure_all
    from scores.recovery import save_points
    from torch_utils.distributed import pick_device
    from torch_utils.files import make_output_dir

    job = Transition(dims=tuple(dims), ratios=tuple(ratios), **options)
    job.shapes()  # raises for impossible ones
    make_output_dir(Path(out).parent, '--out')
    save_points(Path(out), asdict(job), measure_all(job, pick_device(device)))
    print_paths(out)


@cli.command('epsilon-training')
@cli.options('Main options',
    click.option('--data', metavar='ZIP|DIR', required=True, help='Images to train on.'),
    click.option('--out', metavar='DIR', required=True, help='Folder for the network.'),
    click.option('--width', metavar='INT', type=click.IntRange(min=8), default=16, help='Base width.'),
    click.option('--attention/--no-attention', default=True, help='Use self-attention at the lower level.'),
    click.option('--prediction', type=click.Choice(['epsilon', 'v_prediction']), default='epsilon',
                 help='What the network predicts.'),
    click.option('--betas', type=click.Choice(BETAS), default='linear',
                 help='Noise schedule, by diffusers\' names.'),
    click.option('--kimg', metavar='KIMG', type=click.IntRange(min=1), default=20,
                 help='Training duration in thousands of images.'),
    click.option('--seed', metavar='INT', type=click.IntRange(min=0), default=0, help='Random seed.'),
    cli.device_option)
def epsilon_training(out, device, **options):
    """Train a small UNet2DModel, in diffusers' files, to predict noise.

    Example: python edm/reproduce.py epsilon-training --data=datasets/digits-8x8.zip --out=training/unet2d
    """
    from experiments.epsilon_training import EpsilonTraining, train
    from torch_utils.distributed import pick_device

    train(EpsilonTraining(**options), Path(out), pick_device(device))
    print_paths(out)


COMMANDS = (phase_transition, epsilon_training)
