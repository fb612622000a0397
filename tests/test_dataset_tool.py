"""dataset_tool.py against the reference's listings, its sources and labels, and what it refuses."""

import gzip
import hashlib
import io
import json
import pickle
import struct
import sys
import tarfile
import types
import zipfile

import numpy as np
import pytest
from PIL import Image

import dataset_tool
from data import dataset_writer
from data.dataset import ImageDataset
from data.image_transforms import center_crop, center_crop_wide
from helpers import DATA, refuse, run
from image_sets import encode, idx, write

GOLDEN = json.loads((DATA / 'dataset-tool.json').read_text())
CASES = [name for name, case in GOLDEN.items() if case['returncode'] == 0]
CIFAR10, MNIST = 'cifar-10-python.tar.gz', 'train-images-idx3-ubyte.gz'


@pytest.fixture(scope='session')
def inputs(tmp_path_factory):
    folder = tmp_path_factory.mktemp('inputs')
    with tarfile.open(DATA / 'dataset-tool-inputs.tar') as archive:
        archive.extractall(folder, filter='data')
    return folder


def tool(source, dest, *args):
    return run(dataset_tool.main, '--source', source, '--dest', dest, *args)


def picture(seed=0, height=8, width=8, channels=3):
    shape = (height, width, 3) if channels == 3 else (height, width)
    return np.random.RandomState(seed).randint(256, size=shape, dtype=np.uint8)


def contents(path):
    """{name: bytes} of a written folder or .zip."""
    if path.suffix == '.zip':
        with zipfile.ZipFile(path) as archive:
            return {info.filename: archive.read(info) for info in archive.infolist()}
    found = [file for file in path.rglob('*') if file.is_file()]
    return {file.relative_to(path).as_posix(): file.read_bytes() for file in found}


def labels(path):
    return json.loads(contents(path)['dataset.json'])['labels']


def pixels(data):
    return np.asarray(Image.open(io.BytesIO(data)))


@pytest.mark.parametrize('place', ['out', 'out.zip'])
@pytest.mark.parametrize('case', CASES)
def test_output_is_the_references(inputs, tmp_path, case, place):
    args = GOLDEN[case]['args']
    tool(inputs / args[1], tmp_path / place, *args[2:])
    written = contents(tmp_path / place)
    assert sorted(written) == [entry['name'] for entry in GOLDEN[case]['listing']]
    for entry in GOLDEN[case]['listing']:
        data = written[entry['name']]
        if 'text' in entry:
            assert data.decode() == entry['text']
        else:
            image = Image.open(io.BytesIO(data))
            assert [image.mode, list(image.size)] == [entry['mode'], entry['size']]
            assert hashlib.sha256(image.tobytes()).hexdigest() == entry['pixels_sha256']


def test_cifar10_keeps_pixels_order_and_classes(inputs, tmp_path):
    printed = tool(inputs / CIFAR10, tmp_path / 'out.zip').stdout
    assert printed == f'20 images, 32x32 RGB, with labels: {tmp_path / "out.zip"}\n'
    expected, classes = [], []
    with tarfile.open(inputs / CIFAR10) as archive:
        for number in range(1, 6):
            file = archive.extractfile(f'cifar-10-batches-py/data_batch_{number}')
            batch = pickle.load(file, encoding='latin1')
            expected.extend(batch['data'].reshape(-1, 3, 32, 32))
            classes.extend(batch['labels'])
    dataset = ImageDataset(tmp_path / 'out.zip', use_labels=True)
    np.testing.assert_array_equal(dataset.images(), expected)
    np.testing.assert_array_equal(dataset.labels().argmax(1), classes)


def test_mnist_is_padded_by_two_zeros(inputs, tmp_path):
    printed = tool(inputs / MNIST, tmp_path / 'out', '--max-images=4').stdout
    assert printed == f'4 images, 32x32 grey, with labels: {tmp_path / "out"}\n'
    raw = gzip.decompress((inputs / MNIST).read_bytes())[16:]
    raw = np.frombuffer(raw, dtype=np.uint8).reshape(-1, 28, 28)
    classes = gzip.decompress((inputs / 'train-labels-idx1-ubyte.gz').read_bytes())[8:]
    dataset = ImageDataset(tmp_path / 'out', use_labels=True)
    np.testing.assert_array_equal(dataset.images()[:, 0, 2:-2, 2:-2], raw[:4])
    assert dataset.images().sum() == raw[:4].sum()
    assert [label for _, label in labels(tmp_path / 'out')] == list(classes[:4])


