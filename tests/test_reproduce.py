"""reproduce.py: the main job in miniature, on real digits, and what it refuses."""

import importlib
import itertools
import json
import os
import re
import shlex
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import reproduce
import sscd
import train
from data.dataset import ImageDataset
from experiments import estimates, regimes, report, script_options, stages
from figures.regimes_figure import load_examples
from helpers import ROOT, InThisProcess, assert_equal, refuse, run
from image_sets import idx
from scores.denoising_table import read_rows
from scores.neighbors import load_neighbors
from scores.score_table import read_table
from training.networks import Conv2d
from training.snapshot import load_snapshot

MINI = ('--widths=8,4', '--kimg=1', '--samples=6', '--train=--batch=100 --cres=1', '--jobs=1')


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_main_job_leaves_scores_and_figure_and_does_no_work_twice(folder, monkeypatch):
    monkeypatch.setattr(stages, 'Launcher', InThisProcess)
    args = ('regimes', '--sizes=3', *MINI)
    printed = run(reproduce.main, *args).stdout
    for script in ('dataset_tool.py', 'train.py', 'generate.py', 'sscd.py', 'plot.py'):
        assert f'edm/{script} ' in printed
    figures = folder / 'figures' / 'quickstart'
    for name in ('regimes', 'denoisers', 'denoising'):
        with Image.open(figures / f'{name}.png') as image:
            assert image.width == 2025
        assert (figures / f'{name}.pdf').read_bytes().startswith(b'%PDF')
    rows = read_table(figures / 'regimes.csv')
    found = Counter((row.score, row.models) for row in rows if row.key[0] is not None)
    assert found == dict.fromkeys([  # at two thresholds each
        ('rp', ('8', '4')), ('chance_rp', ('8', '4')), ('heldout_gl', ()),
        ('disjoint_rp', ('8',)), ('chance_disjoint_rp', ('8',)),
        *((score, (width,)) for score in ('gl', 'gl_difference', 'optimal_rp', 'gaussian_rp')
          for width in ('8', '4'))], 2)
    assert {(row.score, row.models) for row in rows if row.key[0] is None} == {
        ('pfd', ('8', '4')), ('chance_pfd', ('8', '4')),
        *((score, ('8',)) for score in ('disjoint_pfd', 'chance_disjoint_pfd', 'optimal_pfd')),
        *((score, (width,)) for score in ('calibrated_gl', 'ct') for width in ('8', '4'))}
    assert {row.size for row in rows} == {3}
    assert {row.total for row in rows if row.count is not None and row.score != 'heldout_gl'} == {6}
    errors = {(row.denoiser, row.images) for row in read_rows(figures / 'denoising.csv')}
    assert errors == {*itertools.product(('UNet-8', 'optimal', 'gaussian'), ('train', 'heldout'))}
    assert len(ImageDataset(folder / 'datasets' / 'quickstart' / 'heldout.zip')) == 1797 - 3
    settings = json.loads((figures / 'regimes.json').read_text())['settings']
    assert (settings['thresholds'], settings['kimg'], settings['widths']) == ([0.97, 0.95], 1, [8, 4])
    (column,) = load_examples([folder / 'evaluation' / 'quickstart' / 'neighbors' / 'n00003.npz'])
    assert column.size == 3
    nearest = np.asarray(column.rows[1][0])
    assert any(np.array_equal(nearest, image) for image in _training_images(folder, 'n00003'))
    images, digits = _training_images(folder, 'pool'), ImageDataset(regimes.DIGITS).images()[:, 0]
    assert sorted(map(np.ndarray.tobytes, images)) == sorted(map(np.ndarray.tobytes, digits))
    np.testing.assert_array_equal(_training_images(folder, 'n00003-disjoint'), images[3:6])
    before = _times(folder)
    again = run(reproduce.main, *args).stdout
    assert 'train.py' not in again
    assert 'stages are finished' in again
    assert _times(folder) == before


def _times(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob('*.*') if path.name != report.PLAN}


def test_a_table_of_other_settings_is_removed(folder):
    job = replace(regimes.QUICKSTART, name='mine')
    regimes.write_settings(job)
    job.table.touch()
    regimes.write_settings(job)
    assert job.table.exists()
    regimes.write_settings(replace(job, kimg=5))
    assert not job.table.exists()


