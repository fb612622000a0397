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
from contextlib import ExitStack, closing, nullcontext
from pathlib import Path

import torch
from tqdm import tqdm

from data.batch_split import split_batch
from data.batches import Batches, Dataset
from torch_utils import distributed
from torch_utils.errors import UserError
from torch_utils.files import write_json
from torch_utils.interrupt import StopSignals
from torch_utils.run_dir import RunLog, snapshot_name, state_name
from torch_utils.seeding import seed_training
from torch_utils.training_stats import MEASURED, Moments
from training import checkpoint, kernels, saving
from training.build import build
from training.config import LR_DECAYS, PRECISIONS, TrainingConfig
from training.run import Run

NOTES_READ_EVERY = 32  # steps


def train(config: TrainingConfig, dataset: Dataset, make_net: Callable[[], torch.nn.Module], *,
          device: torch.device, state: dict | None = None, source: torch.nn.Module | None = None,
          record: dict | None = None) -> Run:
    """Fit a network and leave options, snapshots, states, log.txt and stats.jsonl in the run folder.

    Called on every process of the group. The folder exists.

    dataset: see `data.batches.Batches`. make_net: draws the network on the CPU.
    state: from `checkpoint.load_state` and checked, to resume. source: on rank 0, a network whose weights
        to start with. record: on rank 0, the provenance for the run's files.
    Returns the run: finished, or ended by its `stop_signal` after a state was saved.
    Raises UserError if too many losses are NaN, another run writes in the folder, or its last files can't be
    written.
    """
    with ExitStack() as stack:
        signals = stack.enter_context(StopSignals())
        with distributed.shared_errors():
            log = stack.enter_context(_open_log(config, state)) if distributed.rank() == 0 else None
        run = prepare(config, dataset, make_net, device=device, log=log, state=state, source=source,
                      record=record, signals=signals)
        stack.enter_context(closing(run.batches))
        if log is not None:
            write_json(run.dir / 'training_options.json', config.as_json() | {'made_by': run.record})
        saving.describe(run, dataset)
        if run.finished:  # at the start: its state is resumed to make the last snapshot again
            saving.save_snapshot_and_preview(run)
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
                if not run.finished and stop_wanted(run):
                    stop(run)
                    return run
        saving.check_all_saved(run)
        run.print(f'Done: {run.dir / snapshot_name(run.cur_nimg)}')
        return run


def _open_log(config: TrainingConfig, state: dict | None) -> RunLog:
    if state is None:
        return RunLog(Path(config.run_dir))
    at_end = state['cur_nimg'] >= config.total_kimg * 1000  # where a tick may be told that isn't full
    return RunLog(Path(config.run_dir), history=Path(config.resume_state_dump).parent,
                  next_tick=state['cur_tick'] + at_end)


def prepare(config: TrainingConfig, dataset: Dataset, make_net, *, device, log=None, state=None, source=None,
            record=None, signals=None) -> Run:
    """Build what a run needs, drawing random numbers in the recipe's order."""
    start_time = time.monotonic()
    kernels.set_precision(config)
    seed_training(config.seed, distributed.rank(), distributed.world_size())
    torch.empty((), dtype=torch.int64).random_()  # what PyTorch's DataLoader draws as it starts
    net = make_net().train()
    if source is not None:
        copied = checkpoint.copy_tensors(source, net, f'--transfer {config.resume_pkl}')
        log.print(f'From {config.resume_pkl} come {copied}')
    net.to(device, memory_format=kernels.memory_format(config, device))
    shared_net = kernels.share_gradients(net)
    ema = copy.deepcopy(net).eval().requires_grad_(False)
    split = split_batch(config.batch_size, config.batch_gpu, distributed.world_size())
    if half := PRECISIONS[config.precision][1]:
        net.use_fp16, net.half_type = True, getattr(torch, half)
    kernels.compile_network(net, config.compile, device, rounds=split.rounds)
    parameters = [*net.parameters()]
    run = Run(
        config=config, device=device, split=split, log=log, net=net, ema=ema, shared_net=shared_net,
        parameters=parameters, averages=[*ema.parameters()],
        optimizer=build(config.optimizer_kwargs, parameters, fused=True),  # all parameters in one kernel
        loss_fn=build(config.loss_kwargs),
        augment_pipe=build(config.augment_kwargs) if config.augment_kwargs else None,
        batches=Batches(dataset, size=split.micro_batch, seed=config.seed, device=device,
                        workers=0 if config.dataset_kwargs.get('cache', True)
                        else config.data_loader_kwargs.get('num_workers', 1)),
        moments={name: Moments(device) for name in MEASURED},
        notes=torch.zeros(2, dtype=torch.int64, device=device),
        record=record or {}, signals=signals or StopSignals(), start_time=start_time)
    if shared_net is not net:
        kernels.settle_gradients(run, dataset)
    if state is not None:
        saving.resume(run, state)
    run.tick_start_time, run.timed_from_nimg = time.monotonic(), run.cur_nimg
    run.maintenance_sec = run.tick_start_time - start_time
    return run


