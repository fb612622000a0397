"""Denoisers by windows against their definitions, window by window in float64."""

import functools
import itertools
import math

import numpy as np
import pytest
import torch
from test_optimal_denoiser import CPU, Images, brute_force, close, make_images

from data.pixels import Pixels, from_levels, to_levels
from denoisers import equivariant_denoiser, patch_denoiser, window_denoiser
from denoisers.equivariant_denoiser import EquivariantDenoiser
from denoisers.linear_denoiser import LinearDenoiser
from denoisers.local_denoiser import LocalDenoiser
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


def around(place, size, resolution):
    """The window around a place, cut off at the border, and how much of it is left on each side."""
    sides = [min(size // 2, place[axis]) for axis in (0, 1)]
    others = [min(size // 2, resolution - 1 - place[axis]) for axis in (0, 1)]
    window = tuple(slice(at - low, at + high + 1)
                   for at, low, high in zip(place, sides, others, strict=True))
    return (slice(None), slice(None), *window), (*sides, *others)


def pixels_by_definition(images, x, sigma, size, equivariant):
    """Pixel by pixel, the posterior mean by the windows at the same place, or at all with the same cut."""
    y = torch.from_numpy(images.astype(np.float64)) / 127.5 - 1
    resolution, denoised = x.shape[2], torch.empty_like(x)
    places = [(row, column) for row in range(resolution) for column in range(resolution)]
    for place in places:
        window, cut = around(place, size, resolution)
        others = [other for other in places if around(other, size, resolution)[1] == cut
                  and (equivariant or other == place)]
        windows = torch.cat([y[around(other, size, resolution)[0]] for other in others])
        centres = torch.cat([y[:, :, other[0], other[1]] for other in others])
        square = (x[window][:, None] - windows).square().sum(dim=(2, 3, 4))
        denoised[:, :, place[0], place[1]] = (-square / (2 * sigma**2)).softmax(dim=1) @ centres
    return denoised


def filters_by_definition(images, x, sigma, size):
    """Pixel by pixel, the least-squares fit of the clean pixel to its noisy window, from dense moments."""
    y, denoised = torch.from_numpy(images.astype(np.float64)) / 127.5 - 1, torch.empty_like(x)
    for place in itertools.product(range(x.shape[2]), repeat=2):
        window, _ = around(place, size, x.shape[2])
        clean, pixel = y[window].flatten(1), y[:, :, place[0], place[1]]
        mean, among = clean.mean(dim=0), clean - clean.mean(dim=0)
        noisy = among.T @ among / len(y) + sigma**2 * torch.eye(len(mean), dtype=torch.float64)
        gain = torch.linalg.solve(noisy, among.T @ pixel / len(y))
        denoised[:, :, place[0], place[1]] = pixel.mean(dim=0) + (x[window].flatten(1) - mean) @ gain
    return denoised


DEFINITIONS = {PatchDenoiser: patches_by_definition,
               LocalDenoiser: functools.partial(pixels_by_definition, equivariant=False),
               EquivariantDenoiser: functools.partial(pixels_by_definition, equivariant=True),
               LinearDenoiser: filters_by_definition}


@pytest.mark.parametrize(('kind', 'n', 'channels', 'size'), [
    *((PatchDenoiser, *case)
      for case in ((1, 1, 3), (60, 1, 1), (60, 3, 2), (60, 1, 5), (60, 3, 7), (60, 3, 8))),
    *((kind, *case) for kind in (LocalDenoiser, EquivariantDenoiser, LinearDenoiser)
      for case in ((1, 1, 3), (40, 1, 1), (40, 3, 3), (40, 1, 5), (40, 3, 7)))])
def test_it_is_the_definition(kind, n, channels, size):
    images = make_images(n, channels=channels)
    net = kind(make_pixels(images), patch=size)
    for sigma in SIGMAS:
        x = noisy(images, sigma)
        close(net(x, sigma), DEFINITIONS[kind](images, x, sigma, size))


def test_a_patch_as_large_as_the_image_makes_the_optimal_denoiser():
    images = make_images(50)
    x = noisy(images, 0.5)
    optimal = OptimalDenoiser(make_pixels(images))(x, 0.5)
    assert torch.equal(PatchDenoiser(make_pixels(images), patch=8)(x, 0.5), optimal)


@pytest.mark.parametrize('kind', DEFINITIONS)
def test_neither_chunks_nor_threads_nor_the_place_of_the_pixels_change_it(kind):
    images = make_images(50)
    x = noisy(images, 0.5)
    expected = DEFINITIONS[kind](images, x, 0.5, 3)
    for threads, cache_bytes in (1, 0), (3, math.inf):
        torch.set_num_threads(threads)
        try:
            close(kind(make_pixels(images, cache_bytes=cache_bytes), patch=3)(x, 0.5), expected)
        finally:
            torch.set_num_threads(1)


@pytest.mark.parametrize('kind', [PatchDenoiser, LocalDenoiser, EquivariantDenoiser])
@pytest.mark.parametrize('size', [1, 5])
def test_later_images_may_be_nearer_by_any_factor(kind, size, monkeypatch):
    """Than those processed before: the nearest come last, and weights grow beyond what float64 holds."""
    monkeypatch.setattr(window_denoiser, 'CPU_SCORES', 1)
    monkeypatch.setattr(equivariant_denoiser, 'IMAGES', 16)
    images = make_images(70, channels=1) // 64 + np.arange(70, 0, -1, dtype=np.uint8)[:, None, None, None] * 3
    x = noisy(images, 0.02)[:2] / 9 - 8 / 9
    for sigma in (0.01, 0.03, 0.06, 0.1, 0.2, 1.0):
        close(kind(make_pixels(images), patch=size)(x, sigma), DEFINITIONS[kind](images, x, sigma, size))


@pytest.mark.parametrize('kind', DEFINITIONS)
def test_each_sample_has_its_noise_level_and_its_class(kind):
    images = make_images(50)
    net = kind(make_pixels(images), patch=3, class_ends=[20, 50], label_dim=2)
    x, sigmas = noisy(images, 0.5)[:3], torch.tensor([0.02, 2.0, 0.02], dtype=torch.float64)
    denoised = net(x, sigmas, torch.eye(2)[[1, 0, 0]])
    for sample, of_class in enumerate((images[20:], images[:20], images[:20])):
        expected = DEFINITIONS[kind](of_class, x[[sample]], float(sigmas[sample]), 3)
        close(denoised[[sample]], expected)


@pytest.mark.parametrize('kind', DEFINITIONS)
def test_a_sample_can_leave_out_an_image(kind):
    """As leave-one-out errors need it."""
    images = make_images(31)
    x = noisy(images, 0.5)[:3]
    found = kind(make_pixels(images), patch=3).denoise_by(
        3, to_levels(x.flatten(1)), torch.full([3, 1], 0.5 * 127.5, dtype=torch.float64), (0, 31),
        torch.tensor([30, -1, 7]))
    for sample, row in enumerate((30, None, 7)):
        others = images if row is None else np.delete(images, row, axis=0)
        expected = DEFINITIONS[kind](others, x[[sample]], 0.5, 3)
        close(from_levels(found[sample]).reshape(expected.shape), expected)


@pytest.mark.parametrize('kind', DEFINITIONS)
def test_it_may_be_of_a_class_in_a_later_chunk_or_all_of_a_threads(kind, monkeypatch):
    monkeypatch.setattr(window_denoiser, 'CPU_SCORES', 1)  # 16 images at a time
    images, left_out, ends = make_images(42), (39, 41, -1), (40, 42)
    x, labels = noisy(images[list(left_out)], 0.02)[:3], torch.eye(2)[[0, 1, 0]]
    torch.set_num_threads(2)
    try:
        net = kind(make_pixels(images), patch=3, class_ends=ends, label_dim=2)
        found = net.denoise_levels(to_levels(x.flatten(1)), torch.full([3, 1], 0.02 * 127.5).double(), labels,
                                   size=3, left_out=torch.tensor(left_out))
    finally:
        torch.set_num_threads(1)
    for sample, others in enumerate((images[:39], images[[40]], images[:40])):
        expected = DEFINITIONS[kind](others, x[[sample]], 0.02, 3)
        close(from_levels(found[sample]).reshape(expected.shape), expected)


@pytest.mark.parametrize('threads', [1, 3])
@pytest.mark.parametrize('size', [1, 2, 3, 5])
def test_two_passes_over_several_chunks_are_the_definition_too(size, threads, monkeypatch):
    monkeypatch.setattr(patch_denoiser, 'MOST_VALUES', 0)
    monkeypatch.setattr(window_denoiser, 'CPU_SCORES', 1)  # 16 images at a time
    images = make_images(70)
    torch.set_num_threads(threads)
    try:
        net = PatchDenoiser(make_pixels(images), patch=size)
        for sigma in (0.1, 3.0):
            x = noisy(images, sigma)
            close(net(x, sigma), patches_by_definition(images, x, sigma, size))
    finally:
        torch.set_num_threads(1)


@pytest.mark.parametrize('kind', [PatchDenoiser, LocalDenoiser])
def test_images_at_the_same_distance_have_the_same_weight_whatever_the_noise_level(kind):
    """Their scores are exact."""
    images = make_images(3)[1:]
    levels = images.reshape(2, -1).astype(np.float64) - 128
    halfway = torch.from_numpy(levels.mean(axis=0, keepdims=True))
    for sigma in (1e-200, 1e-9):
        found = kind(make_pixels(images), patch=3).denoise_levels(
            halfway, torch.full([1, 1], sigma, dtype=torch.float64), None, size=3)
        close(found, halfway)


@pytest.mark.parametrize('kind', DEFINITIONS)
def test_rounding_that_goes_one_way_does_not_add_up(kind):
    """In sums over many equal images, beside one other."""
    images = np.repeat(make_images(1, channels=1, size=4), 2001, axis=0)
    images[-1] ^= 255
    x = noisy(images, 0.5, count=20)[::7]
    for sigma in (0.5, 5.0):
        close(kind(make_pixels(images), patch=3)(x.repeat(8, 1, 1, 1), sigma)[:len(x)],
              DEFINITIONS[kind](images, x, sigma, 3))


@pytest.mark.parametrize(('kind', 'size', 'resolution'), [
    (PatchDenoiser, 1, 4), (PatchDenoiser, 8, 9), (LocalDenoiser, 3, 4), (EquivariantDenoiser, 3, 4)])
def test_nor_does_that_of_small_weights_beside_a_large_one(kind, size, resolution):
    """Each sample has another weight for 63 equal images; in float32 sums may be off by 4e-6."""
    images = np.ones((64, 3, resolution, resolution), np.uint8)
    images[0] = 0
    logits = torch.linspace(-12, 4, 500, dtype=torch.float64).reshape(-1, 1, 1, 1)
    clean = torch.from_numpy(images[:2].astype(np.float64)) / 127.5 - 1
    x = clean.mean(dim=0) + logits * 127.5 / (3 * size**2)
    close(kind(make_pixels(images), patch=size)(x, 1.0), DEFINITIONS[kind](images, x, 1.0, size))


@pytest.mark.parametrize('kind', DEFINITIONS)
def test_any_noise_level_above_0_has_an_answer(kind):
    images = make_images(40)
    clean = torch.from_numpy(images[5:8]).to(torch.float64) / 127.5 - 1
    close(kind(make_pixels(images), patch=5)(clean, 1e-200), clean)
    close(kind(make_pixels(images), patch=5)(clean, 1e90), DEFINITIONS[kind](images, clean, 1e90, 5))


@pytest.mark.parametrize(('kind', 'size', 'says'), [
    (PatchDenoiser, 0, 'expected 1 to 8'), (PatchDenoiser, 9, 'expected 1 to 8'), (LocalDenoiser, 9, 'to 8'),
    (LocalDenoiser, 4, 'odd'), (EquivariantDenoiser, 2, 'odd')])
def test_windows_that_do_not_fit_are_refused(kind, size, says):
    with pytest.raises(UserError, match=f'--patch {size}: .*{says}'):
        kind(make_pixels(make_images(5)), patch=size)
