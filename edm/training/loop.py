"""The training loop of Karras et al. 2022: denoise, average the weights, report, save.

Which random numbers a run sees, and in which order, is part of the recipe: `prepare` draws the data
iterator's integer, then the network's first weights; each step draws what the loss draws. `cur_nimg` counts
the images seen; 1 kimg is 1000 images.
"""

import copy
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path

import psutil
import torch
from tqdm import tqdm

from torch_utils import distributed
from torch_utils.seeding import seed_training
from training import checkpoint
from training.batches import Batches
from training.build import build, build_optimizer
from training.config import LR_DECAYS, BatchSplit, TrainingConfig, split_batch
from training.gradients import Gradients
from training.preview import write_preview
from training.run_dir import RunLog, snapshot_name, state_name
from training.snapshot import save_snapshot
from training.stats import Moments, scalar


@dataclass(kw_only=True)
class Run:
    """A run under way: its pieces, and how far it is."""

    config: TrainingConfig
    device: torch.device
    split: BatchSplit
    net: torch.nn.Module
    ema: torch.nn.Module
    optimizer: torch.optim.Optimizer
    gradients: Gradients
    loss_fn: Callable
    augment_pipe: Callable | None
    batches: Batches
    moments: dict[str, Moments]  # of what is measured in every step, since the last tick
    log: RunLog | None = None  # on rank 0
    cur_nimg: int = 0
    cur_tick: int = 0
    tick_start_nimg: int = 0
    start_time: float = 0  # seconds on time.monotonic(), as the next two
    tick_start_time: float = 0
    maintenance_sec: float = 0
    timed_from_nimg: int = 0  # cur_nimg at tick_start_time

    @property
    def finished(self) -> bool:
        """Whether all images were seen."""
        return self.cur_nimg >= self.config.total_kimg * 1000

    @property
    def tick_is_full(self) -> bool:
        """Whether a tick's images were seen; tick 0 is the first step."""
        tick_nimg = self.config.kimg_per_tick * 1000
        return self.cur_tick == 0 or self.cur_nimg >= self.tick_start_nimg + tick_nimg

    def print(self, line: str) -> None:
        """Print and log, on rank 0."""
        if self.log is not None:
            self.log.print(line)


def train(config: TrainingConfig, dataset, make_net: Callable[[], torch.nn.Module], *, device: torch.device,
          state: dict | None = None, source: torch.nn.Module | None = None) -> None:
    """Fit a network and leave snapshots, states, log.txt and stats.jsonl in the run's folder.

    Called on every process of the group. The folder exists.

    dataset: see `training.batches.Batches`. make_net: draws the network on the CPU.
    state: from `checkpoint.load_state` and checked, to continue. source: on rank 0, a network whose weights
        to start with.
    """
    with ExitStack() as stack:
        log = stack.enter_context(RunLog(Path(config.run_dir))) if distributed.rank() == 0 else None
        run = prepare(config, dataset, make_net, device=device, log=log, state=state, source=source)
        stack.enter_context(closing(run.batches))
        describe(run, dataset)
        total = config.total_kimg * 1000
        hide = log is None or not sys.stderr.isatty()
        with tqdm(total=total, initial=run.cur_nimg, unit='img', unit_scale=True, disable=hide) as progress:
            while not run.finished:
                train_step(run)
                update_ema(run)
                run.cur_nimg += config.batch_size
                progress.update(config.batch_size)
                if run.finished or run.tick_is_full:
                    maintain(run)
        run.print(f'Done: {Path(config.run_dir, snapshot_name(run.cur_nimg))}')


