"""Files of descriptors: what is written comes back, what others wrote is taken, bad files are named."""

import json
import zipfile

import numpy as np
import pytest
import torch

from descriptors.features import check_comparable, check_length, load_features, save_features
from helpers import DATA
from torch_utils.errors import UserError


def unit(rows, dim=4, seed=0):
    values = np.random.RandomState(seed).randn(rows, dim)
    return (values / np.linalg.norm(values, axis=1, keepdims=True)).astype(np.float32)


def write(path, values, names=None, descriptor='pixel', identity='pixel', length='unit'):
    save_features(path, values, names or [f'{i}.png' for i in range(len(values))], descriptor=descriptor,
                  identity=identity, length=length, provenance=json.dumps({'images': 'some.zip'}))
    return path


def test_written_features_come_back(tmp_path):
    values, names = unit(3), ['a', 'b/c', 'ü']
    write(tmp_path / 'f.npz', values, names, identity='exact')
    features = load_features(tmp_path / 'f.npz', '--source')
    np.testing.assert_array_equal(features.values, values)
    assert features.values.dtype == np.float32
    assert (features.file_names, features.descriptor, features.identity) == (names, 'pixel', 'exact')
    assert (features.rescaled, features.images) == (0, 'some.zip')
    assert [path.name for path in tmp_path.iterdir()] == ['f.npz']


def test_plain_numpy_reads_what_is_written(tmp_path):
    with np.load(write(tmp_path / 'f.npz', unit(5)), allow_pickle=False) as file:
        assert (file['features'].shape, file['features'].dtype) == ((5, 4), np.float32)
        assert file['file_names'].tolist() == [f'{i}.png' for i in range(5)]


def test_equal_features_are_equal_files(tmp_path):
    a, b = (write(tmp_path / name, unit(3)).read_bytes() for name in ('a.npz', 'b.npz'))
    assert a == b
    with zipfile.ZipFile(tmp_path / 'a.npz') as archive:
        assert {info.date_time[0] for info in archive.infolist()} == {1980}


def test_files_of_others_need_only_features(tmp_path):
    np.savez(tmp_path / 'f.npz', features=np.eye(2))
    features = load_features(tmp_path / 'f.npz', '--source')
    assert features.values.dtype == np.float32
    assert (features.file_names, features.descriptor, features.provenance) == (None, None, {})
    assert features.images is None


def test_golden_features_stay_as_they_are():
    with np.load(DATA / 'features-source.npz') as file:
        features = load_features(DATA / 'features-source.npz', '--source')
        np.testing.assert_array_equal(features.values, file['features'])
    assert features.rescaled == 0


def test_raw_features_keep_their_lengths(tmp_path):
    values = 100 * unit(3) * np.float32([[0.01], [1], [2]])
    features = load_features(write(tmp_path / 'f.npz', values, descriptor='l2', length='raw'), '--source')
    np.testing.assert_array_equal(features.values, values)
    assert (features.length, features.rescaled) == ('raw', 0)
    np.savez(tmp_path / 'g.npz', features=values, length=np.array('raw'))
    assert load_features(tmp_path / 'g.npz', '--source').length == 'raw'
    values[1, 2] = np.inf
    with pytest.raises(UserError, match='not finite, first in row 1'):
        load_features(write(tmp_path / 'f.npz', values, length='raw'), '--source')


def test_a_score_refuses_features_of_the_other_length(tmp_path):
    kinds = {kind: load_features(write(tmp_path / f'{kind}.npz', unit(3), length=kind, descriptor='some'), '')
             for kind in ('unit', 'raw')}
    for wanted, other in (('unit', 'raw'), ('raw', 'unit')):
        check_length(wanted, 'this score', kinds[wanted])
        with pytest.raises(UserError, match=f'{other}.*some.*this score needs .*{wanted}'):
            check_length(wanted, 'this score', kinds[wanted], kinds[other])
    np.savez(tmp_path / 'own.npz', features=unit(3))
    with pytest.raises(UserError, match='in a file of your own, write length=\'raw\''):
        check_length('raw', 'this score', load_features(tmp_path / 'own.npz', '--source'))


def test_rows_are_brought_to_length_one_but_for_zeros(tmp_path):
    values = unit(4) * np.float32([[1], [3], [0], [1.0004]])  # the last is half precision's rounding
    np.savez(tmp_path / 'f.npz', features=values)
    features = load_features(tmp_path / 'f.npz', '--source')
    assert features.rescaled == 1
    np.testing.assert_allclose(features.values[1], unit(4)[1], rtol=1e-6)
    np.testing.assert_array_equal(features.values[[0, 2, 3]], values[[0, 2, 3]])


