"""Jacobians against the reference and closed forms; ranks with planted values and their bounds."""

import math
import pkgutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from data.molrg_data import MoLRG, MoLRGShape
from data.pixels import Pixels
from data.real_images import RealImages
from denoisers import DENOISERS
from denoisers.molrg_denoiser import true_denoiser
from golden_networks import golden_network
from helpers import golden
from jacobians import CLOSED_JACOBIANS, METHODS
from jacobians.products import (
    Layout,
    Linearization,
    choose_layout,
    exact_energies,
    jacobian,
    numerical_rank,
)
from jacobians.randomized import RangeFinder, bound_rank, randomized_ranks
from jacobians.study import Method, check_memory, find_ranks
from sampling.points import NoisyImages, Trajectories, noise_levels
from sampling.sampler import edm_sampler
from torch_utils.errors import UserError

CPU = torch.device('cpu')
GOLDEN = golden('jacobian')


class Linear:
    """The denoiser x -> A x, whose Jacobian is A everywhere; A [dim, dim] = left diag(s) right^T."""

    sigma_min, sigma_max, img_channels, label_dim = 0, math.inf, 3, 0

    def __init__(self, singular_values, resolution):
        self.img_resolution, dim = resolution, 3 * resolution**2
        generator = torch.Generator().manual_seed(0)
        left, right = (torch.linalg.qr(torch.randn(dim, dim, generator=generator)).Q for _ in range(2))
        count = len(singular_values)
        self.matrix = (left[:, :count] * torch.as_tensor(singular_values).float()) @ right[:, :count].T

    def round_sigma(self, sigma):
        return torch.as_tensor(sigma)

    def __call__(self, x, sigma, class_labels=None):
        return (x.flatten(1).float() @ self.matrix.T).reshape(x.shape)


def images(count, resolution):
    return torch.randn(count, 3, resolution, resolution, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope='module')
def trajectory():
    """The golden network and its states at the golden noise levels."""
    net, _ = golden_network('edm-ddpmpp')
    states = []
    edm_sampler(net, torch.from_numpy(GOLDEN['latents']), num_steps=6,
                on_step=lambda i, sigma, x, denoised: states.append((sigma, x)))
    return net, states


@pytest.mark.parametrize('step', range(6))
def test_singular_values_and_ranks_are_the_references(trajectory, step):
    net, states = trajectory
    sigma, x = states[step]
    np.testing.assert_allclose(x, GOLDEN['trajectory'][step], rtol=0, atol=1e-5)
    energies = exact_energies(net, x, sigma)[0]
    # Rounding moves a float32 Jacobian by some 1e-7 of its norm, and each singular value by as much (Weyl).
    values = GOLDEN['singular_values'][step]
    np.testing.assert_allclose(energies.sqrt(), values, rtol=1e-6, atol=1e-7 * values.max())
    assert numerical_rank(energies) == GOLDEN['ranks'][step]
    for method in METHODS:
        found, = find_ranks(net, x, sigma, seeds=[0], method=Method(name=method))
        assert found.low <= GOLDEN['ranks'][step] <= found.high
        assert abs(found.rank - GOLDEN['ranks'][step]) <= 0.02 * 192


