"""reproduce.py molrg and jacobian: the experiments in miniature, their plans, what they refuse."""

from dataclasses import replace

import pytest
from PIL import Image

import reproduce
from evaluation import jacobian_experiment, molrg_experiment
from evaluation.jacobian_ranks import load_ranks
from evaluation.phase_transition import Transition
from helpers import refuse, run
from training.low_rank import LowRankDenoiser
from training.molrg import MoLRGShape
from training.snapshot import save_snapshot

TINY = ('--cres=1', '--num_blocks=1', '--dropout=0', '--batch=100', '--duration=0.001')


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_molrg_goes_from_nothing_to_its_pictures_and_does_no_work_twice(folder, monkeypatch):
    mini = replace(
        molrg_experiment.PRESETS['quickstart'], unet=('--arch=ddpmpp', '--embed_channels=4', *TINY),
        shape=MoLRGShape(resolution=2, class_num=2, per_class_dim=2, sample_per_class=40),
        low_rank=('--arch', 'param-mlp', '--duration', '0.02', '--batch', '100'),
        jacobian=('--seeds', '0,1', '--steps', '3', '--method', 'exact'),
        transition=Transition(img_res=2, dims=(1,), ratios=(1, 2), trials=2, restarts=1, steps=2))
    monkeypatch.setitem(molrg_experiment.PRESETS, 'quickstart', mini)
    printed = run(reproduce.main, 'molrg', '--jobs=2').stdout
    for script in ('trainMoLRG.py', 'jacobian.py', 'reproduce.py phase-transition', 'plot.py'):
        assert f'edm/{script} ' in printed
    errors = printed.split('Low-rank model: Recovery error: ')[1].split(' (')[0]
    assert max(map(float, errors.split(', '))) < 0.1
    for name in ('jacobian-MoLRG', 'jacobian-MoLRG-log', 'molrg-phase-transition'):
        with Image.open(folder / 'figures' / 'molrg' / f'{name}.png') as image:
            assert image.width == 2100
    ranks = load_ranks(folder / 'figures' / 'molrg' / 'ranks-low-rank.npz')
    assert ranks.rank[:, -1].tolist() == [2, 2]  # d at the lowest noise level
    assert ranks.rank[:, 0].tolist() == [4, 4]  # K d at the highest
    assert 'trainMoLRG.py' not in run(reproduce.main, 'molrg', '--jobs=2').stdout


def test_jacobian_studies_its_own_and_given_networks(folder, monkeypatch):
    label, data, _ = jacobian_experiment.PRESETS['quickstart'].training
    train = ('--cbase=4', '--augment=0', *TINY)
    mini = replace(jacobian_experiment.PRESETS['quickstart'], training=(label, data, train),
                   jacobian=('--seeds', '0', '--steps', '2'))
    monkeypatch.setitem(jacobian_experiment.PRESETS, 'quickstart', mini)
    net = LowRankDenoiser(2, 3, class_num=1, per_class_dim=5)
    save_snapshot(folder / 'net.pkl', ema=net)
    printed = run(reproduce.main, 'jacobian', '--networks', 'net.pkl=Mine', '--jobs=2').stdout
    assert 'ranks-0.npz=Digits' in printed
    assert 'ranks-1.npz=Mine' in printed
    figures = folder / 'figures' / 'jacobian'
    assert load_ranks(figures / 'ranks-0.npz').dim == 64
    assert load_ranks(figures / 'ranks-1.npz').rank.tolist() == [[5, 5]]
    with Image.open(figures / 'jacobian-real.png') as image:
        assert image.width == 2100


@pytest.mark.parametrize(('experiment', 'number'), [('molrg', 11), ('jacobian', 4)])
def test_the_papers_plan_is_printed_and_nothing_is_written(experiment, number, folder):
    printed = run(reproduce.main, experiment, '--preset=paper', '--dry-run').stdout
    assert len([line for line in printed.splitlines() if line.startswith('python ')]) == number
    assert not list(folder.iterdir())
    on_gpus = run(reproduce.main, experiment, '--preset=paper', '--dry-run', '--gpus=0,1').stdout
    assert '--device cpu' not in on_gpus
    named = run(reproduce.main, experiment, '--preset=paper', '--dry-run', '--name=mine').stdout
    assert 'figures/mine/' in named
    assert f'figures/{experiment}-paper/' not in named


def test_bad_input_is_refused(folder):
    for experiment in ('molrg', 'jacobian'):
        refuse(reproduce.main, experiment, '--name=a/b', status=2, says=('--name', 'a/b'))
        refuse(reproduce.main, experiment, '--preset=fast', status=2, says=('--preset', 'quickstart'))
    refuse(reproduce.main, 'jacobian', '--networks', 'none.pkl=X', status=2, says=('--networks', 'none.pkl'))
    refuse(reproduce.main, 'jacobian', '--networks', 'a.pkl=X', 'b.pkl=X', status=2, says=('--networks', 'X'))
    assert not list(folder.iterdir())
