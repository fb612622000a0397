"""The training loop of Karras et al. 2022: denoise, average the weights, report, save.

Which random numbers a run sees, and in which order, is part of the recipe: `prepare` draws the data
iterator's integer, then the network's first weights; each step draws what the loss draws. `cur_nimg` counts
the images seen; 1 kimg is 1000 images.
"""

import copy
import shlex
import signal
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path

import torch
from tqdm import tqdm

from data.batches import Batches
from data.data_form import Dataset
from torch_utils import distributed
from torch_utils.errors import UserError
from torch_utils.interrupt import StopSignals
from torch_utils.seeding import seed_training
from training import checkpoint
from training.build import build, build_optimizer
from training.config import LR_DECAYS, TrainingConfig, split_batch
from training.flat import FlatOptimizer, FlatParameters, Gradients
from training.kernels import choose_kernels, compile_network, set_precision
from training.run import Run
from training.run_dir import RunLog, remove_leftovers, snapshot_name, state_name
from training.saving import (
    check_all_saved,
    resume,
    save_options,
    save_snapshot_and_preview,
    save_state,
)
from training.stats import Moments
from training.ticks import describe, report

STEPS_TO_LOOK = 4  # on a GPU, between looks at what the processes note, each of which waits for it


def train(config: TrainingConfig, dataset: Dataset, make_net: Callable[[], torch.nn.Module], *,
          device: torch.device, state: dict | None = None, source: torch.nn.Module | None = None,
          card: dict | None = None) -> int | None:
    """Fit a network and leave options, snapshots, states, log.txt and stats.jsonl in the run's folder.

    Called on every process of the group. The folder exists.

    dataset: see `data.batches.Batches`. make_net: draws the network on the CPU.
    state: from `checkpoint.load_state` and checked, to continue. source: on rank 0, a network whose weights
        to start with. card: on rank 0, the model card for the run's files.
    Returns the number of the signal that ended the run early, after a state was saved, else None.
    Raises UserError if too many losses are NaN, another run writes in the folder, or its last files can't be
    written.
    """
    with ExitStack() as stack:
        signals = stack.enter_context(StopSignals())
        with distributed.shared_errors():
            log = stack.enter_context(_open_log(config, state)) if distributed.rank() == 0 else None
        run = prepare(config, dataset, make_net, device=device, log=log, state=state, source=source,
                      card=card, signals=signals)
        stack.enter_context(closing(run.batches))
        save_options(run)
        describe(run, dataset)
        if run.finished:  # at the start: its state is resumed to make the last snapshot again
            save_snapshot_and_preview(run)
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
                if not run.finished and (received := stop_wanted(run)):
                    return stop(run, received)
        check_all_saved(run)
        run.print(f'Done: {run.dir / snapshot_name(run.cur_nimg)}')


def _open_log(config: TrainingConfig, state: dict | None) -> RunLog:
    run_dir, history = Path(config.run_dir), {}
    if state is not None:
        at_end = state['cur_nimg'] >= config.total_kimg * 1000  # where a tick may be told that isn't full
        history = {'history': Path(config.resume_state_dump).parent, 'next_tick': state['cur_tick'] + at_end}
    log = RunLog(run_dir, **history)
    remove_leftovers(run_dir)
    return log


def prepare(config: TrainingConfig, dataset: Dataset, make_net, *, device, log=None, state=None, source=None,
            card=None, signals=None) -> Run:
    """Build what a run needs, drawing random numbers in the recipe's order."""
    start_time = time.monotonic()
    set_precision(config)
    seed_training(config.seed, distributed.rank(), distributed.world_size())
    torch.empty((), dtype=torch.int64).random_()  # what PyTorch's DataLoader draws as it starts
    net = make_net().train()
    if source is not None:
        copied = checkpoint.copy_tensors(source, net, f'--transfer {config.resume_pkl}')
        log.print(f'{copied} of {len(net.state_dict())} tensors come from {config.resume_pkl}')
    net = _from_rank0(net.to(device))
    ema = copy.deepcopy(net).eval().requires_grad_(False)
    split = split_batch(config.batch_size, config.batch_gpu, distributed.world_size())
    if config.precision == 'bf16':
        net.use_fp16, net.half_type = True, torch.bfloat16
    steps = (config.total_kimg * 1000 - (state['cur_nimg'] if state else 0)) // config.batch_size
    kernels = choose_kernels(config, net, micro_batch=split.micro_batch, steps=steps,
                             earlier=state['kernels'] if state else None)
    weights = FlatParameters(net, channels_last=kernels.channels_last)
    ema_weights = FlatParameters(ema, channels_last=kernels.channels_last)
    compile_network(net, kernels)
    gradients = Gradients(weights, num_notes=2)
    run = Run(
        config=config, device=device, split=split, log=log, kernels=kernels, net=net, ema=ema,
        weights=weights.vector, ema_weights=ema_weights.vector, gradients=gradients,
        optimizer=FlatOptimizer(weights, gradients, partial(build_optimizer, config.optimizer_kwargs)),
        loss_fn=build(config.loss_kwargs),
        augment_pipe=build(config.augment_kwargs) if config.augment_kwargs else None,
        batches=Batches(dataset, size=split.micro_batch, seed=config.seed, device=device,
                        workers=config.num_workers),
        moments={name: Moments(device) for name in ('Loss/loss', 'Gradient/norm', 'Gradient/nonfinite')},
        noted=torch.zeros(2, dtype=torch.int64, device=device), card=card or {},
        signals=signals or StopSignals(), start_time=start_time)
    if state is not None:
        resume(run, state)
    run.tick_start_time, run.timed_from_nimg = time.monotonic(), run.cur_nimg
    run.maintenance_sec = run.tick_start_time - start_time
    return run


