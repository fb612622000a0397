"""The kernel distance against its definition, a closed form, and the scatter that its error promises."""

import numpy as np
import pytest

from scores import kernel_distance as module
from scores.kernel_distance import kernel_distance
from torch_utils.errors import UserError


def by_definition(x, y):
    def kernel(a, b):
        return (a @ b.T / a.shape[1] + 1) ** 3

    def within(a):
        return (kernel(a, a).sum() - np.trace(kernel(a, a))) / (len(a) * (len(a) - 1))
    return within(x) + within(y) - 2 * kernel(x, y).mean()


def pair_of_sets(m=9, n=13, dim=5):
    rng = np.random.default_rng(0)
    return rng.standard_normal((m, dim)), rng.standard_normal((n, dim)) + .3


@pytest.mark.parametrize('block', [4, 6, 2048])
def test_value_and_error_are_those_of_the_definition(monkeypatch, block):
    monkeypatch.setattr(module, '_BLOCK', block)
    x, y = pair_of_sets()
    found = kernel_distance(x, y)
    assert found.value == pytest.approx(by_definition(x, y), rel=1e-12)
    variance = 0
    for without in ([by_definition(np.delete(x, i, axis=0), y) for i in range(len(x))],
                    [by_definition(x, np.delete(y, i, axis=0)) for i in range(len(y))]):
        variance += (len(without) - 1) * np.var(without)  # the jackknife's
    assert found.error == pytest.approx(np.sqrt(variance), rel=1e-10)


def test_it_is_unbiased_and_its_interval_holds():
    """For x ~ N(0, s^2) and y ~ N(d, s^2) in one dimension, by the difference of the features' means.

    k(x, y) = 1 + 3 xy + 3 x^2 y^2 + x^3 y^3 has the features 1, 3^(1/2) x, 3^(1/2) x^2, x^3.
    """
    s, d, rng = .3, .3, np.random.default_rng(1)
    truth = 3 * d ** 2 + 3 * d ** 4 + (d ** 3 + 3 * d * s ** 2) ** 2
    found = [kernel_distance(s * rng.standard_normal((60, 1)), s * rng.standard_normal((60, 1)) + d)
             for _ in range(300)]
    values, errors = np.array([[each.value, each.error] for each in found]).T
    assert abs(values.mean() - truth) < 3 * values.std() / np.sqrt(300)
    assert .85 < np.mean([each.low < truth < each.high for each in found]) < .98
    assert np.sqrt(np.mean(errors ** 2)) == pytest.approx(values.std(), rel=.2)


def test_equal_distributions_give_values_on_both_sides_of_zero():
    rng = np.random.default_rng(2)
    values = [kernel_distance(rng.standard_normal((30, 4)), rng.standard_normal((30, 4))).value
              for _ in range(50)]
    assert .25 < np.mean(np.array(values) < 0) < .85


def test_two_rows_are_refused():
    with pytest.raises(UserError, match='2 and 13 rows'):
        kernel_distance(pair_of_sets()[0][:2], pair_of_sets()[1])
