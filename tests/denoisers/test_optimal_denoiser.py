"""The optimal denoiser against the reference, a float64 brute force, and cases with a known answer."""

import math
import resource

import numpy as np
import pytest
import torch

from data.pixels import Pixels
from denoisers import image_products, optimal_denoiser
from denoisers.optimal_denoiser import OptimalDenoiser
from helpers import golden
from sampling.sampler import edm_sampler
from sampling.schedules import karras_sigmas
from torch_utils.errors import UserError

CPU = torch.device('cpu')
GOLDEN = golden('optimal-denoiser')
GRID = karras_sigmas(18, 0.002, 80).tolist()


class Images:
    """An array uint8 [N, C, H, W] as a data set."""

    def __init__(self, images):
        self.array = np.asarray(images)

    def images(self, indices):
        return self.array[np.asarray(indices)]


def denoiser(images, *, cache_bytes=math.inf, chunk_values=None, **options):
    images = Images(images)
    pixels = Pixels(images, range(len(images.array)), images.array.shape[1:], device=CPU,
                    cache_bytes=cache_bytes, chunk_values=chunk_values)
    return OptimalDenoiser(pixels, **options)


def brute_force(images, x, sigma):
    """The definition, in float64, with squared distances as sums of squared differences."""
    y = torch.from_numpy(images.astype(np.float64)) / 127.5 - 1
    square = (x.to(torch.float64)[:, None] - y[None]).square().sum(dim=(2, 3, 4))
    return torch.einsum('bn,nchw->bchw', (-square / (2 * sigma**2)).softmax(dim=1), y)


def close(found, expected, atol=1e-6):
    torch.testing.assert_close(found.to(torch.float64), expected.to(torch.float64), rtol=0, atol=atol)


def make_images(n, seed=0, channels=3, size=8):
    """Random images, and for n > 3 of which the second repeats the first and the third is one level off."""
    images = np.random.default_rng(seed).integers(0, 256, (n, channels, size, size)).astype(np.uint8)
    if n > 3:
        images[1] = images[2] = images[0]
        images[2, 0, 0, 0] ^= 1
    return images


@pytest.mark.parametrize('key', [key for key in GOLDEN if key.startswith('x/')])
def test_it_gives_the_references_denoised_images(key):
    sigma = key.removeprefix('x/')
    net = denoiser(GOLDEN['dataset_uint8'], chunk_values=2000)
    close(net(torch.from_numpy(GOLDEN[key]), float(sigma)), torch.from_numpy(GOLDEN[f'out/{sigma}']))


def test_euler_gives_the_references_samples():
    samples = edm_sampler(denoiser(GOLDEN['dataset_uint8']), torch.from_numpy(GOLDEN['latents']),
                          solver='euler')
    close(samples, torch.from_numpy(GOLDEN['sample_euler18']), atol=1e-5)


@pytest.mark.parametrize('n', [1, 2, 64, 300])
@pytest.mark.parametrize('sigma', GRID)
def test_it_is_the_definition_at_every_noise_level(sigma, n):
    images = make_images(n)
    clean = torch.from_numpy(images[np.arange(6) % n].astype(np.float64)) / 127.5 - 1
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    halfway = (clean[:1] + clean[1:2]) / 2  # where the weights of two images are equal
    x = torch.cat([clean, clean + sigma * noise, halfway, halfway + sigma * noise[:1], 80 * noise])
    close(denoiser(images, chunk_values=12_000)(x, sigma), brute_force(images, x, sigma))


def test_grey_images_are_denoised():
    images = make_images(20, channels=1)
    x = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    close(denoiser(images)(x, 0.7), brute_force(images, x, 0.7))


def test_the_nearest_image_is_found_among_neighbours_one_grey_level_apart():
    images = np.repeat(make_images(1), 192, axis=0)
    rows = np.arange(192)
    images.reshape(192, 192)[rows, rows] ^= 1
    clean = torch.from_numpy(images).to(torch.float64) / 127.5 - 1
    close(denoiser(images, chunk_values=5000)(clean, 0.0005), clean)


def test_many_images_of_little_weight_count_together():
    images = np.zeros((2001, 1, 1, 1), dtype=np.uint8)
    images[0] = 255
    x = torch.ones(1, 1, 1, 1, dtype=torch.float64)
    expected = brute_force(images, x, 0.34)
    assert 1e-4 < 1 - float(expected) < 2e-4  # of 2,000 weights below 1e-7
    close(denoiser(images, chunk_values=20)(x, 0.34), expected)


def adversarial_sets():
    """Images [N, C, H, W] that rounding could confuse."""
    rng = np.random.default_rng(0)
    flipped = np.repeat(make_images(1), 400, axis=0)
    flipped.reshape(400, 192)[np.arange(400), np.arange(400) % 192] ^= 1
    heavy = 255 * (np.arange(20_001) < 1).astype(np.uint8)
    constant = np.arange(128, 384).astype(np.uint8)  # from that whose norm is 0 on
    return {'one': make_images(1), 'duplicates': np.repeat(make_images(3), 200, axis=0),
            'one level apart': flipped, 'black and white': 255 * rng.integers(0, 2, (400, 3, 8, 8), np.uint8),
            'constant': constant.repeat(192).reshape(256, 3, 8, 8),
            'of norm 0': np.full((40, 3, 8, 8), 128, np.uint8),
            '50,000': rng.integers(0, 256, (50_000, 3, 1, 1)).astype(np.uint8),
            'one of much weight': heavy.repeat(16).reshape(-1, 1, 4, 4)}


