"""Train a diffusion model on a data set of images."""

import click

from torch_utils import cli
from torch_utils.errors import note
from training import options
from training.config import ARCHITECTURES, IMAGE_ARCHITECTURES, TrainingConfig, network_kwargs


@cli.command()
@cli.options('Main options',
    click.option('--outdir', metavar='DIR', required=True, help='Where to make the run folder.'),
    click.option('--data', metavar='ZIP|DIR', required=True, help='Images to train on.'),
    click.option('--cond', metavar='BOOL', type=bool, default=False,
                 help='Train a class-conditional model.'),
    click.option('--arch', type=click.Choice(IMAGE_ARCHITECTURES), default='ddpmpp',
                 help='Network architecture.'))
@options.main_options(duration=200)
@cli.options('Network',
    click.option('--model_channels', metavar='INT', type=options.COUNT, default=128,
                 help='Base width of ddpmpp and ncsnpp.'))
@options.network_options
@options.hyperparameters()
@cli.options('Hyperparameters',
    click.option('--xflip', metavar='BOOL', type=bool, default=False, help='Add x-flips of all images.'))
@options.performance_options
@cli.options('Performance',
    click.option('--cache', metavar='BOOL', type=bool, default=True,
                 help='Cache the decoded images in memory.'),
    click.option('--workers', metavar='INT', type=options.COUNT, default=1,
                 help='Threads that decode images, for --cache=0.'))
@options.result_options()
@cli.options('Output',
    click.option('--resume', metavar='PT|DIR|auto',
                 help='Resume from a state, or from the newest in a run folder. auto: from the newest in '
                      f'--outdir, with --nosubdir, {options.AUTO_HELP}'))
def main(**opts):
    """Train a diffusion model on a data set of images.

    Example, on two GPUs:

    torchrun --standalone --nproc_per_node=2 edm/train.py --outdir=training --data=datasets/cifar10-32x32.zip
    """
    from data.dataset import ImageDataset
    from training.launch import start_run

    _check(opts)
    dataset = ImageDataset(opts['data'], use_labels=opts['cond'], xflip=opts['xflip'], cache=opts['cache'])
    dataset.check_classes()
    config = TrainingConfig(
        dataset_kwargs={
            'class_name': 'training.dataset.ImageFolderDataset', 'path': opts['data'],
            'use_labels': opts['cond'], 'xflip': opts['xflip'], 'cache': opts['cache'],
            'resolution': dataset.resolution, 'max_size': len(dataset)},
        network_kwargs=network_kwargs(opts),
        **options.shared_settings(opts, resume=opts['resume']))
    start_run(config, dataset, opts, outdir=opts['outdir'],
              named=f'--cres, --cbase, --model_channels is no network for {opts["data"]}')


def _check(opts: dict) -> None:
    """Refuse options that don't go together."""
    options.check_options(opts, resumes=bool(opts['resume']))
    if opts['cache'] and cli.given('workers'):
        note(f'--workers {opts["workers"]}: no effect without --cache 0')
    if 'model_channels' in ARCHITECTURES[opts['arch']] and cli.given('model_channels'):
        raise click.UsageError(f'--model_channels {opts["model_channels"]} is for ddpmpp and ncsnpp; '
                               f'{opts["arch"]} takes --cbase')


if __name__ == '__main__':
    main()
