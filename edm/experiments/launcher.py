"""Scripts run in forks of a process that has imported PyTorch, which saves each 2 to 3 CPU seconds."""

import importlib
import json
import multiprocessing
import os
import runpy
import select
import signal
import subprocess
import sys
from pathlib import Path

# What most scripts import, the second in any optimizer; only where a process may fork with that in memory.
PRELOADED = ('torch', 'torch._dynamo') if sys.platform == 'linux' else ()


class Launcher:
    """Runs scripts, one at a time, each in a process and a session of its own, so that no Ctrl-C reaches it.

    environ: a script's environment variables beside this process's. keep: a file descriptor that it inherits.
    A script outlives this process if that is killed.
    """

    def __init__(self, environ: dict[str, str], keep: int):
        self._environ, self._keep, self._server, self._pid = environ, keep, None, None

    def start(self, script: Path, args: list[str], log: Path, *, append: bool) -> None:
        """Run `python SCRIPT ARGS`, its output going to the file `log`."""
        if self._server is None:
            self._server = subprocess.Popen(
                [sys.executable, '-P', __file__, *PRELOADED], env=os.environ | self._environ, bufsize=0,
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                pass_fds=[self._keep], start_new_session=True)
        call = os.path.relpath(script), args, str(log), 'a' if append else 'w'
        self._server.stdin.write(json.dumps(call).encode() + b'\n')
        self._pid = None

    def status(self) -> int | None:
        """The exit status of the script, negative if a signal ended it; None while it runs."""
        while select.select([self._server.stdout], [], [], 0)[0]:
            if self._pid is not None:
                return self._answer()
            self._pid = self._answer()
        return None

    def _answer(self) -> int:
        return int(self._server.stdout.readline() or -signal.SIGKILL)  # without an answer it was killed

    def signal(self, number: int) -> None:
        """Send the running script a signal."""
        if self._pid is None:
            self._pid = self._answer()
        if self._pid > 0:
            os.kill(self._pid, number)

    def close(self) -> None:
        """Wait for the script, and end the server."""
        if self._server is not None:
            self._server.communicate()


def _serve() -> None:
    """Run the scripts that lines on stdin name; answer with the id of each one's process and its status."""
    for module in sys.argv[1:]:
        importlib.import_module(module)
    context = multiprocessing.get_context('fork' if sys.platform == 'linux' else 'spawn')
    for line in sys.stdin:
        process = context.Process(target=_run, args=json.loads(line))
        process.start()
        sys.stdout.write(f'{process.pid}\n')
        sys.stdout.flush()
        process.join()
        sys.stdout.write(f'{process.exitcode}\n')
        sys.stdout.flush()


def _run(script: str, args: list[str], log: str, mode: str) -> None:
    os.setsid()
    with open(log, mode) as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    sys.argv = [script, *args]
    sys.path.insert(0, os.path.dirname(os.path.abspath(script)))
    runpy.run_path(script, run_name='__main__')


if __name__ == '__main__':
    _serve()
