"""The options that all training scripts have, the settings that follow from them, and the start of the run.

Imports no torch before a run starts.
"""

import math
import os
import secrets
from collections.abc import Callable

import click
from click.core import ParameterSource

from torch_utils import cli
from torch_utils.errors import note
from torch_utils.run_dir import take_newest
from training.config import (
    AUGMENTATION,
    AUTO,
    COMPILERS,
    LR_DECAYS,
    MEMORY_FORMATS,
    OPTIMIZERS,
    PRECISIONS,
    PRECONDITIONINGS,
    TRAINABLE,
    split_batch,
)

AUTO_HELP = ('if its run had the same data and settings, but for those that can\'t change the weights, such '
             'as --dump; with --lr_decay=none it may get another --duration. Else start anew and say why.')


def main_options(*, duration: float) -> Callable:
    """Decorator: how the network is wrapped, where it is trained, how long and on how many images at once."""
    return cli.options('Main options',
        click.option('--precond', type=click.Choice(TRAINABLE), default='edm',
                     help='Preconditioning and loss.'),
        cli.device_option,
        click.option('--duration', metavar='MIMG', type=cli.FiniteRange(min=0, min_open=True),
                     default=duration, help='How many million images to show to the network.'),
        click.option('--batch', metavar='INT', type=click.IntRange(1, 10**9), default=512,
                     help='Images per step, of all processes together.'),
        click.option('--batch-gpu', metavar='INT', type=click.IntRange(min=1),
                     help='Largest number of images at once per process.  [default: no limit]'))


network_options = cli.options('Network',
    click.option('--cbase', metavar='INT', type=click.IntRange(min=1),
                 help='Width, of any --arch.  [default: by --arch]'),
    click.option('--cres', metavar='LIST', type=cli.IntList(),
                 help='Width at each resolution, in units of the width.  [default: by --arch]'),
    click.option('--num_blocks', metavar='INT', type=click.IntRange(min=1),
                 help='Residual blocks per resolution.  [default: by --arch]'),
    click.option('--attn_resolutions', metavar='LIST', type=cli.IntList(),
                 help='Resolutions with self-attention.  [default: by --arch]'),
    click.option('--dropout', metavar='FLOAT', type=cli.FiniteRange(min=0, max=1), default=0.13,
                 help='Dropout probability.'))


def hyperparameters(*, lr: float | None = 1e-3, lr_rampup: float | None = 10000,
                    lr_decay: str | None = 'none', augment: float = 0.12, notes: dict[str, str] | None = None,
                    ) -> Callable:
    """Decorator: how the network is trained; notes end the help of an option whose default is special."""
    notes = {'lr': '', 'lr_rampup': '', 'lr_decay': '', 'augment': ''} | (notes or {})
    return cli.options('Hyperparameters',
        click.option('--lr', metavar='FLOAT', type=cli.FiniteRange(min=0, min_open=True), default=lr,
                     help=f'Learning rate.{notes["lr"]}'),
        click.option('--lr_rampup', metavar='KIMG', type=cli.FiniteRange(min=0), default=lr_rampup,
                     help=f'It rises from 0 over so many thousand images.{notes["lr_rampup"]}'),
        click.option('--lr_decay', type=click.Choice(list(LR_DECAYS)), default=lr_decay,
                     help=f'How it falls until the end of the run; cosine: to 0.{notes["lr_decay"]}'),
        click.option('--ema', metavar='MIMG', type=cli.FiniteRange(min=0), default=0.5,
                     help='Half-life of the averaged weights, in million images.'),
        click.option('--ema_rampup', metavar='RATIO', type=cli.FiniteRange(min=0), default=0.05,
                     help='That half-life is at most this fraction of the images seen; not with --transfer.'),
        click.option('--P_mean', 'p_mean', metavar='FLOAT', type=cli.FiniteRange(min=-20, max=20),
                     help='Mean of the log noise level, for edm.  [default: -1.2]'),
        click.option('--P_std', 'p_std', metavar='FLOAT', type=cli.FiniteRange(min=0, max=20),
                     help='Its standard deviation, for edm.  [default: 1.2]'),
        click.option('--augment', metavar='FLOAT', type=cli.FiniteRange(min=0, max=1), default=augment,
                     help=f'Augmentation probability; 0 for none.{notes["augment"]}'))


