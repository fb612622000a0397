"""Experiments as stages: plain calls of the scripts, run in order of need, side by side, and only once."""

import hashlib
import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from torch_utils.errors import UserError
from torch_utils.files import sha256_file, write_json

SCRIPTS = Path(__file__).resolve().parents[1]


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One call of a script.

    command: the script's file name under edm/, then its arguments.
    inputs: files it reads that no stage makes; outputs: files it leaves.
    needs: names of the stages that must be finished before.
    cost: how long it takes in comparison with the others, for the time left.
    """

    name: str
    command: tuple[str, ...]
    outputs: tuple[Path, ...]
    inputs: tuple[Path, ...] = ()
    needs: tuple[str, ...] = ()
    cost: float = 1.0

    def command_line(self, threads: int | None = None, gpu: int | None = None) -> str:
        """The shell command that repeats this stage; `threads` as in `run_stages`, gpu: the one it sees."""
        script, *args = self.command
        limit = f'OMP_NUM_THREADS={threads} ' if threads else ''
        limit += f'CUDA_VISIBLE_DEVICES={gpu} ' if gpu is not None else ''
        return limit + shlex.join(['python', os.path.relpath(SCRIPTS / script), *args])


def run_stages(stages: Sequence[Stage], *, records: Path, jobs: int = 1, threads: int | None = None,
               gpus: Sequence[int] = (), adopt: bool = False) -> None:
    """Run what is not finished, up to `jobs` stages at a time.

    A stage is finished if its record in the folder `records` tells of the same command, the same contents of
    input files and equally finished stages before it, and its outputs exist. What a stage prints goes to
    `records`/NAME.log.
    threads: CPU threads a stage may use (None: as many as PyTorch likes).
    gpus: numbers of GPUs, each of which has one stage at a time and is the only one that the stage sees; then
        `jobs` is their number.
    adopt: take a stage whose outputs are there for finished, whoever ran it, and record it.
    Raises UserError that names the stage, its last words and its log, after ending the others.
    """
    records.mkdir(parents=True, exist_ok=True)
    keys = stage_keys(stages)
    if adopt:
        for stage in stages:
            if not _is_finished(stage, keys, records) and all(path.exists() for path in stage.outputs):
                _record(stage, keys, records, command=stage.command_line(threads), adopted=True)
    waiting = [stage for stage in stages if not _is_finished(stage, keys, records)]
    if len(waiting) < len(stages):
        print(f'{len(stages) - len(waiting)} of {len(stages)} stages are finished already')
    finished = {stage.name for stage in stages} - {stage.name for stage in waiting}
    running: dict[Stage, tuple[subprocess.Popen, float, int | None]] = {}
    free = list(gpus) if gpus else [None] * jobs
    progress = Progress(sum(stage.cost for stage in waiting))
    try:
        while waiting or running:
            ready = [stage for stage in waiting if finished.issuperset(stage.needs)]
            for stage in ready[:len(free)]:
                gpu = free.pop(0)
                progress.print(stage.command_line(threads, gpu))
                waiting.remove(stage)
                running[stage] = _start(stage, records, threads, gpu), time.monotonic(), gpu
            for stage, (process, started, gpu) in list(running.items()):
                if process.poll() is not None:
                    del running[stage]
                    free.append(gpu)
                    _finish(stage, keys, records, process.returncode, time.monotonic() - started, threads)
                    finished.add(stage.name)
                    progress.add(stage.cost)
            progress.show([stage.name for stage in running])
            time.sleep(0.05)
    finally:
        progress.close()
        for process, *_ in running.values():
            process.terminate()
        for process, *_ in running.values():
            process.wait()


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


def stage_keys(stages: Sequence[Stage]) -> dict[str, str]:
    """Per stage a hash of its command, its input files' contents and the keys of the stages that it needs."""
    keys = {}
    for stage in stages:
        parts = [stage.command, [sha256_file(path) for path in stage.inputs],
                 [keys[need] for need in stage.needs]]
        keys[stage.name] = hashlib.sha256(json.dumps(parts).encode()).hexdigest()
    return keys


def _is_finished(stage: Stage, keys: dict[str, str], records: Path) -> bool:
    try:
        record = json.loads((records / f'{stage.name}.json').read_text())
    except (OSError, ValueError):
        return False
    return record.get('key') == keys[stage.name] and all(path.exists() for path in stage.outputs)


def _start(stage: Stage, records: Path, threads: int | None, gpu: int | None) -> subprocess.Popen:
    script, *args = stage.command
    environment = os.environ | ({'OMP_NUM_THREADS': str(threads)} if threads else {})
    environment |= {'CUDA_VISIBLE_DEVICES': str(gpu)} if gpu is not None else {}
    with open(records / f'{stage.name}.log', 'w') as log:
        return subprocess.Popen([sys.executable, os.path.relpath(SCRIPTS / script), *args], env=environment,
                                stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT)


def _finish(stage: Stage, keys: dict[str, str], records: Path, status: int, seconds: float,
            threads: int | None) -> None:
    log = records / f'{stage.name}.log'
    command = stage.command_line(threads)
    if status != 0:
        words = log.read_text(errors='replace').strip().splitlines() or ['it printed nothing']
        raise UserError(f'stage {stage.name} ended with status {status}: {words[-1]} (log: {log}; repeat: '
                        f'{command})')
    missing = [str(path) for path in stage.outputs if not path.exists()]
    if missing:
        raise UserError(f'stage {stage.name} did not leave {missing[0]} (log: {log}; repeat: {command})')
    _record(stage, keys, records, command=command, seconds=round(seconds, 1))


def _record(stage: Stage, keys: dict[str, str], records: Path, **more) -> None:
    write_json(records / f'{stage.name}.json', {'key': keys[stage.name], **more})
