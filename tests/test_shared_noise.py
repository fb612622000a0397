"""generate.py --noise, --latents, --invert: noise that other software starts from, and images back to it."""

import re
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

import generate
import sscd
from data.dataset import ImageDataset
from helpers import ROOT, refuse, run
from sampling.sampler import edm_sampler
from torch_utils.files import is_of_kind
from torch_utils.images import from_uint8, to_uint8
from torch_utils.seeding import SampleGenerators
from training.loss import EDMLoss
from training.networks import EDMPrecond
from training.snapshot import load_network, save_snapshot

TINY = {'model_type': 'SongUNet', 'model_channels': 4, 'channel_mult': [1], 'num_blocks': 1,
        'attn_resolutions': [], 'dropout': 0}
DIGITS = ROOT / 'datasets' / 'digits-8x8.zip'


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    """A network that has seen digits for a second: its images are grey, 8x8."""
    images = from_uint8(torch.as_tensor(ImageDataset(DIGITS).images(range(500))))
    torch.manual_seed(0)
    net, loss = EDMPrecond(8, 1, **TINY), EDMLoss()
    optimizer = torch.optim.Adam(net.parameters(), lr=0.01)
    for _ in range(50):
        optimizer.zero_grad()
        loss(net, images[torch.randint(len(images), [32])], None).mean().backward()
        optimizer.step()
    return saved(tmp_path_factory.mktemp('trained') / 'trained.pkl', net)


@pytest.fixture(scope='module')
def classes(tmp_path_factory):
    """A network with three classes."""
    torch.manual_seed(0)
    net = EDMPrecond(8, 1, label_dim=3, **TINY)
    for parameter in net.parameters():
        parameter.data.add_(0.1 * torch.randn_like(parameter))
    return saved(tmp_path_factory.mktemp('classes') / 'classes.pkl', net)


def saved(path, net):
    save_snapshot(path, ema=net.eval())
    return path


def call(network, *args, **refused):
    args = (f'--network={network}', '--device=cpu', *args)
    return refuse(generate.main, *args, **refused) if refused else run(generate.main, *args)


def images(folder):
    return {int(path.stem): np.asarray(Image.open(path)).astype(int) for path in sorted(folder.glob('*.png'))}


def test_the_file_holds_what_the_seeds_draw(trained, tmp_path):
    call(trained, f'--noise={tmp_path / "noise.npz"}', '--seeds=7,3')
    assert [path.name for path in tmp_path.iterdir()] == ['noise.npz']
    assert is_of_kind(tmp_path / 'noise.npz', 'noise')
    with np.load(tmp_path / 'noise.npz') as file:
        assert file['seeds'].tolist() == [7, 3]
        assert file['latents'].dtype == np.float32
        drawn = SampleGenerators([7, 3], torch.device('cpu')).randn((1, 8, 8))
        assert np.array_equal(file['latents'], drawn.numpy())
        assert 'manual_seed' in str(file['generator'])
        assert 'classes' not in file


def test_images_from_the_file_are_those_of_the_seeds(classes, tmp_path):
    noise = tmp_path / 'noise.npz'
    call(classes, f'--noise={noise}', '--seeds=4-9')
    call(classes, f'--outdir={tmp_path / "seeds"}', '--seeds=4-9', '--steps=3')
    call(classes, f'--outdir={tmp_path / "file"}', f'--latents={noise}', '--steps=3', '--batch=4')
    call(classes, f'--outdir={tmp_path / "some"}', f'--latents={noise}', '--steps=3', '--seeds=8,5',
         f'--noise={tmp_path / "some.npz"}')
    expected, made, some = (images(tmp_path / name) for name in ('seeds', 'file', 'some'))
    assert list(made) == [4, 5, 6, 7, 8, 9]
    assert list(some) == [5, 8]
    assert all(np.abs(expected[seed] - made[seed]).max() <= 1 for seed in made)
    assert all(np.abs(expected[seed] - some[seed]).max() <= 1 for seed in some)
    with np.load(noise) as file, np.load(tmp_path / 'some.npz') as part:
        assert np.array_equal(part['latents'], file['latents'][[4, 1]])
        assert np.array_equal(part['classes'], file['classes'][[4, 1]])
        assert str(part['generator']) == str(file['generator'])


