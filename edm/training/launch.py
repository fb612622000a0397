"""From checked options to a run: what it continues, device, processes, folder, then the loop."""

import json
import math
import os
import secrets
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import click
import torch

from data.data_form import Dataset
from torch_utils import distributed, provenance
from torch_utils.errors import UserError, note
from torch_utils.run_dir import (
    dir_to_go_on_in,
    find_states,
    how_run_differs,
    make_run_dir,
    next_run_dir,
    run_id,
    run_name,
    snapshot_name,
    states_in,
)
from training import checkpoint
from training.build import build_network
from training.config import AUTO, TrainingConfig
from training.loop import train
from training.snapshot import load_snapshot


def start_run(config: TrainingConfig, dataset: Dataset, opts: dict, *, outdir: str, named: str,
              prepare: Callable | None = None) -> Path | None:
    """Train, or with --dry-run print the settings. Writes nothing before everything suits everything.

    opts: of the script, checked. outdir: the folder in which a run's folder is made, or with --nosubdir the
        run's folder itself.
    named: words for error messages that name what decides on the network's shape and on its images.
    prepare: called with a new network, on the CPU, before its training.
    Returns the last snapshot of the finished run, None after --dry-run.
    """
    name = None if opts['nosubdir'] else run_name(
        data=dataset.name, conditional=opts['cond'], arch=opts['arch'], precond=opts['precond'],
        num_processes=int(os.environ.get('WORLD_SIZE', 1)), batch_size=opts['batch'],
        precision=opts['precision'], desc=opts['desc'])
    run_dir = state = None
    if config.resume_state_dump == AUTO:
        run_dir, config, state = _resumed_if_begun(config, dataset, outdir, opts)
    elif config.resume_state_dump:
        run_dir = dir_to_go_on_in(config.resume_state_dump, outdir, name)
        config, state = continued(config)
        _check_continued(config, state, opts)
    if (name is None and run_dir is None and opts['resume'] != AUTO
            and any(Path(outdir).glob('network-snapshot-*.pkl'))):
        raise click.UsageError(f'--nosubdir --outdir {outdir}: holds snapshots of another run; --resume '
                               'continues it')

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
        run_dir = run_dir or (next_run_dir(outdir, name) if name else outdir)
        if is_first_process():
            click.echo(json.dumps(replace(config, run_dir=str(run_dir)).as_json(), indent=2))
        note('Dry run: nothing was written')
        return None
    if state is not None and opts['resume'] == AUTO and (last := _last_snapshot(config, run_dir, state)):
        if is_first_process():
            click.echo(f'Done already: {last}')
        return last
    dataset.images([0])  # decodes all to be cached: a broken file stops the run before it has a folder
    return launch(config, dataset, make_net, outdir=outdir, name=name, state=state, run_dir=run_dir,
                  any_data=opts['force_data'])


def launch(config: TrainingConfig, dataset: Dataset, make_net: Callable[[], torch.nn.Module], *, outdir: str,
           name: str | None, state: dict | None, run_dir: Path | None, any_data: bool) -> Path:
    """Join the other processes, make the run's folder, train; ends the process if a signal ended the run.

    name: of the folder after its number, None to write into `outdir` itself. state: from `continued`.
    run_dir: the folder to go on in, instead of a new one. any_data: go on with other images, too.
    Returns the last snapshot. Raises UserError, before anything is written, if the snapshot or state to start
    from does not suit.
    """
    device = distributed.pick_device(config.device)
    distributed.init(device)
    source = card = None
    with distributed.shared_errors():
        _check_common_state(state)
        if state is not None:
            checkpoint.check_state(state, sketch(make_net), dataset, config.optimizer_kwargs['class_name'],
                                   f'--resume {config.resume_state_dump}')
        elif config.resume_pkl is not None and distributed.rank() == 0:
            source = load_snapshot(config.resume_pkl, option='--transfer')['ema']
            checkpoint.copy_tensors(source, sketch(make_net), f'--transfer {config.resume_pkl}')
        if distributed.rank() == 0:
            path = getattr(dataset, 'path', None)
            card = provenance.record(inputs=[path, config.resume_state_dump or config.resume_pkl],
                                     seed=config.seed)
            hashes = {state and state['data_sha256'], card['inputs'].get(str(path))} - {None}
            if state is not None and len(hashes) > 1 and not any_data:
                raise UserError(f'--resume {config.resume_state_dump}: its run had other images than {path} '
                                'has now; --force-data goes on with these')
            if dataset.label_dim:  # those who sample the network must know
                card['labels'] = 'vectors' if getattr(dataset, 'classes', ()) is None else 'classes'
            card['run_id'] = (run_dir and run_id(run_dir)) or secrets.token_hex(8)
            run_dir = run_dir or make_run_dir(outdir, name)
            config = replace(config, run_dir=str(run_dir), device=str(device))
    config = distributed.from_rank0(config)
    received = train(config, dataset, make_net, device=device, state=state, source=source, card=card)
    distributed.shutdown()
    if received:
        sys.exit(128 + received)
    nimg = state['cur_nimg'] if state else 0
    steps = max(math.ceil((config.total_kimg * 1000 - nimg) / config.batch_size), 0)
    return Path(config.run_dir, snapshot_name(nimg + steps * config.batch_size))


