"""A run that was interrupted, however, and resumed ends with the bits of one that was not."""

import json
import os
import re
import shutil
import signal
from pathlib import Path

import pytest
import torch

import train
from helpers import assert_equal, fork, refuse, run
from image_sets import write
from training import launch, loop
from training.checkpoint import load_state
from training.loop import update_ema
from training.snapshot import load_snapshot

# Four steps a tick; dropout and augmentation draw random numbers, too.
TINY = ('--batch=250', '--cbase=4', '--cres=1', '--num_blocks=1', '--attn_resolutions=0', '--dropout=0.1',
        '--lr_rampup=1', '--ema=0.002', '--tick=1', '--dump=1', '--device=cpu', '--seed=3')


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    pixels = torch.randint(256, (6, 4, 4, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    path = tmp_path_factory.mktemp('data') / 'faces'
    path.mkdir()
    return write(path, {f'{i}.png': image.numpy() for i, image in enumerate(pixels)})


def arguments(data, folder, *more):
    return [f'--data={data}', f'--outdir={folder}', '--nosubdir', *TINY, *more]


def interrupted(moment, number, args, ranks=1):
    """Run train.py, interrupted (see interrupted.py); returns the exit statuses."""
    return fork(ranks, Path(__file__).with_name('interrupted.py'), moment, number, *args)[0]


def stats(folder):
    return [json.loads(line) for line in (folder / 'stats.jsonl').read_text().splitlines()]


def assert_equal_runs(one, other, kimg):
    """The same bits in the last state, and the same reports, each tick once."""
    states = [torch.load(folder / f'training-state-{kimg:06d}.pt') for folder in (one, other)]
    for state in states:
        del state['elapsed_sec'], state['run_id']
    assert_equal(*states)
    for key in ('Progress/tick', 'Progress/kimg', 'Progress/lr', 'Loss/loss', 'Gradient/norm'):
        assert [line[key] for line in stats(one)] == [line[key] for line in stats(other)]
    for folder in (one, other):
        ticks = re.findall(r'^tick (\d+)', (folder / 'log.txt').read_text(), re.MULTILINE)
        assert ticks == [str(tick) for tick in range(kimg + 1)]
        assert not list(folder.glob('.*'))


@pytest.fixture(scope='module')
def whole(data, tmp_path_factory):
    """The folder of a run that nothing interrupted."""
    folder = tmp_path_factory.mktemp('runs') / 'whole'
    run(train.main, *arguments(data, folder, '--duration=0.003'))
    return folder


def test_killed_and_resumed_equals_never_killed(data, whole, tmp_path):
    folder = tmp_path / 'killed'
    args = arguments(data, folder, '--duration=0.003')
    assert interrupted('kill', 7, args) == [-signal.SIGKILL]  # within tick 2; the last state is of tick 1
    assert not (folder / 'training-state-000002.pt').exists()
    assert interrupted('kill-write', 1, [*args, f'--resume={folder}']) == [-signal.SIGKILL]
    assert not (folder / 'training-state-000002.pt').exists()
    assert len(list(folder.glob('.training-state-000002.pt.*.tmp'))) == 1
    assert '\ntick 2 ' in (folder / 'log.txt').read_text()
    run(train.main, *args, f'--resume={folder}')
    assert_equal_runs(whole, folder, 3)


def test_three_processes_killed_and_resumed_equal_three_never_killed(data, tmp_path):
    """With three the sum of gradients depends on the order in which they are added, so on where they lie."""
    whole, folder = tmp_path / 'whole', tmp_path / 'killed'
    more = '--duration=0.003', '--batch=252', '--cbase=8'
    assert interrupted('none', 0, arguments(data, whole, *more), ranks=3) == [0] * 3
    args = arguments(data, folder, *more)
    assert interrupted('kill', 7, args, ranks=3) == [-signal.SIGKILL] * 3
    # One process alone gets the signal; in the next step all know and stop.
    args.append(f'--resume={folder}')
    assert interrupted('term', 3, args, ranks=3) == [143] * 3
    assert load_state(folder / 'training-state-000002.pt')['cur_nimg'] == 1260 + (3 + 1) * 252
    assert interrupted('none', 0, args, ranks=3) == [0] * 3
    assert_equal_runs(whole, folder, 3)


def test_auto_starts_goes_on_and_ends_the_same_run(data, whole, tmp_path):
    folder = tmp_path / 'auto'
    args = arguments(data, folder, '--duration=0.003', '--resume=auto')
    assert interrupted('kill', 7, args) == [-signal.SIGKILL]  # a new run: there is no folder yet
    assert interrupted('term', 3, args) == [143]  # resumes tick 1
    assert load_state(folder / 'training-state-000002.pt')['cur_nimg'] == 1250 + 3 * 250
    run(train.main, *args)
    assert_equal_runs(whole, folder, 3)
    last = folder / 'network-snapshot-000003.pkl'
    weights = load_snapshot(str(last))['ema'].state_dict()
    before = last.read_bytes()
    assert f'Done already: {last}' in run(train.main, *args).stdout
    assert last.read_bytes() == before
    last.write_bytes(b'damaged')
    run(train.main, *args)  # no step is left; the snapshot is made again
    assert_equal(load_snapshot(str(last))['ema'].state_dict(), weights)
    assert_equal_runs(whole, folder, 3)


def auto(data, folder, *args):
    """The state that --resume=auto would resume, or None, and what is said about it."""
    done = run(train.main, *arguments(data, folder, '--duration=0.003', '--resume=auto', *args, '--dry-run'))
    return json.loads(done.stdout).get('resume_state_dump'), done.stderr


def test_auto_starts_from_scratch_with_other_settings_or_data_and_says_why(data, whole, tmp_path):
    folder, newest = copy_run(whole, tmp_path), 'training-state-000003.pt'
    for args, why in ((['--lr=0.1'], 'optimizer_kwargs.lr was 0.001, is 0.1'),
                      (['--seed=4'], 'seed was 3, is 4'),
                      (['--augment=0'], 'augment_kwargs.p was 0.12, is None'),
                      (['--lr_decay=cosine', '--duration=0.004'], 'total_kimg was 3, is 4'),
                      (['--duration=0.002'], 'the run has seen 3 kimg, total_kimg is 2')):
        state, said = auto(data, folder, *args)
        assert state is None, args
        assert said.count('Starts from scratch: ') == 1
        assert why in said
    assert auto(data, tmp_path / 'nothing', '--lr=0.1') == (None, 'Dry run: nothing was written\n')
    assert auto(data, folder)[0] == str(folder / newest)
    options = json.loads((folder / 'training_options.json').read_text())
    options['made_by']['inputs'][str(data)] = '0' * 64  # other images of the same path, number and size
    (folder / 'training_options.json').write_text(json.dumps(options))
    state, said = auto(data, folder)
    assert state is None
    assert f'Starts from scratch: {data} has other contents now' in said
    refuse(train.main, f'--data={data}', f'--outdir={folder}', '--resume=auto', status=2,
           says=('--resume auto', '--nosubdir'))


def test_auto_goes_on_with_other_settings_that_leave_the_weights_alone(data, whole, tmp_path):
    folder, newest = copy_run(whole, tmp_path), 'training-state-000003.pt'
    (folder / newest).unlink()
    said = run(train.main, *arguments(
        data, folder, '--duration=0.003', '--resume=auto', '--workers=3', '--cache=0', '--dump=7', '--keep=1',
        '--snap=2', '--tick=2', '--max-nan=5', '--preview')).stderr
    assert 'from scratch' not in said
    assert json.loads((folder / 'training_options.json').read_text())['resume_kimg'] == 2
    states = [load_state(path / newest) for path in (whole, folder)]
    for key in ('net', 'ema', 'optimizer_state', 'data_order', 'random_states', 'cur_nimg'):
        assert_equal(states[0][key], states[1][key], key)


def test_auto_extends_a_run_to_the_bits_of_one_that_was_longer_from_the_start(data, whole, tmp_path):
    folder, longer = copy_run(whole, tmp_path), tmp_path / 'longer'
    run(train.main, *arguments(data, folder, '--duration=0.004', '--resume=auto'))
    run(train.main, *arguments(data, longer, '--duration=0.004'))
    assert_equal_runs(longer, folder, 4)


def test_auto_passes_over_a_damaged_state_with_a_warning(data, whole, tmp_path):
    folder = copy_run(whole, tmp_path)
    newest = folder / 'training-state-000003.pt'
    newest.write_bytes(newest.read_bytes()[:-2000])
    state, said = auto(data, folder)
    assert state == str(folder / 'training-state-000002.pt')
    assert len(re.findall(f'^Passed over: .*{newest}', said, re.MULTILINE)) == 1
    run(train.main, *arguments(data, folder, '--duration=0.003', '--resume=auto'))
    assert_equal_runs(whole, folder, 3)
    for path in folder.glob('*.pt'):
        path.write_bytes(b'')
    state, said = auto(data, folder)
    assert state is None
    assert 'Starts from scratch: ' in said


def test_auto_passes_over_states_of_other_software(data, whole, tmp_path):
    folder = copy_run(whole, tmp_path)
    foreign = [folder / f'training-state-00000{number}.pt' for number in (3, 9)]
    ours = load_state(foreign[0])
    optimizer_state = {'state': {}, 'param_groups': []}
    torch.save({'net': ours['net'], 'optimizer_state': optimizer_state}, foreign[0])
    torch.save({'net': {'other': torch.zeros(1)}, 'optimizer_state': optimizer_state}, foreign[1])
    state, said = auto(data, folder)
    assert state == str(folder / 'training-state-000002.pt')
    for path in foreign:
        assert len(re.findall(f'^Passed over: {path} is of other software', said, re.MULTILINE)) == 1
    run(train.main, *arguments(data, folder, '--duration=0.003', '--resume=auto'))
    foreign[1].unlink()
    assert_equal_runs(whole, folder, 3)


def test_processes_that_find_different_states_do_not_train(data, whole, tmp_path, monkeypatch):
    folder = copy_run(whole, tmp_path)
    monkeypatch.setattr(launch.distributed, 'gather', lambda value: [value, None])
    refuse(train.main, *arguments(data, folder, '--duration=0.004', '--resume=auto'), status=1,
           says=('--resume: the processes found different states (3 kimg, none)', 'share'))


@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_a_state_and_a_second_stops_at_once(number, data, whole, tmp_path, monkeypatch):
    folder = tmp_path / 'stopped'
    args = arguments(data, folder, '--duration=0.003')
    handler = signal.getsignal(number)
    with monkeypatch.context() as patch:
        send_signals(patch, [number], step=7)
        run(train.main, *args, status=128 + number)
        assert signal.getsignal(number) is handler
        assert load_state(folder / 'training-state-000001.pt')['cur_nimg'] == 1750
        assert f'Stopped by {number.name}' in (folder / 'log.txt').read_text()
        send_signals(patch, [number] * 2, step=1)
        run(train.main, *args, f'--resume={folder}', status=128 + number)
        assert load_state(folder / 'training-state-000001.pt')['cur_nimg'] == 1750
    run(train.main, *args, f'--resume={folder}')
    assert_equal_runs(whole, folder, 3)


def send_signals(monkeypatch, numbers, step):
    steps = []

    def update_and_signal(run):
        steps.append(1)
        update_ema(run)
        for number in numbers if len(steps) == step else ():
            os.kill(os.getpid(), number)
    monkeypatch.setattr(loop, 'update_ema', update_and_signal)


def resumed(folder, *args, data, duration='0.004'):
    """Resume what lies in `folder` in a new one beside it; returns that and what was printed."""
    other = folder.with_name('resumed')
    done = run(train.main, *arguments(data, other, f'--duration={duration}', f'--resume={folder}', *args))
    return other, done


def test_a_new_folder_takes_the_reports_along(data, whole, tmp_path):
    folder = copy_run(whole, tmp_path)
    (folder / 'training-state-000003.pt').unlink()
    other, _ = resumed(folder, data=data, duration='0.003')
    assert_equal_runs(folder.with_name('resumed'), whole, 3)
    assert len(stats(folder)) == 4  # stays as it was
    options = json.loads((other / 'training_options.json').read_text())
    assert options['resume_state_dump'] == str(folder / 'training-state-000002.pt')
    assert options['made_by']['inputs'].keys() == {str(data), options['resume_state_dump']}


def copy_run(folder, tmp_path):
    return Path(shutil.copytree(folder, tmp_path / 'run'))


def test_the_newest_whole_state_of_the_run_is_taken(data, whole, tmp_path):
    folder = copy_run(whole, tmp_path)
    newest = folder / 'training-state-000003.pt'
    newest.write_bytes(newest.read_bytes()[:-2000])
    other = torch.load(folder / 'training-state-000002.pt') | {'run_id': 'another'}
    torch.save(other, folder / 'training-state-000009.pt')
    other, done = resumed(folder, '--dry-run', data=data)
    assert json.loads(done.stdout)['resume_state_dump'] == str(folder / 'training-state-000002.pt')
    assert 'training-state-000003.pt' in done.stderr
    assert 'earlier run' in done.stderr
    for path in folder.glob('*.pt'):
        path.write_bytes(b'')
    refuse(train.main, *arguments(data, other, f'--resume={folder}'), status=1, says=('none of the states',))


@pytest.mark.parametrize('form', ['module', 'tensors'])
def test_states_of_other_software_resume_with_a_warning(form, data, whole, tmp_path):
    folder = copy_run(whole, tmp_path)
    state = load_state(whole / 'training-state-000003.pt')
    net = load_snapshot(str(whole / 'network-snapshot-000003.pkl'))['ema'].train()
    net.load_state_dict(state['net'])
    torch.save({'net': net if form == 'module' else net.state_dict(),
                'optimizer_state': state['optimizer_state']}, folder / 'training-state-000003.pt')
    path = folder / 'training-state-000003.pt'
    old = load_state(path)
    assert_equal(dict(old['net']), dict(state['net']))
    assert_equal(dict(old['ema']), dict(state['ema']))  # from the snapshot beside it
    assert (old['cur_nimg'], old['cur_tick']) == (3000, 4)

    other, done = resumed(folder, data=data)
    assert 'not restored: the order of the data; the random numbers; the statistics' in done.stdout
    assert [line['Progress/tick']['mean'] for line in stats(other)] == [0, 1, 2, 3, 4]
    again = load_state(other / 'training-state-000004.pt')
    assert again['optimizer_state']['state'][0]['step'] == 16  # Adam's moments went on
    (folder / 'network-snapshot-000003.pkl').unlink()
    assert 'the EMA' in load_state(path)['not_restored'][-1]


def test_an_old_state_of_another_network_is_refused(data, whole, tmp_path):
    state = load_state(whole / 'training-state-000003.pt')
    optimizer = {'state': {0: {'exp_avg': torch.zeros(7)}}, 'param_groups': []}
    for name, content, says in (
            ('net', {'net': {'a': torch.zeros(1)}, 'optimizer_state': optimizer}, 'another network'),
            ('adam', {'net': state['net'], 'optimizer_state': optimizer}, 'optimizer is of another network'),
            ('list', {'net': [1], 'optimizer_state': optimizer}, 'expected a dict of tensors')):
        torch.save(content, tmp_path / f'{name}.pt')
        refuse(train.main, *arguments(data, tmp_path / 'no', f'--resume={tmp_path / name}.pt'), status=1,
               says=('--resume', f'{name}.pt', says))
    assert not (tmp_path / 'no').exists()