def test_rows_are_those_of_autograd(trajectory):
    net, states = trajectory
    sigma, x = states[3]
    expected = torch.autograd.functional.jacobian(lambda x: net(x, sigma).flatten(), x.float()).flatten(1)
    torch.testing.assert_close(jacobian(net, x, sigma)[0], expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize('layout', [Layout(batch=7), Layout(batch=500),
                                    Layout(batch=64, memory_format=torch.channels_last)])
def test_batch_and_memory_format_change_nothing(trajectory, layout):
    net, states = trajectory
    sigma, x = states[2]
    x = torch.cat([x, x.flip(2), x.flip(3)])
    torch.testing.assert_close(jacobian(net, x, sigma, layout=layout), jacobian(net, x, sigma), rtol=0,
                               atol=1e-6)


def test_a_layout_is_chosen_within_the_batch(trajectory):
    net, states = trajectory
    assert choose_layout(net, states[0][1], 1.0, batch=5).batch == 5
    assert choose_layout(net, states[0][1], 1.0).batch in (16, 64, 256)
    assert choose_layout(Linear([1.0], 2), images(1, 2), 1.0).memory_format == torch.contiguous_format


def test_classes_enter_the_jacobian():
    net, _ = golden_network('edm-adm-cond')
    x = images(1, net.img_resolution).expand(2, -1, -1, -1)
    first, second = jacobian(net, x, 1.0, torch.eye(net.label_dim)[[1, 2]], layout=Layout(batch=400))
    assert (first - second).norm() > 1e-3 * first.norm()
    alone, = jacobian(net, x[:1], 1.0, torch.eye(net.label_dim)[[2]])
    torch.testing.assert_close(alone, second, rtol=0, atol=1e-5)


def test_the_rank_counts_the_norm_not_the_energy():
    assert numerical_rank(torch.tensor([0.5, 0.5])) == 2
    assert numerical_rank(torch.tensor([0.981, 0.019]), eta=0.99) == 1  # 0.99^2 = 0.9801
    assert numerical_rank(torch.tensor([0.979, 0.021]), eta=0.99) == 2
    assert numerical_rank(torch.ones(10), eta=0.8**0.5) == 9  # exactly at eta is not enough
    assert numerical_rank(torch.zeros(2, 5)).tolist() == [0, 0]


@pytest.mark.parametrize('method', METHODS)
@pytest.mark.parametrize('rank', [0, 1, 9, 70, 192])
def test_a_planted_rank_is_found_exactly(method, rank):
    found = find_ranks(Linear(torch.ones(rank), 8), images(2, 8), 1.0, seeds=[0, 1],
                       method=Method(name=method, eta=0.9999))
    assert [(f.low, f.rank, f.high) for f in found] == [(rank, rank, rank)] * 2


@pytest.mark.parametrize(('power', 'eta'), [(0.7, 0.9), (1, 0.9), (1, 0.99), (1.5, 0.99)])
def test_bounds_hold_for_slowly_falling_singular_values(power, eta):
    net = Linear(torch.arange(1, 769) ** -float(power), 16)
    exact = int(numerical_rank((torch.arange(1, 769).double() ** (-2 * power)), eta))
    for estimate in randomized_ranks(net, images(4, 16), 1.0, seeds=range(4), eta=eta, tolerance=0.02):
        assert estimate.low <= exact <= estimate.high
        assert abs(estimate.rank - exact) <= 0.02 * 768


@pytest.mark.parametrize('method', METHODS)
def test_a_mixtures_denoiser_keeps_one_class_at_small_noise_and_all_at_large(method, tmp_path):
    shape = MoLRGShape(resolution=4, class_num=3, per_class_dim=5, sample_per_class=10)
    data = MoLRG(tmp_path, shape, seed=0)
    net, clean = true_denoiser(data), data.samples()[::5]
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(0))
    for sigma, rank in ((0.01, 5), (50, 15)):
        found = find_ranks(net, clean + sigma * noise, sigma, seeds=range(len(clean)),
                           method=Method(name=method))
        assert {result.rank for result in found} == {rank}


def test_a_low_rank_costs_few_products_and_a_high_one_is_given_up():
    estimate, = randomized_ranks(Linear(torch.ones(20), 16), images(1, 16), 1.0, seeds=[0])
    assert len(estimate.energies) <= 48
    high = Linear(torch.ones(700), 16)
    assert randomized_ranks(high, images(1, 16), 1.0, seeds=[0], give_up=True) == [None]


def test_a_tighter_tolerance_leaves_less_room():
    net = Linear(torch.arange(1, 193) ** -0.7, 8)
    loose, tight = (randomized_ranks(net, images(1, 8), 1.0, seeds=[0], eta=0.9, tolerance=tolerance)[0]
                    for tolerance in (0.1, 0.01))
    assert tight.high - tight.low < loose.high - loose.low
    assert len(loose.energies) < len(tight.energies)


def test_estimates_depend_on_the_seed_alone():
    net, x = Linear(torch.arange(1, 769) ** -1.0, 16), images(5, 16)
    together = randomized_ranks(net, x, 1.0, seeds=[3, 4, 5, 6, 7])
    alone, = randomized_ranks(net, x[4:], 1.0, seeds=[7])
    torch.testing.assert_close(alone.energies, together[4].energies[:len(alone.energies)], rtol=1e-3, atol=0)


def test_each_image_of_a_linearization_is_denoised_once():
    net, x = Linear([3.0, 2.0, 1.0], 2), images(3, 2)
    torch.testing.assert_close(Linearization(net, x, 1.0, width=4).denoised, net(x, 1.0))


def test_the_missed_energy_is_estimated_without_bias():
    net, x = Linear(torch.arange(1, 193) ** -0.5, 8), images(1, 8).expand(64, -1, -1, -1)
    finder = RangeFinder(net, x, 1.0, seeds=range(64), width=16)
    for _ in range(2):
        finder.grow()
    rest = net.matrix.double() - finder.u.mT @ (finder.u @ net.matrix.double())
    truth = rest.square().sum((1, 2))
    missed, error, fourth = finder.missed()
    assert ((missed - truth) / error).square().mean() == pytest.approx(1, abs=0.7)
    assert (missed / truth).mean() == pytest.approx(1, abs=0.02)
    assert (fourth / (rest @ rest.mT).square().sum((1, 2))).mean() == pytest.approx(1, abs=0.03)
    torch.testing.assert_close(finder.u @ finder.u.mT, torch.eye(32).double().expand(64, -1, -1), rtol=0,
                               atol=1e-12)


@pytest.mark.parametrize(('hidden', 'eta'), [([10.0], 0.45), ([2.5] * 4, 0.45), ([2.5] * 4, 0.552)])
def test_the_lower_bound_reckons_with_large_directions_that_were_missed(hidden, eta):
    """At the worst: U holds the ten small directions alone, and those it missed have one energy."""
    found, hidden, eta = torch.ones(10).double(), torch.tensor(hidden).double(), eta**0.5
    exact = int(numerical_rank(torch.cat([hidden, found]), eta))
    estimate = bound_rank(found, float(hidden.sum()), 0.0, float(hidden.square().sum()), dim=20, eta=eta)
    assert estimate.low == exact < estimate.rank