def sketch(make_net: Callable[[], torch.nn.Module]) -> torch.nn.Module:
    """The network without memory or numbers, on the meta device: names and shapes, and its complaints."""
    with torch.device('meta'):
        return make_net()


def is_first_process() -> bool:
    """Whether this is rank 0, also where no process group has been joined."""
    return os.environ.get('RANK', '0') == '0'


def continued(config: TrainingConfig, *, own_only: bool = False) -> tuple[TrainingConfig, dict]:
    """The settings and the state of a run that goes on from `config.resume_state_dump`, a file or a folder.

    Of a folder the newest whole state that its run saved is taken; one that names no run counts as such,
    unless `own_only`. What the command line can't repeat comes from the state: the seed, and the EMA's
    ramp-up if it was off.
    Raises UserError if there is no such state.
    """
    path, state = _newest_whole_state(config.resume_state_dump, own_only)
    if state['seed'] is not None:
        ratio = None if state['ema_rampup_ratio'] is None else config.ema_rampup_ratio
        config = replace(config, seed=state['seed'], ema_rampup_ratio=ratio)
    config = replace(config, resume_state_dump=str(path), resume_kimg=state['cur_nimg'] // 1000,
                     resume_pkl=str(path.with_name(snapshot_name(state['cur_nimg']))))
    return config, state


def _newest_whole_state(resume: str, own_only: bool) -> tuple[Path, dict]:
    paths = find_states(resume)
    if Path(resume).is_file():
        return paths[0], checkpoint.load_state(paths[0])
    own = run_id(resume)
    for path in paths:
        try:
            state = checkpoint.load_state(path)
        except UserError as err:
            why = str(err)
        else:
            if state['run_id'] == own or (state['run_id'] is None and not own_only):
                note(f'--resume {resume}: takes {path.name}')
                return path, state
            why = f'{path} is of ' + ('other software, which names no run' if state['run_id'] is None
                                      else 'an earlier run in this folder')
        note(f'Passed over: {why}')
    raise UserError(f'--resume {resume}: none of the states in this folder can be continued')


def _check_continued(config: TrainingConfig, state: dict, opts: dict) -> None:
    """Check a state that --resume continues against the other options."""
    if None not in (opts['seed'], state['seed']) and opts['seed'] != state['seed']:
        raise click.UsageError(f'--seed {opts["seed"]}: the run that --resume continues had {state["seed"]}')
    if state['cur_nimg'] >= config.total_kimg * 1000:
        raise click.UsageError(f'--duration {opts["duration"]:g}, which is {config.total_kimg} kimg: the run '
                               f'that --resume continues has already seen {state["cur_nimg"] / 1000:g} kimg')


def _check_common_state(state: dict | None) -> None:
    """Raise UserError if the processes, each of which has looked for itself, found different states."""
    found = distributed.gather(None if state is None else state['cur_nimg'])
    for rank, nimg in enumerate(found):
        if nimg != found[0]:
            words = ['no state' if n is None else f'one after {n / 1000:g} kimg' for n in (found[0], nimg)]
            raise UserError(f'--resume: process 0 found {words[0]} to go on from, process {rank} {words[1]}; '
                            'all machines must share the folder')


def _resumed_if_begun(config: TrainingConfig, dataset: Dataset, outdir: str, opts: dict,
                      ) -> tuple[Path | None, TrainingConfig, dict | None]:
    """Folder, settings and state of the run in `outdir` if it is this very run; else None, for a new one."""
    anew = None, replace(config, resume_state_dump=None), None
    if not Path(outdir).is_dir() or not states_in(outdir):
        return anew
    ignored = [] if opts['seed'] is not None else ['seed']
    if config.lr_decay == 'none':  # no step depends on where the run will end
        ignored.append('total_kimg')
    data = None if opts['force_data'] else getattr(dataset, 'path', None)
    why = how_run_differs(outdir, config.as_json(), data, ignored)
    if why is None:
        try:
            resumed, state = continued(replace(config, resume_state_dump=str(outdir)), own_only=True)
        except UserError as err:  # none of them is whole
            why = err
        else:
            if state['cur_nimg'] < config.total_kimg * 1000 + config.batch_size:
                return Path(outdir), resumed, state
            why = f'the run has seen {state["cur_nimg"] / 1000:g} kimg, total_kimg is {config.total_kimg}'
    note(f'Starts anew: {why}')
    return anew


def _last_snapshot(config: TrainingConfig, run_dir: Path, state: dict) -> Path | None:
    """The snapshot at the end of the run of `state`, if the run came to its end and the file is whole."""
    path = run_dir / snapshot_name(state['cur_nimg'])
    if state['cur_nimg'] < config.total_kimg * 1000 or not path.is_file():
        return None
    try:
        made_by = load_snapshot(str(path)).get('made_by')
    except UserError:
        return None
    return path if isinstance(made_by, dict) and made_by.get('run_id') == run_id(run_dir) else None