def test_equal_input_makes_equal_bytes_stored_without_compression(inputs, tmp_path):
    for name in ('a.zip', 'b.zip'):
        tool(inputs / 'folder', tmp_path / name, '--resolution=16x16')
    assert (tmp_path / 'a.zip').read_bytes() == (tmp_path / 'b.zip').read_bytes()
    with zipfile.ZipFile(tmp_path / 'a.zip') as archive:
        assert {info.compress_type for info in archive.infolist()} == {zipfile.ZIP_STORED}
        assert {info.date_time for info in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}


def test_png_files_hold_their_pixels_uncompressed_and_no_metadata(tmp_path):
    black = encode(np.zeros((64, 64, 3), dtype=np.uint8), icc_profile=b'some profile')
    tool(write(tmp_path / 'set', {'a.png': black}), tmp_path / 'out')
    written = contents(tmp_path / 'out')['00000/img00000000.png']
    assert len(written) > 64 * 64 * 3
    assert Image.open(io.BytesIO(written)).info == {}


def test_a_data_set_is_replaced_but_neither_the_source_nor_another_zip(tmp_path):
    path = write(tmp_path / 'set.zip', {f'{i}.png': picture(i) for i in range(3)})
    for count in 3, 2:
        tool(path, tmp_path / 'out.zip', f'--max-images={count}')
        assert len(ImageDataset(tmp_path / 'out.zip')) == count
    (tmp_path / 'link.zip').symlink_to(path)
    before = path.read_bytes()
    refuse(dataset_tool.main, '--source', path, '--dest', tmp_path / 'link.zip', status=2, says=('--dest',))
    refuse(dataset_tool.main, '--source', tmp_path / 'out.zip', '--dest', path, status=2,
           says=('--overwrite',))
    assert path.read_bytes() == before
    tool(tmp_path / 'out.zip', path, '--overwrite')
    assert len(ImageDataset(path)) == 2


@pytest.mark.parametrize('spelling', ['4x4', '4X4', '4,4'])
def test_resolution_has_three_spellings(tmp_path, spelling):
    tool(write(tmp_path / 'set', {'a.png': picture()}), tmp_path / 'out', '--resolution', spelling)
    assert ImageDataset(tmp_path / 'out').resolution == 4


@pytest.mark.parametrize('source', [CIFAR10, 'zipped.zip'])
def test_processes_change_nothing(inputs, tmp_path, source, monkeypatch):
    if source == 'zipped.zip':
        write(inputs / source, {f'{i}.png': picture(i) for i in range(200)})
    args = ['--resolution=16x16']
    tool(inputs / source, tmp_path / 'serial.zip', *args, '--workers=1')
    monkeypatch.setattr(dataset_writer, 'SECONDS_IN_PLACE', 1e-9)
    monkeypatch.setattr(dataset_writer, 'IMAGES_AT_A_TIME', 3)
    tool(inputs / source, tmp_path / 'processes.zip', *args, '--workers=3')
    assert (tmp_path / 'serial.zip').read_bytes() == (tmp_path / 'processes.zip').read_bytes()


def test_the_folders_of_a_zip_without_labels_are_no_classes(tmp_path):
    with zipfile.ZipFile(tmp_path / 'a.zip', 'w') as archive:
        for name in ('00000/img00000999.png', '00001/img00001000.png'):
            archive.writestr(name, encode(picture()))
        archive.writestr('dataset.json', '{"labels": null}')
    result = tool(tmp_path / 'a.zip', tmp_path / 'out.zip')
    assert labels(tmp_path / 'out.zip') is None
    assert 'without labels' in result.stdout


def test_folders_are_sorted_by_path_components_and_zips_by_name(tmp_path):
    files = {'a/x.png': picture(0), 'a-b/x.png': picture(1)}
    for place, order in [('set', [0, 1]), ('set.zip', [1, 0])]:
        tool(write(tmp_path / place, files), tmp_path / f'out-{place}')
        images = ImageDataset(tmp_path / f'out-{place}').images()
        np.testing.assert_array_equal(images, [picture(i).transpose(2, 0, 1) for i in order])


