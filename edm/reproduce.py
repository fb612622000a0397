"""Repeat an experiment of the papers: every stage is a plain call of the scripts beside this one."""

import math
import os
import shlex
import sys
import tempfile
from dataclasses import asdict, replace
from pathlib import Path

import click

from torch_utils import cli
from torch_utils.downloads import is_url
from torch_utils.processes import usable_cores


@click.group(cls=cli.Group)
def main():
    """Repeat an experiment of the papers from data to figure.

    Each stage is printed as the command line that repeats it; stages that are finished are not run again.
    """


def _folder_name(ctx, param, name: str | None) -> str | None:
    if name is not None and ('/' in name or name in ('', '.', '..')):
        raise click.UsageError(f'--name {name!r}: expected the name of a folder, without slashes')
    return name


def _different(ctx, param, numbers: list[int] | None) -> tuple[int, ...] | None:
    """Widths in the order given, sizes in that of their size."""
    least = {'widths': 2, 'sizes': 1}[param.name]
    if numbers and (len(set(numbers)) < max(len(numbers), least) or min(numbers) < 1):
        raise click.UsageError(f'--{param.name} {",".join(map(str, numbers))}: expected at least {least} '
                               'different numbers above 0')
    return numbers and tuple(sorted(numbers) if param.name == 'sizes' else numbers)


def _words(ctx, param, text: str | None) -> tuple[str, ...] | None:
    """Arguments of a script, as a shell splits them."""
    try:
        return None if text is None else tuple(shlex.split(text))
    except ValueError as err:
        raise click.UsageError(f'{param.opts[0]} {text}: {err}') from err


def _thresholds(ctx, param, text: str | None) -> tuple[float, ...] | None:
    try:
        numbers = None if text is None else tuple(float(item) for item in text.split(','))
    except ValueError:
        numbers = (math.nan,)
    if numbers and (not all(-1 <= number < 1 for number in numbers) or len(set(numbers)) < len(numbers)):
        raise click.UsageError(f'--thresholds {text}: expected different numbers from -1 to 1, comma '
                               'separated')
    return numbers


_name = click.option('--name', metavar='STR', callback=_folder_name,
                     help='Folder under datasets, training, evaluation and figures.  [default: by --preset]')
_run_options = cli.options(
    'Execution',
    click.option('--jobs', metavar='INT', type=click.IntRange(min=1),
                 help='Stages side by side, one thread each.  [default: the CPU\'s cores; 1 on a GPU]'),
    click.option('--gpus', metavar='LIST', type=cli.IntList(),
                 help='GPUs to use, one stage at a time on each.'),
    click.option('--emit', type=click.Choice(['slurm', 'make']),
                 help='Print a Slurm script or a Makefile that runs the stages and marks them as finished.'),
    click.option('-n', '--dry-run', is_flag=True,
                 help='Print the command lines, what they depend on, hours and disk, and stop.'),
    click.option('--assume-img-per-s', metavar='FLOAT', type=cli.FiniteRange(min=0, min_open=True),
                 help='For --dry-run: how many images a second the network trains on that the estimate names '
                      'first.  [default: measured on this machine]'))


@main.command()
@cli.options('Main options',
    click.option('--preset', type=click.Choice(['quickstart', 'quickstart-teacher', 'paper']),
                 default='quickstart',
                 help='Settings to start from; the options below replace single ones. quickstart: real 8x8 '
                      'digits; quickstart-teacher: digits that a teacher, trained on the real ones, makes; '
                      'paper: CIFAR-10 images of a released teacher, for a cluster.'),
    _name,
    click.option('--data', metavar='ZIP',
                 help='Images: the first N are the training set of size N.  [default: preset]'),
    click.option('--teacher', metavar='PKL|URL|DIR',
                 help='Train on images of this snapshot instead, or of the newest in a run\'s folder.'),
    click.option('--sizes', metavar='LIST', type=cli.IntList(), callback=_different,
                 help='Training-set sizes N.  [default: preset]'),
    click.option('--widths', metavar='LIST', type=cli.IntList(), callback=_different,
                 help='Widths (--model_channels) of the students.  [default: preset]'),
    click.option('--kimg', metavar='KIMG', type=click.IntRange(min=1),
                 help='Thousands of images each student sees.  [default: preset]'),
    click.option('--train', metavar='ARGS', callback=_words,
                 help='Further arguments of train.py, in one string; they follow the preset\'s.'),
    click.option('--teacher-training', metavar='ARGS', callback=_words,
                 help='Train a teacher on --data with these further arguments of train.py.  '
                      '[default: preset]'),
    click.option('--heldout', 'num_heldout', metavar='INT', type=click.IntRange(min=1),
                 help='Images a teacher makes beyond the largest training set.  [default: preset]'),
    click.option('--samples', 'num_samples', metavar='INT', type=click.IntRange(min=2),
                 help='Noises to sample from.  [default: preset]'),
    click.option('--thresholds', metavar='LIST', callback=_thresholds,
                 help='Similarity thresholds, the main one first.  [default: preset]'),
    click.option('--seed', metavar='INT', type=click.IntRange(min=0, max=2**31),
                 help='Seed of the first student; the others follow.  [default: preset]'))
