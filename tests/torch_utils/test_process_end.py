"""How a script's process ends: with its status, all that it printed and all that waits for its end."""

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

@click.command(cls=cli.Command)
@click.argument('how')
def main(how):
    atexit.register(print, 'at the end')
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
