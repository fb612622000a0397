"""denoise.py: errors on training and held-out images, distances of denoisers, their figure, bad input."""

import json
import math
from itertools import product

import numpy as np
import pytest
import torch

import denoise
import plot
from figures.denoising_figure import Errors, draw_denoising
from helpers import assert_fits, golden, refuse, run
from image_sets import write
from scores.denoising_table import read_rows
from training.networks import EDMPrecond
from training.snapshot import save_snapshot

PIXELS = golden('optimal-denoiser')['dataset_uint8'].transpose(0, 2, 3, 1)


def network(path, bad=False, **options):
    """A snapshot of a small network for 8x8 RGB."""
    torch.manual_seed(0)
    net = EDMPrecond(8, 3, model_type='SongUNet', model_channels=4, num_blocks=1, channel_mult=[1],
                     attn_resolutions=[], **options)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(math.nan if bad else 0.05 * torch.randn_like(parameter))
    save_snapshot(path, ema=net.eval())
    return path


@pytest.fixture(scope='module')
def files(tmp_path_factory):
    """A network, another one, one that fails, training images, and all images."""
    folder = tmp_path_factory.mktemp('files')
    images = {f'{i:03d}.png': image for i, image in enumerate(PIXELS)}
    few = dict(list(images.items())[:4])
    return {'net': network(folder / 'net.pkl'), 'nan': network(folder / 'nan.pkl', bad=True),
            'cond': network(folder / 'cond.pkl', label_dim=3), 'few': write(folder / 'few.zip', few),
            'all': write(folder / 'all.zip', images),
            'grey': write(folder / 'grey.zip', {'0.png': np.zeros((8, 8), np.uint8)})}


def call(command, *args, out, **options):
    found = run(denoise.main, command, *args, '--out', out, '--device=cpu', **options)
    return found, {(row.denoiser, row.images, row.size, row.sigma): row for row in read_rows(out)}


def test_errors_of_a_network_and_of_the_optimal_denoiser(files, tmp_path):
    out = tmp_path / 'errors.csv'
    found, rows = call('error', '--denoiser', f'{files["net"]}=mine', f'optimal:{files["few"]}', '--data',
                       files['few'], '--heldout', files['all'], '--drop-equal', '--sigmas', '0.05,1',
                       '--seeds', '0-19', out=out)
    assert f'4 of {len(PIXELS)} images are training images, and left out' in found.stderr
    assert len(rows) == 8
    assert rows['optimal', 'train', 4, 0.05].mse < 1e-12
    assert rows['optimal', 'heldout', 4, 0.05].mse > 0.01
    assert {row.target for row in rows.values()} == {'images'}
    assert {row.count for row in rows.values()} == {20}
    record = json.loads((tmp_path / 'errors.json').read_text())
    assert record['options']['seeds'] == '0-19'
    assert {str(files[name]) for name in ('net', 'few', 'all')} == set(record['inputs'])


def test_both_kinds_of_images_get_the_same_noise(files, tmp_path):
    found, rows = call('error', '--network', files['net'], '--data', files['all'], '--heldout', files['all'],
                       '--sigmas', '0.5', '--seeds', '5,7', '--size', '99', out=tmp_path / 'errors.csv')
    assert rows['net', 'train', 99, 0.5].mse == rows['net', 'heldout', 99, 0.5].mse
    assert '--drop-equal' in found.stderr


def test_a_call_with_several_training_sets_is_several_calls(files, tmp_path):
    common = ('--sigmas', '0.5', '--seeds', '0-3', '--patch', '3')
    words = f'patch:{files["few"]}', f'patch:{files["all"]}'
    _, both = call('error', '--network', *words, '--data', files['few'], files['all'], *common,
                   out=tmp_path / 'both.csv')
    for word, data in zip(words, (files['few'], files['all']), strict=True):
        _, one = call('error', '--network', word, '--data', data, *common, out=tmp_path / 'one.csv')
        (key, row), = one.items()
        assert both[key] == row


@pytest.mark.parametrize(('data', 'trajectory'), [(True, False), (False, False), (True, True)])
def test_distances_along_a_trajectory_and_on_noisy_images(files, tmp_path, data, trajectory):
    closed = f'gaussian:{files["all"]}', f'optimal:{files["all"]}'
    words = files['net'], f'{files["net"]}=same', *closed
    options = (*(('--data', files['all']) if data else ('--steps', '5')), *['--trajectory'] * trajectory)
    out = tmp_path / 'distances.csv'
    _, rows = call('distance', *words, *options, '--sigmas', '0.1,40', '--seeds', '0-5', out=out)
    kinds = ['data'] * data + ['trajectory'] * (trajectory or not data)
    assert len(rows) == 6 * len(kinds)
    assert {row.target for row in rows.values()} == {'net'}
    for kind, sigma in product(kinds, (0.1, 40)):
        assert rows['same', kind, None, sigma].mse == 0
        assert 0 < rows['gaussian', kind, None, sigma].share < math.inf


