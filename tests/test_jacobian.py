"""jacobian.py and plot.py jacobian: lines, files, resuming, processes, real images, the figure, bad input."""

import gzip
import json
from itertools import pairwise

import numpy as np
import pytest
import torch
from PIL import Image

import jacobian
import plot
from data.molrg_data import MoLRG, MoLRGShape
from figures.jacobian_figure import draw_ranks
from helpers import DATA, processes, refuse, run
from image_sets import write
from jacobians.rank_file import load_ranks, new_ranks, save_ranks
from jacobians.study import Method, find_ranks
from torch_utils.seeding import SampleGenerators
from training.networks import EDMPrecond, VEPrecond
from training.snapshot import save_snapshot

TINY = {'model_type': 'SongUNet', 'model_channels': 4, 'channel_mult': [1], 'num_blocks': 1,
        'attn_resolutions': [], 'dropout': 0}


def snapshot(path, net):
    save_snapshot(path, ema=net.eval())
    return path


@pytest.fixture(scope='module')
def nets(tmp_path_factory):
    """Snapshots of networks for 4x4 RGB images: EDM, VE (0.02 to 100), and EDM with three classes."""
    folder = tmp_path_factory.mktemp('nets')
    torch.manual_seed(0)
    made = {'edm': EDMPrecond(4, 3, **TINY), 've': VEPrecond(4, 3, **TINY),
            'cond': EDMPrecond(4, 3, label_dim=3, **TINY)}
    for net in made.values():
        for parameter in net.parameters():
            parameter.data.add_(0.1 * torch.randn_like(parameter))
    return {name: snapshot(folder / f'{name}.pkl', net) for name, net in made.items()}


def ranks(path, *args):
    return run(jacobian.main, f'--network_pkl={path}', '--device=cpu', *args)


def test_the_lines_are_those_of_the_paper_software(tmp_path):
    path = tmp_path / 'adm.pkl'
    path.write_bytes(gzip.decompress((DATA / 'snapshot-edm-ddpmpp.pkl.gz').read_bytes()))
    lines = ranks(path, '--seeds=0', '--steps=2', '--method=exact', '--batch=192').stdout.splitlines()
    latents = SampleGenerators([0], torch.device('cpu')).randn((3, 8, 8))
    from training.snapshot import load_network
    found, = find_ranks(load_network(str(path), torch.device('cpu')), 80 * latents, 80.0, seeds=[0],
                        method=Method(name='exact'))
    assert lines[0] == f'SNR 1/sigma_t: 0.013, rank: {found.rank}'
    assert lines[1].startswith('SNR 1/sigma_t: 500.000, rank: 1')
    assert len(lines) == 2


def test_a_network_that_fails_is_told_by_noise_level(tmp_path):
    net = EDMPrecond(4, 3, **TINY)
    next(net.model.parameters()).data.fill_(float('nan'))
    path, out = snapshot(tmp_path / 'nan.pkl', net), tmp_path / 'new' / 'ranks.npz'
    for method in ('exact', 'randomized'):
        refuse(jacobian.main, f'--network_pkl={path}', '--seeds=0-1', '--steps=3', f'--out={out}',
               '--device=cpu', f'--method={method}', status=1, says=('noise level 80', '48 of 48', 'NaN'))
    assert not out.exists()


def test_label_vectors_are_drawn_from_the_training_set_and_are_no_class(tmp_path):
    data = write(tmp_path / 'set.zip', {
        '0.png': np.zeros((4, 4, 3), np.uint8), 'dataset.json': {'labels': [['0.png', [0.5, 2.0]]]}})
    path, out = tmp_path / 'vec.pkl', tmp_path / 'ranks.npz'
    save_snapshot(path, ema=EDMPrecond(4, 3, label_dim=2, **TINY).eval(),
                  dataset_kwargs={'path': str(data)}, made_by={'labels': 'vectors'})
    ranks(path, '--seeds=0,1', '--steps=2', f'--out={out}')
    assert load_ranks(out).class_label.tolist() == [-1, -1]
    for data_option in ([], [f'--data={data}']):
        refuse(jacobian.main, f'--network_pkl={path}', '--class=1', *data_option, '--device=cpu', status=2,
               says=('--class 1', 'label vectors'))


