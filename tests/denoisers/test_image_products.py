"""Scores of images and their weighted sums, in integers and in floating point."""

import numpy as np
import pytest
import torch
from test_optimal_denoiser import CPU, denoiser, make_images

from denoisers import image_products
from denoisers.fixed_point import is_supported
from denoisers.image_products import ROUNDING, FloatProducts, IntegerProducts

KINDS = [FloatProducts]
if is_supported(CPU, 192):
    KINDS.append(IntegerProducts)


def products(kind, sigma, n=300, samples=6):
    """Products of `samples` noisy images, these, and the rows of the data set with ||y||^2 / 2."""
    pixels = denoiser(make_images(n))._pixels
    noise = torch.randn(samples, 192, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    noisy = pixels._store._rows[:samples] + 127.5 * sigma * noise
    variance = torch.full((samples, 1), (127.5 * sigma)**2, dtype=torch.float64)
    return kind(noisy, variance, pixels), noisy, pixels._store._rows, pixels.half_squares


@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('sigma', [0.002, 0.1, 2.0, 80.0])
def test_rough_scores_stay_within_their_slack(kind, sigma):
    of, noisy, levels, half_squares = products(kind, sigma)
    exact = noisy @ levels.to(torch.float64).T - half_squares
    rough = of.rough(levels, half_squares)
    errors = (rough.to(torch.float64) - exact).abs().amax(dim=1, keepdim=True)
    assert (errors <= of.slack).all()
    found = of.exact(levels, half_squares, rough)
    assert (found - exact).abs().max() <= ROUNDING * (127.5 * sigma)**2 + 1e-9


@pytest.mark.parametrize('sigma', [0.002, 0.1, 2.0])
@pytest.mark.parametrize('level', [-127, 127])
@pytest.mark.skipif(IntegerProducts not in KINDS, reason='no exact 8-bit instructions here')
def test_the_slack_is_enough_where_all_lower_digits_are_largest(sigma, level):
    pixels = denoiser(np.full((1, 3, 8, 8), 128 + level, np.uint8))._pixels
    noisy = torch.full((1, 192), 180.0, dtype=torch.float64)
    variance = torch.full((1, 1), (127.5 * sigma)**2, dtype=torch.float64)
    grid = IntegerProducts(noisy, variance, pixels)._high.grid
    noisy = grid * ((noisy / grid).floor() + 0.49806)  # -128, or less by one digit, after the ROUGH_DIGITS
    of, levels = IntegerProducts(noisy, variance, pixels), pixels._store._rows
    assert torch.equal(of._high.grid, grid)
    exact = noisy @ levels.to(torch.float64).T - pixels.half_squares
    error = (of.rough(levels, pixels.half_squares) - exact).abs()
    assert error < of.slack
    assert error > 0.993 * of.slack


@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('n', [20, 300])
def test_roundings_of_weights_that_go_one_way_stay_small(kind, n):
    of, _, levels, _ = products(kind, 1.0, n)
    levels = torch.full_like(levels, 127)
    weights = torch.rand(6, n, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    weights[1], weights[2] = 0.123456789, 1e-9
    weights[2, 0] = 1
    total = weights.sum(dim=1, keepdim=True)
    expected, found = weights @ levels.to(torch.float64), torch.zeros(6, 192, dtype=torch.float64)
    of.add(found, weights.clone(), total, levels)
    assert ((found - expected).abs() <= 1e-6 * 127.5 * total).all()


@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('samples', [1, 6])
def test_no_number_of_weights_too_small_to_change_a_sum_is_lost(kind, samples):
    of, _, levels, _ = products(kind, 1.0, 4000, samples)
    levels = torch.full_like(levels, -128)
    weights = torch.ones(samples, 4000, dtype=torch.float64)
    weights[:, 33:] = 33 * 0.99 * 2**-24
    total = weights.sum(dim=1, keepdim=True)
    expected, found = weights @ levels.to(torch.float64), torch.zeros(samples, 192, dtype=torch.float64)
    of.add(found, weights.clone(), total, levels)
    assert ((found - expected).abs() <= 1e-6 * 127.5 * total).all()


@pytest.mark.skipif(IntegerProducts not in KINDS, reason='no exact 8-bit instructions here')
def test_the_grid_of_weights_is_for_all_images_whatever_a_chunk_holds(monkeypatch):
    of, _, levels, _ = products(IntegerProducts, 1.0, 300)
    grids, fixed_point = [], image_products.fixed_point
    monkeypatch.setattr(image_products, 'fixed_point',
                        lambda x, grid: (grids.append(grid), fixed_point(x, grid))[1])
    weights = torch.ones(6, 40, dtype=torch.float64)
    total = weights.sum(dim=1, keepdim=True)
    of.add(torch.zeros(6, 192, dtype=torch.float64), weights, total, levels[:40])
    assert (300 / 2 * grids[0] <= 1.001 * ROUNDING * total).all()
