"""The low-rank denoiser: Bayes' rule, its Jacobian, its start, its snapshots."""

import math
import pickle
import types

import pytest
import torch

from torch_utils import persistence
from training.low_rank import LowRankDenoiser, pick_directions, posterior_mean
from training.snapshot import load_network, save_snapshot


def orthonormal(dim=12, class_num=2, per_class_dim=3, dtype=torch.float64):
    """Bases [K, n, d] whose columns are all orthogonal, and their generator."""
    generator = torch.Generator().manual_seed(0)
    space = torch.linalg.qr(torch.randn(dim, dim, generator=generator, dtype=dtype)).Q
    columns = space[:, :class_num * per_class_dim]
    return columns.reshape(dim, class_num, per_class_dim).permute(1, 0, 2), generator


def trained(bases, **kwargs):
    """A denoiser for grey 2x2 and other images with these bases."""
    class_num, dim, per_class_dim = bases.shape
    net = LowRankDenoiser(2, dim // 4, class_num=class_num, per_class_dim=per_class_dim, **kwargs)
    net.bases.data.copy_(bases)
    return net.eval().requires_grad_(False)


def test_the_posterior_mean_is_bayes_rule():
    bases, generator = orthonormal(dim=4, class_num=2, per_class_dim=1)
    sigma = 0.8
    x = torch.randn(5, 4, generator=generator, dtype=torch.float64)
    coefficients = torch.linspace(-8, 8, 4001, dtype=torch.float64)
    points = torch.cat([coefficients[:, None] * basis.T for basis in bases])  # both classes on a fine grid
    log_prior = torch.cat([-coefficients**2 / 2] * 2)
    weights = (log_prior - torch.cdist(x, points)**2 / (2 * sigma**2)).softmax(dim=1)
    mean = posterior_mean(x, torch.full([1, 1], sigma, dtype=torch.float64), bases)
    torch.testing.assert_close(mean, weights @ points, rtol=1e-6, atol=1e-8)


def test_classes_are_certain_at_low_noise_and_open_at_high_noise():
    bases, x = torch.eye(2)[:, :, None], torch.tensor([[1.0, 0.9]])  # the classes are the axes
    for sigma, weights in (0.01, [[1.0, 0.0]]), (1e4, [[0.5, 0.5]]):
        mean = posterior_mean(x, torch.tensor([[sigma]]), bases)
        torch.testing.assert_close(mean * (1 + sigma**2), x * torch.tensor(weights))


def test_the_jacobian_has_rank_d_at_low_noise_and_kd_at_high_noise():
    bases, generator = orthonormal(class_num=3)
    net = trained(bases)
    x = (bases[1] @ torch.randn(3, generator=generator, dtype=torch.float64)).float().reshape(1, 3, 2, 2)
    for sigma, rank in (0.002, 3), (80.0, 9):
        jacobian = torch.func.jacrev(lambda y, sigma=sigma: net(y, sigma).flatten())(x).reshape(12, 12)
        values = torch.linalg.svdvals(jacobian)
        assert int((values > 1e-3 * values[0]).sum()) == rank
        torch.testing.assert_close(values[0], torch.tensor(1 / (1 + sigma**2) / (1 if rank == 3 else 3)),
                                   rtol=0.01, atol=0)


def test_any_bases_of_full_rank_are_made_orthonormal():
    bases, generator = orthonormal()
    mixed = bases @ (torch.randn(2, 3, 3, generator=generator, dtype=torch.float64) + 3 * torch.eye(3))
    x = torch.randn(4, 3, 2, 2, generator=generator)
    torch.testing.assert_close(trained(mixed)(x, 1.0), trained(bases)(x, 1.0), rtol=1e-4, atol=1e-5)


def test_it_takes_what_preconditioners_take():
    bases, generator = orthonormal()
    net = trained(bases)
    x = torch.randn(4, 3, 2, 2, generator=generator)
    sigma = torch.tensor([0.01, 0.1, 1.0, 10.0])
    out = net(x.double(), sigma.reshape(4, 1, 1, 1), None, force_fp32=True, augment_labels=None)
    assert (out.dtype, out.shape) == (torch.float32, x.shape)
    alone = torch.cat([net(x[i:i + 1], float(sigma[i])) for i in range(4)])
    torch.testing.assert_close(out, alone)
    assert (net.sigma_min, net.sigma_max, net.label_dim, net.img_channels) == (0, math.inf, 0, 3)
    assert net.round_sigma([0.3, 2]).tolist() == pytest.approx([0.3, 2])


@pytest.mark.parametrize(('kwargs', 'says'), [
    ({'class_num': 3, 'per_class_dim': 5}, '3 subspaces of 5 dimensions do not fit into 12'),
    ({'class_num': 0}, '0 subspaces'), ({'per_class_dim': 0}, '0 dimensions'),
    ({'label_dim': 2}, 'label_dim 2')])
def test_impossible_arguments_are_refused(kwargs, says):
    with pytest.raises(ValueError, match=says):
        LowRankDenoiser(2, 3, **kwargs)


def test_it_starts_with_one_direction_of_every_class():
    """In each of 50 data sets; random directions would hit all four classes in 9 % of them."""
    bases, generator = orthonormal(dim=16, class_num=4, per_class_dim=4)
    for seed in range(50):
        torch.manual_seed(seed)
        coefficients = torch.randn(4, 100, 4, generator=generator, dtype=torch.float64)
        directions = pick_directions((coefficients @ bases.mT).reshape(400, 16), 4)
        classes = torch.einsum('sn,knd->skd', directions, bases).norm(dim=2)
        assert sorted(classes.argmax(dim=1).tolist()) == [0, 1, 2, 3]
        torch.testing.assert_close(directions.norm(dim=1), torch.ones(4, dtype=torch.float64))


def test_the_first_direction_has_most_samples_on_either_side_of_0():
    samples = torch.tensor([[1.0, 0], [-1, 0]] * 3 + [[0, 1.0]] * 4)
    assert pick_directions(samples, 1).abs().tolist() == [[1, 0]]


def test_all_directions_but_the_first_are_shared_at_the_start():
    net = LowRankDenoiser(2, 3, class_num=2, per_class_dim=3)
    net.start_from(torch.randn(20, 3, 2, 2))
    projectors = net.bases @ net.bases.mT
    torch.testing.assert_close(net.bases.mT @ net.bases, torch.eye(3).expand(2, 3, 3), atol=1e-5, rtol=0)
    assert torch.linalg.matrix_rank(projectors[0] - projectors[1], tol=1e-4) == 2


def test_its_snapshot_is_read_by_us_and_by_software_that_runs_its_text(tmp_path, capsys):
    net = trained(orthonormal()[0])
    save_snapshot(tmp_path / 'net.pkl', ema=net)
    x = torch.randn(3, 3, 2, 2)
    read = load_network(str(tmp_path / 'net.pkl'), torch.device('cpu'))
    assert torch.equal(read(x, 0.5), net(x, 0.5))
    assert capsys.readouterr().err == ''

    class Reader(pickle.Unpickler):
        """Runs the recorded text with torch and torch_utils.persistence at hand, as NVlabs/edm does."""

        def find_class(self, module, name):
            return rebuilt if name == '_reconstruct_persistent_obj' else super().find_class(module, name)

    def rebuilt(meta):
        module = types.ModuleType('from_file')
        source = meta['module_src'].replace('@persistence.persistent_class', '')
        exec(source, vars(module))
        assert {line.split()[1] for line in source.splitlines()
                if line.startswith(('import ', 'from '))} == {'math', 'torch', 'torch_utils'}
        obj = getattr(module, meta['class_name']).__new__(getattr(module, meta['class_name']))
        obj.__dict__.update(meta['state'])
        return obj

    with open(tmp_path / 'net.pkl', 'rb') as file:
        foreign = Reader(file).load()['ema']
    assert type(foreign) is not LowRankDenoiser
    assert torch.equal(foreign(x, 0.5), net(x, 0.5))
    assert persistence.is_persistent(LowRankDenoiser)