def train_step(run: Run) -> None:
    """One step of the optimizer on one batch."""
    config, rounds = run.config, run.split.rounds
    run.optimizer.zero_grad(set_to_none=True)
    bad_losses = 0
    for i in range(rounds):
        images, labels = next(run.batches)
        # Processes exchange their gradients once, in the last round.
        with nullcontext() if i == rounds - 1 or run.shared_net is run.net else run.shared_net.no_sync():
            loss = run.loss_fn(run.shared_net, images, labels, run.augment_pipe)
            loss.sum().mul(config.loss_scaling / run.split.per_process).backward()
        bad_losses = bad_losses + run.moments['Loss/loss'].add(loss)
    note_at_all_processes(run, bad_losses)
    gradients = [p.grad for p in run.parameters if p.grad is not None]
    norm, nonfinite = clean(gradients)
    if config.loss_scaling != 1:
        torch._foreach_div_(gradients, config.loss_scaling)
    run.moments['Gradient/nonfinite'].add(nonfinite)
    run.moments['Gradient/norm'].add(norm / config.loss_scaling)

    rampup_nimg = max(config.lr_rampup_kimg * 1000, 1e-8)
    for group in run.optimizer.param_groups:
        group['lr'] = (config.optimizer_kwargs['lr'] * min(run.cur_nimg / rampup_nimg, 1)
                       * LR_DECAYS[config.lr_decay](run.cur_nimg / (config.total_kimg * 1000)))
    run.optimizer.step()


def note_at_all_processes(run: Run, bad_losses: torch.Tensor) -> None:
    """Note on the device whether any process has losses that are not finite, or got a signal."""
    notes = torch.stack([(bad_losses > 0).long(), torch.full_like(bad_losses, run.signals.received or 0)])
    if distributed.world_size() > 1:
        torch.distributed.all_reduce(notes, op=torch.distributed.ReduceOp.MAX)
    run.notes = torch.stack([run.notes[0] + notes[0], notes[1]])
    run.unread_steps += 1


def read_notes(run: Run) -> None:
    """Bring the notes of all steps to the host, which waits until the device has come that far."""
    run.bad_steps, signal_at_any = run.notes.tolist()
    run.stop_signal = run.stop_signal or signal_at_any
    run.unread_steps = 0


def clean(gradients: list[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """Replace NaN by 0 and infinities by 1e5 of their sign; returns the norm, and how many there were."""
    norm = torch.stack(torch._foreach_norm(gradients)).norm()
    if norm.device.type == 'cpu' and norm.isfinite():  # elsewhere this question would wait for the device
        return norm, torch.zeros_like(norm)
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    nonfinite = flat.numel() - flat.isfinite().sum()
    parts = flat.nan_to_num_(nan=0, posinf=1e5, neginf=-1e5).split([g.numel() for g in gradients])
    torch._foreach_copy_(gradients, [part.view(g.shape) for part, g in zip(parts, gradients, strict=True)])
    return torch.stack(torch._foreach_norm(gradients)).norm(), nonfinite


@torch.no_grad()
def update_ema(run: Run) -> None:
    """Move the EMA of the weights towards the net's, with a half-life in images."""
    halflife_nimg = run.config.ema_halflife_kimg * 1000
    if run.config.ema_rampup_ratio is not None:
        halflife_nimg = min(halflife_nimg, run.cur_nimg * run.config.ema_rampup_ratio)
    beta = 0.5 ** (run.config.batch_size / max(halflife_nimg, 1e-8))
    # From the net's side, as 1 - beta would be rounded.
    torch._foreach_copy_(run.averages, torch._foreach_lerp(run.parameters, run.averages, beta))


def maintain(run: Run) -> None:
    """Report on a tick, save what is due, begin the next."""
    config, tick = run.config, run.cur_tick
    begin = time.monotonic()
    read_notes(run)
    saving.report(run, begin)
    if run.finished or run.snapshot_owed or (config.snapshot_ticks and tick % config.snapshot_ticks == 0):
        saving.save_snapshot_and_preview(run)
    state_due = run.finished or (config.state_dump_ticks and tick % config.state_dump_ticks == 0)
    if run.tick_is_full:  # else the run ends within a tick, which a resumed one completes
        run.cur_tick += 1
        run.tick_start_nimg = run.cur_nimg
        for moments in run.moments.values():
            moments.clear()
    if run.state_owed or (state_due and tick > 0 and config.state_dump_ticks is not None):
        saving.save_state(run)
    run.tick_start_time, run.timed_from_nimg = time.monotonic(), run.cur_nimg
    run.maintenance_sec = run.tick_start_time - begin


def stop_wanted(run: Run) -> bool:
    """Whether a process got a signal, by now `stop_signal`; the same on all processes.

    Notes are read in each step on a CPU, elsewhere every NOTES_READ_EVERY steps, so that the device need not
    wait, or as soon as the limit on bad steps may be reached.
    Raises UserError once as many steps as `max_nan_steps` had losses that were NaN or infinite.
    """
    every = 1 if run.device.type == 'cpu' else NOTES_READ_EVERY
    if run.unread_steps >= min(every, run.config.max_nan_steps - run.bad_steps):
        read_notes(run)
    if run.bad_steps >= run.config.max_nan_steps:
        with distributed.shared_errors():
            raise UserError(f'--max-nan {run.config.max_nan_steps}: that many steps had losses that were NaN '
                            f'or infinite; stopped after {run.cur_nimg / 1000:g} kimg in {run.dir}')
    if distributed.world_size() == 1:
        run.stop_signal = run.signals.received or 0
    return run.stop_signal > 0


def stop(run: Run) -> None:
    """Save a state because of a signal."""
    read_notes(run)
    if run.saved_nimg != run.cur_nimg:
        saving.save_state(run)
    state = shlex.quote(str(run.dir / state_name(run.cur_nimg)))
    run.print(f'Stopped by {signal.Signals(run.stop_signal).name} after {run.cur_nimg / 1000:g} kimg' + (
        '' if run.state_owed else f'; resume with --resume {state}'))

