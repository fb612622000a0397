"""generate.py with the denoisers of a data set: data, classes, processes, bad input."""

import gzip
import json

import numpy as np
import pytest
import torch
from PIL import Image

import generate
from helpers import DATA, golden, processes, refuse, run
from image_sets import encode, write
from sampling.schedules import karras_sigmas
from torch_utils.images import to_uint8
from torch_utils.seeding import SampleGenerators
from training.snapshot import load_network

GOLDEN = golden('optimal-denoiser')
PIXELS = GOLDEN['dataset_uint8'].transpose(0, 2, 3, 1)
CLASSES = [i % 3 for i in range(len(PIXELS))]
KINDS = {'optimal': (), 'gaussian': (), 'patch': ('--patch=3',), 'local': ('--patch=3',),
         'equivariant': ('--patch=3',), 'linear': ('--patch=3',),
         'molrg': ('--classes=2', '--dim=3')}  # with the options that they need


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    """The same images as a folder, a zip, an .npz, and a zip with three classes."""
    folder = tmp_path_factory.mktemp('data')
    files = {f'{i:03d}.png': image for i, image in enumerate(PIXELS)}
    labels = {'dataset.json': {'labels': list(zip(files, CLASSES, strict=True))}}
    np.savez(folder / 'set.npz', samples=PIXELS)
    return {'dir': write(folder / 'set', files), 'zip': write(folder / 'set.zip', files),
            'npz': folder / 'set.npz', 'labelled': write(folder / 'labelled.zip', files | labels)}


@pytest.fixture(scope='module')
def networks(tmp_path_factory):
    """Snapshots of networks for 8x8 RGB: ddpmpp without classes, adm with seven."""
    folder = tmp_path_factory.mktemp('snapshots')
    paths = {}
    for name in ('edm-ddpmpp', 'edm-adm-cond', 'vp-ddpmpp'):
        paths[name] = folder / f'{name}.pkl'
        paths[name].write_bytes(gzip.decompress((DATA / f'snapshot-{name}.pkl.gz').read_bytes()))
    return paths


def sample(outdir, *args, kind='optimal', seeds='0-3'):
    run(generate.main, f'--denoiser={kind}', *KINDS[kind], f'--outdir={outdir}', f'--seeds={seeds}',
        '--device=cpu', *args)
    return read(outdir)


def read(outdir):
    return np.stack([np.asarray(Image.open(path)) for path in sorted(outdir.glob('*.png'))]).astype(int)


def pixels_of_class(k):
    return PIXELS[np.array(CLASSES) == k]


def contains(images, sample):
    return (np.abs(images.astype(int) - sample).max(axis=(1, 2, 3)) <= 1).any()


def test_samples_are_the_references(data, tmp_path):
    expected = to_uint8(torch.from_numpy(GOLDEN['sample_euler18'])).numpy().transpose(0, 2, 3, 1).astype(int)
    for form in ('zip', 'dir', 'npz'):
        made = sample(tmp_path / form, f'--dataset={data[form]}', seeds='0,1,7,100000')
        assert np.abs(made - expected).max() <= 1


@pytest.mark.parametrize('kind', KINDS)
def test_neither_batch_nor_memory_change_a_sample(kind, data, tmp_path):
    args = (f'--dataset={data["labelled"]}',)
    together = sample(tmp_path / 'a', *args, kind=kind, seeds='0-9')
    alone = sample(tmp_path / 'b', *args, '--batch=1', '--cache_gb=0', kind=kind, seeds='0-9')
    assert np.abs(together - alone).max() <= 1