def test_a_batch_beyond_all_rows_is_cut_to_them(nets, monkeypatch):
    widths = []
    monkeypatch.setattr(EDMPrecond, 'forward', lambda net, x, *args, forward=EDMPrecond.forward, **kwargs: (
        widths.append(len(x)), forward(net, x, *args, **kwargs))[1])
    ranks(nets['edm'], '--seeds=0,1', '--steps=2', '--batch=100000')
    assert max(widths) <= 2 * 48


def test_the_file_holds_what_was_printed(nets, tmp_path):
    out = tmp_path / 'new' / 'ranks.npz'
    result = ranks(nets['cond'], '--seeds=3,5', '--steps=3', f'--out={out}', '--save_spectrum')
    with np.load(out) as file:
        arrays = dict(file)
    assert arrays['seed'].tolist() == [3, 5]
    np.testing.assert_allclose(arrays['sigma'][[0, -1]], [80, 0.002])
    assert arrays['dim'] == 48
    for row, seed in enumerate((3, 5)):
        for column, sigma in enumerate(arrays['sigma']):
            line = f'SNR 1/sigma_t: {1 / sigma:.3f}, rank: {arrays["rank"][row, column]}, seed: {seed}'
            assert line in result.stdout.splitlines()
    values = arrays['singular_values']
    assert values.shape == (2, 3, 48)
    energy = (values.astype(float) ** 2).cumsum(axis=2)
    np.testing.assert_array_equal(((energy <= 0.99**2 * energy[..., -1:]).sum(axis=2) + 1), arrays['rank'])
    draws = SampleGenerators([3, 5], torch.device('cpu'))
    draws.randn((3, 4, 4))
    assert arrays['class_label'].tolist() == draws.randint(3).tolist()
    record = json.loads(str(arrays['provenance']))
    assert record['inputs'][str(nets['cond'])]


def test_classes_and_options_reach_the_ranks(nets, tmp_path):
    spectra = []
    for args in (['--class=0'], ['--class=1'], ['--class=1', '--S_churn=40'], ['--class=1', '--sigmas=1']):
        out = tmp_path / f'{len(spectra)}.npz'
        ranks(nets['cond'], '--seeds=0', '--steps=4', f'--out={out}', '--save_spectrum', *args)
        spectra.append(np.load(out)['singular_values'])
    assert spectra[3].shape == (1, 1, 48)
    for first, second in ((0, 1), (1, 2)):
        assert np.abs(spectra[first] - spectra[second]).max() > 1e-3


