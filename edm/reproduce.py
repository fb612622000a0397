"""Repeat an experiment of the papers: every stage is a plain call of the scripts beside this one."""

import math
import os
import shlex
from dataclasses import replace
from pathlib import Path

import click

from torch_utils import cli


@click.group(cls=cli.Group)
def main():
    """Repeat an experiment of the papers from data to figure.

    Each stage is printed as the command line that repeats it; stages that are finished are not run again.
    """


@main.command()
@click.option('--preset', type=click.Choice(['quickstart', 'quickstart-teacher']), default='quickstart',
              help='Settings to start from; the options below replace single ones. quickstart: real 8x8 '
                   'digits; quickstart-teacher: digits that a teacher, trained on the real ones, generates.')
@click.option('--name', metavar='STR',
              help='Folder under datasets, training, evaluation and figures.  [default: preset]')
@click.option('--data', metavar='ZIP',
              help='Images: the first N are the training set of size N.  [default: preset]')
@click.option('--teacher', metavar='PKL|URL', help='Train on images that this snapshot generates instead.')
@click.option('--sizes', metavar='LIST', type=cli.IntList(), help='Training-set sizes N.  [default: preset]')
@click.option('--widths', metavar='LIST', type=cli.IntList(),
              help='Widths (--model_channels) of the students.  [default: preset]')
@click.option('--kimg', metavar='KIMG', type=click.IntRange(min=1),
              help='Thousands of images each student sees.  [default: preset]')
@click.option('--train', metavar='ARGS',
              help='Further arguments of train.py, in one string; they follow the preset\'s.')
@click.option('--teacher-training', metavar='ARGS',
              help='Train a teacher on --data with these further arguments of train.py.  [default: preset]')
@click.option('--heldout', 'num_heldout', metavar='INT', type=click.IntRange(min=1),
              help='Images a teacher makes beyond the largest training set.  [default: preset]')
@click.option('--samples', metavar='INT', type=click.IntRange(min=2),
              help='Noises to sample from.  [default: preset]')
@click.option('--thresholds', metavar='LIST',
              help='Similarity thresholds, the main one first.  [default: preset]')
@click.option('--seed', metavar='INT', type=click.IntRange(min=0),
              help='Seed of the first student; the others follow.  [default: preset]')
@cli.device_option
@click.option('--jobs', metavar='INT', type=click.IntRange(min=1),
              help='Stages side by side, one thread each.  [default: the CPU\'s cores; 1 on a GPU]')
@click.option('-n', '--dry-run', is_flag=True, help='Print the command lines and stop.')
def regimes(preset, device, jobs, dry_run, **options):
    """Memorization and generalization over training-set size (paper 1, figure 2).

    Students of several widths and training-set sizes are sampled from the same noises and scored.

    Example: python edm/reproduce.py regimes --preset=quickstart
    """
    from evaluation import regimes as experiment
    from evaluation.stages import run_stages

    job = _settings(experiment.PRESETS[preset], **options)
    source = click.get_current_context().get_parameter_source('device')
    if source is not click.core.ParameterSource.DEFAULT:
        job = replace(job, device=device)
    if not dry_run:
        _check_data(job)
    stages = experiment.plan(job)
    threads = 1 if job.device == 'cpu' else None  # small networks: one thread each, side by side
    if dry_run:
        for stage in stages:
            print(stage.command_line(threads))
        return

    from evaluation import regimes_scores

    records = Path('evaluation', job.name, 'stages')
    run_stages(stages, records=records, threads=threads,
               jobs=jobs or (os.cpu_count() if job.device == 'cpu' else 1))
    results = regimes_scores.collect(job)
    run_stages(regimes_scores.picture_stages(job), records=records)
    print(regimes_scores.table(results))
    for path in (job.results, job.results.with_suffix('.csv'), *job.pictures):
        print(f'wrote {path}')


def _settings(preset, *, train, teacher_training, samples, thresholds, teacher, **options):
    """The preset with what the command line replaces."""
    changes = {'data': os.path.relpath(preset.data)}
    changes |= {key: value for key, value in options.items() if value is not None}
    for key, least in (('sizes', 1), ('widths', 2)):
        if key in changes:
            changes[key] = _different(f'--{key}', changes[key], least)
    if 'sizes' in changes:
        changes['sizes'] = tuple(sorted(changes['sizes']))
    if train is not None:
        changes['train'] = (*preset.train, *_split('--train', train))  # the last of equal options counts
    if teacher_training is not None:
        changes['teacher_training'] = (*(preset.teacher_training or preset.train),
                                       *_split('--teacher-training', teacher_training))
    if samples is not None:
        changes['num_samples'] = samples
    if thresholds is not None:
        changes['thresholds'] = _thresholds(thresholds)
    if teacher is not None and teacher_training is not None:
        raise click.UsageError('--teacher and --teacher-training can\'t be given together: one teacher is '
                               'there already, the other is to be trained')
    if teacher is not None:
        changes |= {'teacher': teacher, 'teacher_training': None}
    if '/' in changes.get('name', '') or changes.get('name') in ('', '.', '..'):
        raise click.UsageError(f'--name {changes["name"]!r}: expected the name of a folder, without slashes')
    return replace(preset, **changes)


def _different(option: str, numbers: list[int], least: int) -> tuple[int, ...]:
    if len(set(numbers)) < max(len(numbers), least) or min(numbers) < 1:
        raise click.UsageError(f'{option} {",".join(map(str, numbers))}: expected at least {least} different '
                               'numbers above 0')
    return tuple(numbers)


def _split(option: str, text: str) -> list[str]:
    try:
        return shlex.split(text)
    except ValueError as err:
        raise click.UsageError(f'{option} {text}: {err}') from err


def _thresholds(text: str) -> tuple[float, ...]:
    try:
        numbers = tuple(float(item) for item in text.split(','))
    except ValueError:
        numbers = (math.nan,)
    if not all(-1 <= number < 1 for number in numbers) or len(set(numbers)) < len(numbers):
        raise click.UsageError(f'--thresholds {text}: expected different numbers from -1 to 1, comma '
                               'separated')
    return numbers


def _check_data(job) -> None:
    """Make sure that there are images for the largest training set, and one to hold out."""
    from training.dataset import ImageDataset

    if job.pool != Path(job.data):  # a teacher makes as many as are needed
        return
    images = len(ImageDataset(job.data, cache=False))
    if images <= max(job.sizes):
        raise click.UsageError(f'--sizes {max(job.sizes)}: --data {job.data} has {images} images, and at '
                               'least one must be left out of training')


if __name__ == '__main__':
    main()
