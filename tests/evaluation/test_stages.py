"""Stages run in order of need, side by side, and only once."""

import json

import pytest

from evaluation import stages
from evaluation.stages import Stage, run_stages
from torch_utils.errors import UserError

APPEND = """
import sys
text, path = sys.argv[1:]
open(path, 'a').write(text)
"""
FAIL = """
print('first words')
raise SystemExit('no data to be had')
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty folder; append.py and fail.py stand in for the scripts."""
    scripts = tmp_path / 'scripts'
    scripts.mkdir()
    (scripts / 'append.py').write_text(APPEND)
    (scripts / 'fail.py').write_text(FAIL)
    monkeypatch.setattr(stages, 'SCRIPTS', scripts)
    return tmp_path


def append(folder, name, text, needs=(), inputs=()):
    path = folder / f'{name}.txt'
    return Stage(name=name, command=('append.py', text, str(path)), outputs=(path,), needs=needs,
                 inputs=inputs)


def run(folder, *todo, jobs=2):
    run_stages(todo, records=folder / 'records', jobs=jobs)


def test_a_stage_waits_for_those_it_needs(folder):
    shared = str(folder / 'shared.txt')
    chain = [Stage(name=name, command=('append.py', name, shared), outputs=(), needs=needs)
             for name, needs in [('a', ()), ('b', ('a',)), ('c', ('b',))]]
    run(folder, *chain)
    assert (folder / 'shared.txt').read_text() == 'abc'


def test_finished_stages_are_not_run_again(folder):
    todo = [append(folder, 'a', 'x'), append(folder, 'b', 'y', needs=('a',))]
    run(folder, *todo)
    run(folder, *todo)
    assert (folder / 'a.txt').read_text() == 'x'
    assert (folder / 'b.txt').read_text() == 'y'


def test_a_missing_output_is_made_again(folder):
    run(folder, append(folder, 'a', 'x'))
    (folder / 'a.txt').unlink()
    run(folder, append(folder, 'a', 'x'))
    assert (folder / 'a.txt').read_text() == 'x'


def test_another_command_or_input_runs_the_stage_and_all_after_it_again(folder):
    data = folder / 'data'
    data.write_text('1')
    todo = [append(folder, 'a', 'x', inputs=(data,)), append(folder, 'b', 'y', needs=('a',))]
    run(folder, *todo)
    data.write_text('2')
    run(folder, *todo)
    assert (folder / 'b.txt').read_text() == 'yy'
    run(folder, append(folder, 'a', 'z', inputs=(data,)), todo[1])
    assert (folder / 'a.txt').read_text() == 'xxz'
    assert (folder / 'b.txt').read_text() == 'yyy'


def test_a_failing_stage_is_named_with_its_last_words_and_log(folder):
    stage = Stage(name='bad', command=('fail.py',), outputs=())
    with pytest.raises(UserError, match=r'stage bad ended with status 1: no data to be had .*bad\.log'):
        run(folder, stage)
    with pytest.raises(UserError, match='stage bad'):  # and isn't taken for finished
        run(folder, stage)


def test_a_stage_without_its_output_is_not_finished(folder):
    stage = Stage(name='a', command=('append.py', 'x', str(folder / 'elsewhere')),
                  outputs=(folder / 'a.txt',))
    with pytest.raises(UserError, match='did not leave'):
        run(folder, stage)


def test_the_record_holds_a_command_line_that_repeats_the_stage(folder):
    run(folder, append(folder, 'a', 'two words'))
    record = json.loads((folder / 'records' / 'a.json').read_text())
    assert record['command'].startswith('python ')
    assert "append.py 'two words'" in record['command']


def test_each_stage_sees_one_gpu_of_those_given(folder):
    (folder / 'scripts' / 'gpu.py').write_text(
        'import os, sys, time\n'
        'open(sys.argv[1], "w").write(os.environ["CUDA_VISIBLE_DEVICES"])\n'
        'time.sleep(0.2)')
    todo = [Stage(name=name, command=('gpu.py', str(folder / name)), outputs=(folder / name,))
            for name in 'abcd']
    run_stages(todo, records=folder / 'records', gpus=[3, 5])
    seen = [(folder / name).read_text() for name in 'abcd']
    assert sorted(seen[:2]) == ['3', '5']
    assert set(seen) == {'3', '5'}


def test_stages_that_others_ran_are_adopted_if_wished(folder):
    todo = [append(folder, 'a', 'x'), append(folder, 'b', 'y', needs=('a',))]
    (folder / 'a.txt').write_text('made elsewhere')
    run_stages(todo, records=folder / 'records', adopt=True)
    assert (folder / 'a.txt').read_text() == 'made elsewhere'
    assert (folder / 'b.txt').read_text() == 'y'
