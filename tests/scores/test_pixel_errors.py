"""MAE scores against numpy, of one pair and of all."""

import numpy as np
import pytest
from PIL import Image

from data.image_stream import open_images
from image_sets import write
from scores.copy_scores import Share
from scores.pixel_errors import mae_shares, match_names, mean_absolute_error, pairwise_errors
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


def test_numbers_count_where_no_name_is_common(tmp_path):
    a = write(tmp_path / 'a', {f'{i:03d}.png': pixels()[0] for i in (2, 9, 10)})
    b = write(tmp_path / 'b', {f'x{i}.png': pixels()[0] for i in (9, 10, 11)})
    streams = [open_images(str(path), '--images') for path in (a, b)]
    assert [(streams[0].names[i], streams[1].names[j]) for i, j in match_names(streams)] == [
        ('009.png', 'x9.png'), ('010.png', 'x10.png')]


def test_scores_of_all_pairs_are_those_of_each_pair(streams):
    streams, images = streams
    shares = mae_shares(streams, 25, workers=2)
    errors = np.abs(images[0].astype(float) - images[1]).mean(axis=(1, 2, 3))
    assert shares[0, 1] == Share.below(errors, 25)
    assert sorted(shares) == [(0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 2)]
    assert [shares[i, i].value for i in range(3)] == [1, 1, 1]
