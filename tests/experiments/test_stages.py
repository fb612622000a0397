"""Stages run in order of need, side by side, and only once."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest

from experiments import stages
from experiments.stages import Stage, run_stages
from helpers import ROOT
from torch_utils.errors import UserError
from torch_utils.files import is_locked

APPEND = """
import sys
text, path = sys.argv[1:]
open(path, 'a').write(text)
open('calls.txt', 'a').write(text)
"""
HOLD = """
import os, pathlib, signal, sys, time
path = pathlib.Path(sys.argv[1])
signal.signal(signal.SIGTERM, lambda *_: (path.with_suffix('.saved').touch(), os._exit(143)))
path.with_suffix('.begun').write_text(str(os.getpid()))
while not path.with_suffix('.go').exists():
    time.sleep(0.02)
path.touch()
"""
RUN = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from experiments import stages
stages.SCRIPTS = Path('scripts')
stages.run_stages([stages.Stage(name='a', command=('hold.py', 'a.txt'), outputs=(Path('a.txt'),))],
                  records=Path('mine/records'))
"""
FAIL = """
print('first words')
raise SystemExit('no data to be had')
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty folder; append.py, fail.py and hold.py stand in for the scripts."""
    scripts = tmp_path / 'scripts'
    scripts.mkdir()
    for name, text in (('append', APPEND), ('fail', FAIL), ('hold', HOLD)):
        (scripts / f'{name}.py').write_text(text)
    monkeypatch.setattr(stages, 'SCRIPTS', scripts)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def calls(folder):
    """What append.py was called with since this was asked last."""
    path = folder / 'calls.txt'
    text = path.read_text() if path.exists() else ''
    path.unlink(missing_ok=True)
    return text


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
    assert calls(folder) == 'xy'
    run(folder, *todo)
    assert calls(folder) == ''


@pytest.mark.parametrize('damage', [
    lambda path: path.unlink(), lambda path: path.write_text(''), lambda path: path.write_text('z')])
def test_an_output_that_is_missing_or_not_as_it_was_left_is_made_again(damage, folder):
    todo = [append(folder, 'a', 'x'), append(folder, 'b', 'y', needs=('a',))]
    run(folder, *todo)
    damage(folder / 'a.txt')
    calls(folder)
    run(folder, *todo)
    assert (folder / 'a.txt').read_text() == 'x'
    assert calls(folder) == 'x'  # with the same contents again, nothing changes for the next stage


def test_a_folder_must_hold_the_images_that_were_made(folder):
    (folder / 'scripts' / 'images.py').write_text(
        'import pathlib\n'
        'for i in range(3): pathlib.Path(f"samples/{i}.png").write_text(str(i))\n'
        'open("calls.txt", "a").write("x")')
    stage = Stage(name='a', command=('images.py',), outputs=(folder / 'samples',), num_images=3)
    (folder / 'samples').mkdir()
    (folder / 'samples' / '9.png').write_text('of an earlier run')
    (folder / 'records').mkdir()
    record = {'key': 'of another command', 'state': 'finished', 'outputs': {}}
    (folder / 'records' / 'a.json').write_text(json.dumps(record))
    run(folder, stage)
    assert [path.name for path in sorted((folder / 'samples').iterdir())] == ['0.png', '1.png', '2.png']
    (folder / 'samples' / 'notes.txt').touch()
    os.utime(folder / 'samples' / '1.png', (1, 1))
    run(folder, stage)
    assert calls(folder) == 'x'  # neither other files nor other times count
    (folder / 'samples' / '1.png').write_text('')
    run(folder, stage)
    (folder / 'samples' / '2.png').unlink()
    run(folder, stage)
    assert calls(folder) == 'xx'
    with pytest.raises(UserError, match='did not leave '):
        run(folder, replace(stage, num_images=4))


@pytest.mark.parametrize('adopt', [False, True])
def test_a_folder_of_more_images_than_are_wanted_is_made_anew(adopt, folder):
    (folder / 'scripts' / 'images.py').write_text(
        'import pathlib, sys\n'
        'for i in range(int(sys.argv[1])): pathlib.Path(f"samples/{i}.png").write_text(str(i))')
    (folder / 'samples').mkdir()
    for number in 6, 4:
        stage = Stage(name='a', command=('images.py', str(number)), outputs=(folder / 'samples',),
                      num_images=number)
        run_stages([stage], records=folder / 'records', adopt=adopt)
        (folder / 'samples' / '0.png').touch()  # so that it is not known as what the other command left
    assert len(list((folder / 'samples').iterdir())) == 4


