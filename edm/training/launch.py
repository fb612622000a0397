"""From checked options to a run: what it resumes, device, processes, folder, then the loop."""

import json
import os
import secrets
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import click
import torch

from data.batches import Dataset
from torch_utils import distributed, provenance, run_dir
from torch_utils.errors import UserError, note
from training import checkpoint
from training.build import build_network
from training.config import AUTO, TrainingConfig
from training.loop import train
from training.snapshot import load_snapshot


def start_run(config: TrainingConfig, dataset: Dataset, opts: dict, *, outdir: str, named: str,
              prepare: Callable | None = None) -> Path | None:
    """Train, or with --dry-run print the settings. Writes nothing until all is checked.

    opts: of the script, checked. outdir: where run folders lie or, with --nosubdir, the run folder itself.
    named: the options that decide on the network's shape, for messages.
    prepare: called with a new network, on the CPU, before its training.
    Returns the last snapshot of the finished run, None after --dry-run; exits if a signal ended the run.
    """
    name = None if opts['nosubdir'] else run_dir.run_name(
        data=dataset.name, conditional=opts['cond'], arch=opts['arch'], precond=opts['precond'],
        num_processes=int(os.environ.get('WORLD_SIZE', 1)), batch_size=opts['batch'],
        precision=opts['precision'], desc=opts['desc'])
    folder = state = None
    if config.resume_state_dump == AUTO:
        folder, config, state = _resumed_if_begun(config, dataset, outdir, opts)
    elif config.resume_state_dump:
        folder = run_dir.resumed_dir(config.resume_state_dump, outdir, name)
        config, state = resumed(config)
        if None not in (opts['seed'], state['seed']) and opts['seed'] != state['seed']:
            raise click.UsageError(f'--seed {opts["seed"]}: the run to resume had {state["seed"]}')
        if state['cur_nimg'] >= config.total_kimg * 1000:
            raise click.UsageError(f'--duration {opts["duration"]:g}, which is {config.total_kimg} kimg: the '
                                   f'run to resume has already seen {state["cur_nimg"] / 1000:g} kimg')
    if (name is None and folder is None and opts['resume'] != AUTO
            and any(Path(outdir).glob('network-snapshot-*.pkl'))):
        raise click.UsageError(f'--nosubdir --outdir {outdir}: holds snapshots of another run; --resume '
                               'resumes it')

    def make_net():
        net = build_network(config.network_kwargs, dataset)
        if prepare is not None and not next(net.parameters()).is_meta:
            prepare(net)
        return net

    try:
        sketch(make_net)
    except ValueError as err:
        raise click.UsageError(f'--arch {opts["arch"]} with these {named}: {err}') from err
    if opts['dry_run']:
        folder = folder or (run_dir.next_run_dir(outdir, name) if name else outdir)
        if is_first_process():
            click.echo(json.dumps(replace(config, run_dir=str(folder)).as_json(), indent=2))
        note('Dry run: nothing was written')
        return None
    if state is not None and opts['resume'] == AUTO and (last := _last_snapshot(config, folder, state)):
        if is_first_process():
            click.echo(f'Done already: {last}')
        return last
    dataset.images([0])  # decodes all to be cached: a broken file stops the run before it has a folder
    return _launch(config, dataset, make_net, state, folder, any_data=opts['force_data'],
                   make_dir=lambda: run_dir.make_run_dir(outdir, name))


def _launch(config: TrainingConfig, dataset: Dataset, make_net: Callable, state: dict | None,
            folder: Path | None, *, any_data: bool, make_dir: Callable[[], Path]) -> Path:
    """Join the other processes, check what the run starts with, make its folder, train.

    folder: the folder to resume in, None for one from `make_dir`. any_data: resume on other images, too.
    """
    device = distributed.pick_device(config.device)
    distributed.init(device)
    source = record = None
    with distributed.shared_errors():
        found = distributed.gather(state and state['cur_nimg'])
        if len({*found}) > 1:
            seen = ', '.join('none' if nimg is None else f'{nimg / 1000:g} kimg' for nimg in found)
            raise UserError(f'--resume: the processes found different states ({seen}); all machines must '
                            'share the folder')
        if state is not None:
            checkpoint.check_state(state, sketch(make_net), dataset, config.optimizer_kwargs['class_name'],
                                   f'--resume {config.resume_state_dump}')
        elif config.resume_pkl is not None and distributed.rank() == 0:
            source = load_snapshot(config.resume_pkl, option='--transfer')['ema']
            checkpoint.copy_tensors(source, sketch(make_net), f'--transfer {config.resume_pkl}')
        if distributed.rank() == 0:
            path = getattr(dataset, 'path', None)
            record = provenance.record(inputs=[path, config.resume_state_dump or config.resume_pkl],
                                     seed=config.seed)
            hashes = {state and state['data_sha256'], record['inputs'].get(str(path))} - {None}
            if state is not None and len(hashes) > 1 and not any_data:
                raise UserError(f'--resume {config.resume_state_dump}: its run had other images than {path} '
                                'has now; --force-data takes these')
            if dataset.label_dim:  # those who sample the network must know
                record['labels'] = 'vectors' if getattr(dataset, 'classes', ()) is None else 'classes'
            record['run_id'] = (folder and run_dir.run_id(folder)) or secrets.token_hex(8)
            config = replace(config, run_dir=str(folder or make_dir()), device=str(device))
    config = distributed.from_rank0(config)
    run = train(config, dataset, make_net, device=device, state=state, source=source, record=record)
    # DDP must not be the last to hold the process group: it would wait, with the GIL held, for a thread that
    # may wait for the GIL to drop a tensor.
    run.shared_net = run.net
    distributed.shutdown()
    if not run.finished:
        sys.exit(128 + run.stop_signal)
    return run.dir / run_dir.snapshot_name(run.cur_nimg)