performance_options = cli.options('Performance',
    click.option('--fp16', metavar='BOOL', type=bool, default=False, help='The same as --precision=fp16.'),
    click.option('--precision', type=click.Choice(list(PRECISIONS)), default='fp32',
                 help='How the network computes on CUDA; elsewhere always in fp32. Weights, embeddings and '
                      'averages stay in float32. fp16 may need --ls.'),
    click.option('--compile', type=click.Choice(list(COMPILERS)), default='0',
                 help='Compile the network, which takes a minute or more the first time, then seconds; '
                      'graphs: also launch it as CUDA graphs, for networks so small that a GPU waits.'),
    click.option('--memory_format', type=click.Choice(list(MEMORY_FORMATS)),
                 help='How features lie in memory.  [default: channels_last on CUDA in fp16 and bf16, else '
                      'contiguous]'),
    click.option('--ls', metavar='FLOAT', type=cli.FiniteRange(min=0, min_open=True), default=1,
                 help='Factor on the loss during the backward pass.'),
    click.option('--bench', metavar='BOOL', type=bool, default=True,
                 help='Let cuDNN choose kernels by trial.'))


def result_options(*, snap: int = 50) -> Callable:
    """Decorator: what a run leaves behind, and what it begins with."""
    return cli.options('Output',
        click.option('--desc', metavar='STR', help='Text at the end of the run folder\'s name.'),
        click.option('--nosubdir', is_flag=True, help='Write into --outdir itself.'),
        click.option('--tick', metavar='KIMG', type=click.IntRange(min=1), default=50,
                     help='Print progress every so many thousand images.'),
        click.option('--snap', metavar='TICKS', type=click.IntRange(min=1), default=snap,
                     help='Save a snapshot every so many ticks.'),
        click.option('--dump', metavar='TICKS', type=click.IntRange(min=1), default=500,
                     help='Save a state to resume from every so many ticks.'),
        click.option('--keep', metavar='INT', type=click.IntRange(min=1),
                     help='Delete all states but so many newest ones.  [default: keep all]'),
        click.option('--max-nan', metavar='STEPS', type=click.IntRange(min=1), default=100,
                     help='Stop once so many steps had losses that were NaN or infinite.'),
        click.option('--preview', is_flag=True, help='Save a grid of samples beside every snapshot.'),
        click.option('--seed', metavar='INT', type=click.IntRange(min=0, max=2**32 - 1),
                     help='Random seed.  [default: random, recorded]'),
        click.option('--force-data', is_flag=True,
                     help='With --resume, continue although the images at --data are others than before.'),
        click.option('--transfer', metavar='PKL|URL|DIR', callback=take_newest,
                     help='Start with the weights of a snapshot, or of the newest in a run\'s folder.'),
        click.option('-n', '--dry-run', is_flag=True, help='Print the options and stop.'))


def given_options() -> set[str]:
    """The parameters of the running command that the user has set."""
    context = click.get_current_context()
    return {param for param in context.params
            if context.get_parameter_source(param) is not ParameterSource.DEFAULT}


