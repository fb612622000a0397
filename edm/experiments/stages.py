"""Experiments as stages: calls of the scripts, run in order of their needs, side by side, and only once.

Beside its log NAME.log a stage leaves an empty file NAME-HASH.begun when it starts, and NAME-HASH.done once
it has ended with status 0 and whole outputs. HASH covers its command, the contents of its input files, and
the HASHes of the stages it needs. A stage is finished if NAME-HASH.done and its outputs exist.
"""

import functools
import hashlib
import json
import os
import shlex
import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from graphlib import TopologicalSorter
from pathlib import Path

import click
from tqdm import tqdm

from experiments.launcher import Launcher
from experiments.outputs import fault, files
from torch_utils.errors import UserError
from torch_utils.files import locked
from torch_utils.interrupt import StopSignals
from torch_utils.provenance import fingerprint

SCRIPTS = Path(__file__).resolve().parents[1]


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One call of a script.

    command: the script's file name under edm/, then its arguments. Started again after an interruption it
        must resume or start from scratch by itself.
    inputs: files and folders it reads that no stage makes; outputs: files it leaves, and folders: of images,
        which then hold `num_images`, or of training runs.
    needs: names of the stages that must be finished before.
    cost: how long it takes in comparison with the others, for the time left.
    """

    name: str
    command: tuple[str, ...]
    outputs: tuple[Path, ...]
    inputs: tuple[Path, ...] = ()
    needs: tuple[str, ...] = ()
    num_images: int | None = None
    cost: float = 1.0

    def command_line(self, threads: int | None = None) -> str:
        """The shell command that repeats this stage; `threads` as in `run_stages`."""
        script, *args = self.command
        limit = f'OMP_NUM_THREADS={threads} ' if threads else ''
        return limit + shlex.join(['python', os.path.relpath(SCRIPTS / script), *args])


def done_markers(stages: Sequence[Stage], records: Path) -> dict[str, Path]:
    """NAME-HASH.done of each stage by its name, after those it needs. Raises OSError for a missing input."""
    by_name, hashes, contents = {stage.name: stage for stage in stages}, {}, functools.cache(fingerprint)
    for name in TopologicalSorter({stage.name: stage.needs for stage in stages}).static_order():
        stage = by_name[name]
        parts = stage.command, [*map(contents, stage.inputs)], [hashes[need] for need in stage.needs]
        hashes[name] = hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:12]
    return {name: records / f'{name}-{digest}.done' for name, digest in hashes.items()}


def run_stages(stages: Sequence[Stage], *, records: Path, jobs: int = 1, threads: int | None = None,
               gpus: Sequence[int] = (), begin: Callable[[], None] | None = None) -> None:
    """Run the stages that are not finished, and all that need one of these, up to `jobs` at a time.

    records: folder of logs and markers.
    threads: CPU threads of a stage, None for PyTorch's choice.
    gpus: numbers of GPUs; each has one stage at a time, which sees no other, and `jobs` is their number.
    begin: called first, while no other process, nor a stage that a killed one left, runs with these records.
    SIGINT, SIGTERM and SIGHUP end the running stages, training after it has saved its state, then this
    process: SystemExit with 128 + number.
    Raises UserError with the stage, its last line and its log, after ending the others.
    """
    records.mkdir(parents=True, exist_ok=True)
    heard = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]
    if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:  # under nohup
        heard.pop()
    with locked(records.parent, 'running stages of') as lock, StopSignals(
            'the running stages are stopped', heard) as signals:
        if begin is not None:
            begin()
        runner = _Runner(stages, records, threads)
        limits = {'OMP_NUM_THREADS': str(threads)} if threads else {}
        # Inside our lock, so that nobody else begins while a stage lives, even if this process is killed.
        launchers = [Launcher(limits | gpu, keep=lock)
                     for gpu in [{'CUDA_VISIBLE_DEVICES': str(gpu)} for gpu in gpus] or [{}] * jobs]
        places, ready = launchers.copy(), []
        try:
            while runner.order.is_active():
                if signals.received:
                    click.echo('stopped; the same command resumes', err=True)
                    raise SystemExit(128 + signals.received)
                ready = sorted([*ready, *runner.order.get_ready()], key=list(runner.todo).index)
                while ready and places:
                    runner.start(runner.todo[ready.pop(0)], places.pop(0))
                time.sleep(0.05)
                places += runner.take_in()
        finally:
            runner.close()
            for launcher in launchers:
                launcher.close()


class _Runner:
    """The state of `run_stages`: the stages `todo` by name, the `order` among them, and what runs."""

    def __init__(self, stages: Sequence[Stage], records: Path, threads: int | None):
        self._records, self._threads = records, threads
        self._running = {}  # Launcher -> its stage
        self._done = done_markers(stages, records)
        self.todo = {stage.name: stage for stage in stages}
        outputs = [path for stage in stages for path in stage.outputs]
        self._shared = {path for path in outputs if outputs.count(path) > 1}  # a table that several add to
        for name, done in self._done.items():
            stage = self.todo[name]
            whole = done.exists() and fault(stage.outputs, stage.num_images) is None
            if whole and self.todo.keys().isdisjoint(stage.needs):
                del self.todo[name]
                continue
            for marker in _same_stage(done):  # at once, in case this process is killed before it gets there
                marker.unlink()
        if finished := len(stages) - len(self.todo):
            print(f'{finished} of {len(stages)} stages are finished')
        needs = {name: self.todo.keys() & {*stage.needs} for name, stage in self.todo.items()}
        self.order = TopologicalSorter(needs)
        self.order.prepare()
        self._bar = tqdm(total=sum(stage.cost for stage in self.todo.values()), disable=None, leave=False,
                         bar_format='{percentage:3.0f}%|{bar}| {elapsed} elapsed, {remaining} left {desc}')

    def start(self, stage: Stage, place: Launcher) -> None:
        """Start a stage. Its outputs with another HASH are removed; those without any marker stay."""
        begun, script, *args = self._done[stage.name].with_suffix('.begun'), *stage.command
        resumes, stale = begun.exists(), _same_stage(begun) - {begun}
        for file in (*files({*stage.outputs} - self._shared if stale else ()), *stale):
            file.unlink(missing_ok=True)
        begun.touch()
        tqdm.write(stage.command_line(self._threads), file=sys.stdout)
        sys.stdout.flush()
        place.start(SCRIPTS / script, args, self._records / f'{stage.name}.log', append=resumes)
        self._running[place] = stage

    def take_in(self) -> list[Launcher]:
        """Mark stages that ended well; returns their places. Raises UserError if one failed."""
        self._bar.set_description_str(', '.join(stage.name for stage in self._running.values()))
        ended = {place: status for place in self._running if (status := place.status()) is not None}
        stages = [self._running.pop(place) for place in ended]
        for stage, status in zip(stages, ended.values(), strict=True):
            log, wrong = self._records / f'{stage.name}.log', fault(stage.outputs, stage.num_images)
            if status != 0:
                lines = log.read_text(errors='replace').strip().splitlines() or ['it printed nothing']
                wrong = f'ended with status {status}: {lines[-1]}'
            if wrong is not None:
                raise UserError(f'stage {stage.name} {wrong} (log: {log}; repeat: '
                                f'{stage.command_line(self._threads)})')
            self._done[stage.name].touch()
            self.order.done(stage.name)
            self._bar.update(stage.cost)
        return [*ended]

    def close(self) -> None:
        """End what still runs: by SIGTERM, so that it can save its state; at a further signal, at once."""
        self._bar.close()
        try:
            for place in self._running:
                place.signal(signal.SIGTERM)
            for place in self._running:
                place.close()
        except BaseException:
            for place in self._running:
                place.signal(signal.SIGKILL)
            raise


def _same_stage(marker: Path) -> set[Path]:
    """The existing markers of this kind and stage, with any HASH."""
    return set(marker.parent.glob(f'{marker.stem[:-12]}{"?" * 12}{marker.suffix}'))
