"""What the tests share: golden files, running a script in this process or under torchrun."""

import atexit
import functools
import json
import os
import runpy
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from click.testing import CliRunner

ROOT = Path(__file__).parent.parent
DATA = Path(__file__).parent / 'data'


def golden(name: str) -> dict[str, np.ndarray]:
    """The arrays of tests/data/NAME.npz."""
    with np.load(DATA / f'{name}.npz') as file:
        return dict(file)


def run(command, *args, status: int = 0):
    """Run a script's click command in this process; returns click's result (`stdout`, `stderr`)."""
    result = CliRunner().invoke(command, [str(arg) for arg in args])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == status, result.output
    return result


class InThisProcess:
    """In the place of `experiments.launcher.Launcher`: a script runs here, and ends as it starts."""

    def __init__(self, environ: dict, keep: int):
        pass

    def start(self, script: Path, args: list[str], log: Path, *, append: bool) -> None:
        """Run the script's command."""
        ended = CliRunner().invoke(runpy.run_path(str(script))['main'], args)
        log.write_text(ended.output)
        if ended.exception is not None and not isinstance(ended.exception, SystemExit):
            raise ended.exception
        self._status = ended.exit_code

    def status(self) -> int:
        """The exit status."""
        return self._status

    def close(self) -> None:
        """There is nothing to end."""


def refuse(command, *args, status: int, says: tuple[str, ...] = ()) -> str:
    """Run a script that must refuse its input in one line on stderr that holds each of `says`; returns it."""
    result = run(command, *args, status=status)
    lines = [line for line in result.stderr.splitlines() if line.startswith('Error: ')]
    assert len(lines) == 1, result.output
    assert 'Traceback' not in result.output
    for word in says:
        assert word in lines[0], f'{word!r} is not in {lines[0]!r}'
    return lines[0]


def assert_fits(figure) -> None:
    """All of a figure lies within it, with letters of 6 points at least."""
    from matplotlib.text import Text

    figure.draw_without_rendering()
    texts = [text for text in figure.findobj(Text) if text.get_text().strip() and text.get_visible()]
    assert min(text.get_fontsize() for text in texts) >= 6
    inner, outer = figure.get_tightbbox(), figure.get_size_inches()
    assert inner.x0 >= -0.005
    assert inner.y0 >= -0.005
    assert inner.x1 <= outer[0] + 0.005
    assert inner.y1 <= outer[1] + 0.005


def torchrun(num_processes: int, script: str, *args) -> str:
    """Run edm/SCRIPT under torchrun on the CPU, one thread a process; returns all that it printed."""
    launch = [sys.executable, '-m', 'torch.distributed.run', '--standalone',
              f'--nproc_per_node={num_processes}']
    done = subprocess.run([*launch, ROOT / 'edm' / script, *map(str, args)], text=True, check=False,
                          capture_output=True, timeout=300, env=os.environ | {'OMP_NUM_THREADS': '1'})
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def processes(number: int, script: str, *args, machines: int = 1) -> str:
    """The same at a fraction of the cost, in forks of one process (fork_server.py), on several machines."""
    statuses, printed = fork(number, script, *args, machines=machines)
    assert not any(statuses), printed
    return printed


def fork(number: int, script: str | Path, *args, machines: int = 1) -> tuple[list[int], str]:
    """As `processes`, but returns the exit statuses, which may be any, and what is printed."""
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = free.getsockname()[1]
    each = number // machines
    environs = [{'RANK': f'{rank}', 'LOCAL_RANK': f'{rank % each}', 'WORLD_SIZE': f'{number}',
                 'LOCAL_WORLD_SIZE': f'{each}', 'MASTER_ADDR': '127.0.0.1', 'MASTER_PORT': f'{port}'}
                for rank in range(number)]
    with tempfile.NamedTemporaryFile('r') as log:
        job = {'script': str(ROOT / 'edm' / script), 'args': [*map(str, args)], 'log': log.name,
               'environs': environs if number > 1 else [{}]}
        server = _fork_server()
        server.stdin.write(json.dumps(job) + '\n')
        server.stdin.flush()
        return json.loads(server.stdout.readline()), log.read()


@functools.cache
def _fork_server() -> subprocess.Popen:
    server = subprocess.Popen(
        [sys.executable, Path(__file__).with_name('fork_server.py')], stdin=subprocess.PIPE,
        stdout=subprocess.PIPE, text=True, env=os.environ | {'OMP_NUM_THREADS': '1'})
    atexit.register(server.communicate)
    return server


def assert_equal(a, b, where='state'):
    """Equal bit for bit, all the way down."""
    assert type(a) is type(b), where
    if isinstance(a, dict):
        assert a.keys() == b.keys(), where
        for key in a:
            assert_equal(a[key], b[key], f'{where}.{key}')
    elif isinstance(a, list | tuple):
        assert len(a) == len(b), where
        for i, pair in enumerate(zip(a, b, strict=True)):
            assert_equal(*pair, f'{where}.{i}')
    else:
        assert torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b, where