@pytest.fixture
def in_floating_point(monkeypatch):
    """As on a processor without 8-bit products, or a GPU."""
    monkeypatch.setattr(image_products, 'is_supported', lambda *_: False)


@pytest.mark.parametrize(('name', 'images'), adversarial_sets().items())
def test_no_set_of_images_is_confused_by_rounding(name, images):
    clean = torch.from_numpy(images[[0, -1]].astype(np.float64)) / 127.5 - 1
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    net = denoiser(images)
    for sigma in [*GRID[::3], 0.97, 1.2, 1.43]:  # the last three: 20,000 weights of 2e-15, 2e-10, 2e-7
        x = torch.cat([clean, clean + sigma * noise, clean.mean(dim=0, keepdim=True)])
        close(net(x, sigma), brute_force(images, x, sigma))


@pytest.mark.parametrize(('name', 'images'), [
    item for item in adversarial_sets().items() if item[0] != '50,000'])
def test_nor_is_one_in_floating_point(name, images, in_floating_point):
    test_no_set_of_images_is_confused_by_rounding(name, images)


@pytest.mark.parametrize('sigma', GRID[::3])
def test_it_is_the_definition_in_floating_point(sigma, in_floating_point):
    test_it_is_the_definition_at_every_noise_level(sigma, 300)


def test_float32_scores_stay_within_their_bound():
    generator = torch.Generator().manual_seed(0)
    levels = torch.randint(-128, 128, (300, 3072), generator=generator).to(torch.int8)
    levels[:3] = torch.tensor([-128, 127, 1]).to(torch.int8)[:, None]  # where all products round alike
    half_squares = levels.double().square().sum(dim=1) / 2
    x = torch.cat([levels[:3].double() + 0.3, 1e4 * torch.randn(3, 3072, generator=generator).double()])
    exact = x @ levels.double().T - half_squares
    rounded = (x.float() @ levels.float().T).sub_(half_squares.float())
    errors = (rounded.double() - exact).abs().amax(dim=1, keepdim=True)
    longest = (2 * half_squares.max()).sqrt()
    assert (errors < image_products._bound(3072, x.norm(dim=1, keepdim=True), longest)).all()


def test_at_low_noise_few_images_are_scored_in_float64(monkeypatch):
    kept, select = [], optimal_denoiser._Selection.__call__
    monkeypatch.setattr(optimal_denoiser._Selection, '__call__',
                        lambda *args: (found := select(*args), kept.append(len(found[0])))[0])
    images = make_images(300)
    x = torch.from_numpy(images[5:9]).to(torch.float64) / 127.5 - 1
    for sigma, most in (0.002, 10), (80.0, 300):
        kept.clear()
        denoiser(images)(x, sigma)
        assert sum(kept) <= most
    assert sum(kept) == 300


class Shifted:
    """Products of one sample with images 0 and 1, whose rough scores are off by all that `slack` allows."""

    rough_counts = True

    def __init__(self, scores, slack):
        self.scores, self.slack = scores, torch.tensor([[slack]])

    def rough(self, levels, half_squares):
        return self.scores + self.slack * torch.tensor([[1.0, -1.0] + [0.0] * (len(levels) - 2)])

    def exact(self, levels, half_squares, rough):
        return levels


def test_selection_allows_for_the_slack_of_both_scores():
    scores = torch.tensor([[0.0, -39.0, *[-50.0] * 8]], dtype=torch.float64)  # exp(-39) is 1.2e-17
    levels = torch.arange(10)[:, None]
    select = optimal_denoiser._Selection(Shifted(scores, 4.0), torch.ones(1, 1, dtype=torch.float64))
    assert select(levels, torch.zeros(10))[0].flatten().tolist() == [0, 1]


@pytest.mark.parametrize('sigma', [1.0, 1e-200])
@pytest.mark.parametrize('size', [1e30, 1e60])
def test_images_far_beyond_all_noise_have_an_answer(size, sigma):
    images = 255 * np.eye(2, dtype=np.uint8)[[0, 1, 1]].repeat(64, axis=1).reshape(3, 2, 8, 8)
    x = size * (torch.from_numpy(images[:2]).to(torch.float64) / 127.5 - 1)
    close(denoiser(images)(x, sigma), x / size)


@pytest.mark.parametrize('size', [1e30, 1e60])
def test_so_they_have_in_floating_point(size, in_floating_point):
    test_images_far_beyond_all_noise_have_an_answer(size, 1.0)


def test_weights_are_rounded_by_the_total_that_a_new_top_leaves():
    images = np.zeros((4000, 1, 4, 4), dtype=np.uint8)
    images[3600:] = 60  # in the second chunk
    images[-1] = 255
    x = torch.ones(1, 1, 4, 4, dtype=torch.float64)
    for sigma in (1.4, 1.5, 1.6):
        close(denoiser(images, chunk_values=450 * 16)(x, sigma), brute_force(images, x, sigma))