def test_what_is_there_without_a_record_is_not_removed(folder):
    """A user who has made images and snapshots by hand may have forgotten --adopt."""
    (folder / 'scripts' / 'nothing.py').write_text('')
    (folder / 'samples').mkdir()
    for name in 'samples/0.png', 'samples/1.png', 'net.pkl':
        (folder / name).write_text('by hand')
    stage = Stage(name='a', command=('nothing.py',), outputs=(folder / 'samples', folder / 'net.pkl'),
                  num_images=2)
    run(folder, stage)
    assert [path.read_text() for path in folder.rglob('*.p[nk][gl]')] == ['by hand'] * 3
    (folder / 'samples' / '2.png').touch()
    (folder / 'records' / 'a.json').unlink()
    with pytest.raises(UserError, match=r'stage a makes 2 images, but .*samples holds 3'):
        run(folder, stage)


def test_what_follows_from_another_output_is_made_again(folder):
    (folder / 'scripts' / 'time.py').write_text(
        'import time\nopen("a.txt", "w").write(str(time.time_ns()))\nopen("calls.txt", "a").write("t")')
    todo = [Stage(name='a', command=('time.py',), outputs=(folder / 'a.txt',)),
            append(folder, 'b', 'y', needs=('a',))]
    run(folder, *todo)
    (folder / 'a.txt').unlink()
    run(folder, *todo)
    assert calls(folder) == 'tyty'


def test_another_command_or_input_runs_the_stage_and_all_after_it_again(folder):
    data = folder / 'data'
    data.write_text('1')
    todo = [append(folder, 'a', 'x', inputs=(data,)), append(folder, 'b', 'y', needs=('a',))]
    run(folder, *todo)
    data.write_text('2')
    run(folder, *todo)
    assert calls(folder) == 'xyxy'
    run(folder, append(folder, 'a', 'z', inputs=(data,)), todo[1])
    assert calls(folder) == 'zy'
    assert (folder / 'a.txt').read_text() == 'z'  # nothing is left of the outputs before


def test_a_folder_of_inputs_counts_with_all_that_is_in_it(folder):
    (folder / 'images' / 'class').mkdir(parents=True)
    (folder / 'images' / 'class' / '0.jpg').write_text('an image')
    stage = append(folder, 'a', 'x', inputs=(folder / 'images',))
    run(folder, stage)
    run(folder, stage)
    assert calls(folder) == 'x'
    (folder / 'images' / 'class' / '0.jpg').write_text('another')
    run(folder, stage)
    assert calls(folder) == 'x'


@pytest.mark.parametrize('record', [
    '[]', '{"state": "finished"}', '{"state": "finished", "key": "%s", "outputs": []}',
    '{"state": "finished", "key": "%s", "outputs": {"a.txt": 5}}', '{"state": "bogus", "seconds": "12"}',
    '{"state": "running", "key": "%s", "seconds": "x", "begun": 1}'])
def test_a_damaged_record_is_as_none(record, folder):
    stage = append(folder, 'a', 'x')
    run(folder, stage)
    path = folder / 'records' / 'a.json'
    path.write_text(record.replace('%s', json.loads(path.read_text())['key']))
    calls(folder)
    run(folder, stage)
    assert calls(folder) == 'x'


def test_a_failing_stage_is_named_with_its_last_words_and_log(folder):
    stage = Stage(name='bad', command=('fail.py',), outputs=())
    with pytest.raises(UserError, match=r'stage bad ended with status 1: no data to be had .*bad\.log'):
        run(folder, stage)
    with pytest.raises(UserError, match='stage bad'):  # and isn't taken for finished
        run(folder, stage)
    assert json.loads((folder / 'records' / 'bad.json').read_text())['state'] == 'failed'


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
    other = append(folder, 'b', 'z', needs=('a',))
    run_stages([todo[0], other], records=folder / 'records', adopt=True)
    assert (folder / 'b.txt').read_text() == 'z'  # y was known to be of the other command
    (folder / 'b.txt').write_text('made since')
    run_stages(todo, records=folder / 'records', adopt=True)
    assert (folder / 'b.txt').read_text() == 'made since'
    assert not (folder / 'records' / 'b.log').exists()  # which told of z


@pytest.mark.parametrize('state', ['running', 'stopped', 'failed'])
def test_an_unfinished_stage_is_not_adopted(state, folder):
    stage = append(folder, 'a', 'x')
    run(folder, stage)
    record = folder / 'records' / 'a.json'
    record.write_text(json.dumps(json.loads(record.read_text()) | {'state': state}))
    run_stages([stage], records=folder / 'records', adopt=True)
    assert calls(folder) == 'xx'


def test_a_file_that_lacks_ranks_is_not_adopted(folder):
    (folder / 'scripts' / 'ranks.py').write_text(
        'import numpy\nnumpy.savez("ranks-0.npz", rank=[[1, 2], [3, 4]])')
    ranks = folder / 'ranks-0.npz'
    stage = Stage(name='a', command=('ranks.py',), outputs=(ranks,))
    for half in (lambda: np.savez(ranks, rank=[[1, 2], [-1, -1]]), lambda: ranks.write_text('cut short')):
        half()
        (folder / 'records' / 'a.json').unlink(missing_ok=True)
        run_stages([stage], records=folder / 'records', adopt=True)
        assert np.load(ranks)['rank'].min() == 1


