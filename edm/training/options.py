"""The options that all training scripts have, the settings that follow from them, and the start of the run.

Imports no torch before a run starts.
"""

import json
import os
import secrets
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import click
from click.core import ParameterSource

from data.data_form import Dataset
from torch_utils import cli
from torch_utils.errors import UserError
from training.config import (
    AUGMENTATION,
    COMPILERS,
    LR_DECAYS,
    MEMORY_FORMATS,
    OPTIMIZERS,
    PRECISIONS,
    PRECONDITIONINGS,
    TRAINABLE,
    TrainingConfig,
    split_batch,
)
from training.run_dir import (
    dir_to_go_on_in,
    how_run_differs,
    next_run_dir,
    run_id,
    run_name,
    snapshot_name,
    states_in,
)

AUTO = 'auto'  # of --resume
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
        click.option('--batch', metavar='INT', type=click.IntRange(min=1), default=512,
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
        click.option('--transfer', metavar='PKL|URL', help='Start with the weights of a snapshot.'),
        click.option('-n', '--dry-run', is_flag=True, help='Print the options and stop.'))


def given_options() -> set[str]:
    """The parameters of the running command that the user has set."""
    context = click.get_current_context()
    return {param for param in context.params
            if context.get_parameter_source(param) is not ParameterSource.DEFAULT}


def check_options(opts: dict) -> None:
    """Refuse shared options that don't go together. Raises click.UsageError."""
    try:
        split_batch(opts['batch'], opts['batch_gpu'], _num_processes())
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
        'total_kimg': max(int(1000 * opts['duration']), 1),
        'ema_halflife_kimg': int(1000 * opts['ema']),
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


def start_run(config: TrainingConfig, dataset: Dataset, opts: dict, *, outdir: str, named: str,
              prepare: Callable | None = None) -> Path | None:
    """Train, or with --dry-run print the settings. Writes nothing before everything suits everything.

    outdir: the folder in which a run's folder is made, or with --nosubdir the run's folder itself.
    named: words for error messages that name what decides on the network's shape and on its images.
    prepare: called with a new network, on the CPU, before its training.
    Returns the folder of the finished run, None after --dry-run.
    """
    name = None if opts['nosubdir'] else run_name(
        data=dataset.name, conditional=opts['cond'], arch=opts['arch'], precond=opts['precond'],
        num_processes=_num_processes(), batch_size=opts['batch'], precision=opts['precision'],
        desc=opts['desc'])
    run_dir = state = None
    if config.resume_state_dump == AUTO:
        run_dir, config, state = _resumed_if_begun(config, dataset, outdir, opts)
    elif config.resume_state_dump:
        run_dir = dir_to_go_on_in(config.resume_state_dump, outdir, name)
        config, state = _continued(config, opts)

    from functools import partial

    from training.build import build_network
    from training.launch import launch, sketch
    make_net = partial(build_network, config.network_kwargs, dataset)
    try:
        sketch(make_net)
    except ValueError as err:
        raise click.UsageError(f'--arch {opts["arch"]} with these {named}: {err}') from err
    if opts['dry_run']:
        _print_settings(config, run_dir or (next_run_dir(outdir, name) if name else outdir))
        return None
    if state is not None and opts['resume'] == AUTO and (last := _last_snapshot(config, run_dir, state)):
        if is_first_process():
            click.echo(f'Done already: {last}')
        return run_dir
    if prepare is not None:
        make_net = partial(_prepared, make_net, prepare)
    dataset.images([0])  # decodes all to be cached: a broken file stops the run before it has a folder
    run_dir, received = launch(config, dataset, make_net, outdir=outdir, name=name, state=state,
                               run_dir=run_dir)
    if received:
        sys.exit(128 + received)
    return run_dir


def _print_settings(config: TrainingConfig, run_dir: os.PathLike | str) -> None:
    if is_first_process():
        click.echo(json.dumps(replace(config, run_dir=str(run_dir)).as_json(), indent=2))
        click.echo('Dry run: nothing was written', err=True)


def _prepared(make_net: Callable, prepare: Callable):
    net = make_net()
    if not next(net.parameters()).is_meta:
        prepare(net)
    return net


def is_first_process() -> bool:
    """Whether this is rank 0, also where no process group has been joined."""
    return os.environ.get('RANK', '0') == '0'


def _num_processes() -> int:
    return int(os.environ.get('WORLD_SIZE', 1))


def _resumed_if_begun(config: TrainingConfig, dataset: Dataset, outdir: str, opts: dict,
                      ) -> tuple[Path | None, TrainingConfig, dict | None]:
    """Folder, settings and state of the run in `outdir` if it is this very run; else None, for a new one."""
    from training.launch import continued

    anew = None, replace(config, resume_state_dump=None), None
    if not Path(outdir).is_dir() or not states_in(outdir):
        return anew
    ignored = [] if opts['seed'] is not None else ['seed']
    if config.lr_decay == 'none':  # no step depends on where the run will end
        ignored.append('total_kimg')
    why = how_run_differs(outdir, config.as_json(), getattr(dataset, 'path', None), ignored)
    if why is None:
        try:
            resumed, state = continued(replace(config, resume_state_dump=str(outdir)), own_only=True)
        except UserError as err:  # none of them is whole
            why = err
        else:
            if state['cur_nimg'] < config.total_kimg * 1000 + config.batch_size:
                return Path(outdir), resumed, state
            why = f'the run has seen {state["cur_nimg"] / 1000:g} kimg, total_kimg is {config.total_kimg}'
    if is_first_process():
        click.echo(f'Starts anew: {why}', err=True)
    return anew


def _last_snapshot(config: TrainingConfig, run_dir: Path, state: dict) -> Path | None:
    """The snapshot at the end of the run of `state`, if the run came to its end and the file is whole."""
    from training.snapshot import load_snapshot

    path = run_dir / snapshot_name(state['cur_nimg'])
    if state['cur_nimg'] < config.total_kimg * 1000 or not path.is_file():
        return None
    try:
        made_by = load_snapshot(str(path)).get('made_by')
    except UserError:
        return None
    return path if isinstance(made_by, dict) and made_by.get('run_id') == run_id(run_dir) else None


def _continued(config: TrainingConfig, opts: dict) -> tuple[TrainingConfig, dict]:
    """The settings and the state with --resume, checked against the other options."""
    from training.launch import continued

    config, state = continued(config)
    if None not in (opts['seed'], state['seed']) and opts['seed'] != state['seed']:
        raise click.UsageError(f'--seed {opts["seed"]}: the run that --resume continues had {state["seed"]}')
    if state['cur_nimg'] >= config.total_kimg * 1000:
        raise click.UsageError(f'--duration {opts["duration"]:g}: the run that --resume continues has '
                               f'already seen {state["cur_nimg"] / 1e6:g} million images')
    return config, state