@cli.options('Execution',
    cli.device_option)
@_run_options
def regimes(preset, device, **options):
    """Memorization and generalization over training-set size (paper 1, figure 2).

    Students of several widths and training-set sizes are sampled from the same noises and scored.

    \b
    Examples:
      python edm/reproduce.py regimes --preset=quickstart
      python edm/reproduce.py regimes --preset=paper --dry-run --assume-img-per-s=2000
    """
    from experiments import regimes as experiment
    from experiments import regimes_scores
    from scores.score_table import format_table, read_table

    run = {key: options.pop(key) for key in ('jobs', 'gpus', 'emit', 'dry_run', 'assume_img_per_s')}
    job = _job(_settings(experiment.PRESETS[preset], **options), device, run['gpus'])
    stages = [*experiment.plan(job), *regimes_scores.plan(job)]
    run['data'], run['channels'] = _check_data(job)
    if any(options[name] for name in ('train', 'teacher_training', 'widths', 'data')):
        experiment.check_training(job, stages, run['data'])
    if _run(job, stages, **run, begin=lambda: regimes_scores.write_settings(job)):
        print(format_table(read_table(job.table)))
        _print_paths(job.table, job.settings, *job.pictures)


_small_preset = click.option(
    '--preset', type=click.Choice(['quickstart', 'paper']), default='quickstart',
    help='quickstart: minutes on two CPU cores; paper: at the published size, for a GPU.')


@main.command()
@cli.options('Main options', _small_preset, _name)
@cli.options('Execution', cli.device_option)
@_run_options
def molrg(preset, name, device, **run):
    """Mixtures of low-rank Gaussians (paper 2, figure 3 right, and the phase transition).

    Ranks of the Jacobians of a low-rank model and a U-Net, and from how many samples on training finds the
    classes.

    Example: python edm/reproduce.py molrg --preset=quickstart
    """
    from experiments import molrg_experiment as experiment

    job = _job(experiment.PRESETS[preset], device, run['gpus'], name)
    if _run(job, experiment.plan(job), **run):
        print(experiment.summary(job))
        _print_paths(*job.pictures)


@main.command(cls=cli.ListCommand)
@cli.options('Main options',
    _small_preset,
    click.option('--networks', metavar='PKL|URL|DIR[=LABEL] ...', multiple=True,
                 help='Study these snapshots, or the newest in runs\' folders, besides the preset\'s, each '
                      'with the name of its curve.'),
    _name)
@cli.options('Execution', cli.device_option)
@_run_options
def jacobian(preset, networks, name, device, **run):
    """Ranks of Jacobians on real images (paper 2, figure 3 left).

    \b
    Examples:
      python edm/reproduce.py jacobian --preset=quickstart
      python edm/reproduce.py jacobian --networks training/mine/network-snapshot-002000.pkl=Mine
    """
    from data.dataset import ImageDataset
    from experiments import jacobian_experiment as experiment
    from torch_utils.run_dir import find_snapshot

    job = _job(experiment.PRESETS[preset], device, run['gpus'], name)
    job = replace(job, networks=(*job.networks, *map(cli.split_label, networks)))
    labels = [label for label, _ in job.networks] + ([job.training[0]] if job.training else [])
    for label in labels:
        if labels.count(label) > 1:
            raise click.UsageError(f'--networks: two curves are called {label}; give LABELs that differ')
    job = replace(job, networks=tuple(
        (label, find_snapshot(path, '--networks')) for label, path in job.networks))
    for _, path in job.networks:
        if not is_url(path) and not Path(path).is_file():
            raise click.UsageError(f'--networks {path}: no such file')
    channels = ImageDataset(job.training[1], cache=False).num_channels if job.training else 3
    if _run(job, experiment.plan(job), **run, channels=channels):
        _print_paths(job.picture)


