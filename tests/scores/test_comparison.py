"""RP scores of all pairs against the angles between vectors; features that can't be compared are named."""

import numpy as np
import pytest

from descriptors.features import Features
from helpers import golden
from scores import comparison
from scores.comparison import median, pfd_rows, probability_flow_distance, rp_shares, similarity_rows
from scores.copy_scores import pair_distances
from scores.pairing import pair_features
from torch_utils.errors import UserError


def test_scores_of_all_pairs_are_those_of_each_pair():
    angles = np.radians([[0, 0, 0, 0], [10, 20, 40, 80], [90, 0, 30, 0]])
    features = [Features(values=np.float32([np.cos(a), np.sin(a)]).T) for a in angles]
    shares = rp_shares(features, np.cos(np.radians(30.1)))
    assert [share.value for share in shares.values()] == [1, 0.5, 0.75, 1, 0.5, 1]


def test_the_probability_flow_distance_is_the_root_mean_square():
    shifts = np.random.default_rng(0).permutation(np.arange(1.0, 101)).astype(np.float32)
    first = np.zeros((100, 3), np.float32)
    second = shifts[:, None] * np.float32([[2, 3, 6]]) / 7  # of length 1, times 1 to 100
    value, low, high = probability_flow_distance(first, second)
    assert value == pytest.approx(np.sqrt(101 * 201 / 6))  # the mean of the first squares
    spread = np.std(np.arange(1, 101) ** 2) / 10  # of the mean square
    assert (high ** 2 - low ** 2) / (2 * spread) == pytest.approx(1.96, rel=0.06)  # 1000 resamples' noise
    assert (high ** 2 + low ** 2) / 2 == pytest.approx(value ** 2, rel=0.02)
    assert probability_flow_distance(first, second) == (value, low, high)
    assert probability_flow_distance(second, second) == (0, 0, 0)


def test_the_median_and_its_interval_are_order_statistics():
    values = np.random.default_rng(0).permutation(np.arange(100.0))
    assert median(values) == (49.5, 39, 60)  # 9.8 places from the middle
    assert median(values[:1]) == (values[0],) * 3
    inside = [median(np.random.default_rng(seed).normal(size=50)) for seed in range(400)]
    assert np.mean([low < 0 < high for _, low, high in inside]) == pytest.approx(0.96, abs=0.025)


def test_the_median_similarity_has_the_control_of_other_noises():
    a, b = (Features(values=golden(f'features-{name}')['features']) for name in ('source', 'target'))
    ((found, chance),) = similarity_rows(a, b, (), 'similarity', models=('8', '4'), size=3, descriptor='')
    assert (found.score, chance.score, found.threshold, found.count) == (
        'similarity', 'chance_similarity', None, None)
    assert found.value == pytest.approx(np.median((a.values * b.values).sum(axis=1)), abs=1e-6)


def test_of_unit_vectors_it_follows_from_their_inner_products():
    files = [golden(f'features-{name}')['features'] for name in ('source', 'target')]
    value, (source, target) = probability_flow_distance(*files)[0], np.float64(files)
    lengths = (source ** 2).sum(axis=1) + (target ** 2).sum(axis=1)
    assert value == pytest.approx(np.sqrt((lengths - 2 * (source * target).sum(axis=1)).mean()), rel=1e-6)
    assert value == pytest.approx(0.8183083447187393, rel=1e-9)


def test_its_interval_from_groups_is_that_of_all_samples(monkeypatch):
    rng = np.random.default_rng(0)
    first, second = (rng.standard_gamma(2, size=(4000, 2)).astype(np.float32) for _ in range(2))
    value, *grouped = probability_flow_distance(first, second)
    monkeypatch.setattr(comparison, '_EXACT', 4000)
    all_samples = probability_flow_distance(first, second)[1:]
    assert all_samples == pytest.approx(grouped, abs=0.1 * (grouped[1] - value))


def test_pfd_has_the_control_of_other_noises():
    a, b = (Features(values=golden(f'features-{name}')['features'], length='raw')
            for name in ('source', 'target'))
    ((pfd, chance),) = pfd_rows(a, b, (), 'pfd', models=('8', '4'), size=3, descriptor='')
    assert (pfd.score, chance.score, pfd.threshold, pfd.count) == ('pfd', 'chance_pfd', None, None)
    squares = pair_distances(a.values, np.roll(b.values, -1, axis=0)) ** 2
    assert chance.value == pytest.approx(np.sqrt(squares.mean()))
    ((error, _),) = pfd_rows(a, b, (), 'optimal_pfd', models=('8',), size=3, descriptor='')
    assert (error.score, error.models, error.value) == ('optimal_pfd', ('8',), pfd.value)


def test_models_that_can_not_be_compared_are_named():
    one = Features(values=np.ones((3, 2), np.float32), where='one.npz')
    longer = Features(values=np.ones((4, 2), np.float32), where='two.npz')
    with pytest.raises(UserError, match=r'one.npz and two.npz: 3 and 4 rows'):
        pair_features(one, longer, force=False)
    kinds = [Features(values=np.ones((3, 2), np.float32), where=name, descriptor=kind)
             for name, kind in (('a', None), ('b', 'sscd'), ('c', 'pixel'))]
    with pytest.raises(UserError, match='b and c: the descriptors differ'):
        rp_shares(kinds, 0.5)
