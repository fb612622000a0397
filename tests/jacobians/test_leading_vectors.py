"""jacobian.py --save_vectors and plot.py jacobian-vectors: vectors of known Jacobians, files, the figure."""

import numpy as np
import pytest
import torch
from PIL import Image

import jacobian
import plot
from figures.jacobian_vectors_figure import draw_vectors, to_colors
from helpers import refuse, run
from image_sets import write
from jacobians.products import leading_vectors
from jacobians.rank_file import load_ranks, new_ranks, save_ranks
from jacobians.study import Method, check_memory
from torch_utils import distributed
from torch_utils.errors import UserError


def orthogonal(seed: int) -> torch.Tensor:
    return torch.linalg.qr(torch.randn(12, 12, generator=torch.Generator().manual_seed(seed)).double()).Q


def test_the_vectors_of_a_linear_denoiser_are_its_right_ones():
    values, left, right = torch.linspace(0.9, 0.1, 12).double(), orthogonal(0), orthogonal(1)
    matrix = (left * values) @ right.T

    def net(x, sigma, class_labels=None):
        return (x.flatten(1) @ matrix.float().T).reshape(x.shape)

    found, vectors = leading_vectors(net, torch.randn(2, 3, 2, 2), 1.0, count=4)
    np.testing.assert_allclose(found.sqrt(), values.expand(2, 12), atol=1e-6)
    expected = right.T[:4]
    expected = expected * expected.gather(1, expected.abs().argmax(1, keepdim=True)).sign()
    np.testing.assert_allclose(vectors, expected.expand(2, 4, 12), atol=1e-5)


@pytest.fixture(scope='module')
def stripes(tmp_path_factory):
    """4x4 images 128 + 60 a (rows) + 20 b (columns), a and b -1 or 1: two principal directions."""
    rows, columns = np.array([1, 1, -1, -1]), np.array([1, -1, 1, -1])
    images = {f'{a}{b}.png': (128 + 60 * a * rows[:, None] + 20 * b * columns).astype(np.uint8)
              for a in (-1, 1) for b in (-1, 1)}
    return write(tmp_path_factory.mktemp('stripes') / 'set.zip', images)


def study(data, out, *args, seeds='2-3'):
    return run(jacobian.main, f'--network_pkl=gaussian:{data}', f'--seeds={seeds}', '--sigmas=0.1,1',
               '--save_vectors=2', '--device=cpu', f'--data={data}', f'--out={out}', *args)


def test_the_file_holds_the_principal_directions_of_the_gaussian_denoiser(stripes, tmp_path):
    study(stripes, out := tmp_path / 'ranks.npz')
    ranks = load_ranks(out)
    assert ranks.rank.tolist() == [[2, 2]] * 2
    assert (ranks.vectors.shape, ranks.denoised.shape) == ((2, 2, 1, 4, 4), (2, 1, 4, 4))
    rows, columns = np.array([1, 1, -1, -1])[:, None] / 4, np.array([1, -1, 1, -1]) / 4
    for level, sigma in enumerate((1, 0.1)):
        for i, (pattern, contrast) in enumerate(((rows, 60), (columns, 20))):
            vector = ranks.vectors[level, i, 0]
            np.testing.assert_allclose(vector, np.sign(vector[0, 0]) * pattern * np.ones((4, 4)), atol=1e-5)
            variance = 16 * (contrast / 127.5) ** 2
            np.testing.assert_allclose(ranks.vector_values[level, i], variance / (variance + sigma**2),
                                       rtol=1e-5)
    run(plot.main, 'jacobian-vectors', f'--ranks={out}', '--about=Stripes.', f'--out={tmp_path / "a.png"}')
    with Image.open(tmp_path / 'a.png') as image:
        assert image.width == 2025
        assert 'Stripes. Left: the image' in image.info['Description']


