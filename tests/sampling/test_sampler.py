"""The sampler against the reference's states, closed forms, and its errors."""

import math
import re
from itertools import pairwise

import pytest
import torch

from golden_networks import golden_network
from helpers import golden
from sampling.plan import clip_range, plan_steps
from sampling.sampler import edm_sampler, generalized_sampler, invert
from sampling.solvers import SOLVERS
from torch_utils.seeding import SampleGenerators

CPU = torch.device('cpu')
GOLDEN = golden('samplers')
LATENTS = torch.from_numpy(GOLDEN['latents'])
ABLATIONS = sorted(key for key in GOLDEN if key.startswith('ablate-'))


# Eight VP levels are too coarse for VE's time: this case multiplies a relative change of 1e-7 in the latents
# by 160. With the network in float64 it ends 2.4e-5 from the reference's float32 and 1.8e-5 from ours.
ILL_CONDITIONED = {'ablate-heun-vp-ve-none/edm-ddpmpp': 1e-4}


def close(images, key):
    """Within 1e-6 of the largest state: the networks compute in float32, whose last digit differs."""
    expected = torch.from_numpy(GOLDEN[key])
    tolerance = ILL_CONDITIONED.get(key, 1e-6)
    torch.testing.assert_close(images, expected, rtol=0, atol=tolerance * expected.abs().max().item())


class Gaussian:
    """The denoiser of data N(0, std^2 I), for which the ODE has a closed form."""

    sigma_min, sigma_max = 0, math.inf

    def __init__(self, std=0.5):
        self.std = std

    def round_sigma(self, sigma):
        return torch.as_tensor(sigma)

    def __call__(self, x, sigma, class_labels=None):
        return x / (1 + (sigma / self.std) ** 2)

    def solution(self, latents, sigma_max):
        """Where the ODE takes `latents` * sigma_max: x(t) grows with sqrt(std^2 + t^2)."""
        return latents.to(torch.float64) * sigma_max * self.std / math.sqrt(self.std**2 + sigma_max**2)


def test_latents_and_class_draws_are_those_of_the_reference():
    draws = SampleGenerators(GOLDEN['seeds'], CPU)
    assert torch.equal(draws.randn(LATENTS.shape[1:]), LATENTS)
    assert draws.randint(10).tolist() == GOLDEN['randint10_after_latents'].tolist()


@pytest.mark.parametrize('key', sorted(key for key in GOLDEN if key.startswith('heun')))
def test_edm_sampler_gives_the_references_states(key):
    name, network = key.split('/')
    net, _ = golden_network(network)
    options = {} if name == 'heun18' else {'num_steps': 7, 'rho': 5, 'sigma_min': 0.01, 'sigma_max': 50}
    labels = torch.eye(net.label_dim)[torch.from_numpy(GOLDEN['randint10_after_latents']) % net.label_dim] \
        if net.label_dim else None
    images = edm_sampler(net, LATENTS, labels, **options)
    assert images.dtype == torch.float64
    close(images, key)


def test_churn_gives_the_references_states():
    net, _ = golden_network('edm-ddpmpp')
    draws = SampleGenerators(GOLDEN['seeds'], CPU)
    latents = draws.randn(LATENTS.shape[1:])
    images = edm_sampler(net, latents, num_steps=10, S_churn=40, S_min=0.05, S_max=50, S_noise=1.003,
                         randn=lambda x: draws.randn(x.shape[1:], x.dtype))
    close(images, 'churn40/edm-ddpmpp')


@pytest.mark.parametrize('key', ABLATIONS)
def test_generalized_sampler_gives_the_references_states(key):
    name, network = key.split('/')
    solver, disc, schedule, *scaling = name.split('-')[1:]
    images = generalized_sampler(golden_network(network)[0], LATENTS, num_steps=8, solver=solver, disc=disc,
                                 schedule=schedule, scaling=scaling[0] if scaling else 'none')
    close(images, key)


