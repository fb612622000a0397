"""The two nearest training images: against all distances in float64, with ties, duplicates and blocks."""

import numpy as np
import pytest

from scores import copy_scores
from scores import two_nearest as module
from scores.two_nearest import two_nearest
from torch_utils.errors import UserError


def known(source, target):
    distances = np.stack([np.linalg.norm(target - row.astype(np.float64), axis=1) for row in source])
    index = np.argsort(distances, axis=1, kind='stable')[:, :2]
    return np.take_along_axis(distances, index, axis=1), index


def images(n, dim=48, seed=0, top=256):
    return np.random.default_rng(seed).integers(top, size=(n, dim)).astype(np.float32)


@pytest.mark.parametrize('block', [2, 5, 7, 64, 2048])
def test_they_are_those_of_all_distances_whatever_the_blocks(monkeypatch, block):
    monkeypatch.setattr(module, '_BLOCK', block)
    monkeypatch.setattr(copy_scores, '_GROUP', 3)
    source, target = images(11), images(23, seed=1)
    for got, expected in zip(two_nearest(source, target), known(source, target), strict=True):
        np.testing.assert_array_equal(got, expected)


def test_of_many_images_they_are_the_same():
    source, target = images(20, dim=50), images(2100, dim=50, seed=1)
    for got, expected in zip(two_nearest(source, target), known(source, target), strict=True):
        np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize('block', [3, 2048])
def test_of_equal_distances_the_first_is_named(monkeypatch, block):
    monkeypatch.setattr(module, '_BLOCK', block)
    target = np.float32([[4, 0], [0, 1], [1, 0], [0, -1], [4, 0], [4, 0]])
    distances, index = two_nearest(np.float32([[0, 0], [4, 0], [4, 1]]), target)
    np.testing.assert_array_equal(distances, [[1, 1], [0, 0], [1, 1]])
    np.testing.assert_array_equal(index, [[1, 2], [0, 4], [0, 4]])


@pytest.mark.parametrize('block', [256, 2048])
def test_float64_decides_what_float32_products_can_not_tell(monkeypatch, block):
    monkeypatch.setattr(module, '_BLOCK', block)
    source = images(41, dim=3000, top=40)
    source[0] += 20000  # far from the centre, so that squares are large
    near = np.repeat(source[:1], 60, axis=0)
    near[np.arange(60), np.arange(60)] += np.random.default_rng(0).permutation(60) + 1  # 1 to 60 away
    target = np.concatenate([near, images(400, dim=3000, seed=2, top=40)])
    distances, index = two_nearest(source, target)
    expected = known(source, target)
    np.testing.assert_array_equal(distances, expected[0])
    np.testing.assert_array_equal(index, expected[1])
    np.testing.assert_array_equal(distances[0], [1, 2])


def test_images_that_are_all_alike_need_no_memory_of_all_pairs(monkeypatch):
    monkeypatch.setattr(module, '_BLOCK', 64)
    compared, compute = [], module.pair_distances
    monkeypatch.setattr(module, 'pair_distances', lambda a, b, rows, columns: (
        compared.append(len(rows)), compute(a, b, rows, columns))[1])
    target = np.tile(np.float32([[60, 80]]), (200, 1))
    distances, index = two_nearest(np.float32([[60, 80], [0, 0]] * 40), target)
    np.testing.assert_array_equal(distances, [[0, 0], [100, 100]] * 40)
    assert {*map(tuple, index)} == {(0, 1)}
    assert sum(compared) <= 4 * 80 * 2  # two of each block of training images


@pytest.mark.parametrize('scale', [1e-12, 1e12])
def test_the_scale_of_descriptors_does_not_matter(scale):
    source, target = images(9) * np.float32(scale), images(70, seed=1) * np.float32(scale)
    distances, index = two_nearest(source, target)
    expected = known(source, target)
    np.testing.assert_array_equal(index, expected[1])
    np.testing.assert_allclose(distances, expected[0], rtol=1e-6)


def test_one_training_image_is_too_few():
    with pytest.raises(UserError, match='at least 2'):
        two_nearest(images(3), images(1))
