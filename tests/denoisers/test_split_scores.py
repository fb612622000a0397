"""Scores of windows in float32 by two products, one of them exact."""

import pytest
import torch

from denoisers.split_scores import ROUNDING, split


def windows(count, size, sigma):
    generator = torch.Generator().manual_seed(0)
    y = torch.randint(-128, 128, (count, size), generator=generator, dtype=torch.float64)
    return y, y[:20] + sigma * torch.randn(20, size, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize('size', [1, 9, 27])
@pytest.mark.parametrize('sigma', [30, 600, 10_000])
def test_weights_are_those_of_float64(sigma, size):
    y, x = windows(500, size, sigma)
    parts = split(x, torch.full((20, 1), sigma**2, dtype=torch.float64))
    squares = y.square().sum(dim=1) / 2
    if parts.grid > 0.5:
        squares = (squares / parts.grid).round() * parts.grid
    keys = torch.cat([y, -squares[:, None]], dim=1)
    high = parts.high @ keys.float().T
    assert torch.equal(high.double(), parts.high.double() @ keys.T)
    high -= high.amax(dim=1, keepdim=True)
    weights = (parts.scale * high + parts.low @ y.float().T).softmax(dim=1)
    expected = ((x @ y.T - y.square().sum(dim=1) / 2) / sigma**2).softmax(dim=1)
    assert (weights - expected).abs().sum(dim=1).max() < 2 * ROUNDING


def test_low_noise_and_mixed_noise_need_float64():
    _, x = windows(20, 27, 0.3)
    assert split(x, torch.full((20, 1), 0.09, dtype=torch.float64)) is None
    assert split(x, torch.arange(1e4, 1e4 + 20, dtype=torch.float64)[:, None]) is None
