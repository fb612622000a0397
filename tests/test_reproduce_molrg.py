"""reproduce.py molrg and jacobian: the experiments in miniature, their plans, what they refuse."""

from dataclasses import replace

import pytest
from PIL import Image

import reproduce
from data.molrg_data import MoLRGShape
from experiments import jacobian_experiment, molrg_experiment
from experiments.phase_transition import Transition
from helpers import refuse, run
from jacobians.rank_file import load_ranks
from training.low_rank import LowRankDenoiser
from training.networks import EDMPrecond
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
    run(reproduce.main, 'report', 'evaluation/molrg')
    page = (folder / 'figures' / 'molrg' / 'report.html').read_text()
    assert '8 of 8 stages are finished' in page
    assert page.count('data:image/png;base64,') == 3
    for text in ('Low-rank model, 2 noises', 'U-Net, 2 noises', 'Phase transition: classes found',
                 'Low-rank model: recovery error', '>train-unet<', 'edm/trainMoLRG.py'):
        assert text in page


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
    # Trained anew, the network has other ranks: those in the file are not refused, but replaced.
    (folder / 'training' / 'jacobian' / 'network' / 'network-snapshot-000001.pkl').unlink()
    (folder / 'evaluation' / 'jacobian' / 'stages' / 'ranks-0.json').unlink()
    again = run(reproduce.main, 'jacobian', '--networks', 'net.pkl=Mine', '--jobs=2').stdout
    assert again.count('edm/jacobian.py') == 1
    run(reproduce.main, 'report', 'evaluation/jacobian')
    page = (figures / 'report.html').read_text()
    assert 'Mine, 1 noises' in page
    assert page.count('data:image/png;base64,') == 1


ASSUME = ('--dry-run', '--assume-img-per-s=2000')


# In units of forward passes per image, of which a GPU of 2000 images/s makes 6000 a second. U-Net: 6 million
# images, three passes each. CIFAR-10: at each of 100 x 18 points 3072 rows of 1 1/8 passes, and before that a
# sixth as many vectors of 2 1/8 by the randomized method.
@pytest.mark.parametrize(('experiment', 'number', 'row', 'passes', 'unit'), [
    ('molrg', 11, '# train U-Net', 3 * 6e6, 'GPU minutes'),
    ('jacobian', 4, '# ranks of CIFAR-10', 1800 * 3072 * (9 / 8 + 17 / 8 / 6), 'GPU hours')])
def test_the_papers_plan_is_printed_and_nothing_is_written(experiment, number, row, passes, unit, folder):
    printed = run(reproduce.main, experiment, '--preset=paper', *ASSUME).stdout
    assert len([line for line in printed.splitlines() if 'python ' in line and line[0] != '#']) == number
    assert not list(folder.iterdir())
    on_gpus = run(reproduce.main, experiment, '--preset=paper', *ASSUME, '--gpus=0,1').stdout
    assert '# 2 stages side by side' in on_gpus
    assert '--device cpu' not in on_gpus
    estimate = [line for line in printed.splitlines() if line.startswith('# ')]
    assert any('2000.0 images/s (assumed)' in line for line in estimate)
    (cells,) = [line.removeprefix(row).split() for line in estimate if line.startswith(row)]
    seconds = float(cells[1]) * (3600 if unit == 'GPU hours' else 60)
    assert seconds == pytest.approx(passes / 6000, rel=0.02)
    assert min(map(float, cells)) > 0  # disk and memory, too
    assert any(f'  {unit}  ' in line for line in estimate)
    named = run(reproduce.main, experiment, '--preset=paper', *ASSUME, '--name=mine').stdout
    assert 'figures/mine/' in named
    assert f'figures/{experiment}-paper/' not in named


def test_given_networks_are_counted_as_far_as_they_are_known(folder):
    save_snapshot(folder / 'net.pkl', ema=EDMPrecond(16, 3, model_type='SongUNet', model_channels=8))
    save_snapshot(folder / 'low.pkl', ema=LowRankDenoiser(2, 3, class_num=1, per_class_dim=5))
    printed = run(reproduce.main, 'jacobian', *ASSUME, '--networks', 'net.pkl=Mine', 'low.pkl=Low',
                  'https://example.com/far.pkl=Far').stdout
    lines = [line.split() for line in printed.splitlines() if line.startswith('# ranks of ')]
    assert [line[3] for line in lines] == ['Digits,', 'Mine', 'Low']
    assert '# Far: not counted' in printed
    assert len(list(folder.iterdir())) == 2


def test_bad_input_is_refused(folder):
    for experiment in ('molrg', 'jacobian'):
        refuse(reproduce.main, experiment, '--name=a/b', status=2, says=('--name', 'a/b'))
        refuse(reproduce.main, experiment, '--preset=fast', status=2, says=('--preset', 'quickstart'))
    for more in ('--dry-run',), ('--assume-img-per-s=5',), ('--dry-run', '--assume-img-per-s=5'):
        refuse(reproduce.main, 'molrg', '--emit=slurm', *more, status=2, says=(more[0].partition('=')[0],))
    refuse(reproduce.main, 'jacobian', '--networks', 'none.pkl=X', status=2, says=('--networks', 'none.pkl'))
    refuse(reproduce.main, 'jacobian', '--networks', 'a.pkl=X', 'b.pkl=X', status=2, says=('--networks', 'X'))
    assert not list(folder.iterdir())
