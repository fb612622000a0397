"""MoLRG data: what is drawn, its file, what a damaged or other file is told."""

import pytest
import torch

from data.batches import Batches
from data.molrg_data import MoLRG, MoLRGShape, make_molrg
from helpers import ROOT, processes
from torch_utils.errors import UserError

SHAPE = MoLRGShape(resolution=2, class_num=2, per_class_dim=3, sample_per_class=40)
FILE = 'MoLRG_dataset_resolution2_classnum2_perclassdim3_sample40.pt'


@pytest.fixture
def data(tmp_path):
    return MoLRG(tmp_path, SHAPE, seed=5)


def test_samples_are_standard_normal_in_their_class_subspace():
    shape = MoLRGShape(resolution=2, class_num=3, per_class_dim=4, sample_per_class=2000)
    contents = make_molrg(shape, seed=1)
    basis, samples = contents['basis'], contents['data'].reshape(3, 2000, 12)
    torch.testing.assert_close(contents['space_basis'].T @ contents['space_basis'], torch.eye(12),
                               atol=1e-6, rtol=0)
    for k in range(3):
        assert torch.equal(basis[k], contents['space_basis'][:, 4 * k:4 * (k + 1)])
    coefficients = torch.einsum('knd,ksn->ksd', basis, samples)
    torch.testing.assert_close(coefficients @ basis.mT, samples, atol=1e-5, rtol=0)
    covariances = coefficients.mT @ coefficients / 2000
    # The entries' standard deviation is at most sqrt(2 / 2000) = 0.03; five of them.
    torch.testing.assert_close(covariances, torch.eye(4).expand(3, 4, 4), atol=0.16, rtol=0)
    assert contents['conds'].tolist() == [0] * 2000 + [1] * 2000 + [2] * 2000


def test_the_data_depends_on_its_seed_alone(tmp_path):
    torch.manual_seed(0)
    first = make_molrg(SHAPE, seed=3)
    torch.manual_seed(1)
    again, other = make_molrg(SHAPE, seed=3), make_molrg(SHAPE, seed=4)
    for key in ('basis', 'space_basis', 'data'):
        assert torch.equal(first[key], again[key])
        assert not torch.equal(first[key], other[key])
    before = torch.get_rng_state()
    MoLRG(tmp_path, SHAPE)
    assert torch.equal(torch.get_rng_state(), before)


def test_the_file_has_the_papers_form_and_is_used_again(data, tmp_path):
    contents = torch.load(tmp_path / FILE, weights_only=True)
    assert {key: list(value.shape) if isinstance(value, torch.Tensor) else value
            for key, value in contents.items()} == {
        'basis': [2, 12, 3], 'space_basis': [12, 12], 'data': [80, 2, 2, 3], 'class_num': 2,
        'sample_per_class': 40, 'per_class_dim': 3, 'resolution': 2, 'conds': [80], 'data_seed': 5}
    del contents['data_seed']  # as files of the paper's software
    contents['data'] += 1
    torch.save(contents, tmp_path / FILE)
    again = MoLRG(tmp_path, SHAPE)
    torch.testing.assert_close(again.samples(), data.samples() + 1)
    with pytest.raises(UserError, match=r'--path .* not recorded \(--data_seed 5\)'):
        MoLRG(tmp_path, SHAPE, seed=5)


def test_training_sees_the_samples_as_they_are(data):
    batches = Batches(data, size=16, seed=0, device=torch.device('cpu'))
    images, labels = next(batches)
    assert (images.shape, images.dtype, labels.shape) == ((16, 3, 2, 2), torch.float32, (16, 0))
    distances = (images[:, None] - data.samples()).abs().amax(dim=(2, 3, 4))
    assert distances.amin(dim=1).max() < 1e-6
    assert images.abs().max() > 1.5  # not cut off


def test_bases_are_in_the_order_of_the_samples(data):
    samples = data.samples().reshape(2, 40, 12)
    bases = data.bases()
    torch.testing.assert_close(samples @ bases @ bases.mT, samples, atol=1e-5, rtol=0)