def test_a_resumed_file_keeps_the_vectors_of_its_first_seed(stripes, tmp_path):
    study(stripes, out := tmp_path / 'ranks.npz', seeds='2')
    first = load_ranks(out)
    study(stripes, out, seeds='2-4')
    again = load_ranks(out)
    assert again.seed.tolist() == [2, 3, 4]
    np.testing.assert_array_equal(again.denoised, first.denoised)
    args = (jacobian.main, f'--network_pkl=gaussian:{stripes}', f'--data={stripes}', '--sigmas=0.1,1',
            '--device=cpu', f'--out={out}')
    refuse(*args, '--seeds=1-4', '--save_vectors=2', status=1, says=('--out', 'of seed: 2 there, 1'))
    refuse(*args, '--seeds=2-4', status=1, says=('--out', 'save_vectors: 2 there, None'))


def test_what_has_no_vectors_is_told(stripes, tmp_path, monkeypatch):
    args = (jacobian.main, f'--network_pkl=gaussian:{stripes}', '--device=cpu')
    out = f'--out={tmp_path / "ranks.npz"}'
    refuse(*args, '--save_vectors=17', out, status=2, says=('--save_vectors 17', '16 dimensions'))
    refuse(*args, '--save_vectors=2', status=2, says=('--save_vectors', '--out'))
    refuse(*args, '--save_vectors=0', out, status=2, says=('--save_vectors', '0'))
    refuse(*args, '--save_vectors=2', out, '--method=randomized', status=2,
           says=('--save_vectors', '--method randomized'))
    monkeypatch.setattr(distributed, 'total_memory', lambda device: 2**30)
    with pytest.raises(UserError, match='--save_vectors: the Jacobian is 100000 x'):
        check_memory(100000, torch.device('cpu'), Method(), vectors=True)
    run(*args, '--seeds=0', '--steps=2', out)
    picture = f'--out={tmp_path / "a.png"}'
    refuse(plot.main, 'jacobian-vectors', f'--ranks={tmp_path / "ranks.npz"}', picture, status=1,
           says=('--ranks', 'ranks.npz', 'no singular vectors', '--save_vectors'))
    empty = new_ranks([0], [1.0], dim=4, eta=0.99, settings={}, spectrum=False, vectors=(2, 1, 2, 2))
    save_ranks(tmp_path / 'empty.npz', empty, {})
    refuse(plot.main, 'jacobian-vectors', f'--ranks={tmp_path / "empty.npz"}', picture, status=1,
           says=('--ranks', 'empty.npz', 'yet'))
    empty.vectors = empty.vectors[:, :, :, :1]
    save_ranks(tmp_path / 'empty.npz', empty, {})
    refuse(plot.main, 'jacobian-vectors', f'--ranks={tmp_path / "empty.npz"}', picture, status=1,
           says=('--ranks', 'empty.npz', 'vectors is [1, 2, 1, 1, 2]'))


@pytest.mark.parametrize(('channels', 'width', 'columns'), [(1, 6.75, 5), (3, 6.75, 5), (3, 2, 4)])
def test_the_figure_has_a_row_per_noise_level_and_a_column_per_vector(channels, width, columns):
    ranks = new_ranks([0], np.geomspace(100, 0.01, 9), dim=4 * channels, eta=0.99, settings={},
                      spectrum=False, vectors=(4, channels, 2, 2))
    rng = np.random.default_rng(0)
    for name in ('denoised', 'vectors', 'vector_values'):
        getattr(ranks, name)[:] = rng.standard_normal(getattr(ranks, name).shape)
    figure, caption = draw_vectors(ranks, '', rows=5, width=width)
    axes, = figure.axes
    assert len(axes.images) == 5 * columns
    texts = [text.get_text() for text in axes.texts]
    assert [text[4:] for text in texts if 'σ =' in text] == ['100', '10', '1', '0.1', '0.01']
    assert f'{ranks.vector_values[2, 1]:.2g}' in texts
    assert 'at 5 of 9 noise levels' in caption
    assert ('Grey is 0' if channels == 3 else 'Red is positive') in caption


def test_zero_is_in_the_middle_of_the_colors():
    red, white, blue = to_colors(np.array([[[0.5, 0, -0.25]]]))[0]
    assert red[0] > red[2] + 0.25
    assert blue[2] > blue[0] + 0.25
    np.testing.assert_allclose(white, 0.97, atol=0.01)
    np.testing.assert_allclose(to_colors(np.array([[[0.2]], [[0]], [[-0.4]]]))[0, 0], [0.75, 0.5, 0])
