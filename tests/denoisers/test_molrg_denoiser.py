"""Closed forms of MoLRG: the denoiser, its Jacobian, the recovery error."""

import math

import pytest
import torch

from data.molrg_data import MoLRG, MoLRGShape
from denoisers.molrg_denoiser import jacobian_spectrum, recovery_errors, true_denoiser
from sampling.sampler import edm_sampler
from training.low_rank import posterior_mean


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    shape = MoLRGShape(resolution=4, class_num=2, per_class_dim=6, sample_per_class=100)
    return MoLRG(tmp_path_factory.mktemp('data'), shape)


def test_the_true_denoiser_can_be_sampled_and_gives_samples_of_a_class(data):
    generator = torch.Generator().manual_seed(0)
    images = edm_sampler(true_denoiser(data), torch.randn(200, 3, 4, 4, generator=generator))
    coordinates = torch.einsum('bn,knd->bkd', images.flatten(1), data.bases().double())
    energies = coordinates.square().sum(dim=2)
    assert (energies.amax(dim=1) / images.flatten(1).square().sum(dim=1)).quantile(0.1) > 0.99
    assert 60 < int((energies[:, 0] > energies[:, 1]).sum()) < 140  # standard deviation 7
    # Every coordinate of the sample's class is standard normal; 200 samples of 6, and Heun's error.
    assert abs(float(energies.amax(dim=1).mean()) / 6 - 1) < 0.15


@pytest.mark.parametrize('sigma', [0.002, 0.1, 0.6, 2.0, 80.0])
def test_the_spectrum_is_that_of_the_jacobian(data, sigma):
    generator = torch.Generator().manual_seed(1)
    bases = torch.linalg.qr(data.bases().double().transpose(0, 1).reshape(48, 12)).Q.reshape(48, 2, 6)
    bases = bases.transpose(0, 1)  # orthogonal to rounding in float64
    x = data.samples()[::50].double().flatten(1)
    x = x + sigma * torch.randn(x.shape, generator=generator, dtype=torch.float64)
    level = torch.tensor([[sigma]], dtype=torch.float64)
    jacobians = torch.func.vmap(torch.func.jacrev(lambda y: posterior_mean(y[None], level, bases)[0]))(x)
    expected = torch.linalg.svdvals(jacobians)[:, :12]
    torch.testing.assert_close(jacobian_spectrum(x, sigma, bases), expected, rtol=1e-6, atol=1e-9)


def test_the_rank_is_d_at_low_noise_and_kd_at_high_noise(data):
    x = data.samples().flatten(1)
    for sigma, rank in (0.002, 6), (80, 12):
        noisy = x + sigma * torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
        values = jacobian_spectrum(noisy, sigma, data.bases())
        assert ((values > 1e-3 * values[:, :1]).sum(dim=1) == rank).all()


def test_the_recovery_error_is_the_sine_of_the_angle_whatever_basis_and_order():
    generator = torch.Generator().manual_seed(0)
    space = torch.linalg.qr(torch.randn(10, 10, generator=generator, dtype=torch.float64)).Q
    truth = torch.stack([space[:, :2], space[:, 2:4], space[:, 4:6]])
    angle = 1e-6
    tilted = truth.clone()
    tilted[1, :, 0] = math.cos(angle) * truth[1, :, 0] + math.sin(angle) * space[:, 8]
    mixed = tilted @ torch.randn(3, 2, 2, generator=generator, dtype=torch.float64)
    errors = recovery_errors(mixed[[2, 0, 1]], truth)
    expected = torch.tensor([0, angle / math.sqrt(2), 0], dtype=torch.float64)
    torch.testing.assert_close(errors, expected, rtol=1e-4, atol=1e-14)
    merged = torch.stack([truth[0], torch.stack([space[:, 2], space[:, 4]], dim=1), space[:, 8:]])
    torch.testing.assert_close(recovery_errors(merged, truth).sort().values,
                               torch.tensor([0, math.sqrt(0.5), 1], dtype=torch.float64))
