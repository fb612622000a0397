"""The Gaussian denoiser against its definition in dense float64, and the closed solution of its ODE."""

import math

import numpy as np
import pytest
import torch
from test_optimal_denoiser import Images, close

from data.pixels import Pixels
from denoisers.gaussian_denoiser import GaussianDenoiser
from sampling.sampler import edm_sampler
from sampling.schedules import karras_sigmas

GRID = karras_sigmas(7, 0.002, 80).tolist()


def denoiser(images, *, cache_bytes=math.inf, chunk_values=5000, **options):
    pixels = Pixels(Images(images), range(len(images)), images.shape[1:], device='cpu',
                    cache_bytes=cache_bytes, chunk_values=chunk_values)
    return GaussianDenoiser(pixels, **options)


def moments(images):
    y = torch.from_numpy(images.reshape(len(images), -1).astype(np.float64)) / 127.5 - 1
    return y.mean(dim=0), torch.cov(y.T, correction=0).reshape(y.shape[1], y.shape[1])


def by_definition(images, x, sigma):
    mean, covariance = moments(images)
    noisy = covariance + sigma**2 * torch.eye(len(mean), dtype=torch.float64)
    gain = torch.linalg.solve(noisy, covariance, left=False)
    return (mean + (x.flatten(1) - mean) @ gain.T).reshape(x.shape)


def make_images(n):
    """Random images [n, 1, 8, 8] with a covariance of many sizes, one pixel that never changes, one twin."""
    rng = np.random.default_rng(0)
    values = rng.normal(size=(n, 64)) @ rng.normal(size=(64, 64)) * np.geomspace(0.5, 15, 64) + 128
    images = values.clip(0, 255).astype(np.uint8).reshape(n, 1, 8, 8)
    images[:, 0, 0, 0] = 7
    images[:, 0, 0, 1] = images[:, 0, 0, 2]
    return images


@pytest.mark.parametrize('n', [1, 2, 20, 64, 500])
@pytest.mark.parametrize('sigma', GRID)
def test_it_is_the_definition_at_every_noise_level(sigma, n):
    images = make_images(n)
    noise = torch.randn(5, 1, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    clean = torch.from_numpy(images[np.arange(5) % n]) / 127.5 - 1
    for x in (clean + sigma * noise, 80 * noise):
        close(denoiser(images)(x, sigma), by_definition(images, x, sigma))


def test_pixels_in_a_file_give_the_same():
    images, x = make_images(100), torch.zeros(1, 1, 8, 8, dtype=torch.float64)
    close(denoiser(images, cache_bytes=0)(x, 0.5), denoiser(images)(x, 0.5), atol=0)


def test_a_label_picks_the_gaussian_of_its_class():
    images = make_images(100)
    net = denoiser(images, class_ends=[10, 100], label_dim=2)
    x = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    denoised = net(x, 0.8, torch.eye(2)[[1, 0, 1]])
    close(denoised[[1]], by_definition(images[:10], x[[1]], 0.8))
    close(denoised[[0, 2]], by_definition(images[10:], x[[0, 2]], 0.8))


def test_samples_have_the_mean_and_the_covariance_of_the_data():
    """For the ODE scales principal directions by sqrt(variance / (variance + sigma_max^2))."""
    images = make_images(500)
    mean, covariance = moments(images)
    variances, directions = torch.linalg.eigh(covariance)
    latents = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    samples = edm_sampler(denoiser(images), latents, num_steps=300)
    start = latents.flatten(1) * 80 - mean
    growth = (variances.clamp(min=0) / (variances + 80**2)).sqrt()
    expected = mean + (start @ directions * growth) @ directions.T
    assert (samples.flatten(1) - expected).abs().max() < 2e-3