def sketch(make_net: Callable[[], torch.nn.Module]) -> torch.nn.Module:
    """The network on the meta device: names and shapes, without memory. Raises what its constructor does."""
    with torch.device('meta'):
        return make_net()


def is_first_process() -> bool:
    """Whether this is rank 0, also where no process group has been joined."""
    return os.environ.get('RANK', '0') == '0'


def resumed(config: TrainingConfig, *, own_only: bool = False) -> tuple[TrainingConfig, dict]:
    """The settings and the state of a run that resumes `config.resume_state_dump`, a file or a folder.

    Of a folder the newest whole state that its run saved is taken; one that names no run counts as such,
    unless `own_only`. What the command line can't repeat comes from the state: the seed, and whether the EMA
    has a ramp-up.
    Raises UserError if there is no such state.
    """
    path, state = _newest_whole_state(config.resume_state_dump, own_only)
    if state['seed'] is not None:
        ratio = None if state['ema_rampup_ratio'] is None else config.ema_rampup_ratio
        config = replace(config, seed=state['seed'], ema_rampup_ratio=ratio)
    config = replace(config, resume_state_dump=str(path), resume_kimg=state['cur_nimg'] // 1000,
                     resume_pkl=str(path.with_name(run_dir.snapshot_name(state['cur_nimg']))))
    return config, state


def _newest_whole_state(resume: str, own_only: bool) -> tuple[Path, dict]:
    paths = run_dir.find_states(resume)
    if Path(resume).is_file():
        return paths[0], checkpoint.load_state(paths[0])
    own = run_dir.run_id(resume)
    for path in paths:
        try:
            state = checkpoint.load_state(path)
            if state['run_id'] is None and own is not None and own_only:
                raise UserError(f'{path} is of other software, which names no run')
            if state['run_id'] not in (own, None):
                raise UserError(f'{path} is of an earlier run in this folder')
            note(f'--resume {resume}: takes {path.name}')
            return path, state
        except UserError as err:
            note(f'Passed over: {err}')
    raise UserError(f'--resume {resume}: none of the states in this folder can be resumed')


def _resumed_if_begun(config: TrainingConfig, dataset: Dataset, outdir: str, opts: dict,
                      ) -> tuple[Path | None, TrainingConfig, dict | None]:
    """Folder, settings and state of the run in `outdir` if it is this run; else None, for a new one."""
    from_scratch = None, replace(config, resume_state_dump=None), None
    if not Path(outdir).is_dir() or not run_dir.states_in(outdir):
        return from_scratch
    ignored = [] if opts['seed'] is not None else ['seed']
    if config.lr_decay == 'none':  # no step depends on where the run will end
        ignored.append('total_kimg')
    data = None if opts['force_data'] else getattr(dataset, 'path', None)
    why = run_dir.how_run_differs(outdir, config.as_json(), data, ignored)
    if why is None:
        try:
            begun, state = resumed(replace(config, resume_state_dump=str(outdir)), own_only=True)
            if state['cur_nimg'] < config.total_kimg * 1000 + config.batch_size:
                return Path(outdir), begun, state
            why = f'the run has seen {state["cur_nimg"] / 1000:g} kimg, total_kimg is {config.total_kimg}'
        except UserError as err:  # none of them is whole
            why = err
    note(f'Starts from scratch: {why}')
    return from_scratch


def _last_snapshot(config: TrainingConfig, folder: Path, state: dict) -> Path | None:
    """The snapshot at the end of the run of `state`, if the run came to its end and the file is whole."""
    path = folder / run_dir.snapshot_name(state['cur_nimg'])
    try:
        whole = path.is_file() and load_snapshot(str(path))['made_by']['run_id'] == run_dir.run_id(folder)
    except (UserError, LookupError, TypeError):
        return None
    return path if whole and state['cur_nimg'] >= config.total_kimg * 1000 else None
