"""What the benchmarks share: timing side by side in one run, memory, and the rows of their table."""

import contextlib
import re
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of the table: what was measured, beside what, and whether that is enough.

    what: the quantity, in words. ours, baseline: in `unit`; baseline is None where there is none.
    ratio: the number that `must` is about, such as baseline / ours. must: what it has to reach, in words.
    reached: whether it does, None where nothing is asked. note: what the baseline is, shapes, ...
    """

    what: str
    ours: float
    unit: str
    baseline: float | None = None
    ratio: float | None = None
    must: str = ''
    reached: bool | None = None
    note: str = ''


def seconds(function: Callable[[], object], repeats: int = 5, warmup: int = 1) -> float:
    """Median wall-clock seconds of a call."""
    return side_by_side([function], repeats, warmup)[0]


def side_by_side(functions: Sequence[Callable[[], object]], repeats: int = 5, warmup: int = 1) -> list[float]:
    """Median seconds of each function, called in turns: whatever else the machine does slows all of them."""
    times = [[] for _ in functions]
    for turn in range(warmup + repeats):
        for function, taken in zip(functions, times, strict=True):
            start = time.perf_counter()
            function()
            if turn >= warmup:
                taken.append(time.perf_counter() - start)
    return [statistics.median(taken) for taken in times]


def peak_mib() -> float:
    """The most memory that this process has held so far, in MiB.

    Where it can be, by the kernel's record of this program: `ru_maxrss` starts with what its parent held.
    """
    status = Path('/proc/self/status')
    if status.exists():
        return int(re.search(r'VmHWM:\s*(\d+) kB', status.read_text())[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def run_python(code: str, *args: str) -> str:
    """Run `code` in a fresh Python process, for its own peak of memory or start-up time; what it printed."""
    done = subprocess.run([sys.executable, '-c', code, *args], check=True, capture_output=True, text=True)
    return done.stdout


@contextlib.contextmanager
def elsewhere(code: str, *args: str) -> Iterator[Callable[[], None]]:
    """A function that calls the `step()` that `code` defines, in a process of its own, and waits for it.

    For a baseline that must not gain from what this process has set up, such as how memory is kept.
    """
    loop = code + '\nimport sys\nfor _ in sys.stdin:\n    step()\n    print(flush=True)\n'
    with subprocess.Popen([sys.executable, '-c', loop, *args], text=True, bufsize=1,
                          stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:

        def call():
            process.stdin.write('\n')
            if not process.stdout.readline():
                raise RuntimeError('the process of the baseline has died')

        yield call
        process.stdin.close()
