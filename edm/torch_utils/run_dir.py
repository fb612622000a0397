"""A run folder: its name, its log, and the files in it that a later run resumes from."""

import contextlib
import io
import itertools
import json
import math
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from tqdm import tqdm

from torch_utils.errors import UserError, note
from torch_utils.files import make_output_dir, try_lock


def run_name(*, data: str, conditional: bool, arch: str, precond: str, num_processes: int, batch_size: int,
             precision: str, desc: str | None = None) -> str:
    """The name of a run folder after its number, as in NVlabs/edm."""
    name = (f'{data}-{"cond" if conditional else "uncond"}-{arch}-{precond}-gpus{num_processes}'
            f'-batch{batch_size}-{precision}')
    return f'{name}-{desc}' if desc else name


def next_run_dir(outdir: str, name: str) -> Path:
    """`outdir`/NNNNN-`name`: one more than the largest number of a run folder there, or 0."""
    outdir = Path(outdir)
    folders = [path.name for path in outdir.iterdir() if path.is_dir()] if outdir.is_dir() else []
    numbers = [int(match[0]) for match in map(re.compile(r'\d+').match, folders) if match]
    return outdir / f'{max(numbers, default=-1) + 1:05d}-{name}'


def make_run_dir(outdir: str, name: str | None) -> Path:
    """Make the next numbered folder in `outdir`, which no other run gets; without name, `outdir` itself."""
    make_output_dir(outdir)
    while name is not None:
        run_dir = next_run_dir(outdir, name)
        with contextlib.suppress(FileExistsError):  # another run took the number just now
            run_dir.mkdir()
            return run_dir
    return Path(outdir)


def resumed_dir(resume: str, outdir: str, name: str | None) -> Path | None:
    """The folder of the run to resume, if this one writes there, too; None if it gets a new one.

    It writes there if `outdir` is that folder and there is no name; or if `resume` is the folder itself, not
    a state in it, and lies in `outdir` under this name, after any number.
    """
    path, outdir = Path(resume), Path(outdir).resolve()
    if name is None:
        folder = path.parent if path.is_file() else path
        return folder if folder.resolve() == outdir else None
    fits = (path.is_dir() and path.resolve().parent == outdir
            and re.fullmatch(rf'\d+-{re.escape(name)}', path.resolve().name) is not None)
    return path if fits else None


def snapshot_name(nimg: int) -> str:
    """A snapshot's file name after `nimg` images."""
    return f'network-snapshot-{nimg // 1000:06d}.pkl'


def state_name(nimg: int) -> str:
    """A state's file name after `nimg` images."""
    return f'training-state-{nimg // 1000:06d}.pt'


def number_in(path: str | os.PathLike) -> int | None:
    """The kimg in a snapshot's or state's file name, None for another name."""
    match = re.fullmatch(r'(?:network-snapshot-(\d+)\.pkl|training-state-(\d+)\.pt)', Path(path).name)
    return int(match[1] or match[2]) if match else None


def states_in(folder: str | os.PathLike) -> list[Path]:
    """The state files in a folder, those of most images first."""
    return _numbered(Path(folder).glob('training-state-*.pt'))


def _numbered(paths: Iterable[Path]) -> list[Path]:
    return sorted((path for path in paths if number_in(path) is not None), key=number_in, reverse=True)


def find_states(path: str, option: str = '--resume') -> list[Path]:
    """The state file itself or, of a run folder, those in it, the newest first.

    Raises UserError naming `option` if there is none.
    """
    if Path(path).is_file():
        return [Path(path)]
    if not Path(path).is_dir():
        raise UserError(f'{option} {path}: no such file or folder')
    if not states_in(path):
        raise UserError(f'{option} {path}: no training-state-*.pt in this folder')
    return states_in(path)


def find_snapshot(path_or_url: str, option: str = '--network') -> str:
    """The snapshot itself or, of a run folder, the newest one in it, which a line on stderr names.

    Raises UserError naming `option` if a folder has none.
    """
    if not os.path.isdir(path_or_url):
        return path_or_url
    snapshots = _numbered(Path(path_or_url).glob('network-snapshot-*.pkl'))
    if not snapshots:
        raise UserError(f'{option} {path_or_url}: no network-snapshot-*.pkl in this folder')
    note(f'{option} {path_or_url}: takes {snapshots[0].name}')
    return str(snapshots[0])


def take_newest(context, parameter, value: str | None) -> str | None:
    """Callback of an option that takes a snapshot, its URL, or a run folder."""
    return value and find_snapshot(value, parameter.opts[0])


def run_id(folder: str | os.PathLike) -> str | None:
    """The identity of the run in a folder, as its states record it; None in folders of other software."""
    try:
        options = json.loads(Path(folder, 'training_options.json').read_text(encoding='utf-8'))
        return options['made_by']['run_id']
    except (OSError, ValueError, KeyError, TypeError):
        return None


# Settings in which a resumed run may differ: they leave the weights alone.
_FREE = {'run_dir', 'device', 'resume_pkl', 'resume_kimg', 'resume_state_dump', 'kimg_per_tick',
         'snapshot_ticks', 'state_dump_ticks', 'states_kept', 'max_nan_steps', 'preview',
         'dataset_kwargs.cache', 'data_loader_kwargs.num_workers', 'data_loader_kwargs.pin_memory',
         'data_loader_kwargs.prefetch_factor'}


