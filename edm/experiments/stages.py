"""Experiments as stages: plain calls of the scripts, run in order of need, side by side, and only once."""

import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import click
from tqdm import tqdm

from experiments.stage_records import Records, missing_output, number_of_images
from torch_utils.errors import UserError
from torch_utils.files import locked
from torch_utils.interrupt import StopSignals

SCRIPTS = Path(__file__).resolve().parents[1]


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One call of a script.

    command: the script's file name under edm/, then its arguments. Started again after an interruption it
        must go on or start anew by itself.
    inputs: files it reads that no stage makes; outputs: files it leaves, and folders of images, which then
        hold `num_images`.
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

    def command_line(self, threads: int | None = None, gpu: int | None = None) -> str:
        """The shell command that repeats this stage; `threads` as in `run_stages`, gpu: the one it sees."""
        script, *args = self.command
        limit = f'OMP_NUM_THREADS={threads} ' if threads else ''
        limit += f'CUDA_VISIBLE_DEVICES={gpu} ' if gpu is not None else ''
        return limit + shlex.join(['python', os.path.relpath(SCRIPTS / script), *args])


def run_stages(stages: Sequence[Stage], *, records: Path, jobs: int = 1, threads: int | None = None,
               gpus: Sequence[int] = (), adopt: bool = False, begin: Callable[[], None] | None = None,
               quiet: bool = False) -> None:
    """Run what is not finished, up to `jobs` stages at a time.

    stages: each after those it needs. One is finished if its record in the folder `records` (see
    `experiments.stage_records`) tells of the same command, the same contents of input files and equally
    finished stages before it, and its outputs are as it left them.
    threads: CPU threads a stage may use (None: as many as PyTorch likes).
    gpus: numbers of GPUs, each of which has one stage at a time and is the only one that the stage sees; then
        `jobs` is their number.
    adopt: take a stage whose outputs are there for finished, whoever ran it, and record it; not if its record
        says that they are of another command, or that it was not finished.
    begin: called once no other process runs stages. quiet: don't say how many are finished already.
    One process at a time runs stages with these records; others wait, also for the stages of one that was
    killed. SIGINT, SIGTERM and SIGHUP end the stages under way, training after it saved its state, then this
    process: SystemExit with 128 + number.
    Raises UserError that names the stage, its last words and its log, after ending the others.
    """
    records.mkdir(parents=True, exist_ok=True)
    with locked(records.parent, 'running stages of') as lock, StopSignals(
            'the stages under way are ended', _stop_signals()) as signals:
        runner = _Runner(stages, Records(records), threads, lock)
        if begin is not None:
            begin()
        runner.look(adopt, quiet)
        try:
            while runner.waiting or runner.running:
                if signals.received:
                    click.echo('stopped; the same command goes on', err=True)
                    raise SystemExit(128 + signals.received)
                runner.step(list(gpus) or [None] * jobs)
                time.sleep(0.05)
        finally:
            runner.close()


def _stop_signals() -> list[int]:
    """SIGINT, SIGTERM and, where nohup does not keep it away, SIGHUP."""
    hangup = getattr(signal, 'SIGHUP', None)
    heard = [] if hangup is None or signal.getsignal(hangup) is signal.SIG_IGN else [hangup]
    return [signal.SIGINT, signal.SIGTERM, *heard]


def option_values(args: Sequence[str]) -> dict[str, str]:
    """The values in a script's arguments by option: of `--a 1` or `--a=1` '1', of a flag ''.

    Of equal options the last one counts.
    """
    values = {}
    for arg, following in zip(args, (*args[1:], '--'), strict=True):
        if arg.startswith('--'):
            option, equals, value = arg.partition('=')
            values[option] = value if equals or following.startswith('--') else following
    return values


