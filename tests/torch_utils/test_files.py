"""Files that appear whole or not at all, and those whose place they may take."""

import fcntl
import os
import subprocess

import click
import pytest

from torch_utils import files

SPELLINGS = {
    'its name': lambda path: path,
    'a longer name': lambda path: path.parent / '..' / path.parent.name / path.name,
    'a relative name': lambda path: os.path.relpath(path),
    'a symbolic link': lambda path: linked(path, os.symlink),
    'a hard link': lambda path: linked(path, os.link),
    'a linked folder': lambda path: linked(path.parent, os.symlink) / path.name,
}


def linked(path, link):
    link(path, path.with_name(f'link-{path.name}'))
    return path.with_name(f'link-{path.name}')


@pytest.mark.parametrize('spelling', SPELLINGS)
def test_an_output_that_is_an_input_is_refused_by_every_name(spelling, tmp_path):
    path = tmp_path / 'folder' / 'a.npz'
    path.parent.mkdir()
    path.write_bytes(b'')  # which may be replaced, were it no input
    other = str(SPELLINGS[spelling](path))
    for paths in ([str(path)], ['http://127.0.0.1/x', 'missing.npz', str(path)]):
        with pytest.raises(click.UsageError, match=r'--out .*: is --data as well'):
            files.check_outputs({'--data': paths}, {'--out': (other, 'features')}, overwrite=True)
    with pytest.raises(click.UsageError, match=r'--json .*: is --out as well'):
        files.check_outputs({}, {'--out': (str(path), 'features'), '--json': (other, 'scores')})
    files.check_outputs({'--data': [str(path)]}, {'--out': (str(tmp_path / 'a.npz'), 'features')})


def test_outputs_that_are_not_there_yet_are_told_apart_by_their_place(tmp_path):
    new = str(tmp_path / 'new.npz')
    with pytest.raises(click.UsageError, match='--json'):
        files.check_outputs({}, {'--out': (new, None), '--json': (f'{tmp_path}/x/../new.npz', None)})
    files.check_outputs({'--data': ['missing.npz']}, {'--out': (new, None), '--json': (None, 'scores')})


@pytest.mark.parametrize('kind', files.KINDS)
def test_a_file_of_another_kind_is_replaced_with_overwrite_only(kind, tmp_path):
    path, outputs = tmp_path / 'x', {'--out': (str(tmp_path / 'x'), kind)}
    starts, marks = files.KINDS[kind]
    for text in b'notes', starts[0], starts[0] + bytes(1 << 18), b' ' + starts[0] + b''.join(marks):
        path.write_bytes(text)
        with pytest.raises(click.UsageError, match=r'--out .*: exists, and is no .*--overwrite'):
            files.check_outputs({}, outputs)
        files.check_outputs({}, outputs, overwrite=True)
    path.write_bytes(starts[0] + bytes(1 << 18) + b''.join(marks) + bytes(1000))
    files.check_outputs({}, outputs)


def test_a_device_is_never_replaced():
    with pytest.raises(click.UsageError, match='/dev/null: is no regular file'):
        files.check_outputs({}, {'--json': ('/dev/null', 'scores')}, overwrite=True)


def test_temporary_files_of_dead_processes_are_removed_and_no_others(tmp_path):
    with subprocess.Popen(['true']) as process:
        pass
    dead = process.pid
    gone = [f'.options.json.{dead}.tmp', f'.new-folder.{dead}.tmp', f'.x.{os.getpid()}.tmp']
    kept = [f'.x.{os.getppid()}.tmp', f'.elsewhere.{dead}.tmp', f'x.{dead}.tmp', f'.{dead}.tmp', '.x.9x.tmp']
    for name in gone + kept:
        (tmp_path / name).write_bytes(b'x')
    (tmp_path / gone[1]).unlink()
    (tmp_path / gone[1]).mkdir()
    (tmp_path / gone[1] / 'image.png').write_bytes(b'x')
    with open(tmp_path / kept[1], 'rb') as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # as a process of another machine would
        files.write_json(tmp_path / 'new.json', {})
    assert {path.name for path in tmp_path.iterdir()} == {'new.json', *kept}


def test_a_file_is_locked_while_it_is_written(tmp_path):
    with files.atomic_write(tmp_path / 'x'):
        (path,) = tmp_path.iterdir()
        assert not files._is_abandoned(path, os.getpid())
    assert files._is_abandoned(tmp_path / 'x', os.getpid())
