"""Scores against golden numbers and formulas, Wilson intervals against published values, bad files."""

import json

import numpy as np
import pytest

from helpers import DATA, golden
from scores import copy_scores as scores
from scores.copy_scores import (
    Share,
    generalization_score,
    memorized_fraction,
    nearest_neighbors,
    pair_similarities,
    rp_score,
    wilson_interval,
)

GOLDEN = json.loads((DATA / 'scores.json').read_text())


@pytest.mark.parametrize('threshold', GOLDEN)
def test_scores_are_the_references_exactly(threshold):
    source, target, train = (golden(f'features-{name}')['features'] for name in ('source', 'target', 'train'))
    expected, t = GOLDEN[threshold], float(threshold)
    assert rp_score(source, target, t) == expected['rp_score']
    assert memorized_fraction(source, train, t) == expected['memorized_fraction']
    assert generalization_score(source, train, t) == expected['generalization_score']


def test_a_similarity_equal_to_the_threshold_is_not_above_it():
    a = np.array([[0.5, 0], [0.5, 0]], dtype=np.float32)
    b = np.array([[1, 0], [1.5, 0]], dtype=np.float32)
    assert rp_score(a, b, 0.5) == 0.5
    assert memorized_fraction(a, b[:1], 0.5) == 0
    assert memorized_fraction(a, b[:1], 0.49) == 1


def test_similarities_are_summed_in_float64():
    row = np.array([[1e4, 1, -1e4]], dtype=np.float32)
    other = np.array([[1e4, 1e-3, 1e4]], dtype=np.float32)  # 1e8 + 1e-3 - 1e8, 0 in float32
    exact = float(np.float32(1e-3))
    for value in (pair_similarities(row, other), nearest_neighbors(row, other)[0]):
        assert value.dtype == np.float64
        assert value[0] == pytest.approx(exact, abs=1e-7)  # rounding of 1e8 in float64


def test_neighbors_in_blocks_are_those_of_the_whole_product(monkeypatch):
    rng = np.random.RandomState(0)
    source, target = rng.randn(11, 6).astype(np.float32), rng.randn(23, 6).astype(np.float32)
    product = source.astype(np.float64) @ target.astype(np.float64).T
    for block in (4, 5, 100):
        monkeypatch.setattr(scores, '_BLOCK', block)
        value, index = nearest_neighbors(source, target)
        np.testing.assert_allclose(value, product.max(axis=1), rtol=1e-13)
        np.testing.assert_array_equal(index, product.argmax(axis=1))
        paired = pair_similarities(source, target[:11])
        np.testing.assert_allclose(paired, np.diag(product[:, :11]), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize('block', [2, 100])
def test_of_equal_neighbors_the_first_is_named(monkeypatch, block):
    monkeypatch.setattr(scores, '_BLOCK', block)
    target = np.array([[0, 1], [1, 0], [1, 0], [1, 0]], dtype=np.float32)
    assert nearest_neighbors(np.float32([[1, 0], [0, 0]]), target)[1].tolist() == [1, 0]


@pytest.mark.parametrize('length', [1, 1000])
def test_float64_decides_between_neighbors_that_float32_can_not_tell_apart(length):
    rng = np.random.RandomState(0)
    source = length * rng.randn(40, 64).astype(np.float32)
    nudge = 1 + 3e-8 * rng.permutation(300)[:, None]  # below float32's resolution once summed
    target = (source[0] * nudge).astype(np.float32)
    product = source.astype(np.float64) @ target.astype(np.float64).T
    value, index = nearest_neighbors(source, target)
    np.testing.assert_allclose(value, product.max(axis=1), rtol=1e-14)
    np.testing.assert_allclose(product[np.arange(40), index], product.max(axis=1), rtol=1e-14)


def test_images_that_are_all_alike_need_no_memory_of_all_pairs(monkeypatch):
    monkeypatch.setattr(scores, '_keep_better', limited(scores._keep_better, 64))
    monkeypatch.setattr(scores, '_BLOCK', 64)
    target = np.tile(np.float32([[0.6, 0.8]]), (200, 1))
    value, index = nearest_neighbors(np.float32([[1, 0], [0, 0], [0, -1]] * 30), target)
    np.testing.assert_allclose(value, np.float32([0.6, 0, -0.8] * 30), rtol=1e-7)
    assert set(index) == {0}


def limited(function, largest):
    def call(source, target, row, *args):
        assert len(row) <= largest
        return function(source, target, row, *args)
    return call


# Newcombe, Statistics in Medicine 17 (1998), table I, method 3: the score interval, to four digits.
@pytest.mark.parametrize(('successes', 'total', 'low', 'high'), [
    (81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0, 0.1611), (1, 29, 0.0061, 0.1718)])
def test_wilson_interval_is_the_published_one(successes, total, low, high):
    assert wilson_interval(successes, total) == pytest.approx((low, high), abs=5e-5)
    mirrored = wilson_interval(total - successes, total)
    assert mirrored == pytest.approx((1 - high, 1 - low), abs=5e-5)


def test_the_ends_of_a_wilson_interval_solve_its_equation():
    for successes, total in [(3, 7), (100, 256), (1, 2)]:
        for end in wilson_interval(successes, total):
            deviation = abs(successes / total - end) / np.sqrt(end * (1 - end) / total)
            assert deviation == pytest.approx(1.9599639845, rel=1e-9)


def test_none_and_all_of_a_total_reach_the_end_exactly():
    for total in range(1, 300):
        assert wilson_interval(0, total)[0] == 0
        assert wilson_interval(total, total)[1] == 1


@pytest.mark.parametrize(('successes', 'total'), [(0, 0), (-1, 3), (4, 3)])
def test_impossible_counts_are_refused(successes, total):
    with pytest.raises(ValueError, match='successes'):
        wilson_interval(successes, total)


def test_a_share_and_the_rest_mirror_each_other():
    share = Share.above(np.array([0.1, 0.6, 0.7, 0.9]), 0.6)
    assert (share.count, share.total, share.value) == (2, 4, 0.5)
    assert Share.below(np.array([15, 14.9]), 15).count == 1
    share = Share(1, 5)
    rest = share.rest()
    assert (rest.value, rest.count) == (0.8, 4)
    assert (rest.low, rest.high) == pytest.approx((1 - share.high, 1 - share.low))