def test_stopped_and_started_again_equals_never_stopped(folder, monkeypatch):
    """By SIGTERM to reproduce.py while a student is trained; the calls that a user makes."""
    more = ('--kimg=5', '--samples=2', '--train=--batch=100 --cres=1 --tick=1', '--jobs=1')
    process = subprocess.Popen([sys.executable, ROOT / 'edm' / 'reproduce.py', 'regimes', '--sizes=3',
                                '--widths=8,4', *more], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    records = folder / 'evaluation' / 'quickstart' / 'stages'
    log = records / 'train-n00003-w8.log'
    until = time.monotonic() + 120
    while not log.exists() or 'tick 1 ' not in log.read_text():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < until
        time.sleep(0.02)
    process.terminate()
    process.communicate()
    assert process.returncode == 143
    student = folder / 'training' / 'quickstart' / 'n00003-w8'
    assert not (student / 'network-snapshot-000005.pkl').exists()
    (state,) = student.glob('training-state-*.pt')

    monkeypatch.setattr(stages, 'Launcher', InThisProcess)
    job = replace(regimes.QUICKSTART, data=os.path.relpath(regimes.DIGITS), sizes=(3,), widths=(8, 4), kimg=5,
                  num_samples=2, train=(*regimes.QUICKSTART.train, '--batch=100', '--cres=1', '--tick=1'))
    todo = [stage for stage in regimes.plan(job) if stage.name in ('pool', 'data-n00003', 'train-n00003-w8')]
    stages.run_stages(todo, records=records, threads=1)
    options = json.loads((student / 'training_options.json').read_text())
    assert options['resume_state_dump'] == str(state.relative_to(folder))
    script, *args = todo[-1].command
    assert script == 'train.py'
    run(train.main, *args, f'--outdir={folder / "whole"}')
    assert_equal(*(load_snapshot(str(path / 'network-snapshot-000005.pkl'))['ema'].state_dict()
                   for path in (student, folder / 'whole')))


def _training_images(folder, name):
    return ImageDataset(folder / 'datasets' / 'quickstart' / f'{name}.zip').images()[:, 0]


def test_students_learn_what_a_teacher_generates(folder):
    printed = run(reproduce.main, 'regimes', '--preset=quickstart-teacher', '--sizes=2', *MINI, '--dry-run',
                  '--assume-img-per-s=500', '--heldout=3', '--no-disjoint',
                  '--teacher-training=--batch=100 --cres=1 --model_channels=4 --duration=0.001').stdout
    commands = [shlex.split(line, comments=True)[2:] for line in printed.splitlines()]
    for script, *args in commands[0], commands[1], commands[3]:
        run(importlib.import_module(Path(script).stem).main, *args)
    pool = folder / 'evaluation' / 'quickstart-teacher' / 'teacher'
    assert len(list(pool.glob('*.png'))) == 5
    first = np.asarray(Image.open(pool / '000000.png'))
    data = ImageDataset(folder / 'datasets' / 'quickstart-teacher' / 'n00002.zip')
    assert np.array_equal(data.images([0])[0, 0], first)
    assert len(data) == 2
    assert '--data datasets/quickstart-teacher/n00002.zip ' in printed


def test_training_sets_are_nested_and_seeds_are_disjoint():
    stages = {stage.name: stage for stage in regimes.plan(regimes.PRESETS['quickstart-teacher'])}

    def option(name, kind):
        return [stage.command[stage.command.index(name) + 1] for key, stage in stages.items()
                if key.startswith(kind)]

    assert option('--seeds', 'teacher-images') == ['0-1791']  # twice the largest set, disjoint from it
    assert set(option('--seeds', 'generate-')) == {'100000-101023'}
    assert len(set(option('--source', 'data-'))) == 1
    sizes = ['2', '8', '32', '64', '256', '896']
    assert option('--max-images', 'data-n') == 2 * sizes
    others = [stage for stage in stages.values() if '--skip-images' in stage.command]
    skipped = [stage.command[stage.command.index('--skip-images') + 1] for stage in others]
    assert skipped == [*sizes, '896']  # the last for held-out images
    assert len(set(option('--seed', 'train-'))) == 18


def test_each_repeat_trains_and_samples_all_students_anew_for_a_table_of_its_own(folder):
    job = replace(regimes.QUICKSTART, sizes=(2, 4), repeats=2)
    stages = {stage.name: stage for stage in regimes.plan(job)}
    again = [name for name in stages if name.startswith('train-') and name.endswith('-1')]
    assert again == [f'train-n0000{size}-{kind}-1' for size in (2, 4) for kind in ('w16', 'w8', 'disjoint')]
    seeds = [stage.command[stage.command.index('--seed') + 1] for name, stage in stages.items()
             if name.startswith('train-')]
    assert sorted(map(int, seeds)) == [*range(12)]
    assert {stage.outputs[0].name for name, stage in stages.items() if name.startswith(('rp-', 'gl-'))
            and name.endswith('-1')} == {'regimes-1.csv'}
    first = {stage.name: stage for stage in regimes.plan(replace(job, repeats=1))}
    assert stages['train-n00004-w8'] == first['train-n00004-w8']  # so that more repeats go on
    assert 'figures/quickstart/regimes-1.csv' in stages['figure-regimes-png'].command


def test_sizes_with_a_disjoint_set_are_those_that_leave_as_many_images(folder):
    job = replace(regimes.QUICKSTART, sizes=(4, 898, 899))
    assert regimes.disjoint_sizes(job) == (4, 898)
    assert regimes.disjoint_sizes(replace(job, disjoint=False)) == ()
    assert regimes.disjoint_sizes(replace(job, teacher='net.pkl')) == job.sizes
    printed = run(reproduce.main, 'regimes', '--sizes=4,899', '--dry-run', '--assume-img-per-s=500')
    assert '--sizes 899: no disjoint set' in printed.stderr
    assert 'n00004-disjoint' in printed.stdout
    assert 'n00899-disjoint' not in printed.stdout


def test_images_of_another_size_are_resized_before_students_see_them(folder):
    data = folder / 'train-images-idx3-ubyte.gz'
    data.write_bytes(idx(30, 28, 28, values=30 * 784))
    (folder / 'train-labels-idx1-ubyte.gz').write_bytes(idx(30, values=30))
    job = ('regimes', '--preset=mnist', f'--data={data}', '--sizes=4,16', '--dry-run',
           '--assume-img-per-s=500')
    printed = run(reproduce.main, *job)
    assert f'--source {data} --dest datasets/mnist/pool.zip --shuffle 0 --resolution 16x16' in printed.stdout
    assert '--sizes 16: no disjoint set' in printed.stderr  # of 30 images
    assert '0.75 M parameters' in printed.stdout  # 32 channels at 16x16, grey
    assert "--data 'MNIST at 16x16'" in printed.stdout
    assert replace(regimes.MNIST, data='sets/others.zip').data_name == 'others'
    refuse(reproduce.main, *job, '--sizes=30', status=2, says=('--sizes 30', '30 images'))
    refuse(reproduce.main, *job, '--train=--cres=1,1,1,1,1,1', status=1, says=('--train', '--cres'))


def test_scores_are_those_of_the_definitions(folder):
    job = regimes.Regimes(name='x', teacher='net.pkl', sizes=(1, 2), widths=(2, 1), kimg=1, thresholds=(0.5,),
                          num_samples=3)
    features = {(1, 2): np.eye(3), (1, 1): np.eye(3)[[0, 2, 1]],
                (2, 2): np.eye(3), (2, 1): np.eye(3)}
    features |= {(size, kind): np.eye(3)[[0, 0, 2]] for size in (1, 2) for kind in ('optimal', 'gaussian')}
    features |= {(size, 'disjoint'): np.eye(3)[[0, 1, 0]] for size in (1, 2)}
    features = {regimes.Model(*model).name: values for model, values in features.items()}
    job.features('pool').parent.mkdir(parents=True)
    for name, values in (features | {'pool': np.eye(3)[[1, 0, 2]]}).items():
        np.savez(job.features(name), features=np.float32(values))
    calls = [stage.command for stage in regimes.plan(job) if stage.command[1] in ('rpscore', 'mscore')]
    for _, *args in calls:
        run(sscd.main, *args)
    found = {(row.score, row.models, row.size): row.value for row in read_table(job.table)}

    def values(score, *models):
        return [found[score, models, size] for size in (1, 2)]

    assert values('rp', '2', '1') == pytest.approx([1 / 3, 1])
    assert values('gl', '2') == pytest.approx([2 / 3, 1 / 3])
    assert values('heldout_gl') == [1, 1]
    assert {row.total for row in read_table(job.table) if row.score == 'heldout_gl'} == {1}
    assert values('chance_rp', '2', '1') == pytest.approx([1 / 3, 0])
    assert values('disjoint_rp', '2') == pytest.approx([2 / 3, 2 / 3])
    assert values('chance_disjoint_rp', '2') == pytest.approx([0, 0])
    assert values('optimal_rp', '2') == pytest.approx([2 / 3, 2 / 3])
    assert values('gaussian_rp', '1') == pytest.approx([1 / 3, 2 / 3])
    assert [load_neighbors(job.neighbors(size)).nearest.max() for size in (1, 2)] == [0, 1]


def test_dry_run_prints_commands_and_costs_and_writes_nothing(folder, monkeypatch):
    monkeypatch.setattr(reproduce, 'usable_cores', lambda: 7)  # of which a batch system may give but some
    printed = run(reproduce.main, 'regimes', '--dry-run', '--assume-img-per-s=500').stdout.splitlines()
    commands = [line for line in printed if line.startswith('OMP_NUM_THREADS=1 python ')]
    assert len(commands) == 1 + 1 + 13 + 18 * 2 + 12 + 6 + 11 + 1 + 6
    assert [line.split()[3] for line in commands[-6::2]] == ['regimes', 'denoisers', 'denoising']
    assert '# 0.18 M parameters: 500.0 images/s in training, assumed' in printed
    # 12 students of width 16 see 20,000 images each: 480 s, and 2 s to start. A snapshot of tick 0, the last,
    # and one state: 24 bytes per parameter.
    disk = 12 * 24 * 180193 / 1e9
    assert f'# train.py, 0.18 M parameters              12     08:24  {disk:7.3f}' in printed
    # Samples of the students of width 16, not of the closed forms: 12 * 1024 * 35 passes, 1500 a second.
    (row,) = [line.split() for line in printed if line.startswith('# generate.py, 0.18 M parameters')]
    assert row[-3:-1] == ['24', f'05:{int(12 * 1024 * 35 / 1500 + 48 - 300)}']
    assert printed[-1].startswith('# stages side by side: 7, so at least 0')
    assert not list(folder.iterdir())


def test_operations_are_counted(folder):
    kwargs = {'class_name': 'training.networks.EDMPrecond', 'model_type': 'SongUNet', 'model_channels': 8,
              'channel_mult': [1], 'num_blocks': 1, 'attn_resolutions': []}
    net = script_options.sketch(kwargs, resolution=4, channels=1)
    weights = [module.weight for module in net.modules() if isinstance(module, Conv2d)]
    convolutions = sum(2 * 16 * weight.numel() for weight in weights)
    assert convolutions < estimates._flop(net) < 1.5 * convolutions
    assert estimates._speed(net, torch.device('cpu')) > 10


def test_a_plan_can_be_handed_to_slurm_and_make(folder, monkeypatch):
    monkeypatch.setattr(sys, 'argv', ['edm/reproduce.py', 'regimes', '--preset=paper', '--emit', 'slurm'])
    script = run(reproduce.main, *sys.argv[1:]).stdout
    assert "edm/reproduce.py regimes --preset=paper'" in script
    assert 'OMP_NUM_THREADS' not in script
    assert script.startswith('#!/usr/bin/env bash')
    assert script.count('edm/train.py') == 30
    assert len(set(re.findall(r'touch (\S*/train-\S*-\w{12}\.done)', script))) == 30
    make = run(reproduce.main, 'regimes', '--emit=make').stdout
    stages = 'evaluation/quickstart/stages'
    assert re.search(rf'^{stages}/train-n00002-w16-\w{{12}}\.done: {stages}/data-n00002-\w{{12}}\.done$',
                     make, re.MULTILINE)
    assert make.count('OMP_NUM_THREADS=1 python') == make.count('@touch') == 87
    assert not list(folder.iterdir())


@pytest.mark.parametrize(('args', 'status', 'says'), [
    (('--sizes=4,4',), 2, ('--sizes 4,4',)),
    (('--sizes=0',), 2, ('--sizes 0',)),
    (('--sizes=1797',), 2, ('--sizes 1797', '1797 images')),
    (('--sizes=4,899', '--disjoint'), 1, ('--sizes 899', '1798 images', 'has 1797', 'largest N is 898',
                                          '--no-disjoint')),
    (('--sizes=900,950',), 1, ('--sizes 900', '1800 images', 'largest N is 898')),
    (('--repeats=0',), 2, ('--repeats',)),
    (('--widths=8',), 2, ('--widths 8', 'at least 2')),
    (('--thresholds=a',), 2, ('--thresholds',)),
    (('--thresholds=0.9,0.9',), 2, ('--thresholds 0.9,0.9',)),
    (('--thresholds=97',), 2, ('--thresholds 97', 'between 0 and 1')),
    (('--name=a/b',), 2, ('--name', 'a/b')),
    (('--train="',), 2, ('--train',)),
    (('--samples=1',), 2, ('--samples',)),
    (('--data=missing.zip',), 1, ('missing.zip',)),
    (('--train=--lr=x',), 1, ('--train', '--lr')),
    (('--train=--bogus=1',), 1, ('--train', '--bogus')),
    (('--train=--cres=1,1,1,1,1',), 1, ('--train', '--cres')),
    (('--train=--precond=vp --P_mean=3',), 1, ('--train', '--P_mean')),
    (('--train=--outdir=x',), 1, ('--train', '--outdir')),
    (('--train=--data=x',), 1, ('--train', '--data')),
    (('--train=-n',), 1, ('--train', '--dry_run')),
    (('--train=--help',), 1, ('--train', '--help')),
    (('--train=--cbase=4',), 1, ('--train', '--cbase')),
    (('--train=--model_channels=4',), 1, ('--train', '--model_channels')),
    (('--train=--duration=1',), 1, ('--train', '--duration')),
    (('--train=--resume=nothing.pt',), 1, ('--train', 'nothing.pt')),
    (('--preset=quickstart-teacher', '--teacher-training=--outdir=x'), 1, ('--teacher-training', '--outdir')),
    (('--preset=paper', '--train=--cond=1'), 1, ('--train',)),  # what a teacher makes has no labels
    (('--heldout=3',), 2, ('--heldout',)),
    (('--teacher=net.pkl', '--data=data.zip'), 2, ('--teacher', '--data')),
    (('--teacher=net.pkl',), 1, ('--teacher net.pkl', 'no such file')),
    (('--teacher=.',), 1, ('--teacher .', 'network-snapshot')),
    (('--gpus=0', '--device=cpu'), 2, ('--gpus', '--device cpu')),
    (('--gpus=0,0',), 2, ('--gpus 0,0',)),
    (('--gpus=0', '--jobs=3'), 2, ('--jobs', '--gpus')),
    (('--emit=make', '--jobs=3'), 2, ('--jobs', '--emit')),
    (('--emit=make', '--gpus=0'), 2, ('--gpus', '--emit')),
    (('--preset=mnist',), 2, ('--preset=mnist', '--data', 'train-images-idx3-ubyte.gz')),
    (('--preset=mnist', '--data=none.gz'), 1, ('--data none.gz',)),
    (('--preset=paper', '--resolution=16'), 2, ('--resolution=16', '--data')),
])
def test_bad_input_is_refused_in_one_line_before_anything_is_written(args, status, says, folder):
    for more in (), ('--dry-run',):
        if not more or '--emit=make' not in args:
            refuse(reproduce.main, 'regimes', *args, *more, status=status, says=says)
    assert not list(folder.iterdir())


@pytest.mark.parametrize('wrong', [
    '--cres=abc', '--cres=0', '--attn_resolutions=x', '--batch=abc', '--batch-gpu=0', '--dropout=x',
    '--dropout=nan', '--snap=0', '--snap', '--tick=0', '--keep=-1', '--duration=0', '--duration=inf',
    '--arch=none', '--precond=none', '--num_blocks=1.5'])
def test_arguments_that_train_would_refuse_are_refused_when_they_are_planned(wrong, folder):
    for option, preset in (('--train', 'quickstart'), ('--teacher-training', 'quickstart-teacher')):
        refuse(reproduce.main, 'regimes', f'--preset={preset}', '--dry-run', '--assume-img-per-s=500',
               f'{option}={wrong}', status=1, says=(option,))
    assert not list(folder.iterdir())
