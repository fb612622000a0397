"""reproduce.py molrg and jacobian: the experiments in miniature, their plans, what they refuse."""

import shutil
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

import reproduce
from data.molrg_data import MoLRGShape
from experiments import jacobian_experiment, molrg_experiment, stages
from experiments.phase_transition import Transition
from helpers import InThisProcess, refuse, run
from image_sets import idx, write
from jacobians.rank_file import load_ranks
from training.low_rank import LowRankDenoiser
from training.networks import EDMPrecond
from training.snapshot import save_snapshot

ASSUME = ('--dry-run', '--assume-img-per-s=2000')
TINY = ('--cres=1', '--num_blocks=1', '--dropout=0', '--batch=100', '--duration=0.001')


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(stages, 'Launcher', InThisProcess)
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
    log = (folder / 'evaluation' / 'molrg-quickstart' / 'stages' / 'train-low-rank.log').read_text()
    errors = log.split('Recovery error: ')[1].split(' (')[0]
    assert max(map(float, errors.split(', '))) < 0.1
    for name in ('jacobian-MoLRG', 'jacobian-MoLRG-log', 'molrg-phase-transition'):
        with Image.open(folder / 'figures' / 'molrg-quickstart' / f'{name}.png') as image:
            assert image.width == 2025
    ranks = load_ranks(folder / 'figures' / 'molrg-quickstart' / 'ranks-low-rank.npz')
    assert ranks.rank[:, -1].tolist() == [2, 2]  # d at the lowest noise level
    assert ranks.rank[:, 0].tolist() == [4, 4]  # K d at the highest
    assert 'trainMoLRG.py' not in run(reproduce.main, 'molrg', '--jobs=2').stdout
    run(reproduce.main, 'report', 'evaluation/molrg-quickstart')
    page = (folder / 'figures' / 'molrg-quickstart' / 'report.html').read_text()
    assert '9 of 9 stages are finished' in page
    truth = load_ranks(folder / 'figures' / 'molrg-quickstart' / 'ranks-true.npz')
    assert (truth.rank[:, 0].tolist(), truth.rank[:, -1].tolist()) == ([4, 4], [2, 2])
    assert page.count('data:image/png;base64,') == 3
    for text in ('>train-unet<', 'edm/trainMoLRG.py'):
        assert text in page


def test_jacobian_studies_its_own_and_given_networks(folder, monkeypatch):
    label, data, _ = jacobian_experiment.PRESETS['quickstart'].training
    train = ('--cbase=4', '--augment=0', *TINY)
    mini = replace(jacobian_experiment.PRESETS['quickstart'], training=(label, data, train),
                   jacobian=('--seeds', '0', '--steps', '2'), controls=('--seeds', '0', '--steps', '2'))
    monkeypatch.setitem(jacobian_experiment.PRESETS, 'quickstart', mini)
    net = LowRankDenoiser(2, 3, class_num=1, per_class_dim=5)
    save_snapshot(folder / 'net.pkl', ema=net)
    (folder / 'run').mkdir()
    (folder / 'net.pkl').rename(folder / 'run' / 'network-snapshot-000007.pkl')
    printed = run(reproduce.main, 'jacobian', '--networks', 'run=Mine', '--jobs=2').stdout
    assert 'ranks-0.npz=U-Net on digits' in printed
    assert '--about' in printed
    assert "trained on 1,797 images for 1 kimg.'" in printed
    assert 'ranks-1.npz=Mine' in printed
    figures = folder / 'figures' / 'jacobian-quickstart'
    assert load_ranks(figures / 'ranks-0.npz').dim == 64
    assert load_ranks(figures / 'ranks-1.npz').rank.tolist() == [[5, 5]]
    for picture in ('jacobian-real', 'jacobian-vectors'):
        with Image.open(figures / f'{picture}.png') as image:
            assert image.width == 2025
            assert 'trained on 1,797 images for 1 kimg' in image.info['Description']
    assert load_ranks(figures / 'ranks-gaussian.npz').rank[0, 0] < 64
    assert load_ranks(figures / 'ranks-optimal.npz').rank[0, -1] == 0  # a training image, whatever x is
    # If the network is trained again, the ranks of the one before are not refused, but replaced.
    shutil.copy(figures / 'ranks-1.npz', figures / 'ranks-0.npz')
    (marker,) = (folder / 'evaluation' / 'jacobian-quickstart' / 'stages').glob('ranks-0-*.done')
    marker.unlink()
    run(reproduce.main, 'jacobian', '--networks', 'run=Mine', '--jobs=2')
    assert load_ranks(figures / 'ranks-0.npz').dim == 64
    run(reproduce.main, 'report', 'evaluation/jacobian-quickstart')
    page = (figures / 'report.html').read_text()
    assert page.count('data:image/png;base64,') == 2


