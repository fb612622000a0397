"""Files that appear whole or not at all; locks; which existing files an output may replace."""

import contextlib
import errno
import hashlib
import json
import os
import re
import shutil
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import click

from torch_utils.errors import UserError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None


@contextlib.contextmanager
def atomic_write(path: str | os.PathLike, mode: str = 'wb', *, durable: bool = True) -> Iterator[IO]:
    """Open a file beside `path` for writing; it takes `path`'s place once all of it is on the disk.

    Text is UTF-8. If the body raises, nothing remains and an older `path` stays as it was.
    durable: wait for the disk. Without, which is for small files by the thousand, a file may be empty after
        the machine, not just the process, has died.
    """
    path = Path(path)
    temp = temp_beside(path)
    try:
        with named_when_full(path), open(temp, mode, encoding=None if 'b' in mode else 'utf-8') as file:
            try_lock(file)
            yield file
            if durable:
                file.flush()
                os.fsync(file.fileno())
        os.replace(temp, path)
    except BaseException:
        temp.unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def named_when_full(path: Path) -> Iterator[None]:
    """Name the file in the error that the body raises when the disk is full."""
    try:
        yield
    except OSError as err:
        if err.filename is None and err.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            err.filename = str(path)
        raise


def temp_beside(path: Path) -> Path:
    """The temporary name .NAME.PID.tmp beside `path`, of what will replace it and is locked until then."""
    remove_abandoned(path.parent)
    return path.with_name(f'.{path.name}.{os.getpid()}.tmp')


_seen, _seen_lock = set(), threading.Lock()


def remove_abandoned(folder: Path) -> None:
    """Delete files and folders .NAME.PID.tmp of processes that died; each process checks a folder once.

    A process died if this machine has none of that PID and no other machine holds a lock on the file.
    """
    with _seen_lock, contextlib.suppress(OSError):  # what can't be read or removed stays
        if folder in _seen:
            return
        _seen.add(folder)
        for path in map(folder.joinpath, os.listdir(folder)):
            match = re.fullmatch(r'\..+\.(\d{1,9})\.tmp', path.name)
            if match and _is_abandoned(path, int(match[1])):
                (shutil.rmtree if path.is_dir() else os.unlink)(path)


def _is_abandoned(path: Path, pid: int) -> bool:
    import psutil

    if pid != os.getpid() and psutil.pid_exists(pid):
        return False
    try:
        lock = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    except OSError:
        return False
    try:
        return try_lock(lock)
    finally:
        os.close(lock)


# How files of these scripts are recognized: their first bytes, and what their first or last 64 KiB contain.
KINDS = {
    'dataset': ((b'PK',), (b'/img0', b'dataset.json')),
    'features': ((b'PK',), (b'features.npy',)),
    'neighbors': ((b'PK',), (b'nearest.npy', b'similarity.npy')),
    'ranks': ((b'PK',), (b'rank_low.npy',)),
    'noise': ((b'PK',), (b'latents.npy', b'seeds.npy')),
    'trajectory': ((b'PK',), (b'denoised.npy', b'seeds.npy')),
    'figure': ((b'\x89PNG', b'%PDF'), (b'Title', b'atplotlib')),
    'grid': ((b'\x89PNG',), (b'Title\0Samples',)),
    'scores': ((b'{',), (b'"threshold"', b'"count"', b'"time_utc"')),
    'denoising': ((b'denoiser,target,images,',), (b'sigma,mse,stderr',)),
    'record': ((b'{',), (b'"command"', b'"options"', b'"time_utc"')),
    'recovery errors': ((b'{',), (b'"recovered_below"', b'"time_utc"')),
    'snapshot': ((b'\x80',), (b'torch_utils.persistence',)),
    'report': ((b'<!DOCTYPE html>',), (b'<title>', b'<style>')),
}


