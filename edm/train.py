"""Train a diffusion model on a data set of images."""

import json
import os
import secrets
import sys
from dataclasses import replace
from functools import partial

import click
from click.core import ParameterSource

from torch_utils import cli
from training.config import (
    ARCHITECTURES,
    AUGMENT_DIM,
    AUGMENTATION,
    PRECONDITIONINGS,
    TrainingConfig,
    split_batch,
)
from training.run_dir import next_run_dir, run_name


@cli.command()
# Main options.
@click.option('--outdir', metavar='DIR', required=True, help='Where to save the results.')
@click.option('--data', metavar='ZIP|DIR', required=True, help='Images to train on.')
@click.option('--cond', metavar='BOOL', type=bool, default=False, help='Use the data set\'s class labels.')
@click.option('--arch', type=click.Choice(list(ARCHITECTURES)), default='ddpmpp', help='Network.')
@click.option('--precond', type=click.Choice(list(PRECONDITIONINGS)), default='edm',
              help='Preconditioning and loss.')
@cli.device_option
@click.option('--duration', metavar='MIMG', type=cli.FiniteRange(min=0, min_open=True), default=200,
              help='How many million images to show to the network.')
@click.option('--batch', metavar='INT', type=click.IntRange(min=1), default=512,
              help='Images per step, of all processes together.')
@click.option('--batch-gpu', metavar='INT', type=click.IntRange(min=1),
              help='Largest number of images at once per process.  [default: no limit]')
# Network.
@click.option('--model_channels', metavar='INT', type=click.IntRange(min=1), default=128,
              help='Width of ddpmpp and ncsnpp.')
@click.option('--cbase', metavar='INT', type=click.IntRange(min=1),
              help='Width, of any --arch.  [default: by --arch]')
@click.option('--cres', metavar='LIST', type=cli.IntList(),
              help='Width at each resolution, in units of the width.  [default: by --arch]')
@click.option('--num_blocks', metavar='INT', type=click.IntRange(min=1),
              help='Residual blocks per resolution.  [default: by --arch]')
@click.option('--attn_resolutions', metavar='LIST', type=cli.IntList(),
              help='Resolutions with self-attention.  [default: by --arch]')
@click.option('--dropout', metavar='FLOAT', type=cli.FiniteRange(min=0, max=1), default=0.13,
              help='Dropout probability.')
# Hyperparameters.
@click.option('--lr', metavar='FLOAT', type=cli.FiniteRange(min=0, min_open=True), default=1e-3,
              help='Learning rate.')
@click.option('--lr_rampup', metavar='KIMG', type=cli.FiniteRange(min=0), default=10000,
              help='The learning rate rises from 0 over so many thousand images.')
@click.option('--ema', metavar='MIMG', type=cli.FiniteRange(min=0), default=0.5,
              help='Half-life of the averaged weights, in million images.')
@click.option('--ema_rampup', metavar='RATIO', type=cli.FiniteRange(min=0), default=0.05,
              help='That half-life is at most this fraction of the images seen; not with --transfer.')
@click.option('--P_mean', 'p_mean', metavar='FLOAT', type=cli.FiniteRange(min=-20, max=20),
              help='Mean of the log noise level, for edm.  [default: -1.2]')
@click.option('--P_std', 'p_std', metavar='FLOAT', type=cli.FiniteRange(min=0, max=20),
              help='Its standard deviation, for edm.  [default: 1.2]')
@click.option('--augment', metavar='FLOAT', type=cli.FiniteRange(min=0, max=1), default=0.12,
              help='Augmentation probability; 0 for none.')
@click.option('--xflip', metavar='BOOL', type=bool, default=False, help='Add all images mirrored in x.')
# Performance.
@click.option('--fp16', metavar='BOOL', type=bool, default=False, help='Half precision, on CUDA.')
@click.option('--ls', metavar='FLOAT', type=cli.FiniteRange(min=0, min_open=True), default=1,
              help='Factor on the loss during the backward pass.')