def test_what_a_killed_runner_left_as_running_is_noted_as_stopped(folder):
    """Before anything is run, so that a report does not show it as under way beside what is."""
    (folder / 'records').mkdir()
    for name in 'old', 'b':
        (folder / 'records' / f'{name}.json').write_text(
            json.dumps({'state': 'running', 'key': 'k', 'begun': time.time() - 3600, 'seconds': 0}))
    (folder / 'scripts' / 'see.py').write_text(
        'import json\nopen("seen.txt", "w").write(json.load(open("records/old.json"))["state"] +\n'
        '    json.load(open("records/b.json"))["state"])')
    run(folder, Stage(name='a', command=('see.py',), outputs=()), append(folder, 'b', 'y', needs=('a',)))
    assert (folder / 'seen.txt').read_text() == 'stoppedstopped'


def test_what_is_to_be_done_first_is_done_when_nobody_else_runs_stages(folder):
    seen, mine = [], folder / 'mine'
    run_stages([], records=mine / 'records', begin=lambda: seen.append(is_locked(mine)))
    assert seen == [True]


def test_a_marker_of_other_files_is_removed(folder):
    """A Makefile that is run again must not take what reproduce.py has replaced for its own."""
    (folder / 'records').mkdir()
    for name in 'a-0123456789ab', 'a-log-0123456789ab':
        (folder / 'records' / f'{name}.done').touch()
    run(folder, append(folder, 'a', 'x'))
    assert [path.name for path in (folder / 'records').glob('*.done')] == ['a-log-0123456789ab.done']


def start_runner(folder, hangup=signal.SIG_DFL):
    """A process that runs one stage, which holds until a.go is there. hangup: what SIGHUP does before."""
    def set_signals():  # whatever the tests were started from
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGHUP, hangup)

    process = subprocess.Popen([sys.executable, '-c', RUN, ROOT / 'edm'], cwd=folder, stderr=subprocess.PIPE,
                               stdout=subprocess.DEVNULL, text=True, start_new_session=True,
                               preexec_fn=set_signals)
    wait_for(lambda: (folder / 'a.begun').exists() and (folder / 'a.begun').read_text())
    return process


def wait_for(condition):
    until = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.02)


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_the_stages_and_the_next_run_goes_on(number, folder):
    runner = start_runner(folder)
    os.killpg(runner.pid, number)  # as Ctrl-C does, to all processes of the group
    said = runner.communicate()[1]
    assert runner.returncode == 128 + number
    assert number.name in said
    assert 'the same command goes on' in said
    assert (folder / 'a.saved').exists()
    with pytest.raises(ProcessLookupError):
        os.kill(int((folder / 'a.begun').read_text()), 0)
    record = json.loads((folder / 'mine/records/a.json').read_text())
    assert record['state'] == 'stopped'
    (folder / 'a.go').touch()
    subprocess.run([sys.executable, '-c', RUN, ROOT / 'edm'], cwd=folder, check=True, capture_output=True)
    ended = json.loads((folder / 'mine/records/a.json').read_text())
    assert ended['state'] == 'finished'
    assert ended['seconds'] > record['seconds']  # of both parts


def test_nohup_keeps_the_stages_running(folder):
    runner = start_runner(folder, hangup=signal.SIG_IGN)
    os.killpg(runner.pid, signal.SIGHUP)
    time.sleep(0.2)
    (folder / 'a.go').touch()
    runner.communicate()
    assert runner.returncode == 0
    assert not (folder / 'a.saved').exists()


def test_a_second_run_waits_for_the_first_and_finds_its_work_done(folder):
    first = start_runner(folder)
    second = subprocess.Popen([sys.executable, '-c', RUN, ROOT / 'edm'], cwd=folder, stdout=subprocess.PIPE,
                              stderr=subprocess.PIPE, text=True)
    assert 'another process is running stages of mine; waiting' in second.stderr.readline()
    (folder / 'a.go').touch()
    assert '1 of 1 stages are finished already' in second.communicate()[0]
    first.communicate()
    assert (first.returncode, second.returncode) == (0, 0)


def test_after_a_killed_runner_the_next_waits_for_the_stage_that_outlives_it(folder):
    first = start_runner(folder)
    first.kill()
    first.communicate()
    second = subprocess.Popen([sys.executable, '-c', RUN, ROOT / 'edm'], cwd=folder, stdout=subprocess.PIPE,
                              stderr=subprocess.PIPE, text=True)
    assert 'another process is running stages of mine; waiting' in second.stderr.readline()
    assert not (folder / 'a.saved').exists()
    (folder / 'a.go').touch()
    second.communicate()
    assert second.returncode == 0
    assert json.loads((folder / 'mine/records/a.json').read_text())['state'] == 'finished'