def test_the_lower_bound_reckons_with_the_error_of_what_was_missed():
    """16 missed where 10 were estimated, three standard errors below: one direction holds 16 of 116."""
    estimate = bound_rank(torch.ones(100).double(), 10.0, 2.0, 16.0**2, dim=200, eta=0.12**0.5)
    assert estimate.low == 1


def test_states_at_chosen_levels_lie_on_a_trajectory(trajectory):
    net, _ = trajectory
    sigmas, levels = noise_levels(net, [1.0, 30.0], num_steps=18)
    assert sigmas == [30, 1]
    assert len(levels) == 20
    source = Trajectories(class_idx=None, sigmas=sigmas, levels=levels, options={})
    x = source.points(net, [4], CPU).x
    assert x.shape == (1, 2, 3, 8, 8)
    _, fine = noise_levels(net, [1.0, 30.0], num_steps=60)
    finer = Trajectories(class_idx=None, sigmas=sigmas, levels=fine, options={}).points(net, [4], CPU).x
    torch.testing.assert_close(x, finer, rtol=0, atol=0.1)  # the ODE's solution, to Heun's error


def test_a_real_image_gets_the_noise_of_its_seed(tmp_path):
    net = Linear([1.0], 2)
    shape = MoLRGShape(resolution=2, class_num=2, per_class_dim=3, sample_per_class=4)
    MoLRG(tmp_path, shape, seed=0)
    images = RealImages(tmp_path / f'{shape.name}.pt', (3, 2, 2))
    x, _, clean, chosen = NoisyImages(images=images, class_idx=None, sigmas=[2.0, 1.0]).points(net, [8], CPU)
    noise = torch.randn(3, 2, 2, generator=torch.Generator().manual_seed(8)).double()
    torch.testing.assert_close(clean, images.read(chosen).double())
    torch.testing.assert_close(x[0], clean + torch.stack([2 * noise, noise]))


def test_iddpm_levels_are_rounded_to_those_it_knows():
    net, _ = golden_network('iddpm-adm')
    sigmas, _ = noise_levels(net, [1.0], num_steps=4)
    assert sigmas[0] in net.u.double().tolist()


def test_a_dense_jacobian_beyond_memory_is_refused_or_avoided():
    dim = 3 * 1024**2
    with pytest.raises(UserError, match=r'3145728 x 3145728 and takes 147456 GiB.*--method randomized'):
        check_memory(dim, CPU, Method(name='exact'))
    assert check_memory(dim, CPU, Method(name='auto', eta=0.5)) == Method(name='randomized', eta=0.5)
    assert check_memory(192, CPU, Method(name='auto')).name == 'auto'


def pixels(count=12):
    """Random grey images of 3x3 pixels, which overlap at the noise levels below."""
    images = np.random.default_rng(0).integers(0, 256, (count, 1, 3, 3), dtype=np.uint8)
    dataset = SimpleNamespace(images=lambda rows: images[rows])
    return Pixels(dataset, np.arange(count), (1, 3, 3), device='cpu', cache_bytes=1e9)


@pytest.mark.parametrize('kind', CLOSED_JACOBIANS)
@pytest.mark.parametrize('sigma', [0.3, 1.0, 5.0])
def test_jacobians_in_closed_form_are_the_derivatives(kind, sigma):
    net = pkgutil.resolve_name(DENOISERS[kind])(pixels())
    x = torch.randn(2, 1, 3, 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    found = net.jacobian(x, sigma)
    step = 1e-3 * sigma  # the optimal denoiser sums in float32
    for column in range(9):
        shift = torch.zeros(9, dtype=torch.float64).reshape(1, 3, 3)
        shift.view(-1)[column] = step
        slope = (net(x + shift, sigma) - net(x - shift, sigma)).flatten(1) / (2 * step)
        torch.testing.assert_close(found[:, :, column], slope, rtol=1e-3, atol=5e-4)
    energies = exact_energies(net, x, sigma)
    torch.testing.assert_close(energies, torch.linalg.svdvals(found).square())
    (first, _) = find_ranks(net, x, sigma, seeds=[0, 1], method=Method(name='auto'), layout=Layout(batch=1))
    assert first.rank == numerical_rank(energies)[0]
    assert choose_layout(net, x[:1], sigma).batch == Layout().batch


def test_where_one_image_has_all_weight_the_optimal_denoiser_is_constant():
    net = pkgutil.resolve_name(DENOISERS['optimal'])(pixels())
    assert (exact_energies(net, torch.zeros(1, 1, 3, 3), 0.01) == 0).all()
    with pytest.raises(UserError, match='no Jacobian in closed form'):
        pkgutil.resolve_name(DENOISERS['patch'])(pixels(), patch=2).jacobian(torch.zeros(1, 1, 3, 3), 1.0)
