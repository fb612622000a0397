"""sscd.py: descriptors of images, the printed scores and their files, what is refused."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

import sscd
from descriptors.features import load_features
from descriptors.pixel_descriptors import pixel_descriptor
from descriptors.sscd_model import SscdDescriptor
from helpers import DATA, fork, processes, refuse, run
from image_sets import write
from scores.copy_scores import memorized_fraction, nearest_neighbors, rp_score, wilson_interval
from scores.neighbors import load_neighbors
from scores.score_table import read_table
from scripted import pooled, save, save_script

GOLDEN = json.loads((DATA / 'scores.json').read_text())


@pytest.fixture
def folder(tmp_path):
    images = np.random.RandomState(0).randint(256, size=(5, 4, 4, 3), dtype=np.uint8)
    (tmp_path / 'images').mkdir()
    for index in (3, 0, 4, 1, 2):  # names decide the order, not time
        Image.fromarray(images[index]).save(tmp_path / 'images' / f'{index:06d}.png')
    return tmp_path / 'images', images.transpose(0, 3, 1, 2)


PIXEL = ('--descriptor', 'pixel')


def features_file(name):
    return DATA / f'features-{name}.npz'


@pytest.mark.parametrize('threshold', GOLDEN)
def test_scores_are_printed_as_in_the_papers_software(threshold):
    options = ('--source', features_file('source'), '--t', threshold, '--device', 'cpu')
    rp = run(sscd.main, 'rpscore', *options, '--target', features_file('target')).stdout.splitlines()
    assert rp[0] == f'RP score =  {GOLDEN[threshold]["rp_score"]}'
    m = run(sscd.main, 'mscore', *options, '--target', features_file('train')).stdout.splitlines()
    assert m[0] == f'M score =  {GOLDEN[threshold]["generalization_score"]}'
    assert f'Memorized fraction: {GOLDEN[threshold]["memorized_fraction"]} ' in m[1]


def test_the_threshold_is_0_6_if_none_is_given():
    options = ('--source', features_file('source'), '--target', features_file('target'))
    printed = run(sscd.main, 'rpscore', *options)
    assert printed.stdout.startswith(f'RP score =  {GOLDEN["0.6"]["rp_score"]}\n')


def test_json_holds_the_numbers_their_interval_and_their_origin(tmp_path):
    options = ('--source', features_file('source'), '--t', '0.9', '--json', tmp_path / 'deep' / 'scores.json')
    run(sscd.main, 'rpscore', *options, '--target', features_file('target'))
    rp = json.loads((tmp_path / 'deep' / 'scores.json').read_text())
    assert (rp['rp_score'], rp['count'], rp['total'], rp['threshold']) == (0.19, 57, 300, 0.9)
    assert rp['low'] < 0.19 < rp['high']
    assert rp['source']['path'] == str(features_file('source'))
    run(sscd.main, 'mscore', *options, '--target', features_file('train'))
    m = json.loads((tmp_path / 'deep' / 'scores.json').read_text())
    assert (m['generalization_score'], m['memorized_fraction'], m['count']) == (0.96, 0.04, 288)
    assert m['low'] < 0.96 < m['high']
    assert m['record']['torch']


@pytest.mark.parametrize('grey', [False, True])
def test_features_are_the_images_descriptors_in_order_of_names(folder, tmp_path, grey):
    path, images = folder
    if grey:
        images = images[:, :1]
        for index, image in enumerate(images):
            Image.fromarray(image[0]).save(path / f'{index:06d}.png')
    out = tmp_path / 'made' / 'f.npz'
    assert run(sscd.main, 'feature', '--images', path, '--features', out, *PIXEL).stdout.startswith('wrote')
    with np.load(out) as file:
        np.testing.assert_array_equal(file['features'], pixel_descriptor(images))
        assert file['file_names'].tolist() == [f'{index:06d}.png' for index in range(5)]
        assert file['descriptor'] == 'pixel'
    again = run(sscd.main, 'feature', '--images', path, '--features', out, *PIXEL)
    assert again.stdout.startswith('replaced')
    several = tmp_path / 'first.npz', tmp_path / 'second.npz'
    run(sscd.main, 'feature', '--images', path, path, '--features', *several, *PIXEL)
    assert {file.read_bytes() for file in several} == {out.read_bytes()}


def test_a_model_that_copies_its_training_images_does_not_generalize(folder, tmp_path):
    for name in ('a', 'b'):
        run(sscd.main, 'feature', '--images', folder[0], '--features', tmp_path / f'{name}.npz', *PIXEL)
    both = ('--source', tmp_path / 'a.npz', '--target', tmp_path / 'b.npz', '--t', '0.97')
    assert run(sscd.main, 'rpscore', *both).stdout.startswith('RP score =  1.0\n')
    assert run(sscd.main, 'mscore', *both).stdout.startswith('M score =  0.0\n')


def test_doubtful_comparisons_are_mentioned_on_stderr(folder, tmp_path):
    path, _ = folder
    run(sscd.main, 'feature', '--images', path, '--features', tmp_path / 'a.npz', *PIXEL)
    Image.new('RGB', (4, 4), 'gray').save(path / '000002.png')
    result = run(sscd.main, 'feature', '--images', path, '--features', tmp_path / 'b.npz', *PIXEL)
    assert '1 of 5 images are of one colour' in result.stderr
    both = ('--source', tmp_path / 'a.npz', '--target', tmp_path / 'b.npz')
    assert '0.6, which suits SSCD' in run(sscd.main, 'rpscore', *both).stderr
    (told,) = run(sscd.main, 'mscore', *both, '--t', '0.6').stderr.splitlines()
    assert 'b.npz: 1 of 5 images are of one colour' in told
    values = 2 * load_features(tmp_path / 'a.npz', '').values
    np.savez(tmp_path / 'c.npz', features=values)
    stderr = run(sscd.main, 'rpscore', *both[:2], '--target', tmp_path / 'c.npz', '--t', '0.97').stderr
    assert '5 of 5 features are not of length 1' in stderr
    assert 'has no file names' in stderr
    values[3:] = values[0]
    np.savez(tmp_path / 'c.npz', features=values)
    stderr = run(sscd.main, 'rpscore', *both[:2], '--target', tmp_path / 'c.npz', '--t', '0.97').stderr
    assert 'c.npz: 3 of 5 descriptors equal another one' in stderr


def test_rows_of_different_names_are_compared_only_if_told_so(folder, tmp_path):
    path, _ = folder
    run(sscd.main, 'feature', '--images', path, '--features', tmp_path / 'a.npz', *PIXEL)
    (path / '000004.png').rename(path / '000007.png')
    run(sscd.main, 'feature', '--images', path, '--features', tmp_path / 'b.npz', *PIXEL)
    both = ('--source', tmp_path / 'a.npz', '--target', tmp_path / 'b.npz', '--t', '0.97')
    line = refuse(sscd.main, 'rpscore', *both, status=1,
                  says=('--target', 'a row is 000004.png in one and 000007.png', 'same seeds'))
    assert '--ignore-names' not in line
    told = run(sscd.main, 'rpscore', *both, '--ignore-names')
    assert told.stdout.startswith('RP score =  1.0\n')
    assert 'in the order of the numbers in the names, 000007.png with 000004.png' in told.stderr
    assert run(sscd.main, 'mscore', *both).stdout.startswith('M score =  0.0\n')


def test_the_interval_and_the_counts_follow_the_number():
    options = ('--source', features_file('source'), '--t', '0.9')
    low, high = wilson_interval(57, 300)
    second = run(sscd.main, 'rpscore', *options, '--target', features_file('target')).stdout.splitlines()[1]
    assert second.startswith('57 of 300 pairs')
    assert f'95 % interval {low:.4f} .. {high:.4f} (Wilson)' in second
    low, high = wilson_interval(288, 300)
    second = run(sscd.main, 'mscore', *options, '--target', features_file('train')).stdout.splitlines()[1]
    for words in ('generalization score', '288 of 300', f'{low:.4f} .. {high:.4f}', '12 of 300',
                  '290 training'):
        assert words in second


def test_neighbors_are_kept_with_all_that_is_needed_to_find_the_images(folder, tmp_path):
    path, _ = folder
    run(sscd.main, 'feature', '--images', path, '--features', tmp_path / 'a.npz', *PIXEL)
    (path / '000002.png').unlink()
    run(sscd.main, 'feature', '--images', path, '--features', tmp_path / 'b.npz', *PIXEL)
    run(sscd.main, 'mscore', '--source', tmp_path / 'a.npz', '--target', tmp_path / 'b.npz', '--t', '0.97',
        '--neighbors', tmp_path / 'n.npz')
    a, b = (load_features(tmp_path / f'{name}.npz', '').values for name in 'ab')
    similarity, nearest = nearest_neighbors(a, b)
    with np.load(tmp_path / 'n.npz') as file:
        np.testing.assert_array_equal(file['similarity'], similarity)
        np.testing.assert_array_equal(file['nearest'], nearest)
        assert (file['threshold'], file['descriptor']) == (0.97, 'pixel')
        assert file['sample_images'] == file['training_images'] == str(path)
        assert file['training_names'].tolist() == [f'{i:06d}.png' for i in (0, 1, 3, 4)]


def test_mae_score_counts_images_of_one_name_that_differ_by_little(folder, tmp_path):
    path, images = folder
    (tmp_path / 'other').mkdir()
    for index, shift in ((0, 0), (1, 10), (2, 20), (9, 0)):
        pixels = images[index % 5].astype(int)
        pixels += np.where(pixels < 128, shift, -shift)
        image = Image.fromarray(pixels.astype(np.uint8).transpose(1, 2, 0))
        image.save(tmp_path / 'other' / f'{index:06d}.png')
    options = ('--source', path, '--target', tmp_path / 'other')
    result = run(sscd.main, 'maescore', *options, '--json', tmp_path / 'mae.json')
    assert result.stdout.splitlines()[0] == f'MAE score =  {2 / 3}'
    assert '2 of 3 pairs differ by less than 15 of 255 on average; 95 % interval 0.2077 ..' in result.stdout
    assert '000003.png: 2 of 5 images such as this one have no partner' in result.stderr
    assert json.loads((tmp_path / 'mae.json').read_text())['mae_score'] == 2 / 3
    assert run(sscd.main, 'maescore', *options, '--t', '10').stdout.startswith(f'MAE score =  {1 / 3}\n')


def test_images_called_by_unpadded_numbers_are_paired_by_them(tmp_path):
    images = np.random.RandomState(0).randint(256, size=(12, 4, 4, 3), dtype=np.uint8)
    for name, pattern in (('a', '{:06d}.png'), ('b', 'sample_{}.png')):
        write(tmp_path / name, {pattern.format(i): image for i, image in enumerate(images)})
        run(sscd.main, 'feature', '--images', tmp_path / name, '--features', tmp_path / f'{name}.npz',
            *PIXEL)
    both = ('--source', tmp_path / 'a.npz', '--target', tmp_path / 'b.npz', '--t', '0.97')
    for more in ((), ('--ignore-names',)):
        result = run(sscd.main, 'rpscore', *both, *more)
        assert result.stdout.startswith('RP score =  1.0\n')
        assert 'rows are paired by the number in the name, sample_0.png with 000000.png' in result.stderr
    folders = ('--source', tmp_path / 'a', '--target', tmp_path / 'b')
    assert run(sscd.main, 'maescore', *folders).stdout.startswith('MAE score =  1.0\n')


def test_several_scores_of_one_call_are_those_of_single_calls(tmp_path):
    source, target, train = (features_file(name) for name in ('source', 'target', 'train'))
    table = tmp_path / 'new' / 't.csv'
    run(sscd.main, 'rpscore', '--source', source, target, '--target', target, source, '--t', '0.3', '0.9',
        '--size', 4, 8, '--width', 16, 64, '--table', table)
    run(sscd.main, 'mscore', '--source', source, target, '--target', train, '--t', '0.3', '0.9', '--nested',
        '--size', 50, 290, '--width', 64, '--table', table, '--neighbors', tmp_path / '1.npz',
        tmp_path / '2.npz')
    rows = {row.key[:4]: row for row in read_table(table)}
    assert len(rows) == 8 + 4  # of pairs with their controls, and nothing is held out from N = 290
    for size in (4, 8):
        assert rows[0.9, 'rp', ('64', '16'), size].count == 57
    single = json.loads(DATA.joinpath('scores.json').read_text())['0.3']
    assert rows[0.3, 'rp', ('64', '16'), 4].value == single['rp_score']
    a, b, pool = (load_features(path, '').values for path in (source, target, train))
    chance = rows[0.3, 'chance_rp', ('64', '16'), 4]
    assert chance.value == rp_score(a, np.roll(b, -1, axis=0), 0.3)
    for size, samples in ((50, a), (290, b)):
        known = memorized_fraction(samples, pool[:size], 0.3)
        assert rows[0.3, 'gl', ('64',), size].count == 300 - round(300 * known)
    for number, size in ((1, 50), (2, 290)):
        assert load_neighbors(tmp_path / f'{number}.npz').size == size


def test_held_out_rows_are_those_behind_the_largest_training_set(tmp_path):
    np.savez(tmp_path / 'pool.npz', features=np.eye(5)[[0, 1, 2, 1, 4]])
    np.savez(tmp_path / 'a.npz', features=np.eye(5)[[0, 1, 2, 3]])
    source = tmp_path / 'a.npz'
    run(sscd.main, 'mscore', '--source', source, source, '--target', tmp_path / 'pool.npz', '--size', 1, 3,
        '--nested', '--width', 8, '--table', tmp_path / 't.csv')
    found = {(row.score, row.size): (row.count, row.total) for row in read_table(tmp_path / 't.csv')}
    assert found == {('gl', 1): (3, 4), ('gl', 3): (1, 4),
                     ('heldout_gl', 1): (2, 2), ('heldout_gl', 3): (1, 2),
                     ('calibrated_gl', 1): (3, 4), ('calibrated_gl', 3): (4, 4), ('ct', 1): (None, None),
                     ('ct', 3): (None, None), ('gl_difference', 1): (None, None),
                     ('gl_difference', 3): (None, None)}


def test_held_out_images_of_a_file_of_their_own_stand_beside_the_score(tmp_path):
    options = ('--source', features_file('source'), '--target', features_file('train'), '--t', '0.6')
    bare = run(sscd.main, 'mscore', *options).stdout.splitlines()
    result = run(sscd.main, 'mscore', *options, '--heldout', features_file('target'), '--width', 8,
                 '--table', tmp_path / 't.csv', '--json', tmp_path / 'm.json', '--false-positives', '0.5')
    lines = result.stdout.splitlines()
    assert lines[:2] == bare[:2]
    assert bare[2].startswith('The threshold is not calibrated: --heldout')
    assert [line.split(':')[0] for line in lines[2:6]] == [
        'GL, held-out images', 'GL, samples less held-out images', 'GL, calibrated threshold 0.5015', 'C_T']
    assert 'not calibrated' not in result.stdout
    assert 'held-out images equal a training image' in result.stderr
    rows, kept = read_table(tmp_path / 't.csv'), json.loads((tmp_path / 'm.json').read_text())
    for row in rows[1:]:
        for name, number in kept['controls'][row.score].items():
            assert getattr(row, name) == number
    assert len(rows) == len(kept['controls']) + 1 == 5
    assert kept['heldout']['path'] == str(features_file('target'))
    both = run(sscd.main, 'mscore', *options, '--heldout', features_file('target'), '--drop-equal').stderr
    assert 'they are left out' in both


def test_copies_by_ratio_of_distances_need_raw_features(folder, tmp_path):
    path, _ = folder
    options = ('feature', '--images', path, '--descriptor')
    run(sscd.main, *options, 'l2', '--features', tmp_path / 'train.npz')
    Image.new('RGB', (4, 4), 'white').save(path / '000002.png')
    run(sscd.main, *options, 'l2', '--features', tmp_path / 'a.npz')
    ratio = ('--source', tmp_path / 'a.npz', '--target', tmp_path / 'train.npz', '--criterion', 'ratio')
    first, second, *_ = run(sscd.main, 'mscore', *ratio, '--table', tmp_path / 't.csv',
                            '--width', 8).stdout.splitlines()
    assert float(first.split('=')[1]) == pytest.approx(1 / 5)
    assert '1 of 5 samples have no training image nearer than 0.333333 of the distance' in second
    (row,) = read_table(tmp_path / 't.csv')
    assert (row.score, row.threshold, row.count, row.descriptor) == ('ratio_gl', 1 / 3, 1, 'l2')
    run(sscd.main, *options, 'pixel', '--features', tmp_path / 'unit.npz')
    unit = ('--source', tmp_path / 'unit.npz', '--target', tmp_path / 'unit.npz')
    refuse(sscd.main, 'mscore', *unit, '--criterion', 'ratio', status=1,
           says=('descriptors of unit length (pixel)', 'the ratio criterion needs raw descriptors'))
    refuse(sscd.main, 'mscore', *unit, '--heldout', tmp_path / 'a.npz', status=1,
           says=('--heldout', 'descriptors differ'))
    refuse(sscd.main, 'mscore', *ratio, '--t', '0.5', status=2, says=('--t: for --criterion similarity',))
    refuse(sscd.main, 'mscore', *unit, '--ratio', '0.5', status=2, says=('--ratio: for --criterion ratio',))
    for wrong in ('1', '0', '1/0', 'nan', 'x'):
        refuse(sscd.main, 'mscore', *ratio, '--ratio', wrong, status=2, says=('--ratio', wrong))
    refuse(sscd.main, 'mscore', *unit, '--false-positives', '1', status=2, says=('--false-positives',))
    one = tmp_path / 'one.npz'
    np.savez(one, features=np.ones((1, 3 * 4 * 4), np.float32), length=np.array('raw'))
    told = run(sscd.main, 'mscore', '--source', one, *ratio[2:], '--heldout', one).stdout
    assert 'C_T: 0.0 (no interval): z score' in told
    for option in ('--drop-equal', '--false-positives=0.05'):
        refuse(sscd.main, 'mscore', *unit, option, status=2, says=(option.split('=')[0], 'needs --heldout'))
    refuse(sscd.main, 'mscore', *unit, '--heldout', tmp_path / 'no.npz', status=1,
           says=('--heldout', 'no such'))


def test_pfd_is_printed_with_its_interval_and_kept(tmp_path):
    options = ('pfd', '--source', features_file('source'), '--target', features_file('target'))
    lines = run(sscd.main, *options, '--width', 8, 4, '--size', 16, '--table', tmp_path / 't.csv').stdout
    first, second, chance, _ = lines.splitlines()
    assert float(first.removeprefix('PFD = ')) == pytest.approx(0.8183083447187393)
    assert 'same noises; 95 % interval 0.7883 .. 0.8463 (bootstrap)' in second
    assert chance.startswith('PFD, different noises: 1.41')
    run(sscd.main, *options, '--reference', 'optimal', '--width', 8, '--size', 16,
        '--table', tmp_path / 't.csv', '--json', tmp_path / 'p.json')
    found = {row.score: (row.models, row.size) for row in read_table(tmp_path / 't.csv')}
    assert found == {'pfd': (('8', '4'), 16), 'chance_pfd': (('8', '4'), 16), 'optimal_pfd': (('8',), 16)}
    kept = json.loads((tmp_path / 'p.json').read_text())
    assert kept['memorization_error'] == pytest.approx(0.8183083447187393)
    both = ('--source', features_file('source'), features_file('target'), *options[3:])
    several = run(sscd.main, 'pfd', *both).stdout.splitlines()
    assert several[1].startswith(f'PFD of {features_file("target")} and {features_file("target")}: 0.0 (95 %')
    refuse(sscd.main, *options, '--t', '0.5', status=2, says=('--t',))


def test_a_closed_form_denoiser_gives_a_row_of_its_own(tmp_path):
    both = ('--source', features_file('source'), '--target', features_file('target'), '--t', '0.9')
    run(sscd.main, 'rpscore', *both, '--size', 4, '--width', 64, '--reference', 'optimal', '--table',
        tmp_path / 't.csv')
    (row,) = read_table(tmp_path / 't.csv')
    assert (row.score, row.models, row.size, row.count) == ('optimal_rp', ('64',), 4, 57)


def test_matrix_holds_the_scores_of_all_pairs(folder, tmp_path):
    files = [features_file(name) for name in ('source', 'target', 'source')]
    result = run(sscd.main, 'matrix', '--features', *files, '--names', 'a', 'b', 'c', '--t', '0.9',
                 '--images', folder[0], folder[0], folder[0], '--table', tmp_path / 'm.csv')
    rows = {(row.score, row.models): row for row in read_table(tmp_path / 'm.csv')}
    rp = GOLDEN['0.9']['rp_score']
    pairs = [('a', 'a'), ('a', 'b'), ('a', 'c'), ('b', 'b'), ('b', 'c'), ('c', 'c')]
    assert [rows['rp', pair].value for pair in pairs] == [1, rp, 1, 1, rp, 1]
    assert [rows['mae', pair].value for pair in pairs] == [1] * 6
    found = {(row.score, row.total, row.threshold) for row in rows.values()}
    assert found == {('rp', 300, 0.9), ('mae', 5, 15)}
    assert f'{rp:.4f} 1.0000 {rp:.4f} b' in result.stdout
    run(sscd.main, 'matrix', '--features', *files[:2], '--names', 'a', 'b', '--scores', 'pfd', 'similarity',
        '--size', 7, '--table', tmp_path / 'n.csv')
    rows = {(row.score, row.models): row for row in read_table(tmp_path / 'n.csv')}
    assert len(rows) == 6
    assert rows['pfd', ('a', 'b')].value == pytest.approx(0.8183083447187393)
    assert {row.size for row in rows.values()} == {7}


def test_sscd_features_are_the_networks_and_the_same_from_two_processes(folder, tmp_path):
    path, images = folder
    model = save_script(tmp_path / 'm.pt', pooled)
    options = ('feature', '--images', path, '--model', model, '--batch', '2', '--device', 'cpu')
    run(sscd.main, *options, '--features', tmp_path / 'one.npz')
    processes(2, 'sscd.py', *options, '--features', tmp_path / 'two.npz')
    assert (tmp_path / 'one.npz').read_bytes() == (tmp_path / 'two.npz').read_bytes()
    features = load_features(tmp_path / 'one.npz', '')
    descriptor = SscdDescriptor(model, torch.device('cpu'))
    prepared = [descriptor.prepare(Image.fromarray(image.transpose(1, 2, 0))) for image in images]
    np.testing.assert_allclose(features.values, descriptor.compute(np.stack(prepared)), atol=1e-6)
    assert (features.descriptor, features.identity) == ('sscd', descriptor.identity)
    assert features.provenance['command'] == (
        f'sscd.py feature --batch=2 --descriptor=sscd --images={path} --model={model} --device=cpu')


def test_two_processes_share_the_search_of_mscore_and_write_once(tmp_path):
    rng = np.random.default_rng(0)
    for name, count in (('a', 5), ('train', 40), ('heldout', 7)):
        values = rng.standard_normal((count, 6)).astype(np.float32)
        np.savez(tmp_path / f'{name}.npz', features=values / np.linalg.norm(values, axis=1, keepdims=True))
    a, train, heldout = (tmp_path / f'{name}.npz' for name in ('a', 'train', 'heldout'))
    options = ('mscore', '--source', a, '--target', train, '--heldout', heldout, '--t', '0.8',
               '--device', 'cpu', '--width', '8')

    def outputs(name):
        return ('--table', tmp_path / f'{name}.csv', '--neighbors', tmp_path / f'{name}.npz')
    one = run(sscd.main, *options, *outputs('one'))
    two = processes(2, 'sscd.py', *options, *outputs('two'))
    assert two.count('M score =') == one.stdout.count('M score =') == 1
    assert two.count('wrote') == 2
    assert (tmp_path / 'one.csv').read_bytes() == (tmp_path / 'two.csv').read_bytes()
    with np.load(tmp_path / 'one.npz') as first, np.load(tmp_path / 'two.npz') as second:
        for name in ('similarity', 'nearest'):
            np.testing.assert_array_equal(first[name], second[name])
    statuses, printed = fork(2, 'sscd.py', *options[:2], tmp_path / 'none.npz', *options[3:-2])
    assert all(statuses)
    assert printed.count('none.npz') == 1
    statuses, printed = fork(2, 'sscd.py', *options, '--table', a / 'no.csv')
    assert statuses == [1, 1]
    assert printed.count('Error: ') == 1
    assert 'Traceback' not in printed
    statuses, printed = fork(2, 'sscd.py', 'pfd', '--source', a, '--target', a)
    assert all(statuses)
    assert 'pfd runs in one process' in printed


def test_raw_features_say_so_and_are_refused_where_a_similarity_is_asked_for(folder, tmp_path):
    path, images = folder
    run(sscd.main, 'feature', '--images', path, '--features', tmp_path / 'l2.npz', '--descriptor', 'l2')
    model = save(tmp_path / 'm.pt', torch.nn.Flatten(), torch.rand(2, 3, 4, 4))
    own = ('feature', '--images', path, '--model', model, '--descriptor', 'torchscript', '--device', 'cpu')
    run(sscd.main, *own, '--features', tmp_path / 'own.npz', '--mean', '0.5', '--std', '0.5,0.25,1')
    l2, features = (load_features(tmp_path / f'{name}.npz', '') for name in ('l2', 'own'))
    np.testing.assert_array_equal(l2.values, images.reshape(5, -1))
    seen = (images / 255 - 0.5) / np.array([0.5, 0.25, 1])[:, None, None]
    np.testing.assert_allclose(features.values, seen.reshape(5, -1), rtol=1e-5, atol=1e-6)
    assert (l2.length, features.length, features.descriptor) == ('raw', 'raw', 'torchscript')
    for name in ('l2', 'own'):
        both = ('--source', tmp_path / f'{name}.npz', '--target', tmp_path / f'{name}.npz')
        for score in ('rpscore', 'mscore'):
            refuse(sscd.main, score, *both, status=1, says=('raw descriptors', 'needs descriptors of unit'))
    refuse(sscd.main, 'matrix', '--features', tmp_path / 'l2.npz', tmp_path / 'l2.npz', '--names', 'a', 'b',
           '--table', tmp_path / 't.csv', status=1, says=('raw descriptors (l2)',))
    unit = tmp_path / 'unit.npz'
    run(sscd.main, *own, '--features', unit, '--unit-length', '--resolution', '4')
    printed = run(sscd.main, 'rpscore', '--source', unit, '--target', unit).stdout
    assert printed.startswith('RP score =  1.0\n')
    for option in (('--mean', '1,2'), ('--mean', 'x'), ('--std', '0'), ('--std', '1,2,3,4')):
        refuse(sscd.main, *own, '--features', unit, *option, status=2, says=(option[0],))
    refuse(sscd.main, *own[:3], '--features', unit, *own[5:7], status=2, says=('torchscript needs --model',))
    refuse(sscd.main, *own[:5], '--features', unit, '--descriptor', 'l2', status=2,
           says=('--model is for --descriptor sscd or inception or torchscript, got l2',))
    refuse(sscd.main, *own[:3], '--features', unit, '--mean', '1', status=2,
           says=('--mean is for --descriptor torchscript, got sscd',))


def test_features_of_two_models_are_not_compared(folder, tmp_path):
    for name, function in (('a', pooled), ('b', lambda x: 2 * pooled(x))):
        model = save_script(tmp_path / f'{name}.pt', function)
        run(sscd.main, 'feature', '--images', folder[0], '--model', model,
            '--features', tmp_path / f'{name}.npz')
    for score in ('rpscore', 'mscore'):
        refuse(sscd.main, score, '--source', tmp_path / 'a.npz', '--target', tmp_path / 'b.npz', status=1,
               says=('descriptors differ', 'SHA-256'))


def test_mistakes_are_told_in_one_line(folder, tmp_path):
    path, out, missing = folder[0], tmp_path / 'f.npz', tmp_path / 'no.npz'
    source = ('--source', features_file('source'))
    train, target = features_file('train'), features_file('target')
    refuse(sscd.main, 'rpscore', *source, status=2, says=('--target',))
    refuse(sscd.main, 'rpscore', *source, '--target', train, status=1, says=('300 and 290 rows',))
    refuse(sscd.main, 'mscore', *source, '--target', missing, status=1, says=('--target', 'no such'))
    refuse(sscd.main, 'mscore', *source, '--target', train, '--t', 'nan', status=2, says=('--t', 'nan'))
    refuse(sscd.main, 'mscore', *source, '--target', train, '--json', tmp_path, status=2, says=('--json',))
    refuse(sscd.main, 'rpscore', *source, '--target', target, '--device', 'gpu', status=2, says=('--device',))
    refuse(sscd.main, 'feature', '--images', path, '--features', tmp_path / 'f', status=2, says=('.npz',))
    refuse(sscd.main, 'feature', '--images', missing, '--features', tmp_path / 'new' / 'f.npz', status=1,
           says=('--images', str(missing)))
    refuse(sscd.main, 'feature', '--images', path, '--features', out, '--model', missing, status=1,
           says=('--model', 'no such file'))
    refuse(sscd.main, 'feature', '--images', path, '--features', out, *PIXEL, '--model', missing, status=2,
           says=('--model', 'pixel'))
    refuse(sscd.main, 'feature', '--images', path, path, '--features', out, *PIXEL, status=2,
           says=('--features: 1 for 2 --images',))
    refuse(sscd.main, 'rpscore', *source, '--target', target, '--width', 64, status=2, says=('--width',))
    refuse(sscd.main, 'mscore', *source, '--target', target, '--width', 6, 8, status=2, says=('--width',))
    refuse(sscd.main, 'mscore', *source, '--target', target, '--neighbors', 'x.txt', status=2,
           says=('--neighbors', '.npz'))
    refuse(sscd.main, 'maescore', '--source', path, '--target', missing, status=1, says=('--target',))
    refuse(sscd.main, 'maescore', '--source', path, '--target', path, '--t', -1, status=2, says=('--t',))
    matrix = ('matrix', '--table', tmp_path / 'm.csv')
    refuse(sscd.main, *matrix, '--features', target, target, '--names', 'a', 'a', status=2,
           says=('--names', 'two models have one name'))
    both = (*source, '--target', target)
    refuse(sscd.main, 'rpscore', *both, '--t', 2, status=2, says=('--t', '2'))
    refuse(sscd.main, *matrix, '--features', target, target, '--names', 'a', 'b', '--t', 2, status=2,
           says=('--t',))
    for option in ('--size=4', '--names=a'):
        refuse(sscd.main, 'rpscore', *both, option, status=2, says=(option[:6],))
    refuse(sscd.main, 'rpscore', *both, '--size', 4, status=2, says=('--size', 'neither is given'))
    refuse(sscd.main, 'rpscore', *both, '--table', out, status=2, says=('--table needs --width or --names',))
    refuse(sscd.main, 'rpscore', *both, '--width', 4, 8, '--names', 'a', 'b', '--table', out, status=2,
           says=('either --width or --names',))
    for name in ('a vs b', '16', ' a', 'a\n'):
        refuse(sscd.main, 'rpscore', *both, '--table', out, '--names', name, 'c', status=2, says=('--names',))
    refuse(sscd.main, 'rpscore', *both, '--t', '.3', '.6', '--json', out, status=2,
           says=('--json', '--table'))
    refuse(sscd.main, 'rpscore', *source, *source, '--target', target, '--size', 4, status=2,
           says=('--size: 1 for 2 --source',))
    refuse(sscd.main, 'rpscore', *source, *source, '--target', target, train, target, status=2,
           says=('--target: 3 for 2',))
    refuse(sscd.main, 'rpscore', *both, *both, '--target', train, '--table', out, '--width', 4, 8, status=2,
           says=('--target',))
    refuse(sscd.main, 'mscore', *source, '--target', train, '--nested', status=2, says=('--nested', '--size'))
    refuse(sscd.main, 'mscore', *source, '--target', train, '--nested', '--size', 291, status=1,
           says=('--size 291', '290 rows'))
    refuse(sscd.main, *matrix, '--features', train, target, '--names', 'a', status=2, says=('2 for 1',))
    refuse(sscd.main, *matrix, '--names', 'a', 'b', status=2, says=('--features or --images',))
    refuse(sscd.main, *matrix, '--names', 'a', 'b', '--features', train, target, status=1,
           says=(f'{train} and --features {target}', '290 and 300 rows'))
    refuse(sscd.main, 'feature', '--images', path, '--features', out, '--descriptor', 'clip', status=2,
           says=('--descriptor', 'pixel'))
    Image.new('RGB', (5, 4)).save(path / '000009.png')
    refuse(sscd.main, 'feature', '--images', path, '--features', out, *PIXEL, status=1,
           says=('--images', '000009.png'))
    assert sorted(item.name for item in tmp_path.iterdir()) == ['images']


def test_without_a_sub_command_the_help_is_shown_line_by_line():
    result = run(sscd.main, status=2)
    assert result.stderr.count('\n  rpscore ') == 1  # the command's line, beside the example
    assert len(result.stderr.splitlines()) > 5
