"""What a training run says of itself: the lines of its beginning and of each tick, and stats.jsonl."""

import time

import psutil
import torch

from data.data_form import Dataset
from torch_utils import distributed
from torch_utils.training_stats import scalar
from training.kernels import choose_memory_format
from training.run import Run


def describe(run: Run, dataset: Dataset) -> None:
    """Print the size of the network, of the data and of a step."""
    config, split = run.config, run.split
    parameters = sum(p.numel() for p in run.net.parameters())
    processes = distributed.world_size()
    run.print(f'Network: {type(run.net).__name__}, {parameters:,} parameters, on {run.device}')
    run.print(f'Data: {len(dataset):,} images, {run.net.img_channels} channels, {run.net.img_resolution}x'
              f'{run.net.img_resolution}, ' + (f'{dataset.label_dim} label columns' if dataset.label_dim else
                                               'no labels'))
    run.print(f'Batch: {config.batch_size} = {processes} process{"es" if processes > 1 else ""} x '
              f'{split.rounds} round{"s" if split.rounds > 1 else ""} x {split.micro_batch} images')
    if config.precision != 'fp32' and run.device.type != 'cuda':
        run.print(f'--precision {config.precision} is for CUDA; on {run.device} the network computes in fp32')
    run.print(f'Features: {choose_memory_format(config, run.device)}'
              f'{"" if config.compile == "0" else f", compiled (--compile {config.compile})"}')
    run.print(f'Training for {config.total_kimg} kimg' + (
        f', from {run.cur_nimg / 1000:g} kimg on' if run.cur_nimg else '') + f', seed {config.seed}')


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
    nonfinite = f'    NaN or inf: {loss.nonfinite} in losses, {bad_gradients} in gradients'
    time_sec = now - run.start_time
    run.print(
        f'tick {run.cur_tick:<5d} kimg {run.cur_nimg / 1000:<9.1f} time {_duration(time_sec):<12s} '
        f'sec/tick {tick_sec:<7.1f} sec/kimg {tick_sec / kimg:<7.2f} maintenance {run.maintenance_sec:<6.1f} '
        f'cpumem {gib["cpu_mem_gb"]:<6.2f} gpumem {gib["peak_gpu_mem_gb"]:<6.2f} '
        f'reserved {gib["peak_gpu_mem_reserved_gb"]:<6.2f} loss {loss.mean:.4f}'
        + (nonfinite if loss.nonfinite or bad_gradients else ''))
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


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    parts = [(days, 'd'), (hours, 'h'), (minutes, 'm'), (seconds, 's')]
    shown = [f'{number}{unit}' for number, unit in parts if number] or ['0s']
    return ' '.join(shown[:2])
