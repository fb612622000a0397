import hashlib
import json
import subprocess

import click
import numpy as np
import pytest
import torch

from helpers import ROOT, run
from torch_utils import cli, provenance


@cli.command()
@click.option('--steps', type=int, default=18)
@click.option('--seeds', type=cli.IntList(), default='0-2')
@click.option('--most', type=float, default=float('inf'))
@click.option('--names', multiple=True)
def script(**opts):
    click.echo(json.dumps(provenance.record(seed=np.int64(7)), allow_nan=False))


def test_the_card_says_what_made_a_result():
    record = json.loads(run(script, '--steps=4').stdout)
    assert record['options'] == {'steps': 4, 'seeds': '0-2', 'most': 'inf', 'names': []}
    assert record['seed'] == 7
    assert (record['torch'], record['numpy']) == (torch.__version__, np.__version__)
    assert record['command']
    assert record['python'].startswith('3.')
    assert record['time_utc'].endswith('+00:00')
    assert 'commit' in record


def test_a_record_is_dirty_by_changed_code_but_not_by_changed_pictures(tmp_path, monkeypatch):
    def git(*args):
        subprocess.run(['git', '-c', 'user.name=a', '-c', 'user.email=b', *args], cwd=tmp_path, check=True,
                       capture_output=True)

    for folder in 'edm/torch_utils', 'figures':
        (tmp_path / folder).mkdir(parents=True)
    code, picture = tmp_path / 'edm' / 'torch_utils' / 'provenance.py', tmp_path / 'figures' / 'a.png'
    for path in code, picture:
        path.write_text('first')
    git('init')
    git('add', '.')
    git('commit', '-m', 'first')
    monkeypatch.setattr(provenance, '__file__', str(code))
    commit = provenance.commit.__wrapped__
    clean = commit()
    picture.write_text('second')
    assert clean
    assert commit() == clean
    code.write_text('second')
    assert commit() == f'{clean}-dirty'


def test_the_command_line_does_not_tell_where_the_checkout_lies(monkeypatch):
    monkeypatch.setattr('sys.argv', [str(ROOT / 'edm' / 'train.py'), '--desc', 'two words'])
    assert provenance.command_line() == "edm/train.py --desc 'two words'"
    monkeypatch.setattr('sys.argv', ['elsewhere/train.py'])
    assert provenance.command_line() == 'elsewhere/train.py'


def test_inputs_are_known_by_their_contents(tmp_path):
    (tmp_path / 'file').write_bytes(b'abc')
    folder = tmp_path / 'folder'
    (folder / 'sub').mkdir(parents=True)
    (folder / 'sub' / 'b').write_bytes(b'2')
    (folder / 'sub-a').write_bytes(b'1')
    record = provenance.record(inputs=[tmp_path / 'file', str(folder), None])
    one, two = (hashlib.sha256(text).hexdigest() for text in (b'1', b'2'))
    lines = f'{one}  sub-a\n{two}  sub/b\n'  # as sha256sum prints them
    assert record['inputs'] == {str(tmp_path / 'file'): hashlib.sha256(b'abc').hexdigest(),
                              str(folder): hashlib.sha256(lines.encode()).hexdigest()}
    (folder / 'sub' / 'b').rename(folder / 'sub' / 'c')
    assert provenance.fingerprint(folder) != record['inputs'][str(folder)]
    assert record['options'] == {}


def test_a_folder_is_known_by_what_lies_behind_links_too(tmp_path):
    (tmp_path / 'images').mkdir()
    (tmp_path / 'images' / 'a.png').write_bytes(b'1')
    (tmp_path / 'set').mkdir()
    (tmp_path / 'set' / 'linked').symlink_to(tmp_path / 'images')
    (tmp_path / 'set' / 'circle').symlink_to(tmp_path / 'set')
    before = provenance.fingerprint(tmp_path / 'set')
    line = f'{hashlib.sha256(b"1").hexdigest()}  linked/a.png\n'
    assert before == hashlib.sha256(line.encode()).hexdigest()
    (tmp_path / 'images' / 'a.png').write_bytes(b'2')
    assert provenance.fingerprint(tmp_path / 'set') != before


def test_a_missing_input_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        provenance.record(inputs=[tmp_path / 'missing'])
