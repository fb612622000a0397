"""The options that all training scripts have, and the settings that follow from them. Imports no torch."""

import math
import os
import secrets
from collections.abc import Callable

import click

from data.batch_split import split_batch
from torch_utils import cli
from torch_utils.errors import note
from torch_utils.run_dir import take_newest
from training import config

AUTO_HELP = ('if data and all settings that affect the weights are the same (with --lr_decay=none, but for '
             '--duration); else start from scratch and say why.')
COUNT = click.IntRange(min=1)


def main_options(*, duration: float) -> Callable:
    """Decorator: preconditioning, device, duration and batch sizes."""
    return cli.options('Main options',
        click.option('--precond', type=click.Choice(config.TRAINABLE), default='edm',
                     help='Preconditioning and loss.'),
        cli.device_option,
        click.option('--duration', metavar='MIMG', type=cli.FiniteRange(min=0, min_open=True),
                     default=duration, help='Training duration in million images.'),
        click.option('--batch', metavar='INT', type=click.IntRange(1, 10**9), default=512,
                     help='Images per step, over all processes.'),
        click.option('--batch-gpu', metavar='INT', type=COUNT,
                     help='Limit images per process at once, by gradient accumulation.  [default: no limit]'))


network_options = cli.options('Network',
    click.option('--cbase', metavar='INT', type=COUNT,
                 help='Base width, for any --arch.  [default: by --arch]'),
    click.option('--cres', metavar='LIST', type=cli.IntList(),
                 help='Width multiplier at each resolution.  [default: by --arch]'),
    click.option('--num_blocks', metavar='INT', type=COUNT,
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
                     help=f'Linear warm-up over the first N kimg.{notes["lr_rampup"]}'),
        click.option('--lr_decay', type=click.Choice(list(config.LR_DECAYS)), default=lr_decay,
                     help=f'Learning-rate decay over the run; cosine: to 0.{notes["lr_decay"]}'),
        click.option('--ema', metavar='MIMG', type=cli.FiniteRange(min=0), default=0.5,
                     help='EMA half-life in million images.'),
        click.option('--ema_rampup', metavar='RATIO', type=cli.FiniteRange(min=0), default=0.05,
                     help='Limit the EMA half-life to a fraction of the images seen; not with --transfer.'),
        click.option('--P_mean', 'p_mean', metavar='FLOAT', type=cli.FiniteRange(min=-20, max=20),
                     help='Mean of ln(sigma), for --precond=edm.  [default: -1.2]'),
        click.option('--P_std', 'p_std', metavar='FLOAT', type=cli.FiniteRange(min=0, max=20),
                     help='Standard deviation of ln(sigma), for --precond=edm.  [default: 1.2]'),
        click.option('--augment', metavar='FLOAT', type=cli.FiniteRange(min=0, max=1), default=augment,
                     help=f'Augmentation probability; 0 for none.{notes["augment"]}'))


performance_options = cli.options('Performance',
    click.option('--fp16', metavar='BOOL', type=bool, default=False, help='The same as --precision=fp16.'),
    click.option('--precision', type=click.Choice(list(config.PRECISIONS)), default='fp32',
                 help='Precision of the network on CUDA; weights, optimizer and EMA stay in float32.'),
    click.option('--compile', type=click.Choice(list(config.COMPILERS)), default='0',
                 help='Compile the network; graphs: also capture CUDA graphs, for small networks.'),
    click.option('--ls', metavar='FLOAT', type=cli.FiniteRange(min=0, min_open=True), default=1,
                 help='Loss scaling.'),
    click.option('--bench', metavar='BOOL', type=bool, default=True, help='Enable cuDNN benchmarking.'))