class _Runner:
    """The state of `run_stages`: which stages are finished, wait, run."""

    def __init__(self, stages: Sequence[Stage], records: Records, threads: int | None, lock: int):
        self.waiting, self.running = list(stages), {}  # running: stage -> its process, its GPU
        self._records, self._threads, self._lock = records, threads, lock
        self._finished = set()
        self._progress = Progress(0)

    def look(self, adopt: bool, quiet: bool) -> None:
        """Find out what is finished already; with `adopt`, take what has its outputs for it."""
        self._records.stop_stale()
        number = len(self.waiting)
        for stage in list(self.waiting):
            if not self._is_ready(stage):
                continue
            if adopt and not self._records.is_finished(stage) and self._records.may_adopt(stage):
                self._records.adopt(stage, stage.command_line(self._threads))
            self._pass_over_if_finished(stage)
        if self._finished and not quiet:
            print(f'{len(self._finished)} of {number} stages are finished already')
        self._progress = Progress(sum(stage.cost for stage in self.waiting))

    def step(self, places: Sequence[int | None]) -> None:
        """Take in what has ended, and start what can be.

        places: for each stage that may run at a time, the number of its GPU, or None.
        """
        for stage, (process, _) in list(self.running.items()):
            if process.poll() is not None:
                self._take_in(stage, process.returncode)
        for stage in list(self.waiting):
            free = list(places)
            for _, gpu in self.running.values():
                free.remove(gpu)
            if free and self._is_ready(stage) and not self._pass_over_if_finished(stage):
                self._start(stage, free[0])
        self._progress.show([stage.name for stage in self.running])

    def close(self) -> None:
        """End what still runs: by SIGTERM, so that it can save its state; at a further signal, at once."""
        self._progress.close()
        processes = [process for process, _ in self.running.values()]
        try:
            for process in processes:
                process.terminate()
            for process in processes:
                process.wait()
        except BaseException:
            for process in processes:
                process.kill()
            raise
        finally:
            for stage in self.running:
                self._records.end(stage, 'stopped')

    def _is_ready(self, stage: Stage) -> bool:
        return self._finished.issuperset(stage.needs)

    def _pass_over_if_finished(self, stage: Stage) -> bool:
        if not self._records.is_finished(stage):
            return False
        self._done(stage)
        self.waiting.remove(stage)
        return True

    def _done(self, stage: Stage) -> None:
        self._finished.add(stage.name)
        self._progress.add(stage.cost)

    def _start(self, stage: Stage, gpu: int | None) -> None:
        command = stage.command_line(self._threads, gpu)
        self._progress.print(command)
        goes_on = self._records.begin(stage, command)
        environment = os.environ | ({'OMP_NUM_THREADS': str(self._threads)} if self._threads else {})
        environment |= {'CUDA_VISIBLE_DEVICES': str(gpu)} if gpu is not None else {}
        script, *args = stage.command
        with open(self._log(stage), 'a' if goes_on else 'w') as log:
            # In a session of its own, so that Ctrl-C reaches it through us, once. Inside our lock, so that
            # nobody else begins while it lives, even if this process is killed.
            process = subprocess.Popen(
                [sys.executable, os.path.relpath(SCRIPTS / script), *args], env=environment,
                stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
                pass_fds=[self._lock])
        self.waiting.remove(stage)
        self.running[stage] = process, gpu

    def _take_in(self, stage: Stage, status: int) -> None:
        fault, log = _fault(stage), self._log(stage)
        failed = status != 0 or fault is not None
        self._records.end(stage, 'failed' if failed else 'finished')
        del self.running[stage]
        repeat = f'(log: {log}; repeat: {stage.command_line(self._threads)})'
        if status != 0:
            raise UserError(f'stage {stage.name} ended with status {status}: {last_words(log)} {repeat}')
        if failed:
            raise UserError(f'stage {stage.name} {fault} {repeat}')
        self._done(stage)

    def _log(self, stage: Stage) -> Path:
        return self._records.folder / f'{stage.name}.log'


def _fault(stage: Stage) -> str | None:
    """What is wrong with the outputs of a stage that has run."""
    for path in stage.outputs:
        if stage.num_images and path.is_dir() and number_of_images(path) > stage.num_images:
            return (f'makes {stage.num_images} images, but {path} holds {number_of_images(path)}: remove '
                    'those that are not of it')
    missing = missing_output(stage)
    return None if missing is None else f'did not leave {missing}'


def last_words(log: Path) -> str:
    """The last line that is not empty of a file."""
    lines = log.read_text(errors='replace').strip().splitlines() if log.is_file() else []
    return lines[-1] if lines else 'it printed nothing'


class Progress:
    """How much is done and how long the rest will take: a bar on a terminal, else a note at every line."""

    def __init__(self, total: float):
        layout = '{percentage:3.0f}%|{bar}| {elapsed} gone, {remaining} left {desc}'
        self._bar = tqdm(total=total, bar_format=layout, disable=total == 0 or not sys.stderr.isatty())
        self._total, self._done, self._start, self._shown = total, 0.0, time.monotonic(), []

    def print(self, line: str) -> None:
        """Print a line above the bar."""
        if self._bar.disable and self._done:
            elapsed = time.monotonic() - self._start
            left = elapsed * (self._total / self._done - 1)
            line = f'[{self._done / self._total:.0%}, {tqdm.format_interval(left)} left] {line}'
        tqdm.write(line, file=sys.stdout)
        sys.stdout.flush()

    def add(self, cost: float) -> None:
        """A part of `total` is done."""
        self._done += cost
        self._bar.update(cost)

    def show(self, running: list[str]) -> None:
        """Name what is under way."""
        if running != self._shown:
            self._shown = running
            self._bar.set_description_str(', '.join(running))

    def close(self) -> None:
        """Remove the bar."""
        self._bar.close()
