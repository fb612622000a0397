"""Stages run in order of need, side by side, and only once."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest

from experiments import launcher, stages
from experiments.stages import Stage, done_markers, run_stages
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
path.write_text('held')
"""
RUN = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from experiments import launcher, stages
stages.SCRIPTS, launcher.PRELOADED = Path('scripts'), ()
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
    monkeypatch.setattr(launcher, 'PRELOADED', ())
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


@pytest.mark.parametrize('damage', [lambda path: path.unlink(), lambda path: path.write_text('')])
def test_an_output_that_is_missing_or_empty_is_made_again_and_all_that_follows(damage, folder):
    todo = [append(folder, 'a', 'x'), append(folder, 'b', 'y', needs=('a',)), append(folder, 'c', 'z')]
    run(folder, *todo, jobs=1)
    damage(folder / 'a.txt')
    calls(folder)
    run(folder, *todo, jobs=1)
    assert (folder / 'a.txt').read_text() == 'x'
    assert calls(folder) == 'xy'


def test_what_follows_is_not_finished_from_the_moment_a_stage_is_made_again(folder):
    """Killed before it comes to the second, the runner must leave nothing that counts as finished."""
    bad = Stage(name='a', command=('fail.py',), outputs=(folder / 'a.txt',))
    todo = [bad, append(folder, 'b', 'y', needs=('a',))]
    records = folder / 'records'
    records.mkdir()
    for path in done_markers(todo, records).values():
        path.touch()
    (folder / 'b.txt').write_text('of another a')
    with pytest.raises(UserError, match='stage a'):
        run(folder, *todo)
    assert not list(records.glob('*.done'))


IMAGES = """
import pathlib, sys
for i in range(int(sys.argv[1])):
    path = pathlib.Path(f'samples/{i}.png')
    path.exists() or path.write_text(str(i))
open('calls.txt', 'a').write('x')
"""


def images(folder, number):
    (folder / 'scripts' / 'images.py').write_text(IMAGES)
    (folder / 'samples').mkdir(exist_ok=True)
    return Stage(name='a', command=('images.py', str(number)), outputs=(folder / 'samples',),
                 num_images=number)


def test_a_folder_must_hold_the_images_that_were_made(folder):
    stage = images(folder, 3)
    run(folder, stage)
    (folder / 'samples' / 'notes.txt').touch()
    run(folder, stage)
    assert calls(folder) == 'x'  # other files don't count
    (folder / 'samples' / '2.png').unlink()
    run(folder, stage)
    assert calls(folder) == 'x'
    assert (folder / 'samples' / '2.png').exists()
    with pytest.raises(UserError, match=r'stage a makes 4 images, but .*samples holds 3'):
        run(folder, replace(stage, num_images=4))


def test_what_another_command_left_is_removed_and_what_is_the_user_s_is_not(folder):
    (folder / 'samples').mkdir()
    (folder / 'samples' / '0.png').write_text('by hand')
    run(folder, images(folder, 6))
    assert (folder / 'samples' / '0.png').read_text() == 'by hand'
    run(folder, images(folder, 4))
    assert sorted(path.name for path in (folder / 'samples').iterdir()) == [f'{i}.png' for i in range(4)]
    assert (folder / 'samples' / '0.png').read_text() == '0'


def test_a_table_that_several_add_to_stays_when_one_is_made_again(folder):
    todo = [replace(append(folder, name, name), outputs=(folder / 'table.txt',),
                    command=('append.py', name, str(folder / 'table.txt'))) for name in 'ab']
    run(folder, *todo, jobs=1)
    run(folder, replace(todo[0], command=('append.py', 'c', str(folder / 'table.txt'))), todo[1], jobs=1)
    assert (folder / 'table.txt').read_text() == 'abc'
    (folder / 'table.txt').unlink()
    run(folder, *todo, jobs=1)
    assert (folder / 'table.txt').read_text() == 'ab'


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


def test_the_hash_covers_the_stages_that_are_needed(folder):
    """So that scripts of make and Slurm, which know markers alone, run what follows again, too."""
    after = append(folder, 'b', 'y', needs=('a',))
    one, other = (done_markers([append(folder, 'a', text), after], folder) for text in 'xz')
    assert one['a'] != other['a']
    assert one['b'] != other['b']


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


