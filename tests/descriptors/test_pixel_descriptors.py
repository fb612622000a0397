"""The pixel descriptor against numpy's correlation, and the images that have none."""

import numpy as np
import pytest

import sscd
from descriptors import DESCRIPTORS, pixel_descriptors, similarity_words
from descriptors.features import LENGTHS
from descriptors.pixel_descriptors import pixel_descriptor


def images(n, channels=3, size=5, seed=0):
    return np.random.RandomState(seed).randint(256, size=(n, channels, size, size), dtype=np.uint8)


@pytest.mark.parametrize('channels', [1, 3])
def test_inner_products_are_pearson_correlations(channels):
    a, b = images(6, channels), images(6, channels, seed=1)
    products = pixel_descriptor(a).astype(np.float64) @ pixel_descriptor(b).astype(np.float64).T
    correlations = np.corrcoef(a.reshape(6, -1), b.reshape(6, -1))[:6, 6:]
    np.testing.assert_allclose(products, correlations, atol=1e-6)  # both factors are rounded to float32


def test_brightness_and_contrast_do_not_count():
    a = images(4) // 4
    np.testing.assert_allclose(pixel_descriptor(3 * a + 10), pixel_descriptor(a), atol=1e-7)


def test_descriptors_are_float32_of_length_one_without_mean():
    d = pixel_descriptor(images(5, size=16))
    assert (d.dtype, d.shape) == (np.float32, (5, 768))
    np.testing.assert_allclose(np.linalg.norm(d.astype(np.float64), axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(d.astype(np.float64).mean(axis=1), 0, atol=1e-8)


@pytest.mark.parametrize('value', range(0, 256, 15))
def test_a_constant_image_is_similar_to_nothing(value):
    constant = np.full((1, 3, 7, 7), value, dtype=np.uint8)  # 147 pixels: 1/147 is no binary fraction
    d = pixel_descriptor(np.concatenate([constant, images(1, size=7)]))
    assert not d[0].any()
    assert d[1].any()


def test_a_single_pixel_that_differs_is_a_direction():
    image = np.full((1, 1, 8, 8), 200, dtype=np.uint8)
    image[0, 0, 3, 4] = 201
    assert pixel_descriptor(image)[0] @ pixel_descriptor(image)[0] == pytest.approx(1, abs=1e-6)


def test_blocks_do_not_show(monkeypatch):
    whole = pixel_descriptor(images(7))
    monkeypatch.setattr(pixel_descriptors, '_BLOCK', 3)
    np.testing.assert_array_equal(pixel_descriptor(images(7)), whole)


def test_the_given_images_stay_as_they_are():
    a = images(2)
    pixel_descriptor(a)
    np.testing.assert_array_equal(a, images(2))


def test_l2_descriptors_are_the_pixels_and_distances_euclidean():
    a, b = images(4), images(4, seed=1)
    first, second = (DESCRIPTORS['l2'].make(None).compute(each) for each in (a, b))
    np.testing.assert_array_equal(first, a.reshape(4, -1))
    assert first.dtype == np.float32
    squares = ((a.astype(int) - b) ** 2).sum(axis=(1, 2, 3))
    np.testing.assert_array_equal(((first - second) ** 2).sum(axis=1), squares)


def test_the_registry_feeds_the_option_and_the_words_of_captions():
    (option,) = (param for param in sscd.feature.params if param.name == 'descriptor')
    assert tuple(option.type.choices) == tuple(DESCRIPTORS)
    for name, kind in DESCRIPTORS.items():
        assert kind.kind == name
        assert kind.length in LENGTHS
        assert {*kind.takes} <= {param.name for param in sscd.feature.params}
        assert similarity_words(name) == kind.similarity
    assert similarity_words('of another software') == 'the inner product of descriptors'
