"""Denoising errors and distances of denoisers: closed forms, standard errors, processes, the table."""

import contextlib
import math

import numpy as np
import pytest
import torch

from sampling.points import NoisyImages
from scores import denoising
from scores.denoising import Differences, measure
from scores.denoising_table import COLUMNS, read_rows, rows_of, write_rows
from torch_utils.errors import UserError
from torch_utils.seeding import SampleGenerators

CPU, SIGMAS, SEEDS = torch.device('cpu'), [2.0, 0.5], list(range(10, 40))


class Scaling:
    """x -> factor x."""

    sigma_min, sigma_max, img_channels, img_resolution, label_dim = 0, math.inf, 1, 4, 0

    def __init__(self, factor):
        self.factor = factor

    def __call__(self, x, sigma, class_labels=None):
        return self.factor * x


class Images:
    """Seven images of uniform noise."""

    def __init__(self):
        self.pixels = torch.rand(7, 1, 4, 4, generator=torch.Generator().manual_seed(0))

    def __len__(self):
        return len(self.pixels)

    def read(self, indices):
        return self.pixels[indices]


def points(seeds):
    return NoisyImages(images=Images(), class_idx=None, sigmas=SIGMAS).points(Scaling(1), seeds, CPU)


def measured(denoisers, **options):
    return measure(denoisers, points, SIGMAS, SEEDS, CPU, **options)


def test_errors_of_two_denoisers_in_closed_form():
    found = measured({'identity': Scaling(1), 'black': Scaling(0)})
    noise = SampleGenerators(SEEDS, CPU).randn((1, 4, 4)).double()
    clean = Images().pixels[found.image].double()
    of_noise, of_clean = (each.square().mean(dim=(1, 2, 3)).numpy() for each in (noise, clean))
    np.testing.assert_allclose(found.squares[0], of_noise[:, None] * np.square(SIGMAS), rtol=1e-12)
    np.testing.assert_allclose(found.squares[1], np.stack([of_clean, of_clean], axis=1), rtol=1e-12)
    np.testing.assert_allclose(found.variance, clean.var(dim=0).mean().item(), rtol=1e-12)


def test_distances_are_shares_of_the_references_variance():
    found = measured({'far': Scaling(0.5), 'same': Scaling(2)}, reference=Scaling(2))
    x = points(SEEDS).x
    np.testing.assert_allclose(found.mean()[0], 2.25 * x.square().mean(dim=(0, 2, 3, 4)), rtol=1e-12)
    np.testing.assert_array_equal(found.mean()[1], 0)
    np.testing.assert_allclose(found.variance, 4 * x.var(dim=0).mean(dim=(1, 2, 3)), rtol=1e-12)
    row, *_ = rows_of(found, ['far', 'same'], SIGMAS, images='data', size=None, target='A')
    assert row.share == pytest.approx(row.mse / row.variance)


@pytest.mark.parametrize('batch', [1, 7, 64])
def test_the_result_does_not_depend_on_the_batch(batch):
    expected, found = measured({'a': Scaling(0.5)}), measured({'a': Scaling(0.5)}, batch=batch)
    np.testing.assert_allclose(found.squares, expected.squares, rtol=1e-12)
    np.testing.assert_allclose(found.variance, expected.variance, rtol=1e-12)


def test_processes_share_the_seeds(monkeypatch):
    expected, parts = measured({'a': Scaling(0.5)}), []

    def gather(value):  # of one process after the other, the first one last
        if value is None:  # no process has an error
            return [None]
        parts.insert(0, value)
        if len(parts) < 3:
            raise InterruptedError
        return parts

    monkeypatch.setattr(denoising.distributed, 'world_size', lambda: 3)
    monkeypatch.setattr(denoising.distributed, 'gather', gather)
    for rank in (2, 1, 0):
        monkeypatch.setattr(denoising.distributed, 'rank', lambda rank=rank: rank)
        with contextlib.suppress(InterruptedError):
            found = measured({'a': Scaling(0.5)}, batch=4)
    np.testing.assert_allclose(found.squares, expected.squares, rtol=1e-12)
    np.testing.assert_array_equal(found.image, expected.image)


def test_standard_errors_of_seeds_and_of_images():
    rng = np.random.default_rng(0)
    squares, image = rng.random((1, 12, 1)), np.arange(12) % 4
    found = Differences(squares=squares, variance=np.ones(1), image=image)
    assert found.standard_error()[0, 0] == pytest.approx(squares.std(ddof=1) / math.sqrt(12))
    of_images = np.array([squares[0, image == i, 0].mean() for i in range(4)])
    assert found.standard_error(of_population=True)[0, 0] == pytest.approx(of_images.std(ddof=1) / 2)
    alone = Differences(squares=squares, variance=np.ones(1), image=0 * image)
    assert alone.standard_error(of_population=True)[0, 0] == math.inf


def test_a_denoiser_that_fails_is_named():
    with pytest.raises(UserError, match=r'noise level 2: 480 of 480 values of its output \(bad\) are NaN'):
        measured({'good': Scaling(1), 'bad': Scaling(math.nan)})


def test_a_table_is_read_as_it_was_written(tmp_path):
    found = measured({'a': Scaling(0.5), 'b': Scaling(1)})
    rows = rows_of(found, ['a', 'b'], SIGMAS, images='heldout', size=7)
    assert [row.stderr for row in rows] == found.standard_error(of_population=True).ravel().tolist()
    path = tmp_path / 'errors.csv'
    write_rows(path, rows, {'command': 'this'})
    assert read_rows(path) == rows
    assert (tmp_path / 'errors.json').read_text() == '{\n  "command": "this"\n}\n'


@pytest.mark.parametrize(('images', 'of_population'), [
    ('train', False), ('trajectory', False), ('heldout', True), ('data', True)])
def test_seeds_that_share_a_held_out_image_count_together_in_its_interval(images, of_population):
    found = measured({'a': Scaling(0.5)})
    rows = rows_of(found, ['a'], SIGMAS, images=images, size=None)
    assert [row.stderr for row in rows] == found.standard_error(of_population=of_population)[0].tolist()
    assert found.standard_error()[0, 0] != found.standard_error(of_population=True)[0, 0]


@pytest.mark.parametrize(('column', 'text', 'says'), [
    ('sigma', '0', 'sigma'), ('mse', 'nan', 'mse'), ('mse', '-1', 'mse'), ('count', '1.5', 'count'),
    ('count', '0', 'count'), ('images', 'test', 'train, heldout'), ('denoiser', '', 'denoiser'),
    ('size', '-3', 'size')])
def test_an_edited_table_is_refused_with_its_line(tmp_path, column, text, says):
    cells = ['a', 'images', 'train', '7', '0.5', '0.1', '0.01', '0.2', '0.5', '30']
    cells[COLUMNS.index(column)] = text
    path = tmp_path / 'errors.csv'
    path.write_text('\n'.join([','.join(COLUMNS), ','.join(cells)]))
    with pytest.raises(UserError, match=f'line 2: .*{says}'):
        read_rows(path)