def test_neither_split_seeds_nor_a_split_data_set_change_a_sample(data, tmp_path):
    args = (f'--dataset={data["labelled"]}', '--steps=6', '--S_churn=5')
    shards = ('--shard_dataset', '--batch=4', '--cache_gb=0')
    calls = {'seeds': ('optimal', ()), **{kind: (kind, shards) for kind in KINDS},
             'auto': ('patch', ('--patch=auto', *shards))}
    for name, (kind, more) in calls.items():
        (tmp_path / f'{name}.args').write_text('\n'.join([
            f'--denoiser={kind}', *KINDS[kind], f'--outdir={tmp_path / name}', '--seeds=0-8', *args,
            '--device=cpu', f'--trajectory={tmp_path / name}.npz', *more]))
    processes(2, '../tests/call_generate.py', *(tmp_path / f'{name}.args' for name in calls))
    for name, (kind, more) in calls.items():
        whole = [each for each in more if each not in shards]
        one = sample(tmp_path / f'{name}-one', *args, *whole, kind=kind, seeds='0-8')
        assert np.abs(read(tmp_path / name) - one).max() <= 1
        with np.load(tmp_path / f'{name}.npz') as arrays:
            assert arrays['seeds'].tolist() == list(range(9))


def test_each_seed_draws_the_class_whose_images_denoise(data, tmp_path):
    made = sample(tmp_path, f'--dataset={data["labelled"]}', seeds='0-7')
    for seed, image in enumerate(made):
        draws = SampleGenerators([seed], torch.device('cpu'))
        draws.randn((3, 8, 8))
        assert contains(pixels_of_class(draws.randint(3).item()), image)


def test_class_restricts_the_images(data, tmp_path):
    for image in sample(tmp_path, f'--dataset={data["labelled"]}', '--class=1'):
        assert contains(pixels_of_class(1), image)


def test_class_moves_no_noise(data, tmp_path):
    """With churn, noise follows the class's draw: both must draw it."""
    args = (f'--dataset={data["labelled"]}', '--S_churn=30')
    free = sample(tmp_path / 'free', *args, seeds='0-9')
    chosen = sample(tmp_path / 'chosen', *args, '--class=2', seeds='0-9')
    same = [seed for seed in range(10) if contains(pixels_of_class(2), free[seed])]
    assert same
    assert np.abs(free[same] - chosen[same]).max() <= 1


def test_a_network_gives_the_noise_levels_but_not_the_images(data, networks, tmp_path):
    trajectory = tmp_path / 'steps.npz'
    sample(tmp_path / 'a', f'--dataset={data["zip"]}', f'--network={networks["vp-ddpmpp"]}',
           '--sigma_max=1000', '--sigma_min=1e-6', f'--trajectory={trajectory}')
    net = load_network(str(networks['vp-ddpmpp']), torch.device('cpu'))
    with np.load(trajectory) as arrays:
        assert arrays['sigma'][[0, -1]] == pytest.approx([net.sigma_max, net.sigma_min])
        assert all(contains(PIXELS, image.transpose(1, 2, 0)) for image in arrays['images'])
    settings = json.loads((tmp_path / 'a' / 'generation.json').read_text())['settings']
    assert settings['denoiser'] == 'optimal'
    assert len(settings['dataset_sha256']) == len(settings['network_sha256']) == 64


def test_classes_of_a_network_are_drawn_and_mean_nothing_without_labels(data, networks, tmp_path):
    args = (f'--dataset={data["zip"]}', f'--network={networks["edm-adm-cond"]}')
    assert np.abs(sample(tmp_path / 'a', *args) - sample(tmp_path / 'b', args[0])).max() <= 1
    churned = [sample(tmp_path / f'churned{i}', *args[:i], '--S_churn=30', '--steps=4') for i in (1, 2)]
    assert np.abs(churned[0] - churned[1]).max() > 1  # the class's draw moves the noise, as for the network


def test_labels_mean_nothing_to_a_network_without_classes(data, networks, tmp_path):
    network = f'--network={networks["edm-ddpmpp"]}'
    labelled = sample(tmp_path / 'a', f'--dataset={data["labelled"]}', network)
    assert np.abs(labelled - sample(tmp_path / 'b', f'--dataset={data["zip"]}')).max() <= 1
    for image in sample(tmp_path / 'c', f'--dataset={data["labelled"]}', network, '--class=0'):
        assert contains(pixels_of_class(0), image)


