"""A denoiser whose output is not finite: samples of it stop with the noise level and the number of values."""

import math

import pytest
import torch

from jacobians.study import Method, find_ranks
from sampling.denoiser import check_finite
from sampling.generation import sample
from sampling.points import Trajectories
from torch_utils.errors import UserError


class Failing:
    """Finite down to noise level 1; there and below, three values of each image are not."""

    sigma_min, sigma_max, img_channels, img_resolution, label_dim = 0, math.inf, 1, 4, 0

    def round_sigma(self, sigma):
        return torch.as_tensor(sigma)

    def __call__(self, x, sigma, class_labels=None):
        denoised = 0.5 * x / (1 + sigma**2)
        if sigma < 1.5:
            denoised[:, 0, 0, :3] = torch.tensor([math.nan, math.inf, -math.inf])
        return denoised


@pytest.mark.parametrize('solver', ['euler', 'heun'])
def test_samples_name_the_noise_level_and_how_many_values(solver):
    says = 'the denoiser fails at noise level 1: {} of 32 values of its output are NaN or infinite'
    # Heun's corrector asks at level 1 already, and hands what it got to the step from there.
    count = {'euler': 6, 'heun': '[0-9]+'}[solver]
    with pytest.raises(UserError, match=says.format(count)):
        sample(Failing(), [0, 1], torch.device('cpu'), solver=solver, num_steps=5, sigma_min=0.5,
               sigma_max=2.5, rho=1)


def test_ranks_along_a_trajectory_name_the_first_level_that_fails():
    source = Trajectories(class_idx=None, sigmas=[0.5], levels=[2.0, 1.0, 0.5], options={})
    with pytest.raises(UserError, match='noise level 1: 3 of 16 values of its output'):
        source.points(Failing(), [0], torch.device('cpu'))


@pytest.mark.parametrize('method', ['exact', 'randomized'])
def test_ranks_at_given_images_name_the_level(method):
    with pytest.raises(UserError, match='noise level 1: 3 of 16 values of its output'):
        find_ranks(Failing(), torch.zeros(1, 1, 4, 4), 1.0, seeds=[0], method=Method(name=method))


def test_large_but_finite_values_pass():
    check_finite(torch.full([4], 3e38), 1.0)
    with pytest.raises(UserError, match='noise level 2: 1 of 4 values of its Jacobian'):
        check_finite(torch.tensor([0, 1, math.nan, 2]), 2.0, 'Jacobian')