def test_a_failing_stage_is_named_with_its_last_words_and_log(folder):
    stage = Stage(name='bad', command=('fail.py',), outputs=())
    with pytest.raises(UserError, match=r'stage bad ended with status 1: no data to be had .*bad\.log'):
        run(folder, stage)
    with pytest.raises(UserError, match='stage bad'):  # and isn't taken for finished
        run(folder, stage)
    assert [path.name[:4] + path.suffix for path in (folder / 'records').glob('bad-*')] == ['bad-.begun']


def test_a_stage_without_its_output_is_not_finished(folder):
    stage = Stage(name='a', command=('append.py', 'x', str(folder / 'elsewhere')),
                  outputs=(folder / 'a.txt',))
    with pytest.raises(UserError, match='did not leave'):
        run(folder, stage)


def test_the_command_line_that_is_printed_repeats_the_stage(folder, capsys):
    run(folder, append(folder, 'a', 'two words'))
    calls(folder)
    subprocess.run(capsys.readouterr().out.replace('python', sys.executable, 1), shell=True, check=True)
    assert calls(folder) == 'two words'


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


def test_what_is_to_be_done_first_is_done_when_nobody_else_runs_stages(folder):
    seen, mine = [], folder / 'mine'
    run_stages([], records=mine / 'records', begin=lambda: seen.append(is_locked(mine)))
    assert seen == [True]


def test_a_marker_of_other_files_is_removed(folder):
    """Who runs the other command again must not take what this one has replaced for finished."""
    (folder / 'records').mkdir()
    for name in 'a-0123456789ab', 'a-log-0123456789ab':
        (folder / 'records' / f'{name}.done').touch()
    run(folder, append(folder, 'a', 'x'))
    (own,) = done_markers([append(folder, 'a', 'x')], folder / 'records').values()
    assert set((folder / 'records').glob('*.done')) == {own, folder / 'records' / 'a-log-0123456789ab.done'}


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


def start_waiting_runner(folder):
    """A second process of the same stage, which must wait for the first and not start the stage."""
    begun, said = (folder / 'a.begun').read_text(), folder / 'said.txt'
    with open(said, 'w') as file:
        process = subprocess.Popen([sys.executable, '-c', RUN, ROOT / 'edm'], cwd=folder, stderr=file,
                                   stdout=subprocess.PIPE, text=True)
    wait_for(lambda: said.read_text().endswith('\n') or (folder / 'a.begun').read_text() != begun)
    if 'another process is running stages of mine; waiting' not in said.read_text():
        (folder / 'a.go').touch()  # ends both stages
        process.communicate()
        pytest.fail(f'did not wait: {said.read_text()}')
    return process


def finished(folder):
    return [path.name[:2] for path in (folder / 'mine' / 'records').glob('*.done')] == ['a-']


def wait_for(condition):
    until = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.02)


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_the_stages_and_the_next_run_resumes(number, folder):
    runner = start_runner(folder)
    os.killpg(runner.pid, number)  # as Ctrl-C does, to all processes of the group
    said = runner.communicate()[1]
    assert runner.returncode == 128 + number
    assert number.name in said
    assert 'the same command resumes' in said
    assert (folder / 'a.saved').exists()
    with pytest.raises(ProcessLookupError):
        os.kill(int((folder / 'a.begun').read_text()), 0)
    assert not finished(folder)
    (folder / 'a.go').touch()
    (folder / 'mine/records/a.log').write_text('of the first part')
    subprocess.run([sys.executable, '-c', RUN, ROOT / 'edm'], cwd=folder, check=True, capture_output=True)
    assert finished(folder)
    assert (folder / 'mine/records/a.log').read_text() == 'of the first part'  # the second adds to it


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
    second = start_waiting_runner(folder)
    (folder / 'a.go').touch()
    assert '1 of 1 stages are finished' in second.communicate()[0]
    first.communicate()
    assert (first.returncode, second.returncode) == (0, 0)


def test_after_a_killed_runner_the_next_waits_for_the_stage_that_outlives_it(folder):
    first = start_runner(folder)
    first.kill()
    first.communicate()
    second = start_waiting_runner(folder)
    assert not (folder / 'a.saved').exists()
    (folder / 'a.go').touch()
    second.communicate()
    assert second.returncode == 0
    assert finished(folder)
