"""What is known of an experiment's stages: which are finished and with what outputs, how long they took.

Of each stage that was begun, a folder holds NAME.log, what it printed, and NAME.json: its `key` (see
`Records.key`) and `command`; `state`: running, finished, failed or stopped; `begun`, seconds since 1970;
`seconds`, how long it ran before that or, once ended, in all; of a finished one `outputs`: by path a `mark`,
which is quick to compare, and `sha256` of the contents. One that was adopted is finished, with `adopted` in
place of the times. Scripts of `experiments.stage_scripts` leave NAME-HASH.done there and remove NAME.json.
"""

import hashlib
import json
import os
import time
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np

from torch_utils.files import sha256_file, write_json


class Records:
    """The records of an experiment's stages in `folder`.

    A stage is asked about when those that it needs are finished.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self._keys, self._contents = {}, {}  # of finished stages, by name: their key, their outputs' SHA-256
        self._inputs = {}  # what is known of files by path, as of `_seen`

    def key(self, stage) -> str:
        """A hash of its command, its input files' contents, and keys and outputs of the stages it needs."""
        parts = [stage.command, [self._input(path) for path in stage.inputs],
                 [[self._keys[need], self._contents[need]] for need in stage.needs]]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()

    def read(self, name: str) -> dict:
        """The record of a stage; empty if there is none, or none such as is written here."""
        try:
            record = json.loads((self.folder / f'{name}.json').read_text(encoding='utf-8'))
        except (OSError, ValueError):
            return {}
        return record if _is_record(record) else {}

    def is_finished(self, stage) -> bool:
        """Whether it ended well with this key, and its outputs are still what it left."""
        record, key = self.read(stage.name), self.key(stage)
        if record.get('state') != 'finished' or record.get('key') != key or missing_output(stage):
            return False
        outputs = {}
        for path in stage.outputs:
            recorded = record['outputs'].get(str(path), {})
            outputs[str(path)] = recorded if recorded.get('mark') == _mark(path) else _seen(path)
            if outputs[str(path)]['sha256'] != recorded.get('sha256'):
                return False
        if outputs != record['outputs']:  # the same contents with other times
            self._write(stage.name, record | {'outputs': outputs})
        self._remember(stage.name, key, outputs)
        return True

    def begin(self, stage, command: str) -> bool:
        """Note that it runs from now on; returns whether it goes on with what an equal one left unfinished.

        Otherwise outputs that were recorded are removed, so that nothing of another command or other inputs
        stays in them. What is there without a record is the user's; the script itself deals with it.
        """
        record, key = self.read(stage.name), self.key(stage)
        goes_on = record.get('key') == key and record.get('state') != 'finished'
        if record and not goes_on:
            for path in stage.outputs:
                for file in _images(path) if path.is_dir() else [path]:
                    file.unlink(missing_ok=True)
        for marker in self.folder.glob(f'{stage.name}-????????????.done'):  # true of other outputs
            marker.unlink()
        self._write(stage.name, {'key': key, 'command': command, 'state': 'running', 'begun': time.time(),
                                 'seconds': record.get('seconds', 0) if goes_on else 0})
        return goes_on

    def end(self, stage, state: str) -> None:
        """Note how a stage that was begun ended. A finished one has all its outputs."""
        record = self.read(stage.name)
        if not record:  # somebody removed it meanwhile: then nothing is known of the stage
            return
        record |= {'state': state, 'seconds': round(record['seconds'] + time.time() - record['begun'], 1)}
        if state == 'finished':
            record['outputs'] = {str(path): _seen(path) for path in stage.outputs}
            self._remember(stage.name, record['key'], record['outputs'])
        self._write(stage.name, record)

    def may_adopt(self, stage) -> bool:
        """Whether its outputs are there, and are not what another command or an unfinished run left."""
        record = self.read(stage.name)
        if missing_output(stage) or record.get('state', 'finished') != 'finished':
            return False
        recorded = record.get('outputs', {})
        unchanged = all(recorded.get(str(path), {}).get('mark') == _mark(path) for path in stage.outputs)
        return not record or not unchanged or record.get('key') == self.key(stage)

    def adopt(self, stage, command: str) -> None:
        """Take a stage for finished whose outputs are there, whoever made them; its log is of another run."""
        (self.folder / f'{stage.name}.log').unlink(missing_ok=True)
        key, outputs = self.key(stage), {str(path): _seen(path) for path in stage.outputs}
        self._write(stage.name, {'key': key, 'command': command, 'state': 'finished', 'adopted': True,
                                 'outputs': outputs})
        self._remember(stage.name, key, outputs)

    def stop_stale(self) -> None:
        """Note as stopped what a killed process left as running; for who alone may run stages now."""
        for path in self.folder.glob('*.json'):
            record = self.read(path.stem)
            if record.get('state') == 'running':
                self._write(path.stem, record | {'state': 'stopped'})

    def _input(self, path: Path) -> str:
        """SHA-256 of a file or of all in a folder; that of an unchanged one is computed once."""
        if self._inputs.get(path, {}).get('mark') != _mark(path, _all_files):
            self._inputs[path] = _seen(path, _all_files)
        return self._inputs[path]['sha256']

    def _remember(self, name: str, key: str, outputs: dict) -> None:
        self._keys[name], self._contents[name] = key, [output['sha256'] for output in outputs.values()]

    def _write(self, name: str, record: dict) -> None:
        write_json(self.folder / f'{name}.json', record)


