"""sscd.py: descriptors of images, the printed scores and their files, what is refused."""

import json

import numpy as np
import pytest
from PIL import Image

import sscd
from evaluation.descriptors import pixel_descriptor
from helpers import DATA, refuse, run

GOLDEN = json.loads((DATA / 'scores.json').read_text())


@pytest.fixture
def folder(tmp_path):
    images = np.random.RandomState(0).randint(256, size=(5, 4, 4, 3), dtype=np.uint8)
    (tmp_path / 'images').mkdir()
    for index in (3, 0, 4, 1, 2):  # names decide the order, not time
        Image.fromarray(images[index]).save(tmp_path / 'images' / f'{index:06d}.png')
    return tmp_path / 'images', images.transpose(0, 3, 1, 2)


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
    assert run(sscd.main, 'feature', '--images', path, '--features', out).stdout.startswith('wrote')
    with np.load(out) as file:
        np.testing.assert_array_equal(file['features'], pixel_descriptor(images))
        assert file['file_names'].tolist() == [f'{index:06d}.png' for index in range(5)]
        assert file['descriptor'] == 'pixel'
    assert run(sscd.main, 'feature', '--images', path, '--features', out).stdout.startswith('replaced')


def test_a_model_that_copies_its_training_images_does_not_generalize(folder, tmp_path):
    for name in ('a', 'b'):
        run(sscd.main, 'feature', '--images', folder[0], '--features', tmp_path / f'{name}.npz')
    both = ('--source', tmp_path / 'a.npz', '--target', tmp_path / 'b.npz', '--t', '0.97')
    assert run(sscd.main, 'rpscore', *both).stdout.startswith('RP score =  1.0\n')
    assert run(sscd.main, 'mscore', *both).stdout.startswith('M score =  0.0\n')


def test_doubtful_comparisons_are_mentioned_on_stderr(folder, tmp_path):
    path, _ = folder
    run(sscd.main, 'feature', '--images', path, '--features', tmp_path / 'a.npz')
    (path / '000004.png').rename(path / '000007.png')
    Image.new('RGB', (4, 4), 'gray').save(path / '000002.png')
    result = run(sscd.main, 'feature', '--images', path, '--features', tmp_path / 'b.npz')
    assert '1 of 5 images are one grey value' in result.stderr
    both = ('--source', tmp_path / 'a.npz', '--target', tmp_path / 'b.npz')
    stderr = run(sscd.main, 'rpscore', *both).stderr
    assert 'first 000004.png and 000007.png' in stderr
    assert '0.6, which suits SSCD' in stderr
    assert 'SSCD' not in run(sscd.main, 'mscore', *both, '--t', '0.6').stderr


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
    refuse(sscd.main, 'feature', '--images', path, '--features', out, '--descriptor', 'clip', status=2,
           says=('--descriptor', 'pixel'))
    Image.new('RGB', (5, 4)).save(path / '000009.png')
    refuse(sscd.main, 'feature', '--images', path, '--features', out, status=1,
           says=('--images', '000009.png'))
    assert sorted(item.name for item in tmp_path.iterdir()) == ['images']


def test_without_a_sub_command_the_help_is_shown_line_by_line():
    result = run(sscd.main, status=2)
    assert 'rpscore' in result.stderr
    assert len(result.stderr.splitlines()) > 5