@pytest.mark.parametrize('schedule', ['linear', 'vp'])
@pytest.mark.parametrize('scaling', ['none', 'vp'])
def test_churn_adds_the_same_noise_in_image_units_under_every_scaling(schedule, scaling):
    """Data of infinite spread leave nothing to denoise: the denoiser hands back x^ / s(t^)."""
    noises, drawn, steps = SampleGenerators(range(len(LATENTS)), CPU), [], []

    def randn(x):
        drawn.append(noises.randn(x.shape[1:], x.dtype))
        return drawn[-1]

    generalized_sampler(Gaussian(std=math.inf), LATENTS, num_steps=4, sigma_min=0.01, sigma_max=20,
                        schedule=schedule, scaling=scaling, S_churn=1, S_noise=1.5, randn=randn,
                        on_step=lambda i, *step: steps.append(step))
    for (sigma, x, shown), noise in zip(steps, drawn, strict=True):
        std = 1.5 * sigma * math.sqrt((1 + 1 / 4) ** 2 - 1)  # to reach (1 + S_churn / num_steps) sigma
        torch.testing.assert_close(shown - x, std * noise, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(('solver', 'order'), [('euler', 1), ('heun', 2)])
def test_the_error_falls_with_the_solvers_order(solver, order):
    net, latents = Gaussian(), LATENTS[:1]
    errors = [(edm_sampler(net, latents, solver=solver, num_steps=n) - net.solution(latents, 80)).abs().max()
              for n in (64, 128, 256)]
    for coarse, fine in pairwise(errors):
        assert coarse / fine == pytest.approx(2**order, rel=0.15)


@pytest.mark.parametrize(('disc', 'schedule', 'scaling'), [
    ('vp', 'vp', 'vp'), ('ve', 've', 'none'), ('iddpm', 'linear', 'none'), ('edm', 'linear', 'vp')])
def test_every_schedule_solves_the_same_ode(disc, schedule, scaling):
    net = Gaussian()
    images = generalized_sampler(net, LATENTS, num_steps=200, disc=disc, schedule=schedule, scaling=scaling,
                                 sigma_min=0.01, sigma_max=40)
    assert (images - net.solution(LATENTS, 40)).abs().max() < 2e-2


@pytest.mark.parametrize(('disc', 'schedule', 'scaling'), [
    ('vp', 'vp', 'vp'), ('ve', 've', 'none'), ('iddpm', 'linear', 'none'), ('edm', 'linear', 'vp')])
def test_inversion_takes_images_to_the_latents_they_come_from(disc, schedule, scaling):
    net, options = Gaussian(), {'num_steps': 200, 'sigma_min': 0.01, 'sigma_max': 40, 'disc': disc,
                                'schedule': schedule, 'scaling': scaling}
    latents = invert(net, net.solution(LATENTS, 40), **options)
    assert (latents - LATENTS).abs().max() < 2e-2
    assert latents.dtype == torch.float64


@pytest.mark.parametrize(('solver', 'order'), [('euler', 1), ('heun', 2)])
def test_the_error_of_inversion_falls_with_the_solvers_order(solver, order):
    net, images, errors = Gaussian(), LATENTS[:1].double(), []
    # The images count as the state at the lowest level, from which the ODE's solution is known.
    exact = images * math.sqrt((net.std**2 + 80**2) / (net.std**2 + 0.002**2)) / 80
    for n in (64, 128, 256):
        errors.append((invert(net, images, solver=solver, num_steps=n) - exact).abs().max())
    for coarse, fine in pairwise(errors):
        assert coarse / fine == pytest.approx(2**order, rel=0.15)


def test_inversion_reports_rising_levels_and_refuses_churn():
    seen = []
    invert(Gaussian(), LATENTS, num_steps=4, on_step=lambda i, sigma, *_: seen.append(sigma))
    assert seen == sorted(seen)
    assert (len(seen), seen[0]) == (3, pytest.approx(0.002))
    with pytest.raises(ValueError, match='S_churn'):
        invert(Gaussian(), LATENTS, S_churn=1)


def adams_bashforth(x, now, end, evaluate, past):
    """The two-step method: one evaluation per step, second order."""
    h, slope = end.t - now.point.t, now.slope
    if past:
        before = past[-1]
        slope = slope + h / (now.point.t - before.point.t) / 2 * (slope - before.slope)
    return x + h * slope


def dpm_solver_2m(x, now, end, evaluate, past):
    """DPM-Solver++(2M) (Lu et al. 2022) for s(t) = 1: one evaluation per step, second order in log sigma."""
    if end.t == 0:
        return now.denoised
    ratio, denoised = end.sigma / now.point.sigma, now.denoised
    if past:
        steps = math.log(ratio) / math.log(now.point.sigma / past[-1].point.sigma)
        denoised = denoised + steps / 2 * (denoised - past[-1].denoised)
    return ratio * x + (1 - ratio) * denoised


@pytest.mark.parametrize('step', [adams_bashforth, dpm_solver_2m])
def test_a_multistep_solver_is_one_function_and_one_line(step, monkeypatch):
    net, latents, calls = Gaussian(), LATENTS[:1], []
    monkeypatch.setitem(SOLVERS, 'new', step)
    errors = []
    for n in (64, 128, 256):
        images = edm_sampler(net, latents, solver='new', num_steps=n, on_step=lambda i, *_: calls.append(i))
        errors.append((images - net.solution(latents, 80)).abs().max())
    assert len(calls) == 64 + 128 + 256
    for coarse, fine in pairwise(errors):
        assert coarse / fine == pytest.approx(4, rel=0.2)


def test_a_step_is_reported_with_its_state_and_denoised_images():
    net, seen = Gaussian(), []
    edm_sampler(net, LATENTS, num_steps=4, on_step=lambda *step: seen.append(step))
    assert [i for i, *_ in seen] == [0, 1, 2, 3]
    assert seen[0][1] == pytest.approx(80)
    for _, sigma, x, denoised in seen:
        torch.testing.assert_close(denoised, net(x, sigma))


def test_the_range_is_clipped_to_what_the_denoiser_supports():
    net = Gaussian()
    net.sigma_min, net.sigma_max = 0.02, 30
    assert clip_range(net, None, None) == (0.02, 30)
    assert clip_range(net, 0.1, 100) == (0.1, 30)
    steps = plan_steps(net, num_steps=5, sigma_min=0.001, sigma_max=100)
    assert (steps[0].start.sigma, steps[-1].start.sigma) == (pytest.approx(30), pytest.approx(0.02))
    assert steps[-1].end.t == 0


@pytest.mark.parametrize(('options', 'message'), [
    ({'num_steps': 1}, 'num_steps must be at least 2, got 1'),
    ({'solver': 'rk4'}, "solver is one of euler, heun, got 'rk4'"),
    ({'disc': 'x'}, "disc is one of vp, ve, iddpm, edm, got 'x'"),
    ({'sigma_min': 3, 'sigma_max': 2}, 'sigma_min must be above 0 and below sigma_max, got 3 and 2'),
    ({'disc': 'iddpm', 'sigma_min': 90, 'sigma_max': 91}, 'no noise level between 90 and 91'),
    ({'S_churn': 1}, 'needs randn'),
    ({'S_min': 5, 'S_max': 1}, 'S_min must not be above S_max, got 5 and 1'),
    ({'S_churn': 1, 'S_max': math.nan}, 'S_min must not be above S_max, got 0 and nan'),
    ({'rho': 1e-9}, 'rho 1e-09 is beyond what float64 can space levels from 80 to 0.002 with'),
    ({'rho': 0.02}, 'rho 0.02 is beyond'),
    ({'rho': 1e300}, 'rho 1e+300 is beyond'),
    ({'sigma_max': 1e200}, 'must lie within 1e-15 and 1e+15, got 0.002 and 1e+200'),
    ({'sigma_min': 1e-200}, 'must lie within 1e-15 and 1e+15, got 1e-200 and 80'),
])
def test_bad_options_are_refused(options, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        generalized_sampler(Gaussian(), LATENTS, **options)


def test_churn_beyond_the_top_of_a_schedule_is_refused():
    """From 0.1 to 20 VP's sigma(t) bends back above 20, and the first churned level is above its maximum."""
    options = {'num_steps': 4, 'sigma_min': 0.1, 'sigma_max': 20, 'schedule': 'vp'}
    assert len(plan_steps(Gaussian(), **options)) == 4
    with pytest.raises(ValueError, match=r'S_churn 1: schedule vp from 0\.1 to 20 never reaches the noise '
                                         r'level 25'):
        plan_steps(Gaussian(), **options, S_churn=1)
