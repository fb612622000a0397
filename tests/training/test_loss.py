"""Losses: the reference's numbers, the distribution of noise levels, and what the network is given."""

import math

import pytest
import torch

from golden_networks import golden_network
from helpers import golden
from training import loss
from training.augment import AugmentPipe
from training.build import LOSSES


class Recorder:
    """A denoiser that returns `answer` and keeps what it was called with."""

    def __init__(self, answer=None):
        self.answer = answer

    def __call__(self, x, sigma, class_labels=None, augment_labels=None):
        self.x, self.sigma, self.class_labels, self.augment_labels = x, sigma, class_labels, augment_labels
        return torch.zeros_like(x) if self.answer is None else self.answer


def close(actual, expected):
    # The weights reach 1e6, and with them the rounding of a nearly perfect answer: relative to the largest.
    # Processors differ by up to 3.1e-6.
    return float((actual - expected).detach().abs().max()) < 5e-6 * float(expected.abs().max())


@pytest.mark.parametrize(('name', 'network'), [('vp', 'vp-ddpmpp-augment'), ('ve', 'edm-ddpmpp'),
                                               ('edm', 'edm-ddpmpp')])
def test_loss_of_each_pixel_matches_the_reference(name, network):
    arrays, (net, _) = golden('losses'), golden_network(network)
    torch.manual_seed(5)
    out = LOSSES[name]()(net, torch.from_numpy(arrays['images']))
    assert close(out, torch.from_numpy(arrays[f'{name}/loss']))


def test_augmented_loss_matches_the_reference():
    arrays, (net, _) = golden('losses'), golden_network('vp-ddpmpp-augment')
    pipe = AugmentPipe(p=0.5, xflip=1e8, yflip=1, scale=1, rotate_frac=1, aniso=1, translate_frac=1)
    torch.manual_seed(6)
    out = loss.VPLoss()(net, torch.from_numpy(arrays['images']), None, pipe)
    assert close(out, torch.from_numpy(arrays['vp/loss_augmented']))


@pytest.mark.parametrize('name', LOSSES)
def test_noise_does_not_depend_on_the_memory_format(name):
    images = torch.rand(2, 3, 4, 4)
    outs = []
    for copy in images, images.to(memory_format=torch.channels_last):
        torch.manual_seed(0)
        outs.append(LOSSES[name]()(Recorder(), copy))
    assert torch.equal(*outs)


@pytest.mark.parametrize('name', LOSSES)
def test_a_perfect_answer_costs_nothing(name):
    images = torch.rand(2, 3, 4, 4)
    assert not LOSSES[name]()(Recorder(answer=images), images).any()


@pytest.mark.parametrize('name', LOSSES)
def test_the_network_sees_noise_of_the_stated_level_and_all_labels(name):
    images, labels, net = torch.rand(2, 3, 64, 64), torch.eye(2), Recorder()
    torch.manual_seed(0)
    out = LOSSES[name]()(net, images, labels, lambda images: (1 - images, torch.ones(2, 9)))
    assert out.shape == images.shape
    assert net.sigma.shape == (2, 1, 1, 1)
    noise = (net.x - (1 - images)) / net.sigma
    # The spread of 12,288 normal numbers is known to 1 / sqrt(2 * 12288) = 0.6 %; small sigma adds rounding.
    assert torch.allclose(noise.std(dim=[1, 2, 3]), torch.ones(2), atol=0.03)
    assert net.class_labels is labels
    assert torch.equal(net.augment_labels, torch.ones(2, 9))


def test_edm_noise_levels_are_log_normal_and_weigh_the_same():
    net, images = Recorder(), torch.zeros(4000, 1, 1, 1)
    torch.manual_seed(0)
    out = loss.EDMLoss(P_mean=-1, P_std=0.8, sigma_data=0.3)(net, images + 1)
    log_sigma = net.sigma.log()
    assert float(log_sigma.mean()) == pytest.approx(-1, abs=0.05)  # 4 standard errors
    assert float(log_sigma.std()) == pytest.approx(0.8, rel=0.05)
    c_out = net.sigma * 0.3 / (net.sigma**2 + 0.09).sqrt()
    assert torch.allclose(out * c_out**2, torch.ones([]), rtol=1e-5)


def test_ve_and_vp_noise_levels_fill_their_range():
    net, images = Recorder(), torch.ones(4000, 1, 1, 1)
    torch.manual_seed(0)
    out = loss.VELoss(sigma_min=0.1, sigma_max=10)(net, images)
    position = net.sigma.log10()  # uniform in [-1, 1]
    assert -1 <= float(position.min()) < -0.99
    assert 0.99 < float(position.max()) <= 1
    assert float(position.mean()) == pytest.approx(0, abs=0.04)
    assert torch.allclose(out * net.sigma**2, torch.ones([]), rtol=1e-5)

    out = loss.VPLoss(beta_d=4, beta_min=1, epsilon_t=0.1)(net, images)
    lowest, highest = (math.sqrt(math.expm1(2 * t**2 + t)) for t in (0.1, 1))
    assert lowest * 0.999 <= float(net.sigma.min()) < lowest * 1.02
    assert highest * 0.98 < float(net.sigma.max()) <= highest * 1.001
    assert torch.allclose(out * net.sigma**2, torch.ones([]), rtol=1e-5)