def train_step(run: Run) -> None:
    """One step of the optimizer on one batch."""
    config, gradients = run.config, run.gradients
    gradients.zero()
    bad_losses = 0
    for _ in range(run.split.rounds):
        images, labels = next(run.batches)
        loss = run.loss_fn(run.net, images, labels, run.augment_pipe)
        bad_losses = bad_losses + run.moments['Loss/loss'].add(loss)
        loss.sum().mul(config.loss_scaling / run.split.per_process).backward()
    gradients.gather()
    run.moments['Gradient/nonfinite'].add(gradients.count_nonfinite())
    gradients.notes[0], gradients.notes[1] = bad_losses, run.signals.received is not None
    gradients.average_over_processes()
    run.noted += gradients.notes != 0
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
    # From the net's side, as 1 - beta would be rounded.
    torch.lerp(run.weights, run.ema_weights, beta, out=run.ema_weights)


def maintain(run: Run) -> None:
    """Report on a tick, save what is due, begin the next."""
    config, tick = run.config, run.cur_tick
    begin = time.monotonic()
    report(run, begin)
    if run.finished or run.snapshot_owed or (config.snapshot_ticks and tick % config.snapshot_ticks == 0):
        save_snapshot_and_preview(run)
    state_due = run.finished or (config.state_dump_ticks and tick % config.state_dump_ticks == 0)
    if run.tick_is_full:  # else the run ends within a tick, which one that resumes it completes
        run.cur_tick += 1
        run.tick_start_nimg = run.cur_nimg
        for moments in run.moments.values():
            moments.clear()
    if run.state_owed or (state_due and tick > 0 and config.state_dump_ticks is not None):
        save_state(run)
    run.tick_start_time, run.timed_from_nimg = time.monotonic(), run.cur_nimg
    run.maintenance_sec = run.tick_start_time - begin


def stop_wanted(run: Run) -> int | None:
    """The number of a signal that a process got, or None; the same on all processes.

    Raises UserError once as many steps as `max_nan_steps` had losses that were NaN or infinite.
    """
    if distributed.world_size() == 1 and run.signals.received:
        return run.signals.received
    run.steps_to_look -= 1
    if run.steps_to_look > 0:
        return None
    bad_steps, signalled = run.noted.tolist()
    left = run.config.max_nan_steps - bad_steps
    if left <= 0:
        with distributed.shared_errors():
            raise UserError(f'--max-nan {run.config.max_nan_steps}: the losses of so many steps were NaN or '
                            f'infinite; stopped after {run.cur_nimg / 1000:g} kimg in {run.dir}')
    run.steps_to_look = 1 if run.device.type == 'cpu' else min(STEPS_TO_LOOK, left)
    if not signalled:
        return None
    return max(number for number in distributed.gather(run.signals.received) if number)


def stop(run: Run, received: int) -> int:
    """Save a state because of a signal; returns its number."""
    if run.saved_nimg != run.cur_nimg:
        save_state(run)
    state = shlex.quote(str(run.dir / state_name(run.cur_nimg)))
    run.print(f'Stopped by {signal.Signals(received).name} after {run.cur_nimg / 1000:g} kimg' + (
        '' if run.state_owed else f'; to go on: --resume {state}'))
    return received


def _from_rank0(net: torch.nn.Module) -> torch.nn.Module:
    if distributed.world_size() > 1:
        for tensor in net.state_dict().values():
            torch.distributed.broadcast(tensor, src=0)
    return net