def test_labels_are_one_hot(tmp_path):
    data = MoLRG(tmp_path, SHAPE, use_labels=True)
    assert data.label_dim == 2
    assert data.labels([0, 39, 40, 79]).tolist() == [[1, 0], [1, 0], [0, 1], [0, 1]]


def test_without_a_file_sizes_are_known_and_none_is_made(tmp_path):
    data = MoLRG(tmp_path / 'new', SHAPE, make=False)
    assert (len(data), data.resolution, data.num_channels) == (80, 2, 3)
    assert not (tmp_path / 'new').exists()


def test_processes_that_start_together_make_one_file(tmp_path):
    """Each of the file's makers leaves a line; all read the same samples."""
    (tmp_path / 'make.py').write_text(f'''
import sys
sys.path.insert(0, {str(ROOT / "edm")!r})
from data import molrg_data as molrg
make = molrg.make_molrg
def make_and_tell(shape, seed):
    print("made", flush=True)
    return make(shape, seed)
molrg.make_molrg = make_and_tell
shape = molrg.MoLRGShape(resolution=8, class_num=2, per_class_dim=3, sample_per_class=40)
print(float(molrg.MoLRG({str(tmp_path)!r}, shape).samples().sum()), flush=True)
''')
    lines = processes(3, tmp_path / 'make.py').splitlines()
    assert lines.count('made') == 1
    assert len({line for line in lines if line[0] in '-0123456789'}) == 1
    assert [path.name for path in tmp_path.iterdir() if path.suffix == '.pt'] == [
        'MoLRG_dataset_resolution8_classnum2_perclassdim3_sample40.pt']


@pytest.mark.parametrize(('change', 'says'), [
    ({'class_num': 3}, ('class_num is 3', '--class_num 2')),
    ({'sample_per_class': 7, 'resolution': 9}, ('sample_per_class is 7', 'resolution is 9', '--img_res 2')),
    ({'data': torch.zeros(79, 2, 2, 3)}, ('data is [79, 2, 2, 3]', '[80, 2, 2, 3]')),
    ({'data': 'none'}, ('data is str',)),
    ({'data': torch.full([80, 2, 2, 3], torch.nan)}, ('data', 'finite')),
    ({'basis': torch.zeros(2, 12, 3, dtype=torch.float64)}, ('basis is torch.float64', 'float32')),
    ({'conds': torch.zeros(80)}, ('conds', '0 to 1')),
    ({'data_seed': 6}, ('its seed is 6', '--data_seed 5')),
])
def test_a_file_that_contradicts_is_refused_by_name(change, says, data, tmp_path):
    contents = torch.load(tmp_path / FILE) | change
    torch.save(contents, tmp_path / FILE)
    with pytest.raises(UserError) as error:
        MoLRG(tmp_path, SHAPE, seed=5)
    for words in (f'--path {tmp_path / FILE}', *says):
        assert words in str(error.value)


def test_what_is_no_data_file_is_refused(data, tmp_path):
    def no(says):
        with pytest.raises(UserError, match=says):
            MoLRG(tmp_path, SHAPE)

    whole = (tmp_path / FILE).read_bytes()
    (tmp_path / FILE).write_bytes(whole[:1000])
    no('damaged')
    (tmp_path / FILE).write_bytes(b'')
    no('damaged')
    torch.save({'data': torch.nn.Linear(2, 2)}, tmp_path / FILE)
    no('no MoLRG data set')
    torch.save([1], tmp_path / FILE)
    no('it holds a list')
    torch.save({'data': torch.zeros(1)}, tmp_path / FILE)
    no('lacks basis, space_basis, conds, resolution')


@pytest.mark.parametrize(('change', 'says'), [
    ({'resolution': 0}, '--img_res'), ({'class_num': 0}, '--class_num'),
    ({'per_class_dim': -1}, '--per_class_dim'), ({'sample_per_class': 0}, '--sample_per_class'),
    ({'per_class_dim': 7}, '14, more than the 12 dimensions')])
def test_impossible_sizes_are_refused(change, says):
    with pytest.raises(UserError, match=says):
        MoLRGShape(**{'resolution': 2, 'class_num': 2, 'per_class_dim': 3, 'sample_per_class': 4} | change)
