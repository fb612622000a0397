"""The closed form finds the subspaces of every mixture whose samples span them, else their samples' span."""

import numpy as np
import pytest
import torch

from data.molrg_data import MoLRGShape, make_molrg
from denoisers.subspace_clustering import closed_form_bases, cluster
from scores.recovery import recovery_errors


def mixture(class_num, dim, number, seed=0):
    shape = MoLRGShape(resolution=4, class_num=class_num, per_class_dim=dim, sample_per_class=number)
    content = make_molrg(shape, seed)
    return content['data'].flatten(1), content['basis'], content['conds']


@pytest.mark.parametrize(('class_num', 'dim'), [(2, 1), (2, 2), (2, 8), (2, 16), (3, 4), (1, 5), (6, 8)])
def test_as_many_samples_as_dimensions_are_enough(class_num, dim):
    for seed in range(10):
        samples, truth, _ = mixture(class_num, dim, dim, seed)
        found = closed_form_bases(samples, class_num, dim)
        assert recovery_errors(found, truth).max() < 1e-4
        torch.testing.assert_close(found.mT @ found, torch.eye(dim).double().expand(class_num, -1, -1))


@pytest.mark.parametrize('number', [1, 2, 5, 7])
def test_fewer_samples_give_their_span(number):
    torch.manual_seed(0)
    samples, truth, _ = mixture(2, 8, number)
    found = closed_form_bases(samples, 2, 8)
    errors = recovery_errors(found, truth)
    # All of the rest is missing, but for what 8 - N of the 48 - 2 N other directions have of it by chance.
    missing = 1 - number / 8
    assert np.sqrt(missing * (1 - (8 - number) / (48 - 2 * number) * 2)) < errors.mean() < np.sqrt(missing)
    torch.testing.assert_close(found.mT @ found, torch.eye(8).double().expand(2, -1, -1))


def test_samples_are_clustered_whatever_their_order():
    samples, _, classes = mixture(3, 6, 9)
    order = torch.randperm(27, generator=torch.Generator().manual_seed(0))
    labels = cluster(samples[order].double(), 3)
    pairs = {*zip(labels.tolist(), classes[order].tolist(), strict=True)}
    assert len(pairs) == 3
    assert {label for label, _ in pairs} == {0, 1, 2}