@pytest.mark.parametrize(('place', 'files', 'expected'), [
    ('set', {'dog/1.png': 0, 'cat/x/2.png': 0, 'cat/1.png': 0}, [0, 0, 1]),
    ('set', {'dog/1.png': 0, '0.png': 0}, [0, 1]),  # files at the root are of the folder ''
    ('set', {'dog/1.png': 0, 'dog/x/2.png': 0}, None),
    ('set', {'0.png': 0, '1.png': 0}, None),
    ('set.zip', {'dog/1.png': 0, 'cat/1.png': 0}, [0, 1]),
    ('set.zip', {'dog\\1.png': 0, 'cat\\1.png': 0}, [0, 1]),  # as old programs of Windows name them
    ('set', {'dog/1.png': 0, 'cat/1.png': 0, 'dataset.json': {'labels': []}}, [0, 1]),
    ('set', {'dog/1.png': 0, 'cat/1.png': 0, 'dataset.json': {'labels': None}}, [0, 1]),
    ('set', {'dog/1.png': 0, 'cat/1.png': 0, 'dataset.json': {'labels': [['dog/1.png', 4]]}}, None),
    ('set.zip', {'b.png': 0, 'a.png': 0, 'dataset.json': {'labels': [['b.png', 5], ['a.png', 7]]}}, [7, 5]),
    ('set.zip', {'b.png': 0, 'dataset.json': {'labels': [['b.png', [1, 0.5]]]}}, [[1, 0.5]]),
])
def test_labels(tmp_path, place, files, expected):
    write(tmp_path / place, {name: data or picture() for name, data in files.items()})
    printed = tool(tmp_path / place, tmp_path / 'out').stdout
    written = labels(tmp_path / 'out')
    if expected is None:
        assert written is None
        assert ', without labels:' in printed
    else:
        assert written == [[f'00000/img{i:08d}.png', label] for i, label in enumerate(expected)]


def test_folder_labels_are_numbered_before_max_images(tmp_path):
    write(tmp_path / 'set', {'b/1.png': picture(), 'a.png': picture(), 'c/1.png': picture()})
    tool(tmp_path / 'set', tmp_path / 'out', '--max-images=2')
    assert [label for _, label in labels(tmp_path / 'out')] == [0, 1]
    tool(tmp_path / 'set' / 'c', tmp_path / 'c', '--max-images=9')
    assert labels(tmp_path / 'c') is None


@pytest.mark.parametrize('place', ['set', 'set.zip'])
def test_a_random_subset_is_the_choice_that_training_would_make(tmp_path, place):
    images = {f'{i:02d}.png': picture(i) for i in range(20)}
    labelled = {'dataset.json': {'labels': [[name, int(name[:2])] for name in images]}}
    path = write(tmp_path / place, images | labelled)
    chosen = {}
    for seed in 3, 4:
        tool(path, tmp_path / f'{seed}.zip', '--max-images=6', f'--random-subset={seed}')
        chosen[seed] = [label for _, label in labels(tmp_path / f'{seed}.zip')]
        subset = ImageDataset(path, max_size=6, random_seed=seed)
        np.testing.assert_array_equal(ImageDataset(tmp_path / f'{seed}.zip').images(), subset.images())
        assert chosen[seed] == sorted(chosen[seed]) == [int(name[:2]) for name in subset.file_names]
    assert chosen[3] != chosen[4]
    tool(path, tmp_path / 'again.zip', '--max-images=6', '--random-subset=3')
    assert (tmp_path / 'again.zip').read_bytes() == (tmp_path / '3.zip').read_bytes()
    tool(path, tmp_path / 'all.zip', '--max-images=99', '--random-subset=3')
    tool(path, tmp_path / 'plain.zip')
    assert (tmp_path / 'all.zip').read_bytes() == (tmp_path / 'plain.zip').read_bytes()


def test_the_first_images_can_be_skipped(tmp_path):
    path = write(tmp_path / 'set', {f'{i}.png': picture(i) for i in range(7)})
    tool(path, tmp_path / 'rest.zip', '--skip-images=2', '--max-images=3')
    np.testing.assert_array_equal(ImageDataset(tmp_path / 'rest.zip').images(),
                                  ImageDataset(path).images([2, 3, 4]))
    refuse(dataset_tool.main, '--source', path, '--dest', tmp_path / 'none.zip', '--skip-images=7', status=1,
           says=('--skip-images=7', '7 images'))


