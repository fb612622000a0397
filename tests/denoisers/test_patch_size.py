"""The width of windows by noise level."""

import numpy as np
import pytest
import torch

from data.dataset import ImageDataset
from denoisers import patch_size
from denoisers.open_denoiser import open_denoiser
from helpers import ROOT

DIGITS = ROOT / 'datasets' / 'digits-8x8.zip'


@pytest.fixture(scope='module')
def halves(tmp_path_factory):
    """150 digits, and 150 others."""
    images = ImageDataset(DIGITS, cache=False).images(range(300)).transpose(0, 2, 3, 1)
    paths = [tmp_path_factory.mktemp('digits') / f'{half}.npz' for half in ('train', 'heldout')]
    for path, half in zip(paths, (images[::2], images[1::2]), strict=True):
        np.savez(path, samples=half)
    return paths


@pytest.fixture(scope='module')
def by_heldout(halves):
    """The patch denoiser of the first, with sizes chosen on the second for 7 noise levels."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(patch_size, 'LEVELS', 7)
        return open_denoiser('patch', halves[0], torch.device('cpu'), patch='auto', heldout=halves[1])


def errors(net, heldout, sigma):
    """The error on held-out images of every size."""
    examples = patch_size.heldout_examples(heldout, (1, 8, 8), label_dim=0, class_idx=None, device='cpu')
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(examples.levels.shape, generator=generator, dtype=torch.float64)
    return {size: patch_size.denoising_error(net, examples, noise, sigma, size) for size in range(1, 9)}


def test_the_chosen_size_has_the_lowest_error(by_heldout, halves):
    sizes = by_heldout.sizes
    assert list(sizes.values()) == sorted(sizes.values(), reverse=True)
    assert sizes[80.0] == 8  # where all differ by next to nothing
    for sigma in list(sizes)[4:]:
        found = errors(by_heldout, halves[1], sigma)
        assert sizes[sigma] == min(found, key=found.get)


def test_leaving_out_picks_nearly_what_held_out_images_pick(by_heldout, halves, monkeypatch):
    """Where sizes matter the same within 1, elsewhere one of nearly the lowest error."""
    monkeypatch.setattr(patch_size, 'LEVELS', 7)
    by_leaving_out = open_denoiser('patch', halves[0], torch.device('cpu'), patch='auto')
    for sigma in list(by_heldout.sizes)[3:]:
        found, size = errors(by_heldout, halves[1], sigma), by_leaving_out.sizes[sigma]
        assert found[size] < 1.05 * min(found.values())
        assert sigma > 1 or abs(size - by_heldout.sizes[sigma]) <= 1


def test_other_noise_levels_have_the_size_of_the_nearest(halves):
    net = open_denoiser('patch', halves[0], torch.device('cpu'), patch=3)
    net.sizes = {10.0: 8, 0.1: 2}
    x = torch.rand(3, 1, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    fixed = {size: open_denoiser('patch', halves[0], torch.device('cpu'), patch=size) for size in (2, 8)}
    sigmas = torch.tensor([0.05, 1.1, 90.0], dtype=torch.float64)
    expected = torch.cat([fixed[size](x[[i]], sigmas[i]) for i, size in enumerate((2, 8, 8))])
    torch.testing.assert_close(net(x, sigmas), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize(('resolution', 'odd', 'widths'), [
    (8, False, [1, 2, 3, 4, 5, 6, 7, 8]), (8, True, [1, 3, 5, 7]), (1, True, [1])])
def test_candidates_go_up_to_the_image(resolution, odd, widths):
    assert patch_size.candidates(resolution, odd=odd) == widths


def test_candidates_of_large_images_are_few_and_include_the_image():
    assert len(patch_size.candidates(64, odd=False)) < 30
    assert patch_size.candidates(64, odd=False)[-1] == 64
    assert patch_size.candidates(64, odd=True)[-1] == 63


def test_sizes_are_tried_downwards_past_a_small_rise_until_a_clear_one(halves, monkeypatch):
    by_size = {8: 1.0, 7: 1.01, 6: 0.9, 5: 0.9005, 4: 0.91, 3: 2.0, 2: 0.1, 1: 0.1}
    tried = []

    def error(denoiser, examples, noise, sigma, size):
        tried.append((sigma, size))
        return by_size[size]

    monkeypatch.setattr(patch_size, 'LEVELS', 2)
    monkeypatch.setattr(patch_size, 'denoising_error', error)
    net = open_denoiser('patch', halves[0], torch.device('cpu'), patch='auto')
    assert list(net.sizes.values()) == [6, 6]  # not 5, the error of which is the same but for .06 %
    high, low = net.sizes
    assert [size for sigma, size in tried if round(sigma, 6) == high] == [8, 7, 6, 5, 4, 3]
    assert [size for sigma, size in tried if round(sigma, 6) == low] == [7, 6, 5, 4, 3]  # from one above
