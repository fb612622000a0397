"""A run's folder: its name, its log, and the files in it that a later run goes on from."""

import json
import os
import re
from pathlib import Path

from tqdm import tqdm

from torch_utils.errors import UserError
from torch_utils.files import make_output_dir


def run_name(*, data: str, conditional: bool, arch: str, precond: str, num_processes: int, batch_size: int,
             fp16: bool, desc: str | None = None) -> str:
    """The name of a run's folder after its number, as in NVlabs/edm."""
    name = (f'{data}-{"cond" if conditional else "uncond"}-{arch}-{precond}-gpus{num_processes}'
            f'-batch{batch_size}-{"fp16" if fp16 else "fp32"}')
    return f'{name}-{desc}' if desc else name


def next_run_dir(outdir: str, name: str) -> Path:
    """`outdir`/NNNNN-`name`: one more than the largest number that leads a folder's name there, or 0."""
    outdir = Path(outdir)
    folders = [path.name for path in outdir.iterdir() if path.is_dir()] if outdir.is_dir() else []
    numbers = [int(match[0]) for match in map(re.compile(r'\d+').match, folders) if match]
    return outdir / f'{max(numbers, default=-1) + 1:05d}-{name}'


def make_run_dir(outdir: str, name: str | None) -> Path:
    """Make the next numbered folder in `outdir`, for this run alone; without name, `outdir` itself."""
    make_output_dir(outdir)
    while name is not None:
        run_dir = next_run_dir(outdir, name)
        try:
            run_dir.mkdir()
        except FileExistsError:  # another run took the number just now
            continue
        return run_dir
    return Path(outdir)


def snapshot_name(nimg: int) -> str:
    """A snapshot's file name after `nimg` images."""
    return f'network-snapshot-{nimg // 1000:06d}.pkl'


def state_name(nimg: int) -> str:
    """A state's file name after `nimg` images."""
    return f'training-state-{nimg // 1000:06d}.pt'


def find_state(path: str, option: str = '--resume') -> Path:
    """A state file: the path itself or, of a run's folder, the newest one in it.

    Raises UserError naming `option` if there is none.
    """
    path = Path(path)
    if path.is_file():
        return path
    if not path.is_dir():
        raise UserError(f'{option} {path}: no such file or folder')
    states = {int(match[1]): file for file in path.iterdir()
              if (match := re.fullmatch(r'training-state-(\d+)\.pt', file.name))}
    if not states:
        raise UserError(f'{option} {path}: no training-state-*.pt in this folder')
    return states[max(states)]


def newest_run_with_state(outdir: str | os.PathLike, option: str = '--resume') -> Path:
    """Of the numbered run folders in `outdir` the one of the largest number that holds a state.

    Raises UserError naming `option` if there is none.
    """
    outdir = Path(outdir)
    folders = [path.parent for path in outdir.glob('*/training-state-*.pt') if path.parent.name[:1].isdigit()]
    if not folders:
        raise UserError(f'{option}: no run in {outdir} has saved a state')
    return max(folders, key=lambda folder: int(re.match(r'\d+', folder.name)[0]))


class RunLog:
    """Prints, appending it to log.txt, and appends statistics to stats.jsonl. One process has it."""

    def __init__(self, run_dir: Path):
        self._text = open(run_dir / 'log.txt', 'a', encoding='utf-8')
        self._stats = open(run_dir / 'stats.jsonl', 'a', encoding='utf-8')

    def __enter__(self) -> 'RunLog':
        return self

    def __exit__(self, *error) -> None:
        self._text.close()
        self._stats.close()

    def print(self, line: str = '') -> None:
        """Print a line, above the progress bar if there is one."""
        tqdm.write(line)
        self._text.write(line + '\n')
        self._text.flush()

    def stats(self, values: dict) -> None:
        """Append one line to stats.jsonl."""
        self._stats.write(json.dumps(values) + '\n')
        self._stats.flush()