def test_latents_of_other_software_start_the_ode_where_they_say(classes, tmp_path):
    latents = np.random.default_rng(0).standard_normal((2, 1, 8, 8))
    np.savez(tmp_path / 'other.npz', latents=latents, seeds=np.array([20, 10]), classes=np.array([2, 0]))
    call(classes, f'--outdir={tmp_path / "out"}', f'--latents={tmp_path / "other.npz"}', '--steps=3')
    net = load_network(str(classes), torch.device('cpu'))
    labels = torch.eye(3)[[2, 0]]
    expected = to_uint8(edm_sampler(net, torch.as_tensor(latents, dtype=torch.float32), labels, num_steps=3))
    made = images(tmp_path / 'out')
    assert list(made) == [10, 20]
    assert np.abs(made[20] - expected[0, 0].numpy()).max() <= 1
    assert np.abs(made[10] - expected[1, 0].numpy()).max() <= 1


def round_trip(network, folder, source, steps):
    call(network, f'--invert={source}', f'--noise={folder / "back.npz"}', f'--steps={steps}', '--batch=5')
    call(network, f'--latents={folder / "back.npz"}', f'--outdir={folder / "again"}', f'--steps={steps}')
    return images(folder / 'again')


def test_inversion_and_sampling_lead_back_to_the_images(trained, tmp_path):
    call(trained, f'--outdir={tmp_path / "made"}', '--seeds=3-10', '--steps=50')
    made, again = images(tmp_path / 'made'), round_trip(trained, tmp_path, tmp_path / 'made', 50)
    assert list(again) == list(made)
    assert np.mean([np.abs(made[seed] - again[seed]).mean() for seed in made]) <= 2
    with np.load(tmp_path / 'back.npz') as file:
        assert 0.5 < file['latents'].std() < 1.5
        assert str(file['generator']) == 'the ODE, from images'


def test_images_of_a_data_set_are_numbered_and_keep_their_classes(classes, tmp_path):
    source, labels = ImageDataset(DIGITS).images(range(4)), np.array([1, 1, 0, 2])
    np.savez(tmp_path / 'set.npz', samples=source.transpose(0, 2, 3, 1), labels=labels)
    call(classes, f'--invert={tmp_path / "set.npz"}', f'--noise={tmp_path / "set-back.npz"}', '--steps=3')
    with np.load(tmp_path / 'set-back.npz') as file:
        assert file['seeds'].tolist() == [0, 1, 2, 3]
        assert file['classes'].tolist() == labels.tolist()


def test_samples_of_other_software_pair_by_their_seeds(trained, tmp_path):
    call(trained, f'--outdir={tmp_path / "ours"}', '--seeds=5-8', '--steps=3')
    ours = images(tmp_path / 'ours')
    seeds = [8, 6, 5, 7]
    samples = np.stack([ours[seed] for seed in seeds])[..., None].astype(np.uint8)
    np.savez(tmp_path / 'theirs.npz', samples=samples, seeds=np.array(seeds))
    for name in ('ours', 'theirs.npz'):
        run(sscd.main, 'feature', f'--images={tmp_path / name}', f'--features={tmp_path / name}-f.npz',
            '--descriptor=pixel', '--device=cpu')
    result = run(sscd.main, 'rpscore', f'--source={tmp_path / "ours-f.npz"}',
                 f'--target={tmp_path / "theirs.npz-f.npz"}', '--t=0.999')
    assert 'by the number' in result.stderr
    assert '1.0000' in result.stdout


class GaussianDDIM:
    """In place of diffusers: DDIM with the noise prediction that is right for data N(0, 0.25)."""

    timesteps = torch.arange(980, -1, -20)
    alpha_bar = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64), 0)

    @classmethod
    def from_pretrained(cls, name):
        return cls()

    def set_timesteps(self, count):
        assert count == len(self.timesteps)

    def __call__(self, x, t):
        a = self.alpha_bar[t]
        return SimpleNamespace(sample=x * (1 - a).sqrt() / (0.25 * a + 1 - a))

    def step(self, noise, t, x):
        a, b = self.alpha_bar[t], self.alpha_bar[t - 20] if t >= 20 else torch.tensor(1.0)
        clean = (x - (1 - a).sqrt() * noise) / a.sqrt()
        return SimpleNamespace(prev_sample=b.sqrt() * clean + (1 - b).sqrt() * noise)


def test_the_loop_of_other_software_runs_as_it_stands(trained, tmp_path, monkeypatch):
    readme = (ROOT / 'README.md').read_text(encoding='utf-8')
    loop = re.search(r'DDIM in diffusers:\n\n```python\n(.*?)```', readme, flags=re.DOTALL)[1]
    stub = SimpleNamespace(DDIMScheduler=GaussianDDIM, UNet2DModel=GaussianDDIM)
    monkeypatch.setitem(sys.modules, 'diffusers', stub)
    monkeypatch.chdir(tmp_path)
    call(trained, '--noise=evaluation/noise.npz', '--seeds=4,2')
    exec(loop, {})
    theirs = ImageDataset('evaluation/ddim.npz')
    assert theirs.file_names == ['ddim.npz[4]', 'ddim.npz[2]']
    # The ODE of N(0, 0.25) halves unit noise; 50 steps of first order get there within 4 %.
    drawn = SampleGenerators([4, 2], torch.device('cpu')).randn((1, 8, 8))
    error = theirs.images().astype(float) - to_uint8(drawn / 2).numpy()
    assert np.abs(error).max() <= 0.04 * 255


