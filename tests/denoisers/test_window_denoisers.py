"""Denoisers by windows against their definitions, window by window in float64."""

import math

import numpy as np
import pytest
import torch
from test_optimal_denoiser import CPU, Images, brute_force, close, make_images

from data.pixels import Pixels
from denoisers.optimal_denoiser import OptimalDenoiser
from denoisers.patch_denoiser import PatchDenoiser
from torch_utils.errors import UserError

SIGMAS = (0.002, 0.1, 0.6, 3.0, 80.0)


def make_pixels(images, *, cache_bytes=math.inf, chunk_values=5000):
    return Pixels(Images(images), range(len(images)), images.shape[1:], device=CPU, cache_bytes=cache_bytes,
                  chunk_values=chunk_values)


def noisy(images, sigma, count=3):
    """Images with noise, an image far from all, and one halfway between two, [count + 2, C, H, W]."""
    clean = torch.from_numpy(images[np.arange(count) % len(images)].astype(np.float64)) / 127.5 - 1
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return torch.cat([clean + sigma * noise, 3 + 0 * clean[:1], (clean[:1] + clean[-1:]) / 2])


def patches_by_definition(images, x, sigma, size):
    total, covered, resolution = torch.zeros_like(x), torch.zeros_like(x), x.shape[2]
    for top in range(resolution - size + 1):
        for left in range(resolution - size + 1):
            patch = np.s_[:, :, top:top + size, left:left + size]
            total[patch] += brute_force(images[patch], x[patch], sigma)
            covered[patch] += 1
    return total / covered


@pytest.mark.parametrize(('n', 'channels', 'size'), [
    (1, 1, 3), (5, 3, 1), (60, 1, 1), (60, 3, 2), (60, 1, 5), (60, 3, 7), (60, 3, 8)])
def test_patch_is_the_definition(n, channels, size):
    images = make_images(n, channels=channels)
    net = PatchDenoiser(make_pixels(images), patch=size)
    for sigma in SIGMAS:
        x = noisy(images, sigma)
        close(net(x, sigma), patches_by_definition(images, x, sigma, size))


def test_a_patch_as_large_as_the_image_makes_the_optimal_denoiser():
    images = make_images(50)
    x = noisy(images, 0.5)
    optimal = OptimalDenoiser(make_pixels(images))(x, 0.5)
    assert torch.equal(PatchDenoiser(make_pixels(images), patch=8)(x, 0.5), optimal)


def test_neither_chunks_nor_threads_nor_the_place_of_the_pixels_change_patches():
    images = make_images(50)
    x = noisy(images, 0.5)
    expected = patches_by_definition(images, x, 0.5, 3)
    for threads, cache_bytes in (1, 0), (3, math.inf):
        torch.set_num_threads(threads)
        try:
            close(PatchDenoiser(make_pixels(images, cache_bytes=cache_bytes), patch=3)(x, 0.5), expected)
        finally:
            torch.set_num_threads(1)


def test_each_sample_has_its_noise_level_and_its_class():
    images = make_images(50)
    net = PatchDenoiser(make_pixels(images), patch=3, class_ends=[20, 50], label_dim=2)
    x, sigmas = noisy(images, 0.5)[:2], torch.tensor([0.02, 2.0], dtype=torch.float64)
    denoised = net(x, sigmas, torch.eye(2)[[1, 0]])
    close(denoised[:1], patches_by_definition(images[20:], x[:1], 0.02, 3))
    close(denoised[1:], patches_by_definition(images[:20], x[1:], 2.0, 3))


def test_any_noise_level_above_0_has_an_answer():
    images = make_images(40)
    clean = torch.from_numpy(images[5:8]).to(torch.float64) / 127.5 - 1
    close(PatchDenoiser(make_pixels(images), patch=5)(clean, 1e-200), clean)
    close(PatchDenoiser(make_pixels(images), patch=5)(clean, 1e90), brute_force(images, clean, 1e90))


@pytest.mark.parametrize('size', [0, 9])
def test_windows_that_do_not_fit_are_refused(size):
    with pytest.raises(UserError, match=f'--patch {size}: expected 1 to 8'):
        PatchDenoiser(make_pixels(make_images(5)), patch=size)
