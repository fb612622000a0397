"""When GL along training crosses one half, and the power law of the times."""

import math

import numpy as np
import pytest

from scores.memorization_time import collect_times, courses, crossing, fit_power, kimg_of, times_text
from scores.score_table import Row


def rows(size, times, values, score='gl', threshold=0.97):
    return [Row(round(1000 * value), 1000, score=score, models=(f'{time:g} kimg',), size=size,
                threshold=threshold, descriptor='pixel') for time, value in zip(times, values, strict=True)]


def test_half_of_the_samples_are_copies_between_two_snapshots_in_log_time():
    assert crossing(np.array([2, 4, 16]), np.array([1, 0.75, 0.25])) == pytest.approx(8)
    assert crossing(np.array([2, 4, 16]), np.array([1, 0.5, 0.25])) == 4
    assert crossing(np.array([2, 4]), np.array([0.1, 0])) == 2  # before the first snapshot
    assert crossing(np.array([2, 4]), np.array([1, 0.6])) == math.inf


def test_a_power_law_is_found_exactly_and_its_error_from_what_is_left():
    x = np.array([8.0, 16, 32, 64])
    assert fit_power(x, 0.5 * x ** 1.25) == pytest.approx((1.25, 0, 0.5), abs=1e-9)
    slope, error, _ = fit_power(np.exp([0.0, 1, 2]), np.exp([0.0, 1.3, 2]))  # residuals -0.1, 0.2, -0.1
    assert (slope, error) == pytest.approx((1, math.sqrt(0.06 / 2)))
    assert math.isnan(fit_power(x[:1], x[:1])[0])
    slope, error, _ = fit_power(x[:2], x[:2])
    assert slope == pytest.approx(1)
    assert math.isnan(error)


def test_times_grow_with_the_training_set_and_may_not_be_reached():
    times = [2.048, 4.096, 8.192, 16.384]
    table = [*rows(16, times, [1, 1, 0.75, 0.25]), *rows(8, times, [1, 0.75, 0.25, 0]),
             *rows(64, times, [1, 1, 1, 0.9]), *rows(8, times, [0, 0, 0, 0], threshold=0.5),
             *rows(8, [1], [0], score='optimal_rp')]
    found = collect_times(table)
    assert found.size.tolist() == [8, 16, 64]
    assert found.value[:2] == pytest.approx([2.048 * 2 ** 1.5, 2.048 * 2 ** 2.5])
    assert found.value[2] == math.inf
    assert (found.low[:2] < found.value[:2]).all()
    assert (found.high[:2] > found.value[:2]).all()
    assert found.exponent == pytest.approx(1)
    text = times_text(found)
    assert 'N = 8      5.8 kimg (5.' in text
    assert 'N = 64     over 16.384 kimg' in text
    assert 'N^(1.00)' in text
    for found in courses(table, 'gl')[16], courses(table[::-1], 'gl')[16]:  # whatever the rows' order
        assert found.kimg.tolist() == times
        assert found.value.tolist() == [1, 1, 0.75, 0.25]


def test_models_that_are_called_otherwise_are_no_times():
    assert kimg_of('2.048 kimg') == 2.048
    assert kimg_of('EDM') is kimg_of('2,048 kimg') is None
    assert not courses([Row(1, 2, score='gl', models=('EDM',), size=4, threshold=0.6)], 'gl')
