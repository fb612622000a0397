"""The recovery error of low-rank classes."""

import math

import torch

from scores.recovery import recovery_errors


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