def check_outputs(inputs: Mapping[str, Sequence[str]],
                  outputs: Mapping[str, tuple[str | Sequence[str] | None, str | None]], *,
                  overwrite: bool = False) -> None:
    """Refuse outputs that would replace an input, each other, or a file of another kind.

    inputs: the paths that an option gives; URLs and what is missing pass.
    outputs: by option, a path, several or None, and their kind: a key of KINDS, or None where the script
        decides itself what it replaces. Empty files may be replaced, files of the kind, and with `overwrite`
        any other.
    Raises click.UsageError. Names of one file are the same by any spelling and through links.
    """
    taken = {}
    for option, paths in inputs.items():
        taken |= dict.fromkeys(paths, option)
    for option, path, kind in ((option, path, kind) for option, (given, kind) in outputs.items()
                               for path in ([given] if isinstance(given, str) else given or ())):
        for other, whose in taken.items():
            if _same_file(path, other):
                raise click.UsageError(f'{option} {path}: is {whose} as well, which it would replace')
        taken[path] = option
        if kind is None or not os.path.exists(path) or os.path.isdir(path):
            continue
        if not os.path.isfile(path):
            raise click.UsageError(f'{option} {path}: is no regular file')
        if not overwrite and not is_of_kind(path, kind):
            raise click.UsageError(f'{option} {path}: exists, and is no {kind} file of these scripts; '
                                   '--overwrite replaces it')


def _same_file(a: str, b: str) -> bool:
    if os.path.exists(a) and os.path.exists(b):
        return os.path.samefile(a, b)
    return os.path.realpath(a) == os.path.realpath(b)


def is_of_kind(path: str | os.PathLike, kind: str) -> bool:
    """Whether a file is empty or, by KINDS, one that our scripts write."""
    starts, marks = KINDS[kind]
    with open(path, 'rb') as file:
        text = file.read(1 << 16)
        file.seek(max(0, os.path.getsize(path) - (1 << 16)))
        text += file.read()
    return not text or (text.startswith(starts) and all(mark in text for mark in marks))


@contextlib.contextmanager
def locked(path: str | os.PathLike, doing: str) -> Iterator[int]:
    """Hold a lock on `path`; wait while another process holds it. A process that is killed releases it.

    doing: what the holder does with `path`, for a line on stderr. For a file, .NAME.lock stays beside `path`;
    a folder is locked itself. Yields a file descriptor: a process that inherits it holds the lock, too.
    """
    path = Path(path)
    lock = os.open(path, os.O_RDONLY) if path.is_dir() else os.open(
        path.with_name(f'.{path.name}.lock'), os.O_WRONLY | os.O_CREAT, 0o666)
    try:
        if not try_lock(lock):
            click.echo(f'another process is {doing} {path.name}; waiting for it', err=True)
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield lock
    finally:
        os.close(lock)


def is_locked(folder: str | os.PathLike) -> bool:
    """Whether a process holds the lock of `locked` on this folder."""
    lock = os.open(folder, os.O_RDONLY)
    try:
        return not try_lock(lock, shared=True)
    finally:
        os.close(lock)


def try_lock(file, *, shared: bool = False) -> bool:
    """Lock `file`, an open file or a descriptor; returns False if another process holds the lock.

    shared: take a shared lock. The lock ends when the file is closed or the process ends, however it ends.
    Where the file system or the machine has no locks, every process gets it.
    """
    if fcntl is None:
        return True
    try:
        fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks
        return True
    return True


def write_json(path: str | os.PathLike, value: Any) -> None:
    """Write `value` as indented JSON, whole or not at all."""
    with atomic_write(path, 'w') as file:
        json.dump(value, file, indent=2)
        file.write('\n')


def sha256_file(path: str | os.PathLike) -> str:
    """SHA-256 of a file's contents, in hexadecimal."""
    with open(path, 'rb') as file:
        return hashlib.file_digest(file, 'sha256').hexdigest()


def make_output_dir(path: str | os.PathLike, option: str = '--outdir') -> Path:
    """Create a folder for results and make sure, before any work, that it takes files.

    Raises UserError naming `option` if it can't be made or written to; then no folder is left behind.
    """
    path = Path(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
        remove_abandoned(path)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as err:
        raise UserError(f'{option} {path}: can\'t write there ({err.strerror})') from err
    return path
