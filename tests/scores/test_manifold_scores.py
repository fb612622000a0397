"""Precision, recall, density and coverage against their definitions, and in cases that are plain to see."""

import numpy as np
import pytest

from scores import manifold_scores as module
from scores.manifold_scores import manifold_scores
from torch_utils.errors import UserError


def values(scores):
    return [scores.precision.value, scores.recall.value, scores.density.value, scores.coverage.value]


def by_definition(samples, real, k):
    """Loops over the equations of the two papers."""
    def distances(a, b):
        return np.sqrt(((a[:, None] - b[None]) ** 2).sum(axis=2))

    def radii(a):
        return np.sort(distances(a, a), axis=1)[:, k]
    across = distances(real, samples)
    inside = across <= radii(real)[:, None]
    return [inside.any(axis=0).mean(), (across <= radii(samples)).any(axis=1).mean(),
            inside.sum() / (k * len(samples)), inside.any(axis=1).mean()]


@pytest.mark.parametrize('block', [16, 2048])
@pytest.mark.parametrize('k', [1, 3, 5])
def test_scores_are_those_of_the_definitions(monkeypatch, block, k):
    monkeypatch.setattr(module, '_BLOCK', block)
    rng = np.random.default_rng(0)
    real, samples = rng.standard_normal((70, 3)) + 10, rng.standard_normal((50, 3)) * .8 + 10.4
    np.testing.assert_allclose(values(manifold_scores(samples, real, k)), by_definition(samples, real, k),
                               rtol=1e-14)


def test_density_of_good_samples_is_one_and_its_interval_holds():
    rng = np.random.default_rng(1)
    found = manifold_scores(rng.standard_normal((2000, 2)), rng.standard_normal((2000, 2)))
    assert found.density.low < 1 < found.density.high
    # A ball's k nearest of 4,000 mixed images are all real with probability 2^-k, up to 1 / N.
    assert found.coverage.low < 1 - 2 ** -5 < found.coverage.high


@pytest.mark.parametrize('offset', [0, 1000])
def test_copies_of_all_real_images_have_scores_of_one(offset):
    """The radii go through other samples' places exactly, so that rounding would decide."""
    real = (np.random.default_rng(2).standard_normal((300, 20)) + offset).astype(np.float32)
    assert values(manifold_scores(real[::-1].copy(), real)) == [1, 1, 1, 1]


def test_samples_far_away_have_scores_of_zero():
    real = np.random.default_rng(3).standard_normal((20, 4))
    assert values(manifold_scores(real + 100, real)) == [0, 0, 0, 0]


def test_one_mode_of_two_is_precise_and_covers_half():
    rng = np.random.default_rng(4)
    one, other = rng.standard_normal((2, 40, 6))
    found = manifold_scores(one, np.concatenate([one, other + 100]))
    assert (found.precision.value, found.recall.value, found.coverage.value) == (1, .5, .5)
    assert found.coverage.total == 80


def test_duplicates_are_told(capsys):
    real = np.random.default_rng(5).standard_normal((20, 4))
    real[:7] = real[0]
    found = manifold_scores(real, real)
    assert '7 of 20 real images have 5 or more duplicates' in capsys.readouterr().err
    assert (found.precision.value, found.coverage.count) == (1, 13)


@pytest.mark.parametrize('k', [0, 20])
def test_a_k_beyond_the_rows_is_refused(k):
    with pytest.raises(UserError, match=f'--k {k}: expected at least 1, and less than the 20 samples'):
        manifold_scores(np.zeros((20, 2)), np.zeros((30, 2)), k)


def test_scores_do_not_depend_on_where_the_descriptors_lie():
    samples, real = (np.random.default_rng(seed).integers(-3, 4, (60, 30)) / 8 for seed in range(2))
    assert manifold_scores(np.float32(samples + 2 ** 20), np.float32(real + 2 ** 20)) == manifold_scores(
        np.float32(samples), np.float32(real))  # all numbers are exact
