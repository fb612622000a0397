"""What a training run leaves in its folder: its options, snapshots, previews, and states to resume from.

Every process must call these functions; rank 0 writes. What the disk does not take is a warning, and is owed
until the next tick.
"""

import math
import time
from collections.abc import Callable
from pathlib import Path

import torch

from sampling.sampler import edm_sampler
from torch_utils import distributed
from torch_utils.errors import UserError
from torch_utils.files import write_json
from torch_utils.images import make_grid, to_uint8, write_png
from torch_utils.run_dir import snapshot_name, state_name, states_in
from torch_utils.seeding import SampleGenerators, seed_training
from training import checkpoint
from training.run import Run
from training.snapshot import save_snapshot

PREVIEWED = 16  # images

def save_options(run: Run) -> None:
    """Write training_options.json."""
    if run.log is not None:
        write_json(run.dir / 'training_options.json', run.config.as_json() | {'made_by': run.card})


def save_snapshot_and_preview(run: Run) -> None:
    """Write the averaged network for use by others, and samples of it if wished."""
    path = run.dir / snapshot_name(run.cur_nimg)

    def write():
        save_snapshot(path, ema=run.ema, loss_fn=run.loss_fn, augment_pipe=run.augment_pipe,
                      dataset_kwargs=run.config.dataset_kwargs, made_by=run.card)
        if run.config.preview:
            write_preview(path.with_name(path.stem.replace('network-snapshot', 'preview') + '.png'), run.ema,
                          run.device)

    run.snapshot_owed = not _written(run, path, write)


def write_preview(path: Path, ema: torch.nn.Module, device: torch.device) -> None:
    """Write a PNG with samples of the first seeds; with labels, of the classes in turn.

    ema: in evaluation mode, on `device`. Draws from generators of its own.
    """
    shape = (ema.img_channels, ema.img_resolution, ema.img_resolution)
    latents, labels = SampleGenerators(range(PREVIEWED), device).randn(shape), None
    if ema.label_dim:
        labels = torch.eye(ema.label_dim, device=device)[torch.arange(PREVIEWED) % ema.label_dim]
    with torch.no_grad():
        images = edm_sampler(ema, latents, labels)
    write_png(path, make_grid(to_uint8(images).cpu().numpy(), columns=math.isqrt(PREVIEWED)))


def save_state(run: Run) -> None:
    """Write what is needed to continue, and delete old states if wished."""
    random_states = checkpoint.get_random_states(run.device)
    moments = distributed.gather({name: moments.own_totals() for name, moments in run.moments.items()})
    path = run.dir / state_name(run.cur_nimg)

    def write():
        checkpoint.save_state(
            path, net=run.net, ema=run.ema, optimizer=run.optimizer, cur_nimg=run.cur_nimg,
            cur_tick=run.cur_tick, tick_start_nimg=run.tick_start_nimg,
            elapsed_sec=time.monotonic() - run.start_time, data_order=run.batches.state_dict(),
            random_states=random_states, moments=moments, bad_steps=run.bad_steps, seed=run.config.seed,
            ema_rampup_ratio=run.config.ema_rampup_ratio, run_id=run.card.get('run_id'),
            data_sha256=run.card.get('inputs', {}).get(run.config.dataset_kwargs.get('path')))
        if run.config.states_kept is not None:
            states = states_in(run.dir)
            for older in states[states.index(path) + run.config.states_kept:]:
                older.unlink(missing_ok=True)

    run.state_owed = not _written(run, path, write)
    if not run.state_owed:
        run.saved_nimg = run.cur_nimg


def _written(run: Run, path: Path, write: Callable[[], None]) -> bool:
    """Whether rank 0 wrote the file, as all processes know then."""
    error = None
    if run.log is not None:
        try:
            write()
        except OSError as err:
            error = err.strerror or str(err)
            run.print(f'Warning: {path} could not be written ({error})' + (
                '' if run.finished else '; the next try is at the next tick'))
    return distributed.from_rank0(error) is None


def check_all_saved(run: Run) -> None:
    """Raise if a file of the finished run is still owed."""
    owed = [name(run.cur_nimg) for name, is_owed in ((snapshot_name, run.snapshot_owed),
                                                     (state_name, run.state_owed)) if is_owed]
    if owed:
        with distributed.shared_errors():
            raise UserError(f'--outdir {run.dir}: the training is done, but {" and ".join(owed)} could not '
                            'be written')


def resume(run: Run, state: dict) -> None:
    """Put a run where `state` was saved."""
    run.net.load_state_dict(state['net'])
    run.ema.load_state_dict(state['ema'])
    checkpoint.load_optimizer_state(run.optimizer, state['optimizer_state']['state'])
    run.cur_nimg, run.cur_tick = state['cur_nimg'], state['cur_tick']
    run.tick_start_nimg = state['tick_start_nimg']
    run.start_time -= state['elapsed_sec']
    run.bad_steps = state['bad_steps']
    if state['data_order'] is not None:
        run.batches.load_state_dict(state['data_order'])
    if state['moments'] is not None:
        for name, moments in run.moments.items():
            moments.restore([totals[name] for totals in state['moments']])
    if state.get('not_restored'):
        run.print('Warning: the state holds the network and the optimizer alone; not restored: '
                  + '; '.join(state['not_restored']))
    if state['random_states'] is None or not checkpoint.set_random_states(state['random_states'], run.device):
        # Not the run's own seed, whose numbers its first steps have had.
        seed_training(run.config.seed + run.cur_nimg, distributed.rank(), distributed.world_size())
        if state['random_states'] is not None:
            run.print('Warning: the state was saved by other processes or on another device: the random '
                      'numbers differ from those of a run that was not interrupted')