def how_run_differs(folder: str | os.PathLike, settings: dict, data: str | None, ignored: Sequence[str] = (),
                    ) -> str | None:
    """Why the run in `folder` is not one of these settings and this data, in words; None if it is.

    settings: as of `TrainingConfig.as_json`. ignored: keys that may differ besides `_FREE`.
    """
    from torch_utils.provenance import fingerprint

    try:
        had = json.loads(Path(folder, 'training_options.json').read_text(encoding='utf-8'))
        inputs = had.pop('made_by')['inputs']
        data_had = inputs.get(str(data))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return f'{folder} has no training_options.json of this software'
    had, wanted = _flattened(had), _flattened(json.loads(json.dumps(settings)))
    compared = [key for key in {**had, **wanted} if key not in _FREE and key not in ignored]
    differing = [f'{key} was {had.get(key)}, is {wanted.get(key)}' for key in compared
                 if had.get(key) != wanted.get(key)]
    if differing:
        return '; '.join(differing)
    return None if data is None or data_had == fingerprint(data) else f'{data} has other contents now'


def _flattened(values: dict, prefix: str = '') -> dict:
    """A nested dict as one with keys such as `outer.inner`."""
    flat = {}
    for key, value in values.items():
        flat |= _flattened(value, f'{prefix}{key}.') if isinstance(value, dict) else {f'{prefix}{key}': value}
    return flat


def tick_after(folder: str | os.PathLike, kimg: int) -> int:
    """Number of the tick after the last that stats.jsonl reports up to `kimg`; 0 without such a file."""
    try:
        data = Path(folder, 'stats.jsonl').read_bytes()
    except OSError:
        return 0
    ticks = [stats['Progress/tick']['mean'] for stats in _stats_lines(data)
             if stats['Progress/kimg']['mean'] < kimg + 1]
    return int(max(ticks, default=-1)) + 1


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
    """Prints lines and appends them to log.txt; appends statistics to stats.jsonl. Only one process has it.

    Lines that a full disk refuses are kept and written with the next one, after one warning.

    history: folder of the run to resume, maybe the same: its lines before tick `next_tick` stay or are
        copied. Without it, lines are appended to a log.txt in `run_dir`, and stats.jsonl is replaced.
    Raises UserError while another process has the log of this folder.
    """

    def __init__(self, run_dir: Path, *, history: Path | None = None, next_tick: int = 0):
        self._files = {}
        for name, tick_of in (('log.txt', _tick_in_text), ('stats.jsonl', _tick_in_stats)):
            file = open(run_dir / name, 'ab', buffering=0)
            self._files[name] = _Appender(file)
            if not try_lock(file):
                self.__exit__()
                raise UserError(f'--outdir {run_dir}: another run is writing there')
            earlier = Path(history, name) if history else None
            there = earlier is not None and earlier.is_file()
            kept = _lines_before(earlier.read_bytes(), next_tick, tick_of) if there else b''
            if earlier and earlier.resolve() == (run_dir / name).resolve():
                file.truncate(len(kept))
            elif history is not None or name != 'log.txt':
                file.truncate(0)
                self._files[name].append(kept)
        self._warned = False

    def __enter__(self) -> 'RunLog':
        return self

    def __exit__(self, *error) -> None:
        for file in self._files.values():
            file.close()

    def print(self, line: str = '') -> None:
        """Print a line, above the progress bar if there is one."""
        tqdm.write(line)
        self._append('log.txt', line)

    def stats(self, values: dict) -> None:
        """Append one line to stats.jsonl."""
        self._append('stats.jsonl', json.dumps(values))

    def _append(self, name: str, line: str) -> None:
        try:
            self._files[name].append(f'{line}\n'.encode())
        except OSError as err:
            if not self._warned:
                tqdm.write(f'Warning: {name} takes no lines now ({err.strerror}); they are kept for later',
                           file=sys.stderr)
            self._warned = True
        else:
            self._warned = False


class _Appender:
    """An unbuffered file; data that a failed write left over goes before the next."""

    def __init__(self, file):
        self._file = file
        self._pending = b''

    def append(self, data: bytes) -> None:
        self._pending += data
        while self._pending:
            self._pending = self._pending[self._file.write(self._pending):]

    def close(self) -> None:
        self._file.close()


def _tick_in_text(line: bytes) -> float:
    """The tick that a line of log.txt reports on, -1 for none."""
    match = re.match(rb'tick (\d+)\s', line)
    return int(match[1]) if match else -1


def _tick_in_stats(line: bytes) -> float:
    return next((stats['Progress/tick']['mean'] for stats in _stats_lines(line)), math.inf)


def _lines_before(data: bytes, tick: int, tick_of: Callable[[bytes], float]) -> bytes:
    """`data` up to the first line that is of this tick or later, or that a killed process did not finish."""
    kept = itertools.takewhile(lambda line: line.endswith(b'\n') and tick_of(line) < tick, io.BytesIO(data))
    return b''.join(kept)


def _stats_lines(data: bytes) -> Iterator[dict]:
    """The whole lines of a stats.jsonl."""
    for line in io.BytesIO(data):
        try:
            stats = json.loads(line)
            stats['Progress/tick']['mean'], stats['Progress/kimg']['mean']
        except (ValueError, KeyError, TypeError):
            continue
        yield stats
