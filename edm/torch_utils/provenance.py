"""Provenance: what made a result. Kept in every run folder, snapshot, sample folder and .npz file."""

import datetime
import functools
import hashlib
import math
import numbers
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import click

from torch_utils.cli import shorten
from torch_utils.downloads import is_url, local_path
from torch_utils.files import sha256_file


def record(*, inputs: Iterable[str | Path | None] = (), **more) -> dict:
    """A record of plain values: how to make this result again, and from what.

    Command line; options: all of the running script's, defaults included (empty outside a click command);
    versions of Python and the packages that decide numbers; commit: of this code; UTC time; inputs: SHA-256
    by path.

    inputs: files, folders (see `fingerprint`) and URLs that were downloaded; None stands for no input.
    more: further entries, such as the seed that was drawn.
    """
    import numpy
    import torch
    context = click.get_current_context(silent=True)
    return {
        'command': command_line(),
        'options': {name: _option(value) for name, value in context.params.items()} if context else {},
        'python': platform.python_version(),
        'torch': str(torch.__version__),  # a plain string, not torch's subclass
        'numpy': numpy.__version__,
        'commit': commit(),
        'time_utc': datetime.datetime.now(datetime.UTC).isoformat(timespec='seconds'),
        'inputs': {str(path): fingerprint(path) for path in inputs if path is not None},
        **_plain(more),
    }


def command_line() -> str:
    """The running command. A script of ours is called edm/NAME.py wherever the checkout lies."""
    script, *args = sys.argv
    path = Path(script).resolve()
    if path.parent == Path(__file__).resolve().parents[1]:
        script = f'edm/{path.name}'
    return shlex.join([script, *args])


def fingerprint(path: str | Path) -> str:
    """SHA-256 in hexadecimal of a file, of the download of a URL, or of a folder.

    A folder's is that of the lines `sha256  name` of the files in it, as sha256sum prints them, in the order
    of their names relative to the folder. Links are followed, to each folder once.
    """
    if is_url(path):
        path = local_path(path, 'input')
    path = Path(path)
    if not path.is_dir():
        return sha256_file(path)
    names = sorted(file.relative_to(path).as_posix() for file in _walk(path) if file.is_file())
    lines = ''.join(f'{sha256_file(path / name)}  {name}\n' for name in names)
    return hashlib.sha256(lines.encode('utf-8', 'surrogateescape')).hexdigest()


def _walk(folder: Path) -> Iterator[Path]:
    seen = set()  # links may lead in circles
    for place, folders, names in os.walk(folder, followlinks=True):
        if (real := os.path.realpath(place)) in seen:
            folders.clear()
            continue
        seen.add(real)
        folders.sort()
        yield from (Path(place, name) for name in names)


@functools.cache
def commit() -> str | None:
    """`git describe --always` of this code, -dirty if a file under edm/ differs; None outside a checkout.

    Pictures and tables in git that scripts overwrite don't count.
    """
    def git(*args):
        return subprocess.run(['git', *args], cwd=Path(__file__).resolve().parents[1], capture_output=True,
                              text=True, timeout=10, check=True).stdout.strip()

    try:
        return git('describe', '--always') + '-dirty' * bool(git('diff', 'HEAD', '--name-only', '--', '.'))
    except (OSError, subprocess.SubprocessError):
        return None


def _option(value):
    """An option's value as JSON can hold it, a list of integers in the short form that options take."""
    integers = isinstance(value, (list, tuple)) and value and all(type(item) is int for item in value)
    return shorten(value) if integers else _plain(value)


def _plain(value):
    """`value` as JSON can hold it."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, range)):
        return [_plain(item) for item in value]
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, numbers.Integral):  # numpy's are some, too
        return int(value)
    if isinstance(value, numbers.Real) and math.isfinite(value):
        return float(value)
    return str(value)