def test_jacobian_trains_on_images_that_are_given(folder):
    data = folder / 'train-images-idx3-ubyte.gz'
    data.write_bytes(idx(30, 28, 28, values=30 * 784))
    (folder / 'train-labels-idx1-ubyte.gz').write_bytes(idx(30, values=30))
    printed = run(reproduce.main, 'jacobian', '--preset=mnist', f'--data={data}', *ASSUME).stdout
    for text in (f'--source {data} --dest datasets/jacobian-mnist/images.zip', '=U-Net on MNIST, 32x32',
                 '--network_pkl optimal:datasets/jacobian-mnist/images.zip', '# train.py, 0.19 M parameters',
                 "--trained 'U-Net on MNIST, 32x32=0,1.8'", 'on 30 images for 150 kimg'):
        assert text in printed
    write(folder / 'mine.zip', {'0.png': np.zeros((16, 16, 3), np.uint8)})
    printed = run(reproduce.main, 'jacobian', '--preset=mnist', '--data=mine.zip', *ASSUME).stdout
    assert '=U-Net on mine' in printed


# In units of forward passes per image, of which a GPU that trains the larger network, of FFHQ and AFHQ, on
# 2000 images/s makes 6000 a second. U-Net: 6 million images, three passes each. FFHQ, AFHQ: at each of
# 2 x 100 x 18 points 12288 rows of 1 1/8 passes.
@pytest.mark.parametrize(('experiment', 'number', 'row', 'passes'), [
    ('molrg', 12, '# trainMoLRG.py, 54', 3 * 6e6),
    ('jacobian', 4, '# jacobian.py, 61.81', 2 * 1800 * 12288 * 9 / 8)])
def test_the_papers_plan_is_printed_and_nothing_is_written(experiment, number, row, passes, folder):
    printed = run(reproduce.main, experiment, '--preset=paper', *ASSUME, '--gpus=0,1', '--name=mine').stdout
    assert len([line for line in printed.splitlines() if 'python ' in line and line[0] != '#']) == number
    assert not list(folder.iterdir())
    assert '# stages side by side: 2' in printed
    assert '--device cpu' not in printed
    assert 'figures/mine/' in printed
    assert f'figures/{experiment}-paper/' not in printed
    estimate = [line for line in printed.splitlines() if line.startswith('# ')]
    assert any('2000.0 images/s in training, assumed' in line for line in estimate)
    (cells,) = [line.split()[-3:] for line in estimate if line.startswith(row)]
    hours, minutes, seconds = map(int, f'0:{cells[1]}'.split(':')[-3:])
    assert 3600 * hours + 60 * minutes + seconds == pytest.approx(passes / 6000, rel=0.02)


def test_given_networks_are_counted_as_far_as_they_are_known(folder):
    save_snapshot(folder / 'net.pkl', ema=EDMPrecond(16, 3, model_type='SongUNet', model_channels=8))
    save_snapshot(folder / 'low.pkl', ema=LowRankDenoiser(2, 3, class_num=1, per_class_dim=5))
    printed = run(reproduce.main, 'jacobian', *ASSUME, '--networks', 'net.pkl=Mine', 'low.pkl=Low',
                  'https://example.com/far.pkl=Far').stdout
    lines = [line.partition(', ')[2] for line in printed.splitlines() if line.startswith('# jacobian.py')]
    # the last: closed forms
    assert [line[:15].split(' ')[0] for line in lines] == ['0.18', '0.24', '0.00', 'unknown', '']
    assert len(list(folder.iterdir())) == 2


def test_bad_input_is_refused(folder):
    for experiment in ('molrg', 'jacobian'):
        refuse(reproduce.main, experiment, '--name=a/b', status=2, says=('--name', 'a/b'))
        refuse(reproduce.main, experiment, '--preset=fast', status=2, says=('--preset', 'quickstart'))
    for more in ('--dry-run',), ('--assume-img-per-s=5',), ('--dry-run', '--assume-img-per-s=5'):
        refuse(reproduce.main, 'molrg', '--emit=slurm', *more, status=2, says=(more[0].partition('=')[0],))
    refuse(reproduce.main, 'jacobian', '--preset=mnist', status=1, says=(
        'preset needs --data', 'train-images-idx3-ubyte.gz', 'datasets/README.md'))
    refuse(reproduce.main, 'jacobian', '--preset=mnist', '--data=none.gz', status=1, says=('--data none.gz',))
    refuse(reproduce.main, 'jacobian', '--preset=paper', '--data=a.zip', status=1,
           says=('--data a.zip', 'trains no network'))
    refuse(reproduce.main, 'jacobian', '--networks', 'none.pkl=X', status=2, says=('--networks', 'none.pkl'))
    refuse(reproduce.main, 'jacobian', '--networks', 'a.pkl=X', 'b.pkl=X', status=2, says=('--networks', 'X'))
    assert not list(folder.iterdir())