def npz(path, **arrays):
    np.savez(path, **arrays)
    return path


GOOD = np.random.default_rng(0).standard_normal((2, 1, 8, 8)).astype(np.float32)


@pytest.mark.parametrize(('arrays', 'says'), [
    ({'latents': np.zeros((2, 3, 16, 16), np.float32)}, ('[2, 3, 16, 16]', '[N, 1, 8, 8]')),
    ({'latents': np.zeros((2, 1, 8, 8), np.int64)}, ('int64', 'floats')),
    ({'latents': GOOD[:0]}, ('[0, 1, 8, 8]',)),
    ({'noise': GOOD}, ('latents', 'found noise')),
    ({'latents': GOOD, 'seeds': np.array([1, 1])}, ('a seed twice',)),
    ({'latents': GOOD, 'seeds': np.array([1, 2, 3])}, ('seeds', '[3]')),
    ({'latents': GOOD, 'seeds': np.array([-1, 2])}, ('seeds', 'at least 0')),
    ({'latents': GOOD, 'seeds': np.array([1 << 63, 2], np.uint64)}, ('seeds', 'below 2^63')),
    ({'latents': GOOD, 'seeds': np.array([0.5, 2])}, ('seeds', 'float64')),
    ({'latents': GOOD, 'classes': np.array([0, 3])}, ('class 3', '0 to 2')),
    ({'latents': np.full_like(GOOD, np.nan)}, ('NaN',)),
])
def test_latents_that_do_not_fit_are_refused(arrays, says, classes, tmp_path):
    path = npz(tmp_path / 'x.npz', **arrays)
    call(classes, f'--latents={path}', f'--outdir={tmp_path / "out"}', status=1, says=('--latents', *says))
    assert not (tmp_path / 'out').exists()


def test_latents_of_another_scale_are_noted(trained, tmp_path):
    path = npz(tmp_path / 'x.npz', latents=80 * GOOD)
    said = call(trained, f'--latents={path}', f'--outdir={tmp_path / "out"}', '--steps=2').stderr
    assert 'standard deviation' in said
    assert 'unit noise' in said


def test_images_to_invert_that_do_not_fit_are_refused(trained, classes, tmp_path):
    (tmp_path / 'large').mkdir()
    Image.new('L', (16, 16)).save(tmp_path / 'large' / '0.png')
    noise = f'--noise={tmp_path / "back.npz"}'
    call(trained, f'--invert={tmp_path / "large"}', noise, status=1, says=('--invert', '16x16', '8x8'))
    call(classes, f'--invert={DIGITS}', noise, status=1, says=('--invert', 'class 9', '0 to 2'))
    call(trained, f'--invert={tmp_path / "missing"}', noise, status=1, says=('--invert', 'missing'))
    assert not (tmp_path / 'back.npz').exists()


@pytest.mark.parametrize(('args', 'says'), [
    ((), ('--outdir', '--noise')),
    ((f'--invert={DIGITS}',), ('--invert', '--noise')),
    ((f'--invert={DIGITS}', '--noise=n.npz', '--outdir=new'), ('--outdir', '--invert')),
    ((f'--invert={DIGITS}', '--noise=n.npz', '--seeds=0-3'), ('--seeds', '--invert')),
    ((f'--invert={DIGITS}', '--noise=n.npz', '--S_churn=10'), ('--S_churn', '--invert')),
    (('--noise=n.txt',), ('--noise n.txt', '.npz')),
    (('--noise=n.npz', '--grid=g.png'), ('--grid', '--outdir')),
])
def test_contradictions_are_usage_errors(args, says, trained):
    call(trained, *args, status=2, says=says)


def test_a_seed_that_the_file_has_not_is_named(trained, tmp_path):
    path = npz(tmp_path / 'x.npz', latents=GOOD)
    call(trained, f'--latents={path}', f'--outdir={tmp_path / "out"}', '--seeds=0-2', status=1,
         says=('--seeds', '2 is none of the 2 seeds'))


def test_a_file_that_is_no_noise_is_not_replaced(trained, tmp_path):
    path = npz(tmp_path / 'mine.npz', samples=GOOD)
    call(trained, f'--noise={path}', status=2, says=('--noise', 'noise file'))
    call(trained, f'--latents={path}', f'--noise={path}', status=2, says=('--noise', '--latents'))
