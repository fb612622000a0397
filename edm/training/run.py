"""The state of a training run, which the loop, its reports and its files share."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch

from data.batch_split import BatchSplit
from data.batches import Batches
from torch_utils.interrupt import StopSignals
from torch_utils.run_dir import RunLog
from torch_utils.training_stats import Moments
from training.config import TrainingConfig


@dataclass(kw_only=True)
class Run:
    """A run's objects and its progress."""

    config: TrainingConfig
    device: torch.device
    split: BatchSplit
    net: torch.nn.Module
    ema: torch.nn.Module
    shared_net: torch.nn.Module  # `net`, and its gradients those of all processes
    parameters: list[torch.nn.Parameter]  # of net, and of ema
    averages: list[torch.nn.Parameter]
    optimizer: torch.optim.Optimizer
    loss_fn: Callable
    augment_pipe: Callable | None
    batches: Batches
    moments: dict[str, Moments]  # of what is measured in every step, since the last tick
    notes: torch.Tensor  # on the device: bad steps (a loss on any process not finite), the last signal
    record: dict = field(default_factory=dict)  # the provenance that goes into the run's files
    signals: StopSignals = field(default_factory=StopSignals)
    log: RunLog | None = None  # on rank 0
    cur_nimg: int = 0
    cur_tick: int = 0
    tick_start_nimg: int = 0
    start_time: float = 0  # seconds on time.monotonic(), as the next two
    tick_start_time: float = 0
    maintenance_sec: float = 0
    timed_from_nimg: int = 0  # cur_nimg at tick_start_time
    unread_steps: int = 0  # since the next two were read from there
    bad_steps: int = 0
    stop_signal: int = 0
    snapshot_owed: bool = False  # as writing it failed
    state_owed: bool = False
    saved_nimg: int | None = None  # cur_nimg of the last state

    @property
    def dir(self) -> Path:
        """The run folder."""
        return Path(self.config.run_dir)

    @property
    def finished(self) -> bool:
        """Whether all images were seen."""
        return self.cur_nimg >= self.config.total_kimg * 1000

    @property
    def tick_is_full(self) -> bool:
        """Whether a tick's images were seen; tick 0 is the first step."""
        return self.cur_tick == 0 or (
            self.cur_nimg >= self.tick_start_nimg + self.config.kimg_per_tick * 1000)

    def print(self, line: str) -> None:
        """Print and log, on rank 0."""
        if self.log is not None:
            self.log.print(line)