@click.option('--bench', metavar='BOOL', type=bool, default=True, help='Let cuDNN choose kernels by trial.')
@click.option('--cache', metavar='BOOL', type=bool, default=True, help='Keep the decoded images in memory.')
@click.option('--workers', metavar='INT', type=click.IntRange(min=1), default=1,
              help='Threads that decode images, with --cache=0.')
# Results.
@click.option('--desc', metavar='STR', help='Text at the end of the run folder\'s name.')
@click.option('--nosubdir', is_flag=True, help='Write into --outdir itself.')
@click.option('--tick', metavar='KIMG', type=click.IntRange(min=1), default=50,
              help='Print progress every so many thousand images.')
@click.option('--snap', metavar='TICKS', type=click.IntRange(min=1), default=50,
              help='Save a snapshot every so many ticks.')
@click.option('--dump', metavar='TICKS', type=click.IntRange(min=1), default=500,
              help='Save a state to resume from every so many ticks.')
@click.option('--preview', is_flag=True, help='Save a grid of samples beside every snapshot.')
@click.option('--seed', metavar='INT', type=click.IntRange(min=0, max=2**32 - 1),
              help='Random seed.  [default: random, recorded]')
@click.option('--transfer', metavar='PKL|URL', help='Start with the weights of a snapshot.')
@click.option('--resume', metavar='PT|DIR', help='Continue from a state, or the newest of a run\'s folder.')
@click.option('-n', '--dry-run', is_flag=True, help='Print the options and stop.')
def main(**opts):
    """Train a diffusion model on a data set of images.

    Example, on two GPUs:

    torchrun --standalone --nproc_per_node=2 edm/train.py --outdir=training --data=datasets/cifar10-32x32.zip
    """
    from training.dataset import ImageDataset

    _check(opts)
    dataset = ImageDataset(opts['data'], use_labels=opts['cond'], xflip=opts['xflip'], cache=opts['cache'])
    config = _config(opts, dataset)
    name = None if opts['nosubdir'] else run_name(
        data=dataset.name, conditional=opts['cond'], arch=opts['arch'], precond=opts['precond'],
        num_processes=_num_processes(), batch_size=opts['batch'], fp16=opts['fp16'], desc=opts['desc'])
    state = None
    if opts['resume']:
        config, state = _continued(config, opts)
    if opts['dry_run']:
        run_dir = next_run_dir(opts['outdir'], name) if name else opts['outdir']
        print(json.dumps(replace(config, run_dir=str(run_dir)).as_json(), indent=2))
        print('Dry run: nothing was written', file=sys.stderr)
        return

    from training.build import build_network
    from training.launch import launch, sketch
    make_net = partial(build_network, config.network_kwargs, dataset)
    try:
        sketch(make_net)
    except ValueError as err:
        raise click.UsageError(f'--arch {opts["arch"]} with these --cres, --cbase, --model_channels is no '
                               f'network for {opts["data"]}: {err}') from err
    dataset.images([0])  # decodes all to be cached: a broken file stops the run before it has a folder
    launch(config, dataset, make_net, outdir=opts['outdir'], name=name, state=state)


def _num_processes() -> int:
    return int(os.environ.get('WORLD_SIZE', 1))


def _check(opts: dict) -> None:
    """Refuse options that don't go together."""
    context = click.get_current_context()
    try:
        split_batch(opts['batch'], opts['batch_gpu'], _num_processes())
    except ValueError as err:
        raise click.UsageError(str(err)) from err
    if opts['transfer'] and opts['resume']:
        raise click.UsageError('--transfer and --resume can\'t be given together: a run starts with the '
                               'weights of a snapshot or continues another')
    for option, value in (('--P_mean', opts['p_mean']), ('--P_std', opts['p_std'])):
        if value is not None and opts['precond'] != 'edm':
            raise click.UsageError(f'{option} {value:g} needs --precond edm, got {opts["precond"]}')
    given = {param for param in opts if context.get_parameter_source(param) is not ParameterSource.DEFAULT}
    if opts['arch'] == 'adm' and 'model_channels' in given:
        raise click.UsageError(f'--model_channels {opts["model_channels"]} is for ddpmpp and ncsnpp; adm '
                               'takes --cbase')
    if opts['transfer'] and 'ema_rampup' in given:
        raise click.UsageError('--ema_rampup: with --transfer the averaged weights have no ramp-up')
    if opts['desc'] and (os.sep in opts['desc'] or '/' in opts['desc']):
        raise click.UsageError(f'--desc {opts["desc"]}: part of a folder\'s name, can\'t hold a slash')