def test_noise_levels_are_those_of_the_sampler_by_default(files, tmp_path):
    _, rows = call('error', '--network', f'optimal:{files["few"]}', '--data', files['few'], '--seeds', '0,1',
                   out=tmp_path / 'errors.csv')
    sigmas = sorted(row.sigma for row in rows.values())
    assert len(sigmas) == 18
    np.testing.assert_allclose((sigmas[0], sigmas[-1]), (0.002, 80))


def test_the_figure_has_a_curve_per_training_set_and_the_floor(files, tmp_path):
    words = [word for size in ('few', 'all') for word in (
        f'{files["net"]}=mine', f'optimal:{files[size]}', f'gaussian:{files[size]}')]
    data = [files[size] for size in ('few', 'all') for _ in range(3)]
    out = tmp_path / 'errors.csv'
    _, rows = call('error', '--network', *words, '--data', *data, '--heldout', files['all'], '--seeds', '0-7',
                   '--sigmas', '0.1,0.4,1,5', out=out)
    run(plot.main, 'denoising', '--table', out, '--out', tmp_path / 'denoising.png')
    figure, caption = draw_denoising(Errors(read_rows(out), None, ''))
    train, heldout, gap = figure.axes
    assert [line.get_label() for line in train.lines] == ['4', str(len(PIXELS)), '_optimal', '_optimal']
    assert [line.get_label() for line in heldout.lines] == ['4', str(len(PIXELS)), '_gaussian']
    row = rows['mine', 'train', 4, 1]
    assert train.lines[0].get_ydata()[2] == pytest.approx(10 * math.log10(row.mse))
    expected = 10 * math.log10(rows['mine', 'heldout', 4, 0.1].mse / rows['mine', 'train', 4, 0.1].mse)
    assert gap.lines[0].get_ydata()[0] == pytest.approx(expected)
    assert '8 noisy images' in caption
    assert_fits(figure)
    refuse(plot.main, 'denoising', '--table', out, '--name=other', '--out', tmp_path / 'x.png', status=1,
           says=('--name other', 'mine'))


@pytest.mark.parametrize(('command', 'status', 'says'), [
    ('error --network {net} --data {few} --seeds 3', 2, ('--seeds', 'two')),
    ('error --network {net} --data {few} --seeds 3,3', 2, ('--seeds', 'twice')),
    ('error --network {net} {net} {net} --data {few} {few}', 2, ('--data: 2 for 3',)),
    ('error --network {net} {net} --data {few}', 2, ('two denoisers are called net',)),
    ('distance {net} optimal:{few} optimal:{all}', 2, ('two denoisers are called optimal', '=NAME')),
    ('error --network {net} --data {few} --drop-equal', 2, ('--drop-equal', '--heldout')),
    ('error --network {net} --data {few} --heldout {few} --drop-equal', 1, ('--heldout', 'all of its 4')),
    ('error --network {net} --data {grey}', 1, ('--data', '8x8', 'grey')),
    ('error --network {net} optimal:{grey} --data {few}', 1, ('grey',)),
    ('error --network {net} --data {few} --sigmas 1,0', 2, ('--sigmas', '0')),
    ('error --network {net} --data {few} --class 1', 2, ('--class 1', 'no classes')),
    ('error --network {cond} --data {few}', 1, ('--data', '3 classes', '--class')),
    ('error --network {nan} --data {few}', 1, ('noise level 80', 'NaN', '(nan)')),
    ('error --network optimal:/nowhere --data {few}', 1, ('/nowhere', 'no such')),
    ('error --network patch:{few} --data {few}', 2, ('patch needs --patch',)),
    ('error --network {net} --data {few} --patch 2', 2, ('--patch is for --denoiser patch',)),
    ('distance {net} patch:{few} --patch 2 --heldout {few}', 2, ('--heldout', '--patch auto')),
    ('distance {net} patch:{few} --patch auto --heldout {few}', 1, ('--heldout', 'at least 30')),
    ('distance {net}', 2, ('at least two',)),
    ('distance {net} {net} --data {few} --steps 9', 2, ('--steps', '--data')),
    ('distance {net} {nan}', 1, ('noise level 80', '(nan)'))])
def test_mistakes_are_told_in_one_line_and_leave_nothing(files, tmp_path, command, status, says):
    words = command.format(**files).split()
    refuse(denoise.main, *words, '--out', tmp_path / 'x.csv', '--device=cpu', status=status, says=says)
    assert not list(tmp_path.iterdir())


def test_only_tables_of_its_own_are_replaced(files, tmp_path):
    out, words = tmp_path / 'errors.csv', ('--network', f'optimal:{files["few"]}', '--data', files['few'],
                                           '--seeds', '0,1', '--sigmas', '1')
    call('error', *words, out=out)
    call('error', *words, out=out)
    out.write_text('a,b\n1,2\n')
    refuse(denoise.main, 'error', *words, '--out', out, status=2, says=('--out', '--overwrite'))
    out.unlink()
    out.with_suffix('.json').write_text('{}')
    refuse(denoise.main, 'error', *words, '--out', out, status=2, says=('--out', 'errors.json'))
    run(denoise.main, 'error', *words, '--out', out, '--overwrite')
