"""The mixture of low-rank Gaussians fitted to images."""

import numpy as np
import pytest
import torch
from test_optimal_denoiser import close, make_images
from test_window_denoisers import make_pixels

from data.molrg_data import MoLRG, MoLRGShape
from denoisers.mixture_denoiser import MixtureDenoiser
from denoisers.mixture_fit import Mixture, fit
from denoisers.molrg_denoiser import true_denoiser
from denoisers.open_denoiser import open_denoiser
from torch_utils.errors import UserError

CPU = torch.device('cpu')


def draw(n=600, classes=3, dim=4, seed=0):
    """A mixture in grey levels, and images [n, 1, 8, 8] of it with the class of each."""
    rng = np.random.default_rng(seed)
    bases = np.linalg.qr(rng.normal(size=(classes, 64, dim)))[0]
    variances, means = rng.uniform(300, 900, (classes, dim)), rng.normal(size=(classes, 64)) * 5
    of = rng.choice(classes, n, p=np.arange(1, classes + 1) / sum(range(classes + 1)))
    coordinates = rng.normal(size=(n, dim)) * np.sqrt(variances[of])
    levels = means[of] + np.einsum('nkd,nd->nk', bases[of], coordinates)
    images = (levels.round() + 128).clip(0, 255).astype(np.uint8).reshape(n, 1, 8, 8)
    mixture = Mixture(*map(torch.from_numpy, (np.bincount(of) / n, means, bases, variances)), None)
    return images, mixture, of


def by_definition(mixture, x, sigma):
    """With dense covariances; x in grey levels, [B, D]."""
    exponents, posteriors = [], []
    for weight, mean, basis, variances in zip(*mixture[:4], strict=True):
        clean = basis @ variances.diag() @ basis.T
        noisy = clean + sigma**2 * torch.eye(len(mean), dtype=torch.float64)
        gaussian = torch.distributions.MultivariateNormal(mean, noisy)
        exponents.append(weight.log() + gaussian.log_prob(x))
        posteriors.append(mean + torch.linalg.solve(noisy, (x - mean).T).T @ clean)
    return torch.einsum('kb,kbn->bn', torch.stack(exponents).softmax(dim=0), torch.stack(posteriors))


def test_the_fit_finds_the_classes_of_data_of_the_model():
    images, true, _ = draw()
    found = fit(make_pixels(images), (0, len(images)), 3, 4, sharded=False)
    order = found.weights.argsort()
    assert (found.weights[order] - true.weights).abs().max() < 0.02
    for k, true_basis in zip(order, true.bases, strict=True):
        assert torch.linalg.svdvals(found.bases[k].T @ true_basis).min() > 0.99
    assert float(found.residual) == pytest.approx(1 / 12, rel=0.2)  # images are rounded to grey levels


@pytest.mark.parametrize('sigma', [0.002, 0.1, 1.0, 80.0])
def test_it_is_the_definition(sigma):
    images, _, _ = draw(n=200)
    net = MixtureDenoiser(make_pixels(images), classes=3, dim=4)
    x = torch.randn(5, 1, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found, levels = net(x * sigma, sigma), (x * sigma * 127.5 - 0.5).flatten(1)
    expected = (by_definition(net._mixtures[0, 200], levels, sigma * 127.5) + 0.5) / 127.5
    close(found, expected.reshape(found.shape))


def test_chunks_files_and_labels_give_the_same():
    images, _, of = draw(n=300)
    images = images[np.argsort(of, kind='stable')]
    ends = np.cumsum(np.bincount(of)).tolist()
    x = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    net = MixtureDenoiser(make_pixels(images, cache_bytes=0, chunk_values=640), classes=1, dim=4,
                          class_ends=ends, label_dim=3)
    alone = MixtureDenoiser(make_pixels(images[ends[0]:ends[1]]), classes=1, dim=4)
    close(net(x, 0.5, torch.eye(3)[[1, 1]]), alone(x, 0.5))


@pytest.mark.parametrize(('n', 'classes', 'dim'), [(1, 1, 1), (3, 1, 10), (4, 2, 64), (60, 4, 3)])
def test_few_images_and_duplicates_have_an_answer(n, classes, dim):
    images = make_images(n, channels=1)
    net = MixtureDenoiser(make_pixels(images), classes=classes, dim=dim)
    clean = torch.from_numpy(images[:1]).to(torch.float64) / 127.5 - 1
    for sigma in (1e-200, 0.002, 80.0, 1e90):
        assert net(clean, sigma).isfinite().all()


def test_a_molrg_file_gives_the_true_denoiser(tmp_path):
    data = MoLRG(tmp_path, MoLRGShape(resolution=4, class_num=2, per_class_dim=3, sample_per_class=5))
    x = torch.randn(3, 3, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for options in ({}, {'classes': 2, 'dim': 3}):
        close(open_denoiser('molrg', data.path, CPU, **options)(x, 0.7), true_denoiser(data)(x, 0.7), atol=0)
    for options, says in (({'classes': 3}, '--classes 3: .* has 2'), ({'dim': 2}, '--dim 2: .* has 3'),
                          ({'class_idx': 0}, '--class 0')):
        with pytest.raises(UserError, match=says):
            open_denoiser('molrg', data.path, CPU, **options)


@pytest.mark.parametrize(('classes', 'dim', 'says'), [
    (None, 2, 'needs --classes and --dim'), (2, None, 'needs --classes'), (6, 2, '--classes 6: .* 5 images'),
    (2, 65, '--dim 65: .* 64 values')])
def test_what_can_not_be_fitted_is_refused(classes, dim, says):
    with pytest.raises(UserError, match=says):
        MixtureDenoiser(make_pixels(make_images(5, channels=1)), classes=classes, dim=dim)
