"""Extraction: the order, shapes and kinds of images, what broken ones do, how far ahead is decoded."""

import threading
import time

import numpy as np
import pytest
from PIL import Image

from data.image_stream import open_images
from descriptors.extraction import extract
from descriptors.features import load_features
from descriptors.pixel_descriptors import PixelDescriptor, pixel_descriptor
from image_sets import encode, write
from torch_utils.errors import UserError
from torch_utils.processes import map_ahead


def pixels(n=11, size=4, seed=0):
    return np.random.RandomState(seed).randint(256, size=(n, size, size, 3), dtype=np.uint8)


def run(source, out, **options):
    options = {'descriptor': PixelDescriptor(), 'batch': 4, 'workers': 2, 'provenance': {}} | options
    return extract(open_images(str(source), '--images'), path=out, **options)


@pytest.mark.parametrize('kind', ['folder', 'zip', 'npz', 'folder of npz'])
def test_all_sources_give_the_descriptors_in_order_of_names(tmp_path, kind):
    names = [f'{i:02d}.png' for i in range(11)]
    shuffled = dict(sorted(zip(names, pixels(), strict=True), key=lambda item: item[0][::-1]))
    source = tmp_path / {'folder': 'x', 'zip': 'x.zip', 'npz': 'x.npz', 'folder of npz': 'x'}[kind]
    if 'npz' in kind:
        (tmp_path / 'x').mkdir()
        np.savez(source if kind == 'npz' else source / 'x.npz', samples=pixels())
        names = [f'x.npz[{i}]' for i in range(11)]
    else:
        write(source, shuffled)
    values = run(source, tmp_path / 'f.npz')
    features = load_features(tmp_path / 'f.npz', '--source')
    np.testing.assert_array_equal(features.values, pixel_descriptor(pixels().transpose(0, 3, 1, 2)))
    assert features.file_names == names
    np.testing.assert_array_equal(values, features.values)


class Corner:
    """A descriptor that takes images of any size, as SSCD does."""

    kind, identity, length = 'corner', 'corner', 'raw'

    def prepare(self, image):
        return np.asarray(image.convert('RGB').crop((0, 0, 1, 1)))[0, 0]

    def compute(self, images):
        return images.astype(np.float32)


def test_images_of_other_sizes_and_kinds_are_brought_to_rgb(tmp_path):
    rgb = Image.fromarray(pixels()[0])
    files = {'a.png': encode(rgb), 'b.png': encode(rgb.convert('L')), 'c.png': encode(rgb.resize((9, 5))),
             'd.png': encode(rgb.convert('P')), 'e.png': encode(rgb.convert('RGBA')),
             'f.bmp': encode(rgb, 'BMP')}
    run(write(tmp_path / 'x', files), tmp_path / 'f.npz', descriptor=Corner())
    with np.load(tmp_path / 'f.npz') as file:
        rows = file['features']
    assert rows.shape == (6, 3)
    for row in (0, 4, 5):
        np.testing.assert_array_equal(rows[row], pixels()[0, 0, 0])
    assert len(set(rows[1])) == 1


ODD_IMAGES = {
    'broken': (b'no image', 'not a readable image'),
    'cut short': (encode(pixels(size=64)[0])[:500], 'not a readable image'),
    '16-bit': (encode(np.full((4, 4), 40000, np.uint16)), '16 bits'),
    'transparent': (encode(np.full((4, 4, 4), 100, np.uint8)), 'transparent'),
    'of another size': (encode(pixels(size=5)[0]), r'\[3, 5, 5\]'),
    'grey': (encode(pixels()[0, :, :, 0]), r'\[1, 4, 4\]'),
}


@pytest.mark.parametrize('kind', ODD_IMAGES)
def test_an_odd_image_in_the_middle_is_named_and_nothing_is_written(tmp_path, kind):
    content, says = ODD_IMAGES[kind]
    files = {f'{i:02d}.png': image for i, image in enumerate(pixels())} | {'06.png': content}
    source = write(tmp_path / 'x', files)
    with pytest.raises(UserError, match=says) as err:
        run(source, tmp_path / 'f.npz')
    assert str(err.value).startswith(f'--images {source}: 06.png')
    assert '\n' not in str(err.value)
    assert [path.name for path in tmp_path.iterdir()] == ['x']


def test_a_source_without_images_is_refused(tmp_path):
    with pytest.raises(UserError, match='no images'):
        open_images(str(write(tmp_path / 'x', {'readme.txt': b''})), '--images')
    with pytest.raises(UserError, match='no such file'):
        open_images(str(tmp_path / 'y'), '--images')


def test_the_hash_tells_images_and_names_apart_and_not_how_they_are_stored(tmp_path):
    def hash_of(name, files):
        run(write(tmp_path / name, files), tmp_path / 'f.npz')
        return load_features(tmp_path / 'f.npz', '').provenance['images_sha256']
    files = {f'{i}.png': image for i, image in enumerate(pixels())}
    first = hash_of('a', files)
    assert hash_of('b.zip', files) == first
    assert hash_of('c', {name: encode(image, compress_level=0) for name, image in files.items()}) == first
    changed = pixels()
    changed[5, 0, 0, 0] ^= 1
    assert hash_of('d', {f'{i}.png': image for i, image in enumerate(changed)}) != first
    assert hash_of('e', {f'{i}x.png': image for i, image in enumerate(pixels())}) != first


@pytest.mark.parametrize(('batch', 'workers'), [(1, 1), (3, 2), (100, 5)])
def test_batches_and_workers_change_nothing(tmp_path, batch, workers):
    source = write(tmp_path / 'x', {f'{i:02d}.png': image for i, image in enumerate(pixels())})
    run(source, tmp_path / 'a.npz')
    run(source, tmp_path / 'b.npz', batch=batch, workers=workers)
    assert (tmp_path / 'a.npz').read_bytes() == (tmp_path / 'b.npz').read_bytes()


def test_workers_run_ahead_but_not_further_than_told():
    started, gate = [], threading.Event()

    def function(item):
        started.append(item)
        return item
    results = map_ahead(function, iter(range(100)), workers=2, ahead=5)
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    gate.wait(0.05)
    assert 3 <= len(started) <= 8  # the third result is out when the eighth item is taken
    assert list(results) == list(range(3, 100))


def test_an_error_comes_in_order_and_ends_the_work():
    started = []

    def function(item):
        started.append(item)
        time.sleep(0.001)
        if item in (4, 6):
            raise ValueError(item)
        return item
    results = map_ahead(function, range(1000), workers=3, ahead=20)
    with pytest.raises(ValueError, match='4'):
        list(results)
    assert len(started) < 100


def test_all_images_that_cannot_be_used_are_named_at_once(tmp_path):
    files = dict(zip('abcd', map(encode, pixels(4)), strict=True))
    files |= {'b': b'no image', 'd': encode(pixels(size=8)[0])}
    source = write(tmp_path / 'set', {f'{name}.png': data for name, data in files.items()})
    with pytest.raises(UserError, match=r'set: 2 of 4 images can\'t be used: b\.png.*; d\.png is'):
        run(source, tmp_path / 'a.npz', batch=2)
    assert not (tmp_path / 'a.npz').exists()