def test_sums_of_images_fit_however_many_there_are():
    images = np.zeros((300_000, 1, 4, 4), dtype=np.uint8)  # 64 * 128 of each is more than 2^31
    close(denoiser(images)(torch.zeros(1, 1, 4, 4), 80.0), -torch.ones(1, 1, 4, 4))


def test_any_noise_level_above_0_has_an_answer():
    images = make_images(40)
    clean = torch.from_numpy(images[5:8]).to(torch.float64) / 127.5 - 1
    close(denoiser(images)(clean, 1e-200), clean)
    close(denoiser(images)(clean, 1e90), brute_force(images, clean, 1e90))


def test_a_noise_level_for_each_image_equals_one_at_a_time():
    net, sigmas = denoiser(make_images(30)), torch.tensor([0.01, 0.5, 3.0, 40.0])
    x = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * sigmas.reshape(-1, 1, 1, 1)
    alone = torch.cat([net(x[i:i + 1], sigma) for i, sigma in enumerate(sigmas)])
    close(net(x, sigmas), alone)


def test_the_result_has_the_type_of_the_images_to_denoise():
    net = denoiser(make_images(5))
    for dtype in (torch.float32, torch.float64):
        assert net(torch.zeros(2, 3, 8, 8, dtype=dtype), 1.0).dtype == dtype


def test_samples_do_not_depend_on_their_batch():
    net = denoiser(GOLDEN['dataset_uint8'])
    latents = torch.randn(64, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    together = edm_sampler(net, latents, solver='euler')
    alone = torch.cat([edm_sampler(net, latents[i:i + 1], solver='euler') for i in range(8)])
    close(together[:8], alone)


@pytest.mark.parametrize('chunk_values', [192, 192 * 7, None])
@pytest.mark.parametrize('cache_bytes', [0, math.inf])
def test_neither_chunks_nor_the_place_of_the_pixels_change_the_result(cache_bytes, chunk_values):
    images = make_images(100)
    net = denoiser(images, cache_bytes=cache_bytes, chunk_values=chunk_values)
    x = torch.randn(5, 3, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for sigma in (0.002, 0.3, 2.0, 80.0):
        close(net(x, sigma), brute_force(images, x, sigma))


def test_a_full_disk_is_reported():
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(UserError, match=r'--cache_gb.*do not fit'):
            denoiser(make_images(100), cache_bytes=0)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@pytest.mark.parametrize('samples', [5, 50])
@pytest.mark.parametrize('n', [1, 2, 100])
def test_threads_share_the_images_or_the_samples_and_give_the_same(n, samples):
    images = make_images(n)
    x = torch.randn(samples, 3, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    mixed = torch.logspace(-2, 2, samples, dtype=torch.float64)
    torch.set_num_threads(3)
    try:
        for cache_bytes in (0, math.inf):
            net = denoiser(images, cache_bytes=cache_bytes, chunk_values=192 * 5)
            for sigma in (0.002, 2.0, 80.0):
                close(net(x, sigma), brute_force(images, x, sigma))
            close(net(x, mixed), brute_force(images, x, mixed[:, None]))
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(1)


def test_more_samples_than_are_denoised_at_a_time_give_the_same(monkeypatch):
    monkeypatch.setattr(optimal_denoiser, 'CPU_SAMPLES', 2)
    images = make_images(20)
    x = torch.randn(5, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    sigma = torch.tensor([0.1, 1, 2, 8, 80])
    expected = torch.cat([brute_force(images, x[i:i + 1], float(sigma[i])) for i in range(5)])
    close(denoiser(images)(x, sigma), expected)


def test_a_label_restricts_it_to_the_images_of_a_class():
    images = make_images(50)
    net = denoiser(images, class_ends=[10, 11, 50], label_dim=3)
    x = torch.randn(5, 3, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    denoised = net(x, 2.0, torch.eye(3)[[2, 0, 1, 0, 2]])
    close(denoised[[1, 3]], brute_force(images[:10], x[[1, 3]], 2.0))
    close(denoised[[2]], brute_force(images[10:11], x[[2]], 2.0))
    close(denoised[[0, 4]], brute_force(images[11:], x[[0, 4]], 2.0))


@pytest.mark.parametrize(('x', 'sigma', 'says'), [
    (math.nan, 1.0, 'finite'), (math.inf, 1.0, 'finite'), (0.0, math.nan, 'finite'),
    (0.0, 0.0, 'above 0'), (0.0, -1.0, 'above 0')])
def test_what_has_no_answer_is_refused(x, sigma, says):
    with pytest.raises(ValueError, match=says):
        denoiser(make_images(5))(torch.full((1, 3, 8, 8), x), sigma)


def test_classes_without_a_label_are_refused():
    net = denoiser(make_images(5), class_ends=[2, 5], label_dim=2)
    with pytest.raises(ValueError, match='labels'):
        net(torch.zeros(1, 3, 8, 8), 1.0)
