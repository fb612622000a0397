"""Repeat an experiment of the papers: every stage is a plain call of the scripts beside this one."""

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
              help='Settings to start from; the options below replace single ones. quickstart: real 8x8 digits; '
                   'quickstart-teacher: digits that a teacher, trained on the real ones, generates.')
@click.option('--name', metavar='STR', help='Folder under datasets, training, evaluation and figures.  [preset]')
@click.option('--data', metavar='ZIP', help='Images: the first N are the training set of size N.  [preset]')
@click.option('--teacher', metavar='PKL|URL', help='Train on images that this snapshot generates instead.')
@click.option('--sizes', metavar='LIST', type=cli.IntList(), help='Training-set sizes N.  [preset]')
@click.option('--widths', metavar='LIST', type=cli.IntList(), help='Widths (--model_channels) of the students.  [preset]')
@click.option('--kimg', metavar='KIMG', type=click.IntRange(min=1), help='Images each student sees.  [preset]')
@click.option('--train', metavar='ARGS', help='Further arguments of train.py, in one string.  [preset]')
@click.option('--samples', metavar='INT', type=click.IntRange(min=2), help='Noises to sample from.  [preset]')
@click.option('--thresholds', metavar='LIST', help='Similarity thresholds, the main one first.  [preset]')
@click.option('--seed', metavar='INT', type=click.IntRange(min=0), help='Seed of the first student.  [preset]')
@click.option('--device', metavar='auto|cpu|cuda[:i]|mps', help='Where to compute.  [preset]')
@click.option('--jobs', metavar='INT', type=click.IntRange(min=1), help='Stages side by side.  [CPU: its cores, else 1]')
@click.option('-n', '--dry-run', is_flag=True, help='Print the command lines and stop.')
def regimes(preset, jobs, dry_run, **options):
    """Memorization and generalization over training-set size (paper 1, figure 2).

    Example: python edm/reproduce.py regimes --preset quickstart
    """
    from evaluation import regimes as experiment
    from evaluation.stages import run_stages

    job = _settings(experiment.PRESETS[preset], **options)
    stages = experiment.plan(job)
    threads = 1 if job.device == 'cpu' else None  # small networks: one thread each, side by side
    if dry_run:
        for stage in stages:
            print(stage.command_line(threads))
        return
    jobs = jobs or (os.cpu_count() if job.device == 'cpu' else 1)
    records = Path('evaluation', job.name, 'stages')
    run_stages(stages, records=records, jobs=jobs, threads=threads)
    results = experiment.collect(job)
    run_stages(experiment.picture_stages(job), records=records)
    print(experiment.table(results))
    for path in (job.results, *job.pictures):
        print(f'wrote {path}')


def _settings(preset, *, train, samples, thresholds, teacher, **options):
    """The preset with what the command line replaces."""
    changes = {key: value for key, value in options.items() if value is not None}
    for key in ('sizes', 'widths'):
        if key in changes:
            changes[key] = _rising(f'--{key}', changes[key])
    if train is not None:
        changes['train'] = (*preset.train, *shlex.split(train))  # the last of equal options counts
    if samples is not None:
        changes['num_samples'] = samples
    if thresholds is not None:
        changes['thresholds'] = _thresholds(thresholds)
    if teacher is not None:
        changes |= {'teacher': teacher, 'teacher_training': None}
    return replace(preset, **changes)


def _rising(option: str, numbers: list[int]) -> tuple[int, ...]:
    if (sorted(set(numbers)) != numbers and sorted(set(numbers), reverse=True) != numbers) or min(numbers) < 1:
        raise click.UsageError(f'{option} {numbers}: give different numbers above 0, in order')
    return tuple(sorted(numbers))


def _thresholds(text: str) -> tuple[float, ...]:
    try:
        numbers = tuple(float(item) for item in text.split(','))
    except ValueError:
        numbers = ()
    if not numbers or not all(-1 <= number < 1 for number in numbers):
        raise click.UsageError(f'--thresholds {text}: give numbers from -1 to 1, comma separated')
    return numbers


if __name__ == '__main__':
    main()
