"""Products of noisy images with 8-bit ones in integers."""

import pytest
import torch

from denoisers import fixed_point as module
from denoisers.fixed_point import LARGEST_SIZE, LEAST_SIZE, fixed_point, is_supported

CPU = torch.device('cpu')
pytestmark = pytest.mark.skipif(not is_supported(CPU, 64), reason='no exact 8-bit instructions here')


@pytest.mark.parametrize('size', [LEAST_SIZE, 75, 192])
@pytest.mark.parametrize('rows', [1, 2, 85])
def test_products_are_exact_but_for_the_grid(rows, size):
    generator = torch.Generator().manual_seed(0)
    levels = torch.randint(-128, 128, (rows, size), generator=generator).to(torch.int8)
    x = 300 * torch.randn(5, size, generator=generator, dtype=torch.float64)
    x[0] = torch.tensor([-128, 127, 128, -129, 32639, 32640, -32640, -32641]).repeat(size // 8 + 1)[:size]
    grid = torch.tensor([1, 0.5, 2**-10, 2**-20, 1e-300], dtype=torch.float64)[:, None]
    found, expected = fixed_point(x, grid).products(levels), x @ levels.to(torch.float64).T
    assert torch.equal(found[0], expected[0])
    bound = (grid / 2 * levels.abs().to(torch.float64).sum(dim=1)).clamp(min=1e-8)
    assert ((found - expected).abs() <= bound).all()
    assert (found[4] - expected[4]).abs().max() < 1e-9


def test_the_highest_digits_say_most():
    generator = torch.Generator().manual_seed(0)
    x = 300 * torch.randn(5, 64, generator=generator, dtype=torch.float64)
    levels = torch.randint(-128, 128, (3, 64), generator=generator).to(torch.int8)
    for grid in (1e-3, 1e-6, 1e-9):
        fixed = fixed_point(x, torch.full((5, 1), grid, dtype=torch.float64))
        assert (fixed.grid <= grid).all()
        high, low = fixed.split(2)
        assert (high.digits[0].abs().amax(dim=1) > 60).all()  # of 127
        rest = x - high.grid * (256 * high.digits[0].to(torch.float64) + high.digits[1])
        assert (rest.abs() <= 0.502 * high.grid).all()
        torch.testing.assert_close(high.products(levels) + low.products(levels), fixed.products(levels))


def test_the_largest_sums_fit():
    levels = torch.full((1, LARGEST_SIZE), -128, dtype=torch.int8)
    x = torch.full((1, LARGEST_SIZE), -128.0, dtype=torch.float64)
    assert fixed_point(x, torch.ones_like(x[:, :1])).products(levels).item() == LARGEST_SIZE * 2**14


def test_products_that_saturate_are_not_used(monkeypatch):
    products = torch._int_mm
    monkeypatch.setattr(torch, '_int_mm', lambda x, y: products(x, y).clamp(-2**15, 2**15 - 1))
    monkeypatch.setattr(module, '_is_exact', module._is_exact.__wrapped__)  # asks again
    assert not is_supported(CPU, 64)