def test_the_solver_is_euler_unless_another_is_given(data, tmp_path):
    args = (f'--dataset={data["zip"]}', '--steps=5', '--sigma_min=0.3')
    for kind in KINDS:
        made = {name: sample(tmp_path / f'{kind}-{name}', *args, *more, kind=kind) for name, more in {
            'default': (), 'euler': ('--solver=euler',), 'heun': ('--solver=heun',)}.items()}
        assert np.array_equal(made['default'], made['euler'])
    assert not np.array_equal(made['euler'], made['heun'])


@pytest.mark.parametrize(('args', 'says'), [
    (('--optimal_denoiser',), ('--optimal_denoiser', '--dataset')),
    (('--gaussian_denoiser',), ('--gaussian_denoiser', '--dataset')),
    (('--optimal_denoiser', '--gaussian_denoiser', '--dataset=x'), ('--optimal_denoiser', '--gaussian')),
    (('--dataset=x',), ('--dataset', '--optimal_denoiser')),
    (('--network=x', '--shard_dataset'), ('--shard_dataset', '--optimal_denoiser')),
    (('--network=x', '--cache_gb=1'), ('--cache_gb', '--optimal_denoiser')),
    (('--optimal_denoiser', '--dataset=x', '--cache_gb=nan'), ('--cache_gb', 'nan')),
    ((), ('--network',)),
    (('--denoiser=patch', '--dataset=x'), ('--denoiser patch', '--patch')),
    (('--denoiser=patch', '--dataset=x', '--patch=0'), ('--patch', '0')),
    (('--denoiser=optimal', '--dataset=x', '--patch=3'), ('--patch', '--denoiser patch')),
    (('--network=x', '--patch=3'), ('--patch', '--denoiser patch')),
    (('--denoiser=patch', '--patch=3', '--dataset=x', '--classes=2'), ('--classes', '--denoiser molrg')),
    (('--denoiser=molrg', '--dataset=x', '--dim=0'), ('--dim', '0')),
])
def test_usage_errors_name_the_option(args, says, tmp_path):
    refuse(generate.main, f'--outdir={tmp_path / "out"}', *args, status=2, says=says)
    assert not (tmp_path / 'out').exists()


@pytest.mark.parametrize(('files', 'says'), [
    ({}, 'no images'),
    ({'a.png': b'no image at all'}, 'a.png'),
    ({'a.png': PIXELS[0], 'b.png': encode(PIXELS[1])[:60]}, 'b.png'),
    ({'a.png': PIXELS[0], 'b.png': PIXELS[0][:4, :4]}, 'b.png'),
    ({'a.png': PIXELS[0], 'b.png': PIXELS[0][:, :, 0]}, 'b.png'),
    ({'a.png': PIXELS[0][:4]}, '8x4'),
    ({'a.png': PIXELS[0], 'dataset.json': {'labels': [['a.png', 1]]}}, 'no images of class 0'),
])
def test_bad_data_sets_are_refused(files, says, tmp_path):
    path = write(tmp_path / 'set.zip', files)
    refuse(generate.main, '--optimal_denoiser', f'--dataset={path}', f'--outdir={tmp_path / "out"}', status=1,
           says=('--dataset', str(path), says))
    assert not (tmp_path / 'out').exists()


def test_a_truncated_zip_is_refused(data, tmp_path):
    path = tmp_path / 'cut.zip'
    path.write_bytes(data['zip'].read_bytes()[:-1000])
    refuse(generate.main, '--optimal_denoiser', f'--dataset={path}', f'--outdir={tmp_path / "out"}', status=1,
           says=('--dataset', str(path), 'truncated'))
    assert not (tmp_path / 'out').exists()