def test_an_interrupted_run_resumes_where_it_was(nets, tmp_path, monkeypatch):
    batch = '--batch=64'  # else a measurement decides how many seeds go together
    whole, part = tmp_path / 'whole.npz', tmp_path / 'part.npz'
    ranks(nets['edm'], '--seeds=0-2', '--steps=4', batch, f'--out={whole}', '--save_spectrum')
    done = []

    def interrupted(*args, **kwargs):
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(args)
        return find_ranks(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr('jacobians.study.find_ranks', interrupted)
        refuse(jacobian.main, f'--network_pkl={nets["edm"]}', '--device=cpu', '--seeds=0-2', '--steps=4',
               batch, f'--out={part}', '--save_spectrum', status=130, says=('interrupted',))
    assert (load_ranks(part).rank >= 0).all(axis=0).tolist() == [True, True, False, False]
    result = ranks(nets['edm'], '--seeds=0-2', '--steps=4', batch, f'--out={part}', '--save_spectrum')
    assert result.stdout.count('SNR') == 6
    np.testing.assert_allclose(load_ranks(part).singular_values, load_ranks(whole).singular_values, rtol=1e-3,
                               atol=1e-6)
    more = ranks(nets['edm'], '--seeds=0-3', '--steps=4', f'--out={part}', '--save_spectrum')
    assert more.stdout.count('SNR') == 4


def test_processes_share_the_seeds(nets, tmp_path):
    alone, shared = tmp_path / 'alone.npz', tmp_path / 'shared.npz'
    args = (f'--network_pkl={nets["edm"]}', '--device=cpu', '--seeds=0-2', '--steps=3')
    run(jacobian.main, *args, f'--out={alone}')
    shared.write_bytes(b'PK')
    printed = processes(2, 'jacobian.py', *args, f'--out={shared}', '--overwrite')
    assert printed.count('SNR') == 9
    assert printed.count('starts from scratch') == 1
    np.testing.assert_array_equal(load_ranks(alone).rank, load_ranks(shared).rank)


def test_real_images_are_taken_from_folders_and_molrg_files(nets, tmp_path):
    (tmp_path / 'images').mkdir()
    for i in range(3):
        Image.fromarray(np.full((4, 4, 3), 80 * i, np.uint8)).save(tmp_path / 'images' / f'{i}.png')
    shape = MoLRGShape(resolution=4, class_num=3, per_class_dim=2, sample_per_class=2)
    data = MoLRG(tmp_path, shape, seed=0)
    for name, source in (('edm', tmp_path / 'images'), ('edm', data.path), ('cond', data.path)):
        result = ranks(nets[name], '--seeds=0,1', f'--data={source}', '--sigmas=0.5,2')
        assert result.stdout.count('SNR 1/sigma_t: 2.000') == 2
    refuse(jacobian.main, f'--network_pkl={nets["cond"]}', f'--data={tmp_path / "images"}', status=1,
           says=('--data', '3 classes', '--class'))
    Image.new('RGB', (8, 8)).save(tmp_path / 'large.png')
    (tmp_path / 'large').mkdir()
    (tmp_path / 'large.png').rename(tmp_path / 'large' / '0.png')
    refuse(jacobian.main, f'--network_pkl={nets["edm"]}', f'--data={tmp_path / "large"}', status=1,
           says=('--data', '8x8', '4x4'))


@pytest.mark.parametrize(('network', 'args', 'status', 'says'), [
    ('edm', ['--class=0'], 2, ('--class 0', 'no classes')),
    ('cond', ['--class=3'], 2, ('--class 3', '0 to 2')),
    ('ve', ['--sigmas=1,0.001'], 2, ('--sigmas 0.001', '0.02 to 100')),
    ('ve', ['--sigma_max=200'], 2, ('--sigma_max 200', '0.02 to 100')),
    ('edm', ['--sigmas=1,x'], 2, ('--sigmas', 'x')),
    ('edm', ['--sigmas=0'], 2, ('--sigmas', '0')),
    ('edm', ['--sigma_min=3', '--sigma_max=2'], 2, ('--sigma_min', '3 and 2')),
    ('edm', ['--eta=1'], 2, ('--eta', '1')),
    ('edm', ['--eta=0'], 2, ('--eta', '0')),
    ('edm', ['--eta=nan'], 2, ('--eta', 'nan')),
    ('edm', ['--steps=1'], 2, ('--steps',)),
    ('edm', ['--seeds=1,1'], 2, ('--seeds',)),
    ('edm', ['--method=svd'], 2, ('--method', 'randomized')),
    ('edm', ['--batch=0'], 2, ('--batch',)),
    ('edm', ['--out=ranks.txt'], 2, ('--out', '.npz')),
    ('edm', ['--figure=a.jpg'], 2, ('--figure', '.png')),
    ('edm', ['--save_spectrum'], 2, ('--save_spectrum', '--out')),
    ('edm', ['--data=/nowhere'], 1, ('--data', '/nowhere')),
    ('edm', ['--data=/nowhere', '--S_churn=3'], 2, ('--S_churn', '--data')),
])
def test_mistakes_are_told_in_one_line(nets, network, args, status, says):
    refuse(jacobian.main, f'--network_pkl={nets[network]}', '--device=cpu', *args, status=status, says=says)


def test_a_file_of_other_ranks_is_not_resumed(nets, tmp_path):
    out = tmp_path / 'ranks.npz'
    ranks(nets['edm'], '--seeds=0,1', '--steps=2', f'--out={out}')
    before = out.read_bytes()
    for args, says in ((['--seeds=0,1', '--eta=0.9'], 'eta: 0.99 there, 0.9 now'), (['--seeds=0'], 'seed 1'),
                       (['--seeds=0,1', '--S_churn=1'], 'S_churn')):
        refuse(jacobian.main, f'--network_pkl={nets["edm"]}', '--device=cpu', '--steps=2', f'--out={out}',
               *args, status=1, says=('--out', says))
    assert out.read_bytes() == before
    out.write_bytes(b'PK')
    refuse(jacobian.main, f'--network_pkl={nets["edm"]}', '--steps=2', f'--out={out}', status=1,
           says=('--out', 'not a readable .npz'))
    again = ranks(nets['edm'], '--seeds=0,1', '--steps=2', f'--out={out}', '--overwrite')
    assert 'starts from scratch' in again.stderr
    first = load_ranks(out)
    ranks(nets['edm'], '--seeds=0', '--steps=2', '--eta=0.9', f'--out={out}', '--overwrite')
    assert (load_ranks(out).eta, len(load_ranks(out).seed)) == (0.9, 1)
    assert len(first.seed) == 2


def test_a_file_with_foreign_settings_is_refused_or_restarted(nets, tmp_path):
    out = tmp_path / 'ranks.npz'
    args = ('--seeds=0', '--steps=2', f'--out={out}')
    ranks(nets['edm'], *args)
    with np.load(out) as file:
        arrays = dict(file)
    np.savez(out, **{**arrays, 'settings': np.array('[1]')})
    refuse(jacobian.main, f'--network_pkl={nets["edm"]}', '--device=cpu', *args, status=1,
           says=('--out', str(out), 'settings'))
    assert 'starts from scratch' in ranks(nets['edm'], *args, '--overwrite').stderr
    assert load_ranks(out).rank.tolist() == arrays['rank'].tolist()


# The figure.


def table(rank, dim=48, sigma=(10, 1, 0.1), **bounds):
    rank = np.array(rank)
    made = new_ranks(range(len(rank)), sigma, dim=dim, eta=0.99, settings={}, spectrum=False)
    made.rank, made.rank_low, made.rank_high = rank, bounds.get('low', rank), bounds.get('high', rank)
    return made


SERIES = {'Low-rank model': table([[12, 9, 6], [12, 7, 6], [12, 6, 6]]),
          'U-Net': table([[30, 9, 48], [34, -1, 46]], low=np.array([[29, 8, 48], [34, -1, 46]]))}


@pytest.mark.parametrize('axis', ['log', 'categorical'])
def test_the_figure_shows_means_and_distributions(axis):
    figure, caption = draw_ranks(SERIES, axis)
    axes, = figure.axes
    lines = {line.get_label(): line for line in axes.lines}
    np.testing.assert_allclose(lines['Low-rank model'].get_xdata(),
                               {'log': [0.1, 1, 10], 'categorical': [0, 1, 2]}[axis])
    np.testing.assert_allclose(lines['Low-rank model'].get_ydata(), [12 / 48, 22 / 144, 6 / 48])
    np.testing.assert_allclose(lines['U-Net'].get_ydata(), [32 / 48, 9 / 48, 47 / 48])
    assert (axes.get_xscale() == 'log', axes.get_ylim()) == (axis == 'log', (0, 1))
    if axis == 'categorical':
        assert [text.get_text() for text in axes.get_xticklabels()] == ['0.1', '1', '10']
    violins = [collection.get_paths()[0].get_extents() for collection in axes.collections]
    heights = [(round(v.ymin * 48), round(v.ymax * 48)) for v in violins]
    assert heights == [(6, 9), (30, 34), (46, 48)]  # one noise level has a single rank
    assert [text.get_text() for text in axes.get_legend().get_texts()] == list(SERIES)
    assert 'Low-rank model: dimension 48, 3 noises; U-Net: dimension 48, 2 noises' in caption
    assert 'within 2.1 %' in caption  # 1 of 48


@pytest.mark.parametrize(('axis', 'ends'), [
    ('log', [0.5, 4]), ('categorical', [1 - np.log10(2), 1 + np.log10(4)])])
def test_references_and_where_a_network_extrapolates_are_marked(axis, ends):
    mean, std = -np.log(2) / 2, np.log(8) / 4  # of ln sigma: two deviations reach from 1/sigma = 1/2 to 4
    references = {'Truth': SERIES['Low-rank model']}
    figure, caption = draw_ranks({'U-Net': SERIES['U-Net']}, axis, references=references,
                                 trained=('U-Net', mean, std))
    axes, = figure.axes
    truth, = [line for line in axes.lines if line.get_label() == 'Truth']
    np.testing.assert_allclose(truth.get_ydata(), [12 / 48, 22 / 144, 6 / 48])
    left, right = [patch.get_extents().transformed(axes.transData.inverted()) for patch in axes.patches]
    np.testing.assert_allclose([left.x1, right.x0], ends)
    np.testing.assert_allclose([left.x0, right.x1], axes.get_xlim())
    assert 'Broad grey lines: Truth; means.' in caption
    assert 'training of U-Net (mean -0.346574, standard deviation 0.51986), where it extrapolates' in caption


def test_shares_are_drawn_on_a_logarithmic_axis_from_high_to_low_snr():
    spread = {'Optimal': table([[12, 2, 0], [12, 0, 0]]), 'U-Net': SERIES['U-Net']}
    figure, caption = draw_ranks(spread, scale='log', falling=True, about='MNIST, 60 kimg.',
                                 trained=('U-Net', 0, 1))
    axes, = figure.axes
    left, right = axes.get_xlim()
    assert left > 10 > 0.1 > right
    low, high = axes.get_ylim()
    assert (axes.get_yscale(), high) == ('log', 1)
    assert 0.01 < low < 1 / 48  # the mean of 2 and 0
    bars = [line.get_ydata()[0] for line in axes.lines if len(line.get_ydata()) == 2]
    np.testing.assert_allclose(bars, [12 / 48])  # and none where all ranks are 0
    assert caption.startswith('MNIST, 60 kimg. The smallest number')
    assert 'Left out on this axis: ranks of 0 (Optimal).' in caption
    assert 'Left out' not in draw_ranks(spread)[1]


def test_neighbouring_violins_keep_clear_of_each_other():
    spread = np.arange(5)[:, None] * np.ones(30, dtype=int)
    figure, _ = draw_ranks({'a': table(spread, sigma=np.linspace(2, 1, 30))})
    extents = [collection.get_paths()[0].get_extents() for collection in figure.axes[0].collections]
    assert all(left.xmax < right.xmin for left, right in pairwise(extents))


def test_the_plot_command_names_its_curves(tmp_path):
    for name, ranks in zip('ab', SERIES.values(), strict=True):
        save_ranks(tmp_path / f'{name}.npz', ranks, {})
    out = tmp_path / 'new' / 'jacobian.png'
    run(plot.main, 'jacobian', '--ranks', f'{tmp_path}/a.npz=CIFAR-10', tmp_path / 'b.npz', '--max_snr=5',
        f'--out={out}')
    with Image.open(out) as image:
        assert image.size[0] == 2025
        assert 'CIFAR-10: dimension 48' in image.info['Description']
    twice = ('--ranks', f'{tmp_path}/a.npz=x', f'{tmp_path}/b.npz=x')
    refuse(plot.main, 'jacobian', *twice, f'--out={out}', status=2, says=('--ranks', 'label x'))
    both = ('--ranks', f'{tmp_path}/a.npz=A', '--references', f'{tmp_path}/b.npz=B', f'--out={out}')
    run(plot.main, 'jacobian', *both, '--trained=A=-0.4,0.7', '--axis=categorical')
    refuse(plot.main, 'jacobian', *both, '--trained=B=0,1', status=2, says=('--trained B', 'no curve'))
    refuse(plot.main, 'jacobian', *both, '--trained=A=0', status=2, says=('LABEL=MEAN,STD',))
    refuse(plot.main, 'jacobian', '--ranks', tmp_path / 'a.npz', '--max_snr=0.01', f'--out={out}', status=1,
           says=('0.01',))


BAD = {'rank': np.full((3, 3), 49), 'sigma': np.array([1.0, -1, 2]), 'seed': np.arange(2.0),
       'singular_values': np.zeros((3, 3))}


@pytest.mark.parametrize('name', BAD)
def test_damaged_files_are_refused_in_one_line(name, tmp_path):
    path = tmp_path / 'a.npz'
    save_ranks(path, SERIES['Low-rank model'], {})
    arrays = dict(np.load(path)) | {name: BAD[name]}
    np.savez(path, **arrays)
    out = ('--out', tmp_path / 'out.png')
    refuse(plot.main, 'jacobian', '--ranks', path, *out, status=1, says=('--ranks', 'a.npz', name))
    del arrays['rank']
    np.savez(path, **arrays)
    refuse(plot.main, 'jacobian', '--ranks', path, *out, status=1, says=('no array rank',))
    refuse(plot.main, 'jacobian', '--ranks', tmp_path / 'no.npz', *out, status=1, says=('no such file',))


def test_the_true_denoiser_of_molrg_data_has_its_ranks(tmp_path):
    shape = MoLRGShape(resolution=4, class_num=2, per_class_dim=3, sample_per_class=2)
    data = MoLRG(tmp_path, shape)
    out = tmp_path / 'ranks.npz'
    run(jacobian.main, f'--network_pkl=molrg:{data.path}', '--seeds=0,1', '--steps=3', '--device=cpu',
        '--method=exact', f'--out={out}')
    assert load_ranks(out).rank[:, [0, -1]].tolist() == [[6, 3]] * 2  # K d at high noise, d at low noise
    (tmp_path / 'x.pt').write_bytes(b'x')
    refuse(jacobian.main, f'--network_pkl=molrg:{tmp_path / "x.pt"}', '--device=cpu', status=1,
           says=('no MoLRG data set',))
    refuse(jacobian.main, '--network_pkl=patch:x.zip', '--device=cpu', status=2, says=('molrg:FILE.pt',))
    refuse(jacobian.main, '--network_pkl=molrg:none.pt', '--device=cpu', status=1, says=('none.pt',))


def test_ranks_of_the_gaussian_and_the_optimal_denoiser_of_a_data_set(tmp_path):
    rng = np.random.default_rng(0)
    data = write(tmp_path / 'set.zip', {f'{i}.png': rng.integers(0, 256, (4, 4), dtype=np.uint8)
                                        for i in range(6)})
    found = {}
    for kind in ('gaussian', 'optimal'):
        out = tmp_path / f'{kind}.npz'
        run(jacobian.main, f'--network_pkl={kind}:{data}', f'--data={data}', '--sigmas=0.001,1e3',
            '--seeds=0-2', '--device=cpu', f'--out={out}')
        found[kind] = load_ranks(out).rank.tolist()
    (high, low), *_ = found['gaussian']
    assert low == 5  # six images span five directions
    assert found['optimal'] == [[high, 0]] * 3  # their covariance, too; below, one image whatever x is
    refuse(jacobian.main, f'--network_pkl=gaussian:{data}', f'--data={data}', '--sigmas=1', '--device=cpu',
           f'--out={tmp_path / "optimal.npz"}', status=1, says=('--out', 'optimal.npz'))
    refuse(jacobian.main, f'--network_pkl=gaussian:{data}', '--method=randomized', status=2,
           says=('--method randomized', 'closed form'))


def test_an_unconditional_closed_form_takes_the_images_of_all_classes(nets, tmp_path):
    rng = np.random.default_rng(0)
    images = {f'{i}.png': rng.integers(0, 256, (4, 4), dtype=np.uint8) for i in range(6)}
    labels = {'labels': [[name, i // 3] for i, name in enumerate(images)]}
    data = write(tmp_path / 'set.zip', {**images, 'dataset.json': labels})
    args = (f'--network_pkl=gaussian:{data}', '--sigmas=0.001', '--seeds=0', '--device=cpu')
    for cond, rank in (('--cond=1', 2), ('--cond=0', 5)):  # three and six images span as many directions
        assert f'rank: {rank}\n' in run(jacobian.main, *args, cond).stdout
    refuse(jacobian.main, *args, '--cond=0', '--class=1', status=2, says=('--class', '--cond 0'))
    refuse(jacobian.main, f'--network_pkl={nets["edm"]}', '--cond=0', status=2, says=('--cond', 'gaussian'))