@main.command('phase-transition', context_settings={'show_default': True})
@cli.options('Main options',
    click.option('--dims', metavar='LIST', type=cli.IntList(), default='3,6,12',
                 help='Dimensions d of the classes.'),
    click.option('--ratios', metavar='LIST', type=cli.FloatList(), default='0.5,0.75,1,1.25,1.5,2,3',
                 help='Samples per class over d; rounded to whole samples.'),
    click.option('--img_res', metavar='INT', type=click.IntRange(min=1), default=4,
                 help='Height and width r of the images; a sample has 3 r^2 dimensions.'),
    click.option('--class_num', metavar='INT', type=click.IntRange(min=1), default=2,
                 help='Number of classes.'),
    click.option('--trials', metavar='INT', type=click.IntRange(min=1), default=20,
                 help='Data sets of each size.'))
@cli.options('Training',
    click.option('--restarts', metavar='INT', type=click.IntRange(min=1), default=4,
                 help='Trainings on each, of which the one with the smallest loss counts.'),
    click.option('--steps', metavar='INT', type=click.IntRange(min=1), default=1000,
                 help='Of each training.'),
    click.option('--seed', metavar='INT', type=click.IntRange(min=0, max=2**32 - 1), default=0,
                 help='Random seed.'))
@cli.options('Output',
    click.option('--out', metavar='JSON', required=True, help='File for the recovery errors.'))
@cli.options('Training',
    cli.device_option)
@cli.writes([], out='recovery errors')
def phase_transition(out, device, dims, ratios, **options):
    """Measure from how many samples on training finds low-rank classes.

    All trials of one size are trained at once. plot.py phase-transition draws the result.

    Example: python edm/reproduce.py phase-transition --dims=3,6 --out=transition.json
    """
    from experiments.phase_transition import Transition, measure_all
    from scores.recovery import save_points
    from torch_utils.distributed import pick_device
    from torch_utils.files import make_output_dir

    job = Transition(dims=tuple(dims), ratios=tuple(ratios), **options)
    job.shapes()  # refuses those that can't be
    make_output_dir(Path(out).parent, '--out')
    save_points(Path(out), asdict(job), measure_all(job, pick_device(device)))
    _print_paths(out)


def _print_paths(*paths: Path | str) -> None:
    for path in paths:
        print(f'wrote {path}')


def _job(job, device: str, gpus: list[int] | None, name: str | None = None):
    """The settings with the device that the command line asks for, and the name."""
    source = click.get_current_context().get_parameter_source('device')
    given = source is not click.core.ParameterSource.DEFAULT
    if gpus and given and device not in ('auto', 'cuda'):
        raise click.UsageError(f'--gpus and --device {device} can\'t be given together: each stage sees one '
                               'of these GPUs, as cuda')
    if gpus and len(set(gpus)) < len(gpus):
        raise click.UsageError(f'--gpus {cli.shorten(gpus)}: each GPU has one stage at a time; name it once')
    return replace(job, name=name or job.name, device=device if given else 'auto' if gpus else job.device)


def _run(job, stages, *, jobs, gpus, emit, dry_run, assume_img_per_s, data=None, channels=3,
         begin=None) -> bool:
    """Run the stages of an experiment; or, as False, print them. data, channels: as in `estimate`.

    begin: called before the first stage, while no other process runs stages of this experiment.
    """
    from experiments import report, stage_scripts
    from experiments.stages import run_stages

    if emit and dry_run:
        raise click.UsageError('--emit and --dry-run can\'t be given together: one prints a script, the '
                               'other commands and costs')
    if assume_img_per_s and not dry_run:
        raise click.UsageError('--assume-img-per-s is for --dry-run')
    if bool(jobs) + bool(gpus) + bool(emit) > 1:
        raise click.UsageError('--jobs, --gpus, --emit: give one; each GPU has one stage at a time, and the '
                               'engine of a script decides itself')
    places = len(gpus) if gpus else jobs or (usable_cores() if job.device == 'cpu' else 1)
    folder, threads = Path('evaluation', job.name), 1 if job.device == 'cpu' else None
    if emit:
        write = {'slurm': stage_scripts.slurm_script, 'make': stage_scripts.makefile}[emit]
        print(write(stages, _last_command(), records=folder / 'stages', threads=threads), end='')
    elif dry_run:
        from experiments.estimates import estimate
        from torch_utils.distributed import pick_device

        for stage in stages:
            after = f'  # after {", ".join(stage.needs)}' if stage.needs else ''
            print(stage.command_line(threads) + after)
        print(estimate(stages, pick_device(job.device), assumed=assume_img_per_s, places=places, data=data,
                       channels=channels))
    else:
        def prepare():
            if begin is not None:
                begin()
            report.write_plan(folder, job, stages, threads)

        run_stages(stages, records=folder / 'stages', jobs=places, threads=threads, gpus=gpus or (),
                   begin=prepare)
    return not emit and not dry_run


