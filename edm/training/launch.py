"""From checked options to a run: device, processes, folder, then the loop. For every training script."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from torch_utils import distributed, provenance
from torch_utils.files import write_json
from training import checkpoint
from training.config import TrainingConfig
from training.loop import train
from training.run_dir import find_state, make_run_dir, snapshot_name
from training.snapshot import load_snapshot


def sketch(make_net: Callable[[], torch.nn.Module]) -> torch.nn.Module:
    """The network without memory or numbers, on the meta device: names and shapes, and its complaints."""
    with torch.device('meta'):
        return make_net()


def continued(config: TrainingConfig) -> tuple[TrainingConfig, dict]:
    """The settings and the state of a run that goes on from `config.resume_state_dump`, a file or a folder.

    What the command line can't repeat comes from the state: the seed, and the EMA's ramp-up if it was off.
    Raises UserError if there is no such state.
    """
    path = find_state(config.resume_state_dump)
    state = checkpoint.load_state(path)
    ratio = None if state['ema_rampup_ratio'] is None else config.ema_rampup_ratio
    snapshot = path.with_name(snapshot_name(state['cur_nimg']))
    config = replace(config, seed=state['seed'], ema_rampup_ratio=ratio, resume_state_dump=str(path),
                     resume_pkl=str(snapshot), resume_kimg=state['cur_nimg'] // 1000)
    return config, state


def launch(config: TrainingConfig, dataset, make_net: Callable[[], torch.nn.Module], *, outdir: str,
           name: str | None, state: dict | None = None) -> Path:
    """Join the other processes, make the run's folder, train; returns the folder.

    name: of the folder after its number, None to write into `outdir` itself. state: from `continued`.
    Raises UserError, before anything is written, if the snapshot or state to start from does not suit.
    """
    device = distributed.pick_device(config.device)
    distributed.init(device)
    source = None
    if state is not None:
        checkpoint.check_state(state, sketch(make_net), dataset, config.optimizer_kwargs['class_name'],
                               f'--resume {config.resume_state_dump}')
    elif config.resume_pkl is not None and distributed.rank() == 0:
        source = load_snapshot(config.resume_pkl, option='--transfer')['ema']
        checkpoint.copy_tensors(source, sketch(make_net), f'--transfer {config.resume_pkl}')
    if distributed.rank() == 0:
        run_dir = make_run_dir(outdir, name)
        config = replace(config, run_dir=str(run_dir), device=str(device))
        write_json(run_dir / 'training_options.json', config.as_json() | {'made_by': provenance.record()})
    config = distributed.from_rank0(config)
    train(config, dataset, make_net, device=device, state=state, source=source)
    distributed.shutdown()
    return Path(config.run_dir)
