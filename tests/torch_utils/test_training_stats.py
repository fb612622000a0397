import math

import numpy as np
import torch

from torch_utils.training_stats import Moments, scalar

CPU = torch.device('cpu')


def test_moments_are_those_of_all_values_added():
    values = torch.randn(300, generator=torch.Generator().manual_seed(0)) + 5
    moments = Moments(CPU)
    for part in values.split(70):
        moments.add(part.reshape(-1, 1, 1, 1))
    summary = moments.summary()
    assert summary.num == 300
    expected = [values.double().mean(), values.double().std(correction=0)]
    np.testing.assert_allclose([summary.mean, summary.std], expected)


def test_values_that_are_not_finite_are_only_counted():
    moments = Moments(CPU)
    moments.add(torch.tensor([1, math.nan, 3, math.inf]))
    summary = moments.summary()
    assert (summary.num, summary.mean, summary.std, summary.nonfinite) == (2, 2.0, 1.0, 2)


def test_a_single_value_has_no_spread():
    moments = Moments(CPU)
    moments.add(torch.tensor(0.1))
    assert moments.summary().std == 0
    assert scalar(3) == {'num': 1, 'mean': 3.0, 'std': 0.0}


def test_nothing_finite_is_null_in_json():
    moments = Moments(CPU)
    moments.add(torch.tensor(math.nan))
    assert moments.summary().as_json() == {'num': 0, 'mean': None, 'std': None}


def test_sums_are_exact_beyond_float32():
    moments = Moments(CPU)
    moments.add(torch.full([1000], 1e8))
    moments.add(torch.ones(1000))
    assert moments.summary().mean == (1e8 + 1) / 2
    moments.clear()
    assert moments.summary().num == 0
