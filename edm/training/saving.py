"""What a training run leaves: log lines, stats.jsonl, snapshots, previews, and states to resume from.

Every process must call these functions; rank 0 writes. A failed write is a warning, and is tried again at the
next tick.
"""

import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import psutil
import torch

from data.batches import Dataset
from sampling.generation import begin
from sampling.sampler import edm_sampler
from torch_utils import distributed
from torch_utils.errors import UserError
from torch_utils.images import make_grid, to_uint8, write_png
from torch_utils.run_dir import snapshot_name, state_name, states_in
from torch_utils.seeding import get_random_states, seed_training, set_random_states
from torch_utils.training_stats import scalar
from training import checkpoint
from training.run import Run
from training.snapshot import save_snapshot


def describe(run: Run, dataset: Dataset) -> None:
    """Print the size of the network, of the data and of a step."""
    config, split = run.config, run.split
    parameters = sum(p.numel() for p in run.net.parameters())
    run.print(f'Network: {type(run.net).__name__}, {parameters:,} parameters, on {run.device}')
    run.print(f'Data: {len(dataset):,} images, {run.net.img_channels} channels, {run.net.img_resolution}x'
              f'{run.net.img_resolution}, ' + (f'{dataset.label_dim} label columns' if dataset.label_dim else
                                               'no labels'))
    run.print(f'Batch: {config.batch_size} = {distributed.world_size()} x {split.rounds} x '
              f'{split.micro_batch} (processes x rounds x images)')
    if config.precision != 'fp32' and run.device.type != 'cuda':
        run.print(f'--precision {config.precision} is for CUDA; on {run.device} the network computes in fp32')
    run.print(f'Training from {run.cur_nimg / 1000:g} to {config.total_kimg} kimg, seed {config.seed}')


def report(run: Run, now: float) -> None:
    """Print the status line and append to stats.jsonl; every process must call this."""
    tick_sec = now - run.tick_start_time
    kimg = (run.cur_nimg - run.timed_from_nimg) / 1000
    summaries = {name: moments.summary() for name, moments in run.moments.items()}
    if run.log is None:
        return
    loss = summaries['Loss/loss']
    bad_gradients = int(summaries['Gradient/nonfinite'].total) // distributed.world_size()  # each has all
    gib = {'cpu_mem_gb': psutil.Process().memory_info().rss / 2**30, **_gpu_memory(run.device)}
    time_sec = now - run.start_time
    time_passed = str(timedelta(seconds=round(time_sec)))
    run.print(
        f'tick {run.cur_tick:<5d} kimg {run.cur_nimg / 1000:<9.1f} time {time_passed:<12s} '
        f'sec/tick {tick_sec:<7.1f} sec/kimg {tick_sec / kimg:<7.2f} maintenance {run.maintenance_sec:<6.1f} '
        f'cpumem {gib["cpu_mem_gb"]:<6.2f} gpumem {gib["peak_gpu_mem_gb"]:<6.2f} '
        f'reserved {gib["peak_gpu_mem_reserved_gb"]:<6.2f} loss {loss.mean:.4f}' + (
            f'    NaN or inf: {loss.nonfinite} in losses, {bad_gradients} in gradients'
            if loss.nonfinite or bad_gradients else ''))
    values = {
        'Progress/tick': run.cur_tick, 'Progress/kimg': run.cur_nimg / 1000,
        'Progress/lr': run.optimizer.param_groups[0]['lr'],
        'Timing/total_sec': time_sec, 'Timing/sec_per_tick': tick_sec,
        'Timing/sec_per_kimg': tick_sec / kimg, 'Timing/maintenance_sec': run.maintenance_sec,
        **{f'Resources/{name}': value for name, value in gib.items()},
        'Loss/nonfinite': loss.nonfinite, 'Gradient/nonfinite': bad_gradients}
    run.log.stats({name: scalar(value) for name, value in values.items()}
                  | {name: summaries[name].as_json() for name in ('Loss/loss', 'Gradient/norm')}
                  | {'timestamp': time.time()})


def _gpu_memory(device: torch.device) -> dict[str, float]:
    peak = reserved = 0
    if device.type == 'cuda':
        peak, reserved = torch.cuda.max_memory_allocated(device), torch.cuda.max_memory_reserved(device)
        torch.cuda.reset_peak_memory_stats(device)
    return {'peak_gpu_mem_gb': peak / 2**30, 'peak_gpu_mem_reserved_gb': reserved / 2**30}


def save_snapshot_and_preview(run: Run) -> None:
    """Write the EMA network and, with --preview, its samples of seeds 0-15."""
    path = run.dir / snapshot_name(run.cur_nimg)

    def write():
        save_snapshot(path, ema=run.ema, loss_fn=run.loss_fn, augment_pipe=run.augment_pipe,
                      dataset_kwargs=run.config.dataset_kwargs, made_by=run.record)
        if run.config.preview:
            _, latents, labels = begin(run.ema, range(16), run.device)
            with torch.no_grad():
                grid = make_grid(to_uint8(edm_sampler(run.ema, latents, labels)).cpu().numpy(), columns=4)
            write_png(path.with_name(path.stem.replace('network-snapshot', 'preview') + '.png'), grid)

    run.snapshot_owed = not _written(run, path, write)


def save_state(run: Run) -> None:
    """Write what is needed to resume; delete all but the newest `states_kept` states."""
    random_states = get_random_states(run.device)
    moments = distributed.gather({name: moments.own_totals() for name, moments in run.moments.items()})
    path = run.dir / state_name(run.cur_nimg)

    def write():
        checkpoint.save_state(
            path, net=run.net, ema=run.ema, optimizer=run.optimizer, cur_nimg=run.cur_nimg,
            cur_tick=run.cur_tick, tick_start_nimg=run.tick_start_nimg,
            elapsed_sec=time.monotonic() - run.start_time, data_order=run.batches.state_dict(),
            random_states=random_states, moments=moments, bad_steps=run.bad_steps, seed=run.config.seed,
            ema_rampup_ratio=run.config.ema_rampup_ratio, run_id=run.record.get('run_id'),
            data_sha256=run.record.get('inputs', {}).get(run.config.dataset_kwargs.get('path')))
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
    owed = run.snapshot_owed * [snapshot_name(run.cur_nimg)] + run.state_owed * [state_name(run.cur_nimg)]
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
    run.notes[0] = run.bad_steps
    if state['data_order'] is not None:
        run.batches.load_state_dict(state['data_order'])
    if state['moments'] is not None:
        for name, moments in run.moments.items():
            moments.restore([totals[name] for totals in state['moments']])
    if state.get('not_restored'):
        run.print('Warning: the state holds the network and the optimizer alone; not restored: '
                  + '; '.join(state['not_restored']))
    if state['random_states'] is None or not set_random_states(state['random_states'], run.device):
        # Not the run's own seed, whose numbers its first steps have had.
        seed_training(run.config.seed + run.cur_nimg, distributed.rank(), distributed.world_size())
        if state['random_states'] is not None:
            run.print('Warning: the state was saved by other processes or on another device: the random '
                      'numbers differ from those of a run that was not interrupted')