def test_shuffled_images_keep_their_labels_and_their_beginnings_are_nested(tmp_path):
    images = {f'{i}.png': picture(i) for i in range(9)}
    path = write(tmp_path / 'set', images | {'dataset.json': {'labels': [[f'{i}.png', i] for i in range(9)]}})
    tool(path, tmp_path / 'all.zip', '--shuffle=5')
    order = [label for _, label in labels(tmp_path / 'all.zip')]
    assert sorted(order) == [*range(9)] != order
    np.testing.assert_array_equal(ImageDataset(tmp_path / 'all.zip').images(),
                                  ImageDataset(path).images(order))
    tool(path, tmp_path / 'some.zip', '--shuffle=5', '--max-images=3', '--skip-images=2')
    assert [label for _, label in labels(tmp_path / 'some.zip')] == order[2:5]
    refuse(dataset_tool.main, '--source', path, '--dest', tmp_path / 'none.zip', '--shuffle=5',
           '--random-subset=5', '--max-images=2', status=2, says=('--random-subset and --shuffle',))


@pytest.mark.parametrize('source', [CIFAR10, MNIST])
def test_a_random_subset_of_an_archive_keeps_its_labels(inputs, tmp_path, source):
    tool(inputs / source, tmp_path / 'all.zip')
    tool(inputs / source, tmp_path / 'some.zip', '--max-images=3', '--random-subset=1')
    everything = ImageDataset(tmp_path / 'all.zip', use_labels=True, max_size=3, random_seed=1)
    some = ImageDataset(tmp_path / 'some.zip', use_labels=True)
    np.testing.assert_array_equal(some.images(), everything.images())
    np.testing.assert_array_equal(some.labels().argmax(1), everything.labels().argmax(1))


def test_images_left_out_leave_gaps_and_count_for_max_images(tmp_path):
    files = {'0.png': picture(0, 16, 32), '1.png': picture(1, 16, 40), '2.png': picture(2, 9, 16),
             '3.png': picture(3, 8, 8)}
    write(tmp_path / 'set', files)
    args = ['--transform=center-crop-wide', '--resolution=16x8']
    result = tool(tmp_path / 'set', tmp_path / 'out', *args, '--max-images=3')
    assert ImageDataset(tmp_path / 'out').file_names == ['00000/img00000000.png', '00000/img00000002.png']
    assert '1 images are too small for --resolution' in result.stderr
    refuse(dataset_tool.main, '--source', tmp_path / 'set', '--dest', tmp_path / 'none', *args[:1],
           '--resolution=64x64', status=1, says=('no image is left', '4 too small'))
    assert not (tmp_path / 'none').exists()


def test_crops_are_centred_and_grey_becomes_rgb():
    image = Image.fromarray(picture(0, 5, 8, channels=1))
    square = center_crop(image, (5, 5))
    np.testing.assert_array_equal(np.asarray(square), np.repeat(np.asarray(image)[:, 1:6, None], 3, axis=2))
    wide = np.asarray(center_crop_wide(Image.fromarray(picture(0, 8, 8)), (8, 4)))
    assert wide.shape == (8, 8, 3)
    assert wide[:2].max() == wide[6:].max() == 0
    assert center_crop_wide(image, (8, 8)) is None
    enlarged = center_crop(image, (16, 16))
    assert (enlarged.size, enlarged.mode) == ((16, 16), 'RGB')


