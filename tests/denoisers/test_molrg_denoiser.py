"""The closed-form denoiser of MoLRG."""

import pytest
import torch

from data.molrg_data import MoLRG, MoLRGShape
from denoisers.molrg_denoiser import true_denoiser
from sampling.sampler import edm_sampler
from training.low_rank import LowRankDenoiser


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


def test_the_denoiser_is_the_low_rank_network_with_the_true_bases_in_float64(data):
    net = LowRankDenoiser(4, 3, class_num=2, per_class_dim=6)
    net.bases.data.copy_(data.bases())
    x = data.samples()[:20] + 0.5 * torch.randn(20, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    level = torch.full([20], 0.5)
    torch.testing.assert_close(true_denoiser(data)(x, level), net(x, level).detach(), rtol=1e-4, atol=1e-5)
    assert true_denoiser(data)(x.double(), 0.5).dtype == torch.float64