def result_options(*, snap: int = 50) -> Callable:
    """Decorator: outputs of a run, its seed and its initial weights."""
    return cli.options('Output',
        click.option('--desc', metavar='STR', help='Suffix of the run folder\'s name.'),
        click.option('--nosubdir', is_flag=True, help='Write into --outdir itself.'),
        click.option('--tick', metavar='KIMG', type=COUNT, default=50, help='Print progress every N kimg.'),
        click.option('--snap', metavar='TICKS', type=COUNT, default=snap,
                     help='Save a snapshot every N ticks.'),
        click.option('--dump', metavar='TICKS', type=COUNT, default=500,
                     help='Save a state to resume from every N ticks.'),
        click.option('--keep', metavar='INT', type=COUNT,
                     help='Keep the N newest states.  [default: all]'),
        click.option('--max-nan', metavar='STEPS', type=COUNT, default=100,
                     help='Stop after N steps with losses that are NaN or infinite.'),
        click.option('--preview', is_flag=True, help='Save a grid of samples beside each snapshot.'),
        click.option('--seed', metavar='INT', type=click.IntRange(min=0, max=2**32 - 1),
                     help='Random seed.  [default: random, recorded]'),
        click.option('--force-data', is_flag=True,
                     help='With --resume, accept images at --data that have changed.'),
        click.option('--transfer', metavar='PKL|URL|DIR', callback=take_newest,
                     help='Start with the weights of a snapshot, or of the newest in a run folder.'),
        click.option('-n', '--dry-run', is_flag=True, help='Print the settings and exit.'))


def check_options(opts: dict, *, resumes: bool) -> None:
    """Refuse shared options that don't go together. Raises click.UsageError.

    resumes: whether the run resumes another, by any option.
    """
    try:
        split_batch(opts['batch'], opts['batch_gpu'], int(os.environ.get('WORLD_SIZE', 1)))
    except ValueError as err:
        raise click.UsageError(str(err)) from err
    transfer, desc = opts['transfer'], opts['desc']
    if opts['fp16'] and opts['precision'] == 'fp32':
        opts['precision'] = 'fp16'
    paths = [os.path.realpath(path or '') for path in (transfer, opts['outdir'])]
    for wrong, why in (
            (opts['precond'] != 'edm' and (opts['p_mean'], opts['p_std']) != (None, None),
             f'--P_mean and --P_std need --precond edm, got {opts["precond"]}'),
            (opts['fp16'] and opts['precision'] != 'fp16',
             f'--fp16 1 and --precision {opts["precision"]} can\'t be given together'),
            (transfer and cli.given('ema_rampup'), '--ema_rampup: with --transfer the EMA has no ramp-up'),
            (opts['resume'] == config.AUTO and not opts['nosubdir'],
             '--resume auto needs --nosubdir: --outdir is then the run folder itself'),
            (desc and opts['nosubdir'], f'--desc {desc}: no effect with --nosubdir'),
            (desc and (os.sep in desc or '/' in desc),
             f'--desc {desc}: part of a folder\'s name, can\'t hold a slash'),
            (opts['force_data'] and not resumes, '--force-data is for --resume: a new run takes any data'),
            (transfer and resumes, '--transfer and --resume can\'t be given together: a run either starts '
                                   'with the weights of a snapshot or resumes another'),
            (transfer and opts['nosubdir'] and paths[1] in (paths[0], os.path.dirname(paths[0])),
             f'--transfer {transfer}: lies in --outdir, where snapshots of this run would replace it')):
        if wrong:
            raise click.UsageError(why)
    opts['fp16'] = opts['precision'] == 'fp16'


def shared_settings(opts: dict, *, resume: str | None) -> dict:
    """The fields of `TrainingConfig` that follow from shared options alone.

    resume: the state, or folder with states, to resume, if any.
    """
    p_values = {'P_mean': opts['p_mean'], 'P_std': opts['p_std']}
    return {
        'run_dir': '',  # made, and so named, when the run starts
        'data_loader_kwargs': {'pin_memory': True, 'num_workers': opts['workers'], 'prefetch_factor': 2},
        'loss_kwargs': {'class_name': config.PRECONDITIONINGS[opts['precond']].loss}
        | {key: p for key, p in p_values.items() if p is not None},
        'optimizer_kwargs': config.OPTIMIZERS[opts.get('optimizer', 'adam')] | {'lr': opts['lr']},
        'augment_kwargs': config.AUGMENTATION | {'p': opts['augment']} if opts['augment'] else None,
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
        'precision': opts['precision'], 'compile': opts['compile']}


def _whole_kimg(option: str, mimg: float, least: int = 0) -> int:
    """Million images in kimg, cut to an integer; a line says so."""
    kimg = max(int(1000 * mimg), least)
    if not math.isclose(kimg, 1000 * mimg):
        note(f'{option} {mimg:g}: cut to whole thousands of images, {kimg} kimg')
    return kimg