def test_what_does_not_fit_the_network_is_refused(networks, data, tmp_path):
    write(tmp_path / 'large', {'a.png': np.zeros((16, 16, 3), np.uint8)})
    write(tmp_path / 'grey', {'a.png': np.zeros((8, 8), np.uint8)})
    write(tmp_path / 'classes', {f'{i}.png': PIXELS[i] for i in range(8)} | {
        'dataset.json': {'labels': [[f'{i}.png', i] for i in range(8)]}})
    network = networks['edm-adm-cond']
    for path, says in (('large', ('16x16 RGB', '8x8 RGB')), ('grey', ('8x8 grey', '8x8 RGB')),
                       ('classes', ('0 to 7', '0 to 6'))):
        refuse(generate.main, '--optimal_denoiser', f'--dataset={tmp_path / path}', f'--network={network}',
               f'--outdir={tmp_path / "out"}', status=1, says=('--dataset', '--network', *says))
    refuse(generate.main, '--optimal_denoiser', f'--dataset={tmp_path / "classes"}', f'--network={network}',
           '--class=7', f'--outdir={tmp_path / "out"}', status=2, says=('--class 7', '0 to 6'))
    assert not (tmp_path / 'out').exists()


@pytest.mark.parametrize(('form', 'says'), [('zip', 'no classes'), ('labelled', '0 to 2')])
def test_a_class_that_the_data_set_has_not_is_refused(form, says, data, tmp_path):
    refuse(generate.main, '--optimal_denoiser', f'--dataset={data[form]}', '--class=3',
           f'--outdir={tmp_path / "out"}', status=1, says=('--class 3', '--dataset', says))
    assert not (tmp_path / 'out').exists()


def test_windows_that_do_not_fit_the_images_are_refused(data, tmp_path):
    for kind, size, says in (('patch', 9, '8x8'), ('local', 2, 'odd')):
        refuse(generate.main, f'--denoiser={kind}', f'--patch={size}', f'--dataset={data["zip"]}',
               f'--outdir={tmp_path / "out"}', status=1, says=(f'--patch {size}', says))
    assert not (tmp_path / 'out').exists()


def test_windows_by_noise_level_are_printed_and_recorded(data, tmp_path):
    args = ('--denoiser=linear', '--patch=auto', '--seeds=0', '--device=cpu')
    for name, more in {'own': (f'--dataset={data["zip"]}',), 'heldout': (
            f'--dataset={data["labelled"]}', '--class=0', f'--heldout={data["zip"]}')}.items():
        printed = run(generate.main, *args, *more, f'--outdir={tmp_path / name}').stderr
        sizes = json.loads((tmp_path / name / 'generation.json').read_text())['settings']['patch_by_sigma']
        sigmas = [sigma for sigma, _ in sizes]
        assert sigmas == pytest.approx(karras_sigmas(18, 0.002, 80).tolist(), abs=1e-6)
        assert f'--patch auto: P = {sizes[0][1]} at sigma 80' in printed


@pytest.mark.parametrize(('args', 'status', 'says'), [
    (('--class=2',), 1, ('--patch auto', '--dataset', '12 images', '30')),
    (('--heldout={zip}',), 1, ('--heldout', 'classes')),
    (('--class=2', '--heldout={large}'), 1, ('--heldout', '16x16', '8x8')),
    (('--class=2', '--heldout={few}'), 1, ('--patch auto', '--heldout', '29 images', '30')),
    (('--heldout={zip}', '--patch=3'), 2, ('--heldout', '--patch auto')),
])
def test_bad_images_to_choose_windows_by_are_refused(args, status, says, data, tmp_path):
    paths = {'zip': data['zip']}
    for name, size, count in ('large', 16, 30), ('few', 8, 29):
        paths[name] = write(tmp_path / name, {f'{i}.png': np.zeros((size, size, 3), np.uint8)
                                              for i in range(count)})
    refuse(generate.main, '--denoiser=patch', '--patch=auto', f'--dataset={data["labelled"]}',
           *(arg.format(**paths) for arg in args), f'--outdir={tmp_path / "out"}', status=status, says=says)
    assert not (tmp_path / 'out').exists()


def test_overflow_in_the_sampler_is_refused(data, tmp_path):
    refuse(generate.main, '--optimal_denoiser', f'--dataset={data["zip"]}', f'--outdir={tmp_path / "out"}',
           '--S_churn=40', '--S_noise=1e308', '--device=cpu', status=1, says=('finite', '--S_noise'))
    assert not list((tmp_path / 'out').glob('*.png'))
