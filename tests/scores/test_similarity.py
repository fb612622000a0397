"""MAE scores against numpy, matrices against single scores, their file."""

import json

import numpy as np
import pytest
from PIL import Image

from data.image_stream import open_images
from image_sets import write
from scores.copy_scores import wilson_interval
from scores.features import Features
from scores.pixel_errors import match_names, mean_absolute_error, pairwise_errors
from scores.similarity import first_difference, load_similarity, mae_matrix, rp_matrix
from torch_utils.errors import UserError


def pixels(n=6, seed=0):
    return np.random.RandomState(seed).randint(256, size=(n, 4, 4, 3), dtype=np.uint8)


@pytest.fixture
def streams(tmp_path):
    """Three models: the same images, with noise, others; and their pixels."""
    a = pixels()
    b = np.clip(a.astype(int) + np.random.RandomState(1).randint(-40, 40, a.shape), 0, 255).astype(np.uint8)
    all_pixels = [a, b, pixels(seed=2)]
    folders = [write(tmp_path / str(i), {f'{k}.png': image for k, image in enumerate(images)})
               for i, images in enumerate(all_pixels)]
    return [open_images(str(folder), '--images') for folder in folders], all_pixels


def test_the_error_is_the_mean_over_all_pixels_and_channels():
    a, b = pixels()[:2]
    expected = np.abs(a.astype(float) - b).mean()
    assert mean_absolute_error(Image.fromarray(a), Image.fromarray(b)) == pytest.approx(expected, rel=1e-14)
    black, white = Image.new('L', (3, 3), 0), Image.new('RGB', (3, 3), 'white')
    assert mean_absolute_error(black, white) == 255


def test_all_pairs_are_compared_name_by_name(streams):
    streams, images = streams
    errors = pairwise_errors(streams, match_names(streams), workers=2)
    for row, (i, j) in enumerate([(0, 1), (0, 2), (1, 2)]):
        expected = np.abs(images[i].astype(float) - images[j]).mean(axis=(1, 2, 3))
        np.testing.assert_allclose(errors[row], expected, rtol=1e-13)


def test_only_images_that_all_models_have_count(tmp_path):
    a = write(tmp_path / 'a', {f'{name}.png': pixels()[0] for name in '0124'})
    b = write(tmp_path / 'b', {f'{name}.png': pixels()[0] for name in '1345'})
    streams = [open_images(str(path), '--images') for path in (a, b)]
    assert [(streams[0].names[i], streams[1].names[j]) for i, j in match_names(streams)] == [
        ('1.png', '1.png'), ('4.png', '4.png')]


def test_names_that_repeat_in_folders_are_compared_as_a_whole(tmp_path):
    files = {f'{folder}/0.png': pixels()[0] for folder in 'ab'}
    streams = [open_images(str(write(tmp_path / name, files)), '--images') for name in 'xy']
    assert match_names(streams) == [(0, 0), (1, 1)]


def test_images_of_two_sizes_are_named(tmp_path):
    streams = [open_images(str(write(tmp_path / name, {'0.png': np.zeros((size, 4), np.uint8)})), '--images')
               for name, size in (('a', 4), ('b', 5))]
    with pytest.raises(UserError, match=r'a: 0.png and .*b: 0.png .*4x4 and 4x5'):
        pairwise_errors(streams, [(0, 0)], workers=1)


def test_matrices_hold_the_scores_of_all_pairs(streams):
    streams, images = streams
    matrix = mae_matrix(streams, 25, workers=2)
    assert (matrix.threshold, matrix.total) == (25, 6)
    errors = np.abs(images[0].astype(float) - images[1]).mean(axis=(1, 2, 3))
    count = int((errors < 25).sum())
    assert matrix.value[0, 1] == matrix.value[1, 0] == count / 6
    assert (matrix.low[0, 1], matrix.high[0, 1]) == wilson_interval(count, 6)
    np.testing.assert_array_equal(np.diag(matrix.value), 1)

    angles = np.radians([[0, 0, 0, 0], [10, 20, 40, 80], [90, 0, 30, 0]])
    features = [Features(values=np.float32([np.cos(a), np.sin(a)]).T) for a in angles]
    matrix = rp_matrix(features, 'abc', np.cos(np.radians(30.1)))
    np.testing.assert_array_equal(matrix.value, [[1, 0.5, 0.75], [0.5, 1, 0.5], [0.75, 0.5, 1]])


def test_models_that_can_not_be_compared_are_named():
    features = [Features(values=np.ones((n, d), np.float32)) for n, d in ((3, 2), (3, 2), (4, 2))]
    with pytest.raises(UserError, match='one and three: 3 and 4 rows'):
        rp_matrix(features, ['one', 'two', 'three'], 0.5)
    features[2] = Features(values=np.ones((3, 5), np.float32))
    with pytest.raises(UserError, match='one and three: rows of 2 and of 5'):
        rp_matrix(features, ['one', 'two', 'three'], 0.5)


def test_the_first_row_of_different_names_is_found():
    assert first_difference(['a/0.png', '1.png'], ['0.jpg', '1.png']) is None
    assert first_difference(['a/0.png', '1.png'], ['0.jpg', '2.png']) == 1


GOOD = {'threshold': 0.6, 'total': 8, **{name: [[1, 0.5], [0.5, 1]] for name in ('value', 'low', 'high')}}


def test_a_written_matrix_comes_back(tmp_path, streams):
    matrix = mae_matrix(streams[0], 25, workers=1)
    (tmp_path / 'm.json').write_text(json.dumps({'names': list('abc'), 'mae': matrix.as_dict()}))
    similarity = load_similarity(tmp_path / 'm.json')
    assert (similarity.names, similarity.rp, similarity.descriptor) == (['a', 'b', 'c'], None, None)
    np.testing.assert_array_equal(similarity.mae.value, matrix.value)


@pytest.mark.parametrize(('change', 'says'), [
    ({'rp': None}, 'neither rp nor mae'), ({'names': 3}, 'names must be'),
    ({'names': ['a']}, 'rp/value must be'),
    ({'rp': GOOD | {'low': [[1, 2], [0, 1]]}}, 'rp/low[0][1] must be'),
    ({'rp': {}}, 'rp/value is missing'), ({'rp': GOOD | {'total': 0}}, 'rp/total must be')])
def test_files_that_hold_no_matrix_are_refused(tmp_path, change, says):
    (tmp_path / 'm.json').write_text(json.dumps({'names': ['a', 'b'], 'rp': GOOD} | change))
    with pytest.raises(UserError) as err:
        load_similarity(tmp_path / 'm.json')
    assert says in str(err.value)
    assert str(err.value).startswith(f'--matrix {tmp_path / "m.json"}: ')