def prepare(config: TrainingConfig, dataset, make_net, *, device, log, state, source) -> Run:
    """Build what a run needs, drawing random numbers in the recipe's order."""
    start_time = time.monotonic()
    _set_precision(config)
    seed_training(config.seed, distributed.rank(), distributed.world_size())
    torch.empty((), dtype=torch.int64).random_()  # what PyTorch's DataLoader draws as it starts
    net = make_net().train()
    if source is not None:
        copied = checkpoint.copy_tensors(source, net, f'--transfer {config.resume_pkl}')
        log.print(f'{copied} of {len(net.state_dict())} tensors come from {config.resume_pkl}')
    net = _from_rank0(net.to(device))
    split = split_batch(config.batch_size, config.batch_gpu, distributed.world_size())
    run = Run(
        config=config, device=device, split=split, log=log, net=net,
        ema=copy.deepcopy(net).eval().requires_grad_(False),
        optimizer=build_optimizer(config.optimizer_kwargs, net.parameters()),
        gradients=Gradients(net.parameters()),
        loss_fn=build(config.loss_kwargs),
        augment_pipe=build(config.augment_kwargs) if config.augment_kwargs else None,
        batches=Batches(dataset, size=split.micro_batch, seed=config.seed, device=device,
                        workers=config.num_workers),
        moments={name: Moments(device) for name in ('Loss/loss', 'Gradient/norm', 'Gradient/nonfinite')},
        start_time=start_time)
    if state is not None:
        resume(run, state)
    run.tick_start_time, run.timed_from_nimg = time.monotonic(), run.cur_nimg
    run.maintenance_sec = run.tick_start_time - start_time
    return run


def resume(run: Run, state: dict) -> None:
    """Put a run where `state` was saved."""
    run.net.load_state_dict(state['net'])
    run.ema.load_state_dict(state['ema'])
    run.optimizer.load_state_dict(state['optimizer_state'])
    run.batches.load_state_dict(state['data_order'])
    run.cur_nimg, run.cur_tick = state['cur_nimg'], state['cur_tick']
    run.tick_start_nimg = state['tick_start_nimg']
    run.start_time -= state['elapsed_sec']
    for name, moments in run.moments.items():
        moments.restore(state['moments'][name])
    if not checkpoint.set_random_states(state['random_states'], run.device):
        # Not the run's own seed, whose numbers its first steps have had.
        seed_training(run.config.seed + run.cur_nimg, distributed.rank(), distributed.world_size())
        run.print('The state was saved by other processes or on another device: the random numbers differ '
                  'from those of a run that was not interrupted')


def train_step(run: Run) -> None:
    """One step of the optimizer on one batch."""
    config, gradients = run.config, run.gradients
    gradients.zero()
    for _ in range(run.split.rounds):
        images, labels = next(run.batches)
        loss = run.loss_fn(run.net, images, labels, run.augment_pipe)
        run.moments['Loss/loss'].add(loss)
        loss.sum().mul(config.loss_scaling / run.split.per_process).backward()
    run.moments['Gradient/nonfinite'].add(gradients.count_nonfinite())
    gradients.average_over_processes()
    gradients.clean()
    if config.loss_scaling != 1:
        gradients.flat /= config.loss_scaling
    run.moments['Gradient/norm'].add(gradients.flat.norm())

    rampup_nimg = max(config.lr_rampup_kimg * 1000, 1e-8)
    for group in run.optimizer.param_groups:
        group['lr'] = (config.optimizer_kwargs['lr'] * min(run.cur_nimg / rampup_nimg, 1)
                       * LR_DECAYS[config.lr_decay](run.cur_nimg / (config.total_kimg * 1000)))
    run.optimizer.step()


def update_ema(run: Run) -> None:
    """Move the averaged weights towards the net's, with a half-life in images."""
    halflife_nimg = run.config.ema_halflife_kimg * 1000
    if run.config.ema_rampup_ratio is not None:
        halflife_nimg = min(halflife_nimg, run.cur_nimg * run.config.ema_rampup_ratio)
    beta = 0.5 ** (run.config.batch_size / max(halflife_nimg, 1e-8))
    net, ema = list(run.net.parameters()), list(run.ema.parameters())
    with torch.no_grad():
        # From the net's side, as 1 - beta would be rounded.
        torch._foreach_copy_(ema, torch._foreach_lerp(net, ema, beta))


def maintain(run: Run) -> None:
    """Report on a tick, save what is due, begin the next."""
    config, tick = run.config, run.cur_tick
    begin = time.monotonic()
    report(run, begin)
    if run.finished or (config.snapshot_ticks and tick % config.snapshot_ticks == 0):
        save_snapshot_and_preview(run)
    state_due = run.finished or (config.state_dump_ticks and tick % config.state_dump_ticks == 0)
    if run.tick_is_full:  # else the run ends within a tick, which one that resumes it completes
        run.cur_tick += 1
        run.tick_start_nimg = run.cur_nimg
        for moments in run.moments.values():
            moments.clear()
    if state_due and tick > 0 and config.state_dump_ticks is not None:
        save_state(run)
    run.tick_start_time, run.timed_from_nimg = time.monotonic(), run.cur_nimg
    run.maintenance_sec = run.tick_start_time - begin


