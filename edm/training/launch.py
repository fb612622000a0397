"""From checked options to a run: device, processes, folder, then the loop. For every training script."""

import os
import secrets
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import click
import torch

from data.data_form import Dataset
from torch_utils import distributed, provenance
from torch_utils.errors import UserError
from training import checkpoint
from training.config import TrainingConfig
from training.loop import train
from training.run_dir import find_states, make_run_dir, run_id, snapshot_name
from training.snapshot import load_snapshot


def sketch(make_net: Callable[[], torch.nn.Module]) -> torch.nn.Module:
    """The network without memory or numbers, on the meta device: names and shapes, and its complaints."""
    with torch.device('meta'):
        return make_net()


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
                return path, state
            why = f'{path} is of ' + ('other software, which names no run' if state['run_id'] is None
                                      else 'an earlier run in this folder')
        if os.environ.get('RANK', '0') == '0':
            click.echo(f'Passed over: {why}', err=True)
    raise UserError(f'--resume {resume}: none of the states in this folder can be continued')


def launch(config: TrainingConfig, dataset: Dataset, make_net: Callable[[], torch.nn.Module], *, outdir: str,
           name: str | None, state: dict | None = None, run_dir: Path | None = None,
           ) -> tuple[Path, int | None]:
    """Join the other processes, make the run's folder, train.

    name: of the folder after its number, None to write into `outdir` itself. state: from `continued`.
    run_dir: the folder to go on in, instead of a new one.
    Returns the run's folder, and the number of the signal that ended the run early, if one did.
    Raises UserError, before anything is written, if the snapshot or state to start from does not suit.
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
            inputs = [getattr(dataset, 'path', None), config.resume_state_dump or config.resume_pkl]
            card = provenance.record(inputs=inputs, seed=config.seed)
            if dataset.label_dim:  # those who sample the network must know
                card['labels'] = 'vectors' if getattr(dataset, 'classes', ()) is None else 'classes'
            card['run_id'] = (run_dir and run_id(run_dir)) or secrets.token_hex(8)
            run_dir = run_dir or make_run_dir(outdir, name)
            config = replace(config, run_dir=str(run_dir), device=str(device))
    config = distributed.from_rank0(config)
    received = train(config, dataset, make_net, device=device, state=state, source=source, card=card)
    distributed.shutdown()
    return Path(config.run_dir), received


def _check_common_state(state: dict | None) -> None:
    """Raise UserError if the processes, each of which has looked for itself, found different states."""
    found = distributed.gather(None if state is None else state['cur_nimg'])
    for rank, nimg in enumerate(found):
        if nimg != found[0]:
            words = ['no state' if n is None else f'one after {n / 1000:g} kimg' for n in (found[0], nimg)]
            raise UserError(f'--resume: process 0 found {words[0]} to go on from, process {rank} {words[1]}; '
                            'all machines must share the folder')