def check_options(opts: dict, *, resumes: bool) -> None:
    """Refuse shared options that don't go together. Raises click.UsageError.

    resumes: whether the run continues another, by any option.
    """
    try:
        split_batch(opts['batch'], opts['batch_gpu'], int(os.environ.get('WORLD_SIZE', 1)))
    except ValueError as err:
        raise click.UsageError(str(err)) from err
    for option, value in (('--P_mean', opts['p_mean']), ('--P_std', opts['p_std'])):
        if value is not None and opts['precond'] != 'edm':
            raise click.UsageError(f'{option} {value:g} needs --precond edm, got {opts["precond"]}')
    if opts['fp16'] and opts['precision'] not in ('fp16', 'fp32'):
        raise click.UsageError(f'--fp16 1 and --precision {opts["precision"]} can\'t be given together')
    if opts['fp16']:
        opts['precision'] = 'fp16'
    opts['fp16'] = opts['precision'] == 'fp16'
    if opts['transfer'] and 'ema_rampup' in given_options():
        raise click.UsageError('--ema_rampup: with --transfer the averaged weights have no ramp-up')
    if opts['resume'] == AUTO and not opts['nosubdir']:
        raise click.UsageError('--resume auto needs --nosubdir: --outdir is then the run\'s own folder')
    if opts['desc'] and opts['nosubdir']:
        raise click.UsageError(f'--desc {opts["desc"]}: names a run\'s folder, and with --nosubdir none is '
                               'made')
    if opts['force_data'] and not resumes:
        raise click.UsageError('--force-data is for --resume: a new run takes any data')
    if opts['transfer'] and resumes:
        raise click.UsageError('--transfer and --resume can\'t be given together: a run starts with the '
                               'weights of a snapshot or continues another')
    transfer, outdir = (os.path.realpath(opts[name] or '') for name in ('transfer', 'outdir'))
    if opts['nosubdir'] and opts['transfer'] and outdir in (transfer, os.path.dirname(transfer)):
        raise click.UsageError(f'--transfer {opts["transfer"]}: lies in --outdir, where snapshots of this '
                               'run would replace it')
    if opts['desc'] and (os.sep in opts['desc'] or '/' in opts['desc']):
        raise click.UsageError(f'--desc {opts["desc"]}: part of a folder\'s name, can\'t hold a slash')


def shared_settings(opts: dict, *, resume: str | None) -> dict:
    """The fields of `TrainingConfig` that follow from shared options alone.

    resume: the state, or folder with states, to go on from, if any.
    """
    p_values = {'P_mean': opts['p_mean'], 'P_std': opts['p_std']}
    return {
        'run_dir': '',  # made, and so named, when the run starts
        'loss_kwargs': {'class_name': PRECONDITIONINGS[opts['precond']].loss}
        | {key: p for key, p in p_values.items() if p is not None},
        'optimizer_kwargs': OPTIMIZERS[opts.get('optimizer', 'adam')] | {'lr': opts['lr']},
        'augment_kwargs': AUGMENTATION | {'p': opts['augment']} if opts['augment'] else None,
        'total_kimg': _whole_kimg('--duration', opts['duration'], least=1),
        'ema_halflife_kimg': _whole_kimg('--ema', opts['ema']),
        'ema_rampup_ratio': None if opts['transfer'] else opts['ema_rampup'],
        'lr_rampup_kimg': opts['lr_rampup'], 'lr_decay': opts['lr_decay'],
        'batch_size': opts['batch'], 'batch_gpu': opts['batch_gpu'],
        'loss_scaling': opts['ls'], 'cudnn_benchmark': opts['bench'],
        'kimg_per_tick': opts['tick'], 'snapshot_ticks': opts['snap'], 'state_dump_ticks': opts['dump'],
        'states_kept': opts['keep'], 'max_nan_steps': opts['max_nan'],
        'seed': secrets.randbelow(1 << 31) if opts['seed'] is None else opts['seed'],
        'resume_pkl': opts['transfer'], 'resume_state_dump': resume,
        'preview': opts['preview'], 'device': opts['device'],
        'precision': opts['precision'], 'compile': opts['compile'], 'memory_format': opts['memory_format']}


def _whole_kimg(option: str, mimg: float, least: int = 0) -> int:
    """So many million images in thousands, cut to whole ones, of which a line tells."""
    kimg = max(int(1000 * mimg), least)
    if not math.isclose(kimg, 1000 * mimg):
        note(f'{option} {mimg:g}: cut to whole thousands of images, {kimg} kimg')
    return kimg