def _last_command() -> str:
    """This command without --emit, to score what the script has run, and to draw."""
    words = sys.argv[1:]
    words = [word for i, word in enumerate(words)
             if not word.startswith('--emit') and (i == 0 or words[i - 1] != '--emit')]
    return shlex.join(['python', os.path.relpath(__file__), *words])


def _settings(preset, *, train, teacher_training, teacher, data, **options):
    """The preset with what the command line replaces."""
    if teacher and (data or teacher_training):
        raise click.UsageError(f'--teacher and {"--data" if data else "--teacher-training"} can\'t be given '
                               'together: images come from the one or the other')
    changes = {'data': os.path.relpath(preset.data)} if preset.data else {}
    changes |= {key: value for key, value in options.items() if value is not None}
    if train is not None:
        changes['train'] = (*preset.train, *train)  # the last of equal options counts
    if teacher_training is not None:
        changes['teacher_training'] = (*(preset.teacher_training or preset.train), *teacher_training)
    if data:
        changes |= {'data': data, 'teacher': None}
    if teacher:
        from torch import device

        from torch_utils.run_dir import find_snapshot
        from training.snapshot import load_network

        teacher = find_snapshot(teacher, '--teacher')
        net = load_network(teacher, device('meta'), option='--teacher')
        changes |= {'data': None, 'teacher': teacher, 'teacher_training': None,
                    'resolution': net.img_resolution, 'channels': net.img_channels}
    job = replace(preset, **changes)
    if options['num_heldout'] and not (job.teacher or job.teacher_training):
        raise click.UsageError(f'--heldout {job.num_heldout} is for a teacher; of --data, all images beyond '
                               'the largest training set are held out')
    return job


def _check_data(job) -> tuple[str, int]:
    """Images like those that students are trained on, and the number of their channels.

    Makes sure that --data has enough for the largest training set, and one to hold out.
    """
    import numpy as np

    from data.dataset import ImageDataset
    from torch_utils.images import write_png

    channels, height, width = job.channels, job.resolution, job.resolution
    if job.data:
        dataset = ImageDataset(job.data, cache=False)
        channels, height, width = dataset.image_shape
    if not job.teacher and not job.teacher_training:
        if len(dataset) <= max(job.sizes):
            raise click.UsageError(f'--sizes {max(job.sizes)}: --data {job.data} has {len(dataset)} images, '
                                   'and at least one must be left out of training')
        return job.data, channels
    folder = click.get_current_context().with_resource(tempfile.TemporaryDirectory())
    write_png(Path(folder, 'a-teacher-s.png'), np.zeros((height, width, channels), np.uint8))
    return folder, channels


@main.command('report')
@click.argument('folder', metavar='DIR', type=click.Path(exists=True, file_okay=False))
@click.option('--out', metavar='HTML', help='The page.  [default: report.html in the figures\' folder]')
@cli.writes(['folder'], out='report')
def report_command(folder, out):
    """Write one HTML page about an experiment, finished or under way.

    DIR is its folder under evaluation/. The page holds settings, figures, samples, scores, time and commands,
    and needs no other file.

    Example: python edm/reproduce.py report evaluation/quickstart
    """
    from experiments import report
    from torch_utils.files import atomic_write, make_output_dir

    folder = Path(folder)
    page = report.page(folder)
    path = Path(out) if out else Path(os.path.relpath(report.figures_folder(folder) / 'report.html'))
    make_output_dir(path.parent, '--out')
    with atomic_write(path) as file:
        file.write(page.encode(errors='replace'))
    _print_paths(path)


if __name__ == '__main__':
    main()