def _continued(config: TrainingConfig, opts: dict) -> tuple[TrainingConfig, dict]:
    """The settings and the state with --resume, checked against the other options."""
    from training.launch import continued

    config, state = continued(config)
    if opts['seed'] not in (None, state['seed']):
        raise click.UsageError(f'--seed {opts["seed"]}: the run that --resume continues had {state["seed"]}')
    if state['cur_nimg'] >= config.total_kimg * 1000:
        raise click.UsageError(f'--duration {opts["duration"]:g}: the run that --resume continues has '
                               f'already seen {state["cur_nimg"] / 1e6:g} million images')
    return config, state


def _config(opts: dict, dataset) -> TrainingConfig:
    """The options under the keys of training_options.json; the folder is named later."""
    network, loss = PRECONDITIONINGS[opts['precond']]
    p_values = {'P_mean': opts['p_mean'], 'P_std': opts['p_std']}
    return TrainingConfig(
        run_dir='',
        dataset_kwargs={
            'class_name': 'training.dataset.ImageFolderDataset', 'path': opts['data'],
            'use_labels': opts['cond'], 'xflip': opts['xflip'], 'cache': opts['cache'],
            'resolution': dataset.resolution, 'max_size': len(dataset)},
        data_loader_kwargs={'pin_memory': True, 'num_workers': opts['workers'], 'prefetch_factor': 2},
        network_kwargs={'class_name': network} | _network_kwargs(opts),
        loss_kwargs={'class_name': loss} | {key: p for key, p in p_values.items() if p is not None},
        optimizer_kwargs={'class_name': 'torch.optim.Adam', 'lr': opts['lr'], 'betas': [0.9, 0.999],
                          'eps': 1e-8},
        augment_kwargs=AUGMENTATION | {'p': opts['augment']} if opts['augment'] else None,
        total_kimg=max(int(1000 * opts['duration']), 1),
        ema_halflife_kimg=int(1000 * opts['ema']),
        ema_rampup_ratio=None if opts['transfer'] else opts['ema_rampup'],
        lr_rampup_kimg=opts['lr_rampup'],
        batch_size=opts['batch'], batch_gpu=opts['batch_gpu'],
        loss_scaling=opts['ls'], cudnn_benchmark=opts['bench'],
        kimg_per_tick=opts['tick'], snapshot_ticks=opts['snap'], state_dump_ticks=opts['dump'],
        seed=secrets.randbelow(1 << 31) if opts['seed'] is None else opts['seed'],
        resume_pkl=opts['transfer'], resume_state_dump=opts['resume'],
        preview=opts['preview'], device=opts['device'])


def _network_kwargs(opts: dict) -> dict:
    network = dict(ARCHITECTURES[opts['arch']])
    if opts['arch'] != 'adm':
        network['model_channels'] = opts['model_channels']
    given = {'model_channels': opts['cbase'], 'channel_mult': opts['cres'], 'num_blocks': opts['num_blocks'],
             'attn_resolutions': opts['attn_resolutions'],
             'augment_dim': AUGMENT_DIM if opts['augment'] else None}
    network |= {key: value for key, value in given.items() if value is not None}
    return network | {'dropout': opts['dropout'], 'use_fp16': opts['fp16']}


if __name__ == '__main__':
    main()
