"""What the tests share: golden files, running a script in this process or under torchrun."""

import os
import socket
import subprocess
import sys
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


_LAUNCH = [sys.executable, '-m', 'torch.distributed.run']


def torchrun(num_processes: int, script: str, *args) -> str:
    """Run edm/SCRIPT under torchrun on the CPU, one thread a process; returns all that it printed."""
    launch = [*_LAUNCH, '--standalone', f'--nproc_per_node={num_processes}']
    done = subprocess.run([*launch, ROOT / 'edm' / script, *map(str, args)], text=True, check=False,
                          capture_output=True, timeout=300, env=os.environ | {'OMP_NUM_THREADS': '1'})
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def torchrun_on_two_machines(script: str, *args) -> str:
    """The same as two launches of one process each, which find each other as those of two machines do."""
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = free.getsockname()[1]
    launch = [*_LAUNCH, '--nnodes=2', '--nproc_per_node=1', '--rdzv_backend=c10d',
              f'--rdzv_endpoint=127.0.0.1:{port}', '--rdzv_id=1', ROOT / 'edm' / script, *map(str, args)]
    one_thread = os.environ | {'OMP_NUM_THREADS': '1'}
    machines = [subprocess.Popen(launch, env=one_thread, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                                 text=True) for _ in range(2)]
    try:
        printed = [machine.communicate(timeout=300)[0] for machine in machines]
    finally:
        for machine in machines:
            machine.kill()
    assert [machine.returncode for machine in machines] == [0, 0], printed
    return ''.join(printed)


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