def missing_output(stage) -> Path | None:
    """The first output that isn't there or not whole.

    A folder of images must have as many as the stage makes, no more; a file of ranks must have them all.
    """
    for path in stage.outputs:
        if path.is_dir():
            whole = stage.num_images in (None, number_of_images(path))
        else:
            whole = path.exists() and (not path.match('ranks-*.npz') or _has_all_ranks(path))
        if not whole:
            return path
    return None


def number_of_images(folder: Path) -> int:
    """How many there are in a folder of images."""
    return sum(1 for _ in _images(folder))


def _has_all_ranks(path: Path) -> bool:
    """Whether a file of `jacobians.rank_file` lacks none."""
    try:
        with np.load(path, allow_pickle=False) as file:
            return bool((file['rank'] >= 0).all())
    except (OSError, ValueError, KeyError, EOFError, AttributeError, zipfile.BadZipFile, zlib.error):
        return False


def _is_record(record) -> bool:
    """Whether it has what its state demands, each of its type."""
    kinds = {'key': str, 'seconds': int | float, 'begun': int | float, 'outputs': dict}
    needed = {'running': ['seconds', 'begun'], 'finished': ['outputs'], 'failed': [], 'stopped': []}
    return (isinstance(record, dict) and record.get('state') in needed
            and all(name in record for name in needed[record['state']])
            and all(isinstance(record[name], kind) for name, kind in kinds.items() if name in record)
            and all(isinstance(output, dict) for output in record.get('outputs', {}).values()))


def _images(folder: Path) -> Iterator[Path]:
    return folder.glob('*.png')


def _all_files(folder: Path) -> Iterator[Path]:
    return (Path(parent, name) for parent, _, names in os.walk(folder) for name in names)


def _mark(path: Path, files_of: Callable[[Path], Iterable[Path]] = _images) -> str:
    """Size and time of a file; of a folder, the hash of those of its files."""
    if path.is_dir():
        return _hash_of_lines(f'{file.relative_to(path)} {_mark(file)}' for file in files_of(path))
    status = path.stat()
    return f'{status.st_size} {status.st_mtime_ns}'


def _seen(path: Path, files_of: Callable[[Path], Iterable[Path]] = _images) -> dict:
    """Mark and contents of an output, see the module's text, or of an input; of a folder, of its files."""
    if not path.is_dir():
        return {'mark': _mark(path), 'sha256': sha256_file(path)}
    return {'mark': _mark(path, files_of), 'sha256': _hash_of_lines(
        f'{file.relative_to(path)} {sha256_file(file)}' for file in files_of(path))}


def _hash_of_lines(lines: Iterable[str]) -> str:
    return hashlib.sha256('\n'.join(sorted(lines)).encode('utf-8', 'surrogateescape')).hexdigest()