def report(run: Run, now: float) -> None:
    """Print the status line and append to stats.jsonl."""
    tick_sec = now - run.tick_start_time
    kimg = (run.cur_nimg - run.timed_from_nimg) / 1000
    summaries = {name: moments.summary() for name, moments in run.moments.items()}
    loss, bad_gradients = summaries['Loss/loss'], int(summaries['Gradient/nonfinite'].total)
    gib = {'cpu_mem_gb': psutil.Process().memory_info().rss / 2**30, **_gpu_memory(run.device)}
    nonfinite = f'    NaN or inf: {loss.nonfinite} in losses, {bad_gradients} in gradients'
    if run.log is None:
        return
    time_sec = now - run.start_time
    run.print(
        f'tick {run.cur_tick:<5d} kimg {run.cur_nimg / 1000:<9.1f} time {_duration(time_sec):<12s} '
        f'sec/tick {tick_sec:<7.1f} sec/kimg {tick_sec / kimg:<7.2f} maintenance {run.maintenance_sec:<6.1f} '
        f'cpumem {gib["cpu_mem_gb"]:<6.2f} gpumem {gib["peak_gpu_mem_gb"]:<6.2f} '
        f'reserved {gib["peak_gpu_mem_reserved_gb"]:<6.2f} loss {loss.mean:.4f}'
        + (nonfinite if loss.nonfinite or bad_gradients else ''))
    values = {
        'Progress/tick': run.cur_tick, 'Progress/kimg': run.cur_nimg / 1000,
        'Timing/total_sec': time_sec, 'Timing/sec_per_tick': tick_sec,
        'Timing/sec_per_kimg': tick_sec / kimg, 'Timing/maintenance_sec': run.maintenance_sec,
        **{f'Resources/{name}': value for name, value in gib.items()},
        'Loss/nonfinite': loss.nonfinite, 'Gradient/nonfinite': bad_gradients}
    run.log.stats({name: scalar(value) for name, value in values.items()}
                  | {name: summaries[name].as_json() for name in ('Loss/loss', 'Gradient/norm')}
                  | {'timestamp': time.time()})


def save_snapshot_and_preview(run: Run) -> None:
    """Write the averaged network for use by others, and samples of it if wished."""
    if run.log is None:
        return
    path = Path(run.config.run_dir, snapshot_name(run.cur_nimg))
    save_snapshot(path, ema=run.ema, loss_fn=run.loss_fn, augment_pipe=run.augment_pipe,
                  dataset_kwargs=run.config.dataset_kwargs)
    if run.config.preview:
        write_preview(path.with_name(path.stem.replace('network-snapshot', 'preview') + '.png'), run.ema,
                      run.device)


def save_state(run: Run) -> None:
    """Write what is needed to continue; the processes give their part, rank 0 writes."""
    random_states = checkpoint.get_random_states(run.device)
    moments = {name: moments.totals() for name, moments in run.moments.items()}
    if run.log is None:
        return
    checkpoint.save_state(
        Path(run.config.run_dir, state_name(run.cur_nimg)),
        net=run.net, ema=run.ema, optimizer=run.optimizer, cur_nimg=run.cur_nimg, cur_tick=run.cur_tick,
        tick_start_nimg=run.tick_start_nimg, elapsed_sec=time.monotonic() - run.start_time,
        data_order=run.batches.state_dict(), random_states=random_states, moments=moments,
        seed=run.config.seed, ema_rampup_ratio=run.config.ema_rampup_ratio)


def describe(run: Run, dataset) -> None:
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
    if config.network_kwargs.get('use_fp16') and run.device.type != 'cuda':
        run.print(f'Half precision needs CUDA; on {run.device} the network computes in float32')
    run.print(f'Training for {config.total_kimg} kimg' + (
        f', from {run.cur_nimg / 1000:g} kimg on' if run.cur_nimg else '') + f', seed {config.seed}')


def _set_precision(config: TrainingConfig) -> None:
    torch.backends.cudnn.benchmark = config.cudnn_benchmark
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction = False


def _from_rank0(net: torch.nn.Module) -> torch.nn.Module:
    if distributed.world_size() > 1:
        for tensor in net.state_dict().values():
            torch.distributed.broadcast(tensor, src=0)
    return net


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