BAD_FILES = {
    'no features': ({'samples': np.eye(2)}, 'samples'),
    'integers': ({'features': np.eye(2, dtype=int)}, 'int64'),
    'one row': ({'features': np.ones(4)}, r'\[4\]'),
    'no rows': ({'features': np.ones((0, 4))}, r'\[0, 4\]'),
    'not a number': ({'features': np.array([[1, 2], [3, np.nan]])}, 'row 1'),
    'too large': ({'features': np.array([[1e300, 2]])}, 'row 0'),
    'too large for squares': ({'features': np.array([[1, -2e15]]), 'length': np.array('raw')},
                              'beyond 1e.15'),
    'names': ({'features': np.eye(2), 'file_names': np.array(['a'])}, '2 strings'),
    'provenance': ({'features': np.eye(2), 'provenance': np.array('{')}, 'JSON'),
    'length': ({'features': np.eye(2), 'length': np.array('long')}, "'long', expected one of unit, raw"),
    'objects': ({'features': np.array([{}, None], dtype=object)}, 'readable'),
}


@pytest.mark.parametrize('kind', BAD_FILES)
def test_a_bad_file_is_named_in_one_line(tmp_path, kind):
    arrays, says = BAD_FILES[kind]
    np.savez(tmp_path / 'f.npz', **arrays)
    with pytest.raises(UserError, match=says) as err:
        load_features(tmp_path / 'f.npz', '--target')
    assert str(err.value).startswith(f'--target {tmp_path / "f.npz"}: ')
    assert '\n' not in str(err.value)


def test_damaged_and_missing_files_are_refused(tmp_path):
    path = tmp_path / 'f.npz'
    with pytest.raises(UserError, match='no such file'):
        load_features(path, '--source')
    np.save(tmp_path / 'array.npy', np.eye(2))
    whole = (DATA / 'features-train.npz').read_bytes()
    middle = len(whole) // 2
    flipped = whole[:middle] + bytes([whole[middle] ^ 255]) + whole[middle + 1:]
    for content in (b'', b'text', whole[:middle], flipped, (tmp_path / 'array.npy').read_bytes()[:-1]):
        path.write_bytes(content)
        with pytest.raises(UserError, match=r'not a readable .* numpy\.savez\('):
            load_features(path, '--source')


def test_features_of_other_descriptors_are_not_compared(tmp_path):
    first = load_features(write(tmp_path / 'a.npz', unit(3)), '--source')
    wider = write(tmp_path / 'c.npz', unit(3, dim=6))
    other = write(tmp_path / 'd.npz', unit(3), descriptor='sscd')
    another = write(tmp_path / 'e.npz', unit(3), identity='of another model')
    for second, says in ((wider, '4 and of 6'), (other, 'pixel and sscd'), (another, 'of another model')):
        with pytest.raises(UserError, match=f'--source .*a.npz and --target .*{says}'):
            check_comparable(first, load_features(second, '--target'))


def test_an_array_saved_by_itself_is_taken(tmp_path):
    np.save(tmp_path / 'f.npy', unit(3))
    np.testing.assert_array_equal(load_features(tmp_path / 'f.npy', '--source').values, unit(3))
    np.save(tmp_path / 'f.npy', 2 * unit(3))
    assert load_features(tmp_path / 'f.npy', '--source').rescaled == 3
    np.testing.assert_array_equal(np.load(tmp_path / 'f.npy'), 2 * unit(3))
    np.save(tmp_path / 'f.npy', np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(UserError, match=r'not a readable \.npy'):
        load_features(tmp_path / 'f.npy', '--source')


def test_what_other_software_saves_is_refused_with_what_to_do(tmp_path):
    torch.save(torch.eye(2), tmp_path / 'f.pt')
    np.savez(tmp_path / 'f.npz', features=np.eye(2), file_names=np.array(['a', 'b'], dtype=object))
    for name in ('f.pt', 'f.npz'):
        with pytest.raises(UserError, match=r'numpy\.savez\(FILE, features=\.\.\.\)'):
            load_features(tmp_path / name, '--source')


def test_names_in_bytes_are_names(tmp_path):
    np.savez(tmp_path / 'f.npz', features=np.eye(2), file_names=np.array([b'a.png', b'caf\xe9.png']))
    assert load_features(tmp_path / 'f.npz', '--source').file_names == ['a.png', 'caf\udce9.png']


def test_many_rows_that_equal_others_are_doubtful(tmp_path):
    np.savez(tmp_path / 'f.npz', features=unit(4)[[0, 1, 0, 2, 0, 1]])
    (told,) = load_features(tmp_path / 'f.npz', '--source').doubts()
    assert '5 of 6 descriptors equal another one' in told
    np.savez(tmp_path / 'f.npz', features=unit(40)[[0, *range(40)]])
    assert load_features(tmp_path / 'f.npz', '--source').doubts() == []


def test_images_of_one_colour_are_doubtful(tmp_path):
    np.savez(tmp_path / 'f.npz', features=unit(4) * np.float32([[1], [0], [1], [1]]))
    (told,) = load_features(tmp_path / 'f.npz', '--source').doubts()
    assert '1 of 4 images are of one colour' in told
