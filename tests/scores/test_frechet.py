"""Frechet distances against the closed forms for Gaussians, and statistics files that are none."""

import numpy as np
import pytest
from scipy.linalg import sqrtm

from scores import frechet
from scores.frechet import Moments, frechet_distance, is_statistics, load_statistics, moments
from torch_utils.errors import UserError


def gaussian(mean, covariance):
    return Moments(mean=np.array(mean, float), covariance=np.array(covariance, float))


def random_covariance(rng, dim, rank=None):
    factor = rng.standard_normal((dim, rank or dim))
    return factor @ factor.T


def test_one_dimension_is_the_closed_form():
    means, deviations = (1 - 3) ** 2, (3 - 2) ** 2
    value = frechet_distance(gaussian([1], [[3 ** 2]]), gaussian([3], [[2 ** 2]]))
    assert value == pytest.approx(means + deviations, rel=1e-14)


def test_commuting_covariances_are_the_sum_over_their_axes():
    rng = np.random.default_rng(0)
    axes = np.linalg.qr(rng.standard_normal((20, 20)))[0]
    a, b = rng.uniform(0, 3, (2, 20))
    value = frechet_distance(gaussian(a, (axes * a) @ axes.T), gaussian(b, (axes * b) @ axes.T))
    assert value == pytest.approx(np.sum((a - b) ** 2) + np.sum((np.sqrt(a) - np.sqrt(b)) ** 2), rel=1e-12)


def test_two_dimensions_that_do_not_commute():
    # The trace of a root of a 2 x 2 matrix M is (tr M + 2 det(M)^(1/2))^(1/2).
    a, b = np.array([[2, 1], [1, 1.]]), np.array([[1, -.5], [-.5, 3]])
    product = a @ b
    root = np.sqrt(np.trace(product) + 2 * np.sqrt(np.linalg.det(product)))
    value = frechet_distance(gaussian([0, 0], a), gaussian([0, 0], b))
    assert value == pytest.approx(np.trace(a) + np.trace(b) - 2 * root, rel=1e-13)


def test_it_is_the_plain_formulation_where_that_is_stable():
    rng = np.random.default_rng(4)
    a, b = random_covariance(rng, 30), random_covariance(rng, 30)
    plain = np.trace(a + b - 2 * sqrtm(a @ b)).real
    value = frechet_distance(gaussian(np.zeros(30), a), gaussian(np.zeros(30), b))
    assert value == pytest.approx(plain, rel=1e-9)


def test_singular_covariances_give_no_false_distance():
    """Rank 5 of 40: the root of the product's eigenvalues would be wrong by 1e-8 for each of the others."""
    rng = np.random.default_rng(1)
    low = gaussian(np.zeros(40), random_covariance(rng, 40, 5))
    assert abs(frechet_distance(low, low)) < 1e-12 * np.trace(low.covariance)
    full = gaussian(np.zeros(40), random_covariance(rng, 40))
    assert frechet_distance(low, full) == pytest.approx(frechet_distance(full, low), rel=1e-12)


def test_moments_in_blocks_are_numpys(monkeypatch, capsys):
    values = (np.random.default_rng(2).standard_normal((50, 7)) + 100).astype(np.float32)
    monkeypatch.setattr(frechet, '_BLOCK', 8)
    found = moments(values)
    np.testing.assert_allclose(found.mean, values.astype(float).mean(axis=0), rtol=1e-15)
    np.testing.assert_allclose(found.covariance, np.cov(values.astype(float).T), rtol=1e-12, atol=1e-14)
    assert found.covariance.dtype == np.float64
    assert 'biased upwards' in capsys.readouterr().err


def test_fewer_rows_than_numbers_are_refused_with_advice():
    with pytest.raises(UserError, match=r'x\.npz: 7 rows of 8 numbers.*kid'):
        moments(np.zeros((7, 8)), 'x.npz')


def write(path, **arrays):
    np.savez(path, **arrays)
    return path


def test_published_statistics_are_read_as_they_are(tmp_path):
    covariance = random_covariance(np.random.default_rng(3), 4)
    path = write(tmp_path / 'ref.npz', mu=np.arange(4.), sigma=covariance)
    found = load_statistics(path, '--target')
    assert is_statistics(path, '--target')
    np.testing.assert_array_equal(found.mean, np.arange(4))
    np.testing.assert_allclose(found.covariance, covariance, rtol=1e-15)
    assert not is_statistics(write(tmp_path / 'features.npz', features=np.zeros((2, 2))), '--target')


@pytest.mark.parametrize(('mu', 'sigma', 'told'), [
    (np.zeros(3), np.eye(4), r'expected floats \[D\] and \[D, D\]'),
    (np.zeros(2), np.eye(2, dtype=int), 'expected floats'),
    (np.zeros(2), np.full((2, 2), np.nan), 'not finite'),
    (np.zeros(2), np.array([[1., 1], [0, 1]]), 'not symmetric'),
    (np.zeros(2), np.array([[1., 2], [2, 1]]), 'no covariance'),
])
def test_statistics_that_are_none_are_refused(tmp_path, mu, sigma, told):
    path = write(tmp_path / 'ref.npz', mu=mu, sigma=sigma)
    with pytest.raises(UserError, match=told):
        frechet_distance(load_statistics(path, 'ref'), gaussian([0, 0], np.eye(2)))


def test_other_dimensions_are_refused():
    with pytest.raises(UserError, match='rows of 1 and of 2 numbers'):
        frechet_distance(gaussian([1], [[1]]), gaussian([1, 1], np.eye(2)))
