"""How a script's process ends: with its status, all that it printed and all that waits for its end."""

import signal
import subprocess
import sys

import pytest

from helpers import ROOT

SCRIPT = """
import atexit, sys, threading, time
sys.path.insert(0, sys.argv.pop(1))
import click
from torch_utils import cli
from torch_utils.errors import UserError
from torch_utils.files import atomic_write

@click.command(cls=cli.Command)
@click.argument('how')
@click.argument('path', default='')
def main(how, path):
    atexit.register(print, 'at the end')
    if how == 'writing':
        with atomic_write(path) as file:
            file.write(bytes(1 << 20))
            print('begun', flush=True)
            time.sleep(60)
    threading.Thread(target=lambda: (time.sleep(0.1), print('of a thread'))).start()
    if how == 'mistake':
        raise UserError('no such thing')
    if how == 'bug':
        raise ZeroDivisionError

main()
"""


@pytest.mark.parametrize(('how', 'status', 'says'), [
    ('well', 0, ''), ('mistake', 1, 'Error: no such thing\n'), ('bug', 1, 'Traceback')])
def test_a_process_ends_with_its_status_and_everything_said(how, status, says):
    done = subprocess.run([sys.executable, '-c', SCRIPT, ROOT / 'edm', how], capture_output=True, text=True)
    assert done.returncode == status
    assert done.stderr.startswith(says)
    assert done.stdout == 'of a thread\nat the end\n'


@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_that_ends_a_process_leaves_no_temporary_file(number, tmp_path):
    with subprocess.Popen([sys.executable, '-c', SCRIPT, ROOT / 'edm', 'writing', tmp_path / 'x'], text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout.readline() == 'begun\n'
        assert len(list(tmp_path.iterdir())) == 1
        process.send_signal(number)
        assert process.communicate(timeout=30) == ('at the end\n', f'\nError: stopped by {number.name}\n')
    assert process.returncode == 128 + number
    assert not list(tmp_path.iterdir())
