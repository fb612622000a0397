"""Controls of GL scores: thresholds from held-out images, differences of shares, and the C_T test."""

import numpy as np
import pytest
from scipy.stats import mannwhitneyu, norm

from scores.calibration import CopyTest, calibrated_threshold, data_copying_test, difference_interval
from scores.copy_scores import Share


@pytest.mark.parametrize(('false_positives', 'threshold'), [(0, 100), (0.009, 100), (0.01, 99), (0.019, 99),
                                                            (0.29, 71), (0.999, 1)])
def test_at_most_the_given_share_of_held_out_images_passes(false_positives, threshold):
    heldout = np.random.default_rng(0).permutation(np.arange(1.0, 101))
    assert calibrated_threshold(heldout, false_positives) == threshold
    assert Share.above(heldout, threshold).value <= false_positives + 1e-12
    assert Share.above(heldout, threshold - 1e-9).value > false_positives


def test_equal_closeness_counts_together():
    assert calibrated_threshold(np.array([0.5, 0.9, 0.9, 0.9]), 0.5) == 0.9
    assert calibrated_threshold(np.array([0.4]), 0.01) == 0.4
    with pytest.raises(ValueError, match='false_positives'):
        calibrated_threshold(np.ones(3), 1)


# Newcombe, Statistics in Medicine 17 (1998), 873-890, table II, method 10.
@pytest.mark.parametrize(('first', 'second', 'low', 'high'), [
    ((56, 70), (48, 80), 0.0524, 0.3339), ((9, 10), (3, 10), 0.1705, 0.8090),
    ((10, 10), (0, 20), 0.6791, 1.0000), ((10, 10), (0, 10), 0.6075, 1.0000)])
def test_the_interval_of_a_difference_is_the_published_one(first, second, low, high):
    value, *ends = difference_interval(Share(*first), Share(*second))
    assert value == pytest.approx(first[0] / first[1] - second[0] / second[1])
    assert ends == pytest.approx([low, high], abs=5e-5)
    turned = difference_interval(Share(*second), Share(*first))
    assert turned == pytest.approx((-value, -ends[1], -ends[0]))


@pytest.mark.parametrize('ties', [False, True])
def test_c_t_is_mann_and_whitneys_z_score(ties):
    rng = np.random.default_rng(1)
    samples, heldout = rng.gamma(2, size=70), rng.gamma(3, size=40)
    if ties:
        samples, heldout = samples.round(), heldout.round()
    test = data_copying_test(samples, heldout)
    known = mannwhitneyu(samples, heldout, use_continuity=False, method='asymptotic')
    assert test.farther == known.statistic / (70 * 40)
    assert test.z < 0
    assert 2 * norm.sf(-test.z) == pytest.approx(known.pvalue, rel=1e-9)
    assert test.low < test.z < test.high


def test_the_sign_of_c_t_is_the_papers():
    near, far = np.arange(30.0), np.arange(30.0) + 100
    copying, underfit = data_copying_test(near, far), data_copying_test(far, near)
    z = -0.5 / np.sqrt(61 / (12 * 30 * 30))  # U = 0
    assert (copying.farther, underfit.farther) == (0, 1)
    assert (copying.z, underfit.z) == pytest.approx((z, -z))
    assert copying.low == pytest.approx(z, abs=1e-9)  # no share is below 0
    assert copying.high < 0 < underfit.low == pytest.approx(-copying.high)


def test_equal_samples_say_nothing():
    assert data_copying_test(np.ones(5), np.ones(7)) == CopyTest(0, None, None, 0.5)
    same = data_copying_test(np.arange(9.0), np.arange(9.0))
    assert (same.z, same.farther) == (0, 0.5)
    assert same.low == pytest.approx(-same.high)


def test_of_one_pair_the_interval_is_wilsons_of_one_trial():
    test = data_copying_test(np.float64([1]), np.float64([2]))
    assert (test.z, test.low) == pytest.approx((-1, -1))  # spread 1/2, as (1 + 1 + 1) / 12 has the root
    assert test.high == pytest.approx(2 * Share(0, 1).high - 1)


def test_the_interval_of_c_t_holds_the_truth_in_95_of_100_cases():
    rng = np.random.default_rng(2)
    truth, inside = norm.cdf(-0.5 / np.sqrt(2)), 0  # that a sample is farther
    for _ in range(400):
        test = data_copying_test(rng.normal(-0.5, size=40), rng.normal(size=60))
        spread = np.sqrt(101 / (12 * 40 * 60))
        inside += test.low * spread <= truth - 0.5 <= test.high * spread
    assert 0.91 < inside / 400 < 0.98