def test_grey_stays_grey_and_camera_orientation_is_applied(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 3
    write(tmp_path / 'set', {'a.png': encode(picture(channels=1), exif=exif.tobytes())})
    tool(tmp_path / 'set', tmp_path / 'out')
    written = contents(tmp_path / 'out')['00000/img00000000.png']
    np.testing.assert_array_equal(pixels(written), np.rot90(picture(channels=1), 2))
    assert not Image.open(io.BytesIO(written)).getexif()


def test_images_beyond_max_images_are_not_touched(tmp_path):
    write(tmp_path / 'set', {'a.png': picture(), 'b.png': b'broken'})
    tool(tmp_path / 'set', tmp_path / 'out', '--max-images=1')
    refuse(dataset_tool.main, '--source', tmp_path / 'set', '--dest', tmp_path / 'out2', status=1,
           says=('b.png',))


class FakeLmdb(types.ModuleType):
    """Enough of the package lmdb to walk through `values`."""

    def __init__(self, values):
        super().__init__('lmdb')
        self.Error = type('Error', (Exception,), {})
        self.values = values

    def open(self, path, **kwargs):
        assert kwargs == {'readonly': True, 'lock': False}
        if self.values is None:
            raise self.Error('broken')
        return self

    def stat(self):
        return {'entries': len(self.values)}

    def begin(self):
        return self

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def cursor(self):
        return iter((b'%d' % i, value) for i, value in enumerate(self.values))


def test_unreadable_lsun_entries_leave_no_gap(tmp_path, monkeypatch):
    (tmp_path / 'tower_lmdb').mkdir()
    values = [b'x', *(encode(picture(i)) for i in range(2)), b'', *(encode(picture(i)) for i in range(2, 5))]
    monkeypatch.setitem(sys.modules, 'lmdb', FakeLmdb(values))
    result = tool(tmp_path / 'tower_lmdb', tmp_path / 'out', '--max-images=3')
    assert '2 entries are no readable images' in result.stderr
    dataset = ImageDataset(tmp_path / 'out')
    assert dataset.file_names == [f'00000/img{i:08d}.png' for i in range(3)]
    np.testing.assert_array_equal(dataset.images(), [picture(i).transpose(2, 0, 1) for i in range(3)])
    assert labels(tmp_path / 'out') is None


def test_lsun_folders_need_lmdb(tmp_path, monkeypatch):
    (tmp_path / 'tower_lmdb').mkdir()
    args = ['--source', tmp_path / 'tower_lmdb', '--dest', tmp_path / 'out']
    monkeypatch.setitem(sys.modules, 'lmdb', FakeLmdb(None))
    refuse(dataset_tool.main, *args, status=1, says=('--source', 'tower_lmdb', 'not a readable LMDB'))
    monkeypatch.setitem(sys.modules, 'lmdb', None)
    refuse(dataset_tool.main, *args, status=1, says=('--source', 'need the package lmdb'))


class Hostile:
    """Pickles as a call of `function` with `args`."""

    def __init__(self, function, *args):
        self.call = function, args

    def __reduce__(self):
        return self.call


def cifar10(path, batch):
    batch = pickle.dumps(batch, protocol=2)
    return write(path / CIFAR10, {f'cifar-10-batches-py/data_batch_{i}': batch for i in range(1, 6)})


DATA_2 = np.zeros((2, 3072), dtype=np.uint8)


@pytest.mark.parametrize(('batch', 'says'), [
    ({'data': Hostile(print, 'pwned'), 'labels': []}, 'names \'__builtin__.print\''),
    ({'data': Hostile(np.ndarray, (1,)), 'labels': []}, 'not a CIFAR-10 batch'),
    ({'data': Hostile(np.load, 'x'), 'labels': []}, 'names \'numpy.load\''),
    ({'data': np.array([print]), 'labels': []}, 'no number'),
    ({'data': DATA_2.astype(np.int64), 'labels': [0, 1]}, 'expected `data` uint8'),
    ({'data': DATA_2[:, 1:], 'labels': [0, 1]}, 'expected `data` uint8'),
    ({'data': DATA_2, 'labels': [0]}, 'expected `data` uint8'),
    ({'data': DATA_2, 'labels': [0, -1]}, 'expected `data` uint8'),
    ({'data': DATA_2}, 'expected `data` uint8'),
    ({'data': DATA_2, 'labels': [0, 1], ((),): 1}, 'a dict key'),
    ({'data': {1, 2}, 'labels': []}, 'expected `data` uint8'),
    ([], 'expected `data` uint8'),
])
def test_hostile_or_odd_cifar10_files_are_refused_unrun(tmp_path, batch, says, capfd):
    refuse(dataset_tool.main, '--source', cifar10(tmp_path, batch), '--dest', tmp_path / 'out', status=1,
           says=('--source', 'data_batch_1', says))
    assert 'pwned' not in capfd.readouterr().out
    assert not (tmp_path / 'out').exists()


@pytest.mark.parametrize('order', ['C', 'F'])
@pytest.mark.parametrize('module', [b'numpy._core.multiarray', b'numpy.core.multiarray'])
def test_cifar10_pickled_by_old_and_new_numpy_is_read(tmp_path, order, module):
    data = np.random.RandomState(0).randint(256, size=(2, 3072), dtype=np.uint8)
    batch = pickle.dumps({'data': np.asarray(data, order=order), 'labels': [3, 1]}, protocol=2)
    batch = batch.replace(b'numpy._core.multiarray', module)
    assert module in batch
    write(tmp_path / CIFAR10, {f'cifar-10-batches-py/data_batch_{i}': batch for i in range(1, 6)})
    tool(tmp_path / CIFAR10, tmp_path / 'out')
    np.testing.assert_array_equal(ImageDataset(tmp_path / 'out').images([8, 9]), data.reshape(2, 3, 32, 32))


def test_cifar10_as_published_by_python_2_is_read(tmp_path):
    data = np.random.RandomState(0).randint(256, size=(2, 3072), dtype=np.uint8)
    batch = pickle.dumps({'data': data, 'labels': [3, 1]}, protocol=3)
    length = struct.pack('<I', data.nbytes)
    for new, old in ((b'B' + length, b'T' + length), (b'X\4\0\0\0data', b'U\4data'),
                     (b'X\6\0\0\0labels', b'U\6labels'), (b'numpy._core', b'numpy.core')):
        assert new in batch
        batch = batch.replace(new, old)
    write(tmp_path / CIFAR10, {f'cifar-10-batches-py/data_batch_{i}': batch for i in range(1, 6)})
    tool(tmp_path / CIFAR10, tmp_path / 'out')
    np.testing.assert_array_equal(ImageDataset(tmp_path / 'out').images([8, 9]), data.reshape(2, 3, 32, 32))
    assert labels(tmp_path / 'out')[8:] == [['00000/img00000008.png', 3], ['00000/img00000009.png', 1]]


@pytest.mark.parametrize(('source', 'data', 'says'), [
    (CIFAR10, b'no gzip', 'not a readable .tar.gz'),
    (MNIST, b'no gzip', 'not a readable gzip file'),
    (MNIST, gzip.compress(b'abc'), 'not an idx file'),
    (MNIST, idx(2, 28, 28, values=99), '99 bytes of values, its header says [2, 28, 28]'),
    (MNIST, idx(1, 28, 28, values=784), 'train-labels-idx1-ubyte.gz must lie beside it'),
    ('set.tar', b'x', 'expected a folder, a .zip, an .npz file, cifar-10-python.tar.gz or train-images-idx3'),
    ('set.zip', b'x', 'not a zip file'),
    ('gone', None, 'no such file or folder'),
])
def test_unreadable_sources_are_refused_by_name(tmp_path, source, data, says):
    if data is not None:
        (tmp_path / source).write_bytes(data)
    refuse(dataset_tool.main, '--source', tmp_path / source, '--dest', tmp_path / 'out.zip', status=1,
           says=('--source', source, says))
    assert not (tmp_path / 'out.zip').exists()


def test_mnist_labels_must_match(tmp_path):
    (tmp_path / MNIST).write_bytes(idx(2, 28, 28, values=2 * 784))
    (tmp_path / 'train-labels-idx1-ubyte.gz').write_bytes(idx(3, values=3))
    refuse(dataset_tool.main, '--source', tmp_path / MNIST, '--dest', tmp_path / 'out', status=1,
           says=('[2, 28, 28] with 3 labels',))


def test_missing_cifar10_batch_is_named(tmp_path):
    batch = pickle.dumps({'data': DATA_2, 'labels': [0, 1]}, protocol=2)
    write(tmp_path / CIFAR10, {'cifar-10-batches-py/data_batch_1': batch})
    refuse(dataset_tool.main, '--source', tmp_path / CIFAR10, '--dest', tmp_path / 'out', status=1,
           says=('data_batch_2 is missing',))


@pytest.mark.parametrize(('files', 'says'), [
    ({'notes.txt': b''}, 'no images and no .npz files in it (1 files in all)'),
    ({'a.png': picture(0, 8, 6)}, 'a.png is 6x8 RGB; images must be square'),
    ({'a.png': picture(0, 6, 6)}, 'a power of two: choose --resolution'),
    ({'a.png': picture(), 'b.png': picture(0, 4, 4)}, 'b.png is 4x4 RGB, and a.png is 8x8 RGB'),
    ({'a.png': picture(), 'b.png': picture(channels=1)}, 'b.png is 8x8 grey, and a.png is 8x8 RGB'),
    ({'a.png': picture(), 'b.png': b'broken'}, 'b.png: not a readable image'),
    ({'a.png': picture(0, 4, 4), 'b.png': picture(0, 9, 9), 'c.png': picture(), 'd.png': picture()},
     '2 of 4 images can\'t be used: a.png is 4x4 RGB; b.png is 9x9 RGB, and c.png is 8x8 RGB; all must'),
    ({f'{i:02d}.png': picture() if i == 5 else b'broken' for i in range(14)},
     '13 of 14 images can\'t be used: 00.png: not a readable image (PIL finds no image in it); 01.png: '),
    ({'a.png': picture(), 'b.png': b'broken', 'c.png': picture(), 'd.png': picture(0, 9, 9)},
     '2 of 4 images can\'t be used: b.png: not a readable image (PIL finds no image in it); d.png is 9x9'),
    ({'a.png': encode(np.zeros((8, 8, 4), dtype=np.uint8))}, 'a.png: has transparent pixels'),
    ({'a.png': picture(), 'dataset.json': {'labels': [['a.png', -1]]}}, 'the label of a.png is -1'),
    ({'a.png': picture(), 'dataset.json': b'{'}, 'not JSON'),
])
@pytest.mark.parametrize('dest', ['out', 'out.zip'])
def test_what_makes_no_data_set_is_refused_and_nothing_is_left(tmp_path, files, says, dest):
    write(tmp_path / 'set', files)
    refuse(dataset_tool.main, '--source', tmp_path / 'set', '--dest', tmp_path / dest, status=1,
           says=(f'--source {tmp_path / "set"}', says))
    assert [path.name for path in tmp_path.iterdir()] == ['set']


@pytest.mark.parametrize(('dest', 'says'), [
    ('set.tar', 'expected a folder or a .zip'),
    ('full', 'the folder must be empty or absent'),
    ('file', 'expected a folder or a .zip'),
    ('folder.zip', 'in the way'),
    ('file/out.zip', 'can\'t write there'),
])
def test_impossible_destinations_are_refused(tmp_path, dest, says):
    write(tmp_path, {'set/a.png': picture(), 'full/x': b'', 'file': b'', 'folder.zip/x': b''})
    refuse(dataset_tool.main, '--source', tmp_path / 'set', '--dest', tmp_path / dest, status=1,
           says=('--dest', dest.removesuffix('/out.zip'), says))


def test_an_empty_folder_and_missing_parents_are_fine(tmp_path):
    write(tmp_path / 'set', {'a.png': picture()})
    (tmp_path / 'empty').mkdir()
    for dest in (tmp_path / 'empty', tmp_path / 'new' / 'er' / 'out.zip', tmp_path / 'v1.0'):
        tool(tmp_path / 'set', dest)
        assert len(ImageDataset(dest)) == 1


@pytest.mark.parametrize(('args', 'says'), [
    (['--max-images=0'], '--max-images'),
    (['--random-subset=1'], '--random-subset=1 needs --max-images'),
    (['--random-subset=-1', '--max-images=2'], '--random-subset'),
    (['--workers=0'], '--workers'),
    (['--resolution=16'], '--resolution'),
    (['--resolution=0x0'], '--resolution'),
    (['--resolution=16384x16384'], 'of at most 8192 pixels'),
    (['--class-order=size'], '--class-order'),
    (['--resolution=16x8'], 'must be square'),
    (['--resolution=12x12'], 'power of two'),
    (['--transform=center-crop'], '--transform=center-crop needs --resolution'),
    (['--transform=center-crop', '--resolution=16x8'], 'must be square'),
    (['--transform=center-crop-wide', '--resolution=8x16'], 'a height of at most the width'),
    (['--transform=squash'], '--transform'),
])
def test_impossible_options_are_refused_before_anything_is_read(tmp_path, args, says):
    refuse(dataset_tool.main, '--source=gone', '--dest', tmp_path / 'out', *args, status=2, says=(says,))


def test_an_interrupted_run_leaves_nothing_that_looks_finished(tmp_path, monkeypatch):
    write(tmp_path / 'set', {'a.png': picture(), 'b.png': picture()})

    def interrupt(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(dataset_writer, '_convert', interrupt)
    for dest in ('out', 'out.zip'):
        run(dataset_tool.main, '--source', tmp_path / 'set', '--dest', tmp_path / dest, status=130)
    assert [path.name for path in tmp_path.iterdir()] == ['set']


def test_a_folder_is_not_written_into_its_source(tmp_path):
    source = write(tmp_path / 'source', {'a.png': np.zeros((4, 4, 3), np.uint8)})
    refuse(dataset_tool.main, '--source', source, '--dest', source / 'sub' / '..' / 'set', status=2,
           says=('--dest', 'lies in --source'))
    assert [path.name for path in source.iterdir()] == ['a.png']
