"""Reading data sets: folders, zips and .npz files, labels, subsets, mirrored copies, and what is refused."""

import io
import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from PIL import Image

from data.dataset import ImageDataset, kept_by_max_size
from data.image_decoding import decode_image
from data.npz_images import StoredArray, read_npz
from helpers import golden
from image_sets import encode, write
from torch_utils.errors import UserError

SUBSETS = {name: kept for name, kept in golden('orders').items() if name.startswith('subset/')}


def rgb(n=3, size=4):
    return np.random.RandomState(n).randint(256, size=(n, size, size, 3), dtype=np.uint8)


def chw(images):
    return images.transpose(0, 3, 1, 2)


@pytest.mark.parametrize('place', ['set', 'set.zip'])
def test_images_come_in_the_order_of_their_names_as_strings(tmp_path, place):
    images = rgb(4)
    path = write(tmp_path / place, {'a/x.png': images[2], 'b.PNG': images[3], 'a-b/x.png': images[1],
                                    'README': b'no image', '0/deep/er.png': images[0], 'notes.txt': b''})
    dataset = ImageDataset(path)
    assert dataset.file_names == ['0/deep/er.png', 'a-b/x.png', 'a/x.png', 'b.PNG']
    np.testing.assert_array_equal(dataset.images(), chw(images))
    assert (dataset.name, dataset.image_shape) == ('set', (3, 4, 4))
    assert (dataset.num_channels, dataset.resolution) == (3, 4)
    assert (len(dataset), dataset.label_dim) == (4, 0)
    image, label = dataset[-1]
    np.testing.assert_array_equal(image, chw(images)[3])
    assert image.dtype == np.uint8
    assert (label.dtype, label.shape) == (np.float32, (0,))


def test_grey_images_keep_their_channel(tmp_path):
    dataset = ImageDataset(write(tmp_path / 'grey', {'0.png': rgb(1)[0, :, :, 0]}))
    assert dataset.images().shape == (1, 1, 4, 4)
    np.testing.assert_array_equal(dataset.images()[0, 0], rgb(1)[0, :, :, 0])


@pytest.mark.parametrize('cache', [True, False])
def test_mirrored_copies_follow_all_images(tmp_path, cache):
    images = chw(rgb(3))
    dataset = ImageDataset(write(tmp_path / 'set.zip', {f'{i}.png': image for i, image in enumerate(rgb(3))}),
                           xflip=True, cache=cache)
    expected = np.concatenate([images, images[..., ::-1]])
    assert len(dataset) == 6
    assert dataset.file_names == ['0.png', '1.png', '2.png'] * 2
    for indices in (None, slice(2, 5), [5, 0, 0, 3], np.array([4]), torch.tensor([1, 4]), []):
        np.testing.assert_array_equal(dataset.images(indices),
                                      expected[slice(None) if indices is None else np.asarray(indices, int)
                                               if not isinstance(indices, slice) else indices])
    with pytest.raises(IndexError):
        dataset[6]


def test_what_is_given_out_can_be_changed_without_harm(tmp_path):
    dataset = ImageDataset(write(tmp_path / 'set', {'0.png': rgb(1)[0]}))
    dataset.images()[:] = 0
    dataset[0][0][:] = 0
    np.testing.assert_array_equal(dataset.images(), chw(rgb(1)))


def test_cache_decodes_once_and_no_cache_at_every_access(tmp_path):
    path = write(tmp_path / 'set', {'0.png': rgb(1)[0]})
    cached, uncached = ImageDataset(path), ImageDataset(path, cache=False)
    cached.images()
    write(path, {'0.png': rgb(2)[1]})
    np.testing.assert_array_equal(cached.images(), chw(rgb(1)))
    np.testing.assert_array_equal(uncached.images(), chw(rgb(2)[1:]))


@pytest.mark.parametrize('name', SUBSETS)
def test_max_size_keeps_the_references_images(name):
    n, size, seed = (int(part.strip('nmaxsed')) for part in name.removeprefix('subset/').split('-'))
    np.testing.assert_array_equal(kept_by_max_size(n, size, seed), SUBSETS[name])


def test_max_size_comes_before_mirrored_copies_and_after_label_dim(tmp_path):
    images, kept = rgb(6), kept_by_max_size(6, 4, 3).tolist()
    labels = [[f'{i}.png', 9 if i not in kept else i] for i in range(6)]
    path = write(tmp_path / 'set', {f'{i}.png': image for i, image in enumerate(images)} |
                 {'dataset.json': {'labels': labels}})
    dataset = ImageDataset(path, max_size=4, random_seed=3 + 2 ** 31, xflip=True, use_labels=True)
    assert dataset.label_dim == 10
    np.testing.assert_array_equal(dataset.labels().argmax(1), kept * 2)
    np.testing.assert_array_equal(dataset.images(slice(4)), chw(images)[kept])
    assert len(ImageDataset(path, max_size=7)) == 6
    with pytest.raises(UserError, match='max_size must be at least 1, got 0'):
        ImageDataset(path, max_size=0)


def test_integer_labels_become_one_hot_and_lists_stay_vectors(tmp_path):
    images = {'a.png': rgb()[0], 'b.png': rgb()[1]}
    classes = write(tmp_path / 'classes', images | {'dataset.json': {'labels': [['b.png', 2], ['a.png', 0],
                                                                                ['gone.png', 7]]}})
    vectors = write(tmp_path / 'vectors', images | {'dataset.json': {'labels': [['b.png', [2, 1e-1]],
                                                                                ['a.png', [0, 3]]]}})
    one_hot = ImageDataset(classes, use_labels=True)
    assert ImageDataset(classes).label_dim == 0
    np.testing.assert_array_equal(one_hot.labels(), [[1, 0, 0], [0, 0, 1]])
    np.testing.assert_array_equal(ImageDataset(vectors, use_labels=True).labels([1, 0]),
                                  np.array([[2, 0.1], [0, 3]], dtype=np.float32))
    assert one_hot.labels().dtype == one_hot[0][1].dtype == np.float32
    assert one_hot.classes.tolist() == [0, 2]
    assert ImageDataset(classes).classes is ImageDataset(vectors, use_labels=True).classes is None


def test_labels_are_taken_if_there_are_any(tmp_path):
    images = {'a.png': rgb()[0]}
    write(tmp_path / 'with', images | {'dataset.json': {'labels': [['a.png', 1]]}})
    write(tmp_path / 'without', images)
    assert ImageDataset(tmp_path / 'with', use_labels=None).label_dim == 2
    assert ImageDataset(tmp_path / 'without', use_labels=None).label_dim == 0


@pytest.mark.parametrize(('labels', 'says'), [
    ([1], 'must be of the form'),
    ({'labels': {'a.png': 1}}, 'must be of the form'),
    ({'labels': [['a.png', 1]]}, 'no label for b.png; 1 of 2'),
    ({'labels': [['a.png', [1]], ['b.png', []]]}, r'the label of b.png is \[\]'),
    ({'labels': [['a.png', 1], ['b.png', [1]]]}, 'the labels of a.png and b.png differ'),
    ({'labels': [['a.png', [1, 2]], ['b.png', [1]]]}, 'the labels of a.png and b.png differ'),
    ({'labels': None}, r'--cond=1 needs class labels, and --data \S+ has none'),
    ({'labels': []}, 'has none'),
])
def test_bad_labels_are_refused_by_name(tmp_path, labels, says):
    path = write(tmp_path / 'set', {'a.png': rgb()[0], 'b.png': rgb()[1], 'dataset.json': labels})
    ImageDataset(path)  # no harm where labels are not asked for
    with pytest.raises(UserError, match=says):
        ImageDataset(path, use_labels=True)


@pytest.mark.parametrize('place', ['set', 'set.zip', 'single.npz'])
def test_npz_files_are_read_in_name_order_with_their_labels(tmp_path, place):
    images = rgb(5)
    parts = {'b.npz': {'samples': images[2:], 'labels': np.array([1, 0, 2])},
             'a.npz': {'samples': images[:2], 'labels': np.array([3, 3])}}
    if place == 'single.npz':
        parts = {place: {'samples': images, 'labels': np.array([3, 3, 1, 0, 2])}}
    files = {}
    for name, arrays in parts.items():
        file = io.BytesIO()
        np.savez(file, **arrays)
        files[name] = file.getvalue()
    if place == 'single.npz':
        write(tmp_path, files)
    else:
        write(tmp_path / place, files | {'README': b'what these are'})
    dataset = ImageDataset(tmp_path / place, use_labels=True)
    np.testing.assert_array_equal(dataset.images(), chw(images))
    np.testing.assert_array_equal(dataset.labels().argmax(1), [3, 3, 1, 0, 2])
    np.testing.assert_array_equal(ImageDataset(tmp_path / place, max_size=3, xflip=True).images([4]),
                                  chw(images)[kept_by_max_size(5, 3)][1:2, ..., ::-1])


def test_uncompressed_npz_files_stay_on_the_disk(tmp_path):
    images = rgb(5)
    np.savez(tmp_path / 'stored.npz', labels=np.arange(5), samples=images)
    np.savez_compressed(tmp_path / 'packed.npz', samples=images)
    assert isinstance(read_npz(tmp_path / 'stored.npz', '', '').samples, StoredArray)
    for name in ('stored.npz', 'packed.npz'):
        dataset = ImageDataset(tmp_path / name, cache=False)
        np.testing.assert_array_equal(dataset.images([4, 0, 0, 2]), chw(images)[[4, 0, 0, 2]])


@pytest.mark.parametrize('save', [np.savez, np.savez_compressed])
def test_npz_files_with_a_wrong_byte_are_refused(tmp_path, save):
    path = tmp_path / 'set.npz'
    save(path, samples=rgb(5))
    data = bytearray(path.read_bytes())
    data[250] ^= 1
    path.write_bytes(data)
    with pytest.raises(UserError, match=r'--data \S+set.npz: not a readable .npz'):
        ImageDataset(path)


@pytest.mark.parametrize(('arrays', 'says'), [
    ({'pictures': rgb()}, 'expected an array `samples`, found pictures'),
    ({'samples': rgb().astype(np.float32)}, 'is float32 .3, 4, 4, 3., expected uint8'),
    ({'samples': chw(rgb())}, 'expected uint8'),
    ({'samples': rgb()[:0]}, 'expected uint8'),
    ({'samples': np.array([None])}, 'not a readable .npz file of plain arrays'),
    ({'samples': rgb(), 'labels': np.array([0, 1])}, '`labels` is int64 .2., expected 3'),
    ({'samples': rgb(), 'labels': np.array([0, 1, -1])}, 'expected 3 integers from 0 to 999999'),
])
def test_bad_npz_files_are_refused(tmp_path, arrays, says):
    np.savez(tmp_path / 'set.npz', **arrays)
    with pytest.raises(UserError, match=rf'--data \S+set.npz.*{says}'):
        ImageDataset(tmp_path / 'set.npz')


@pytest.mark.parametrize(('place', 'files', 'says'), [
    ('gone', None, 'no such file or folder'),
    ('empty', {'notes.txt': b''}, 'no images and no .npz files'),
    ('set.tar', b'', 'expected a folder, a .zip or an .npz file'),
    ('set.zip', b'PK', 'not a zip file'),
    ('set.npz', b'PK', 'not a readable .npz'),
    ('set', {'bad.png': b'hello'}, 'bad.png: not a readable image'),
    ('set', {'cut.png': encode(rgb()[0])[:60]}, 'cut.png: not a readable image'),
    ('set', {'a.png': rgb()[0], 'b.png': rgb(size=8)[0]}, 'b.png is 8x8 RGB, and a.png is 4x4 RGB'),
    ('set.zip', {'a.png': rgb()[0], 'b.png': rgb()[0, :, :, 0]}, 'b.png is 4x4 grey, and a.png is 4x4 RGB'),
    ('set', {'bomb.png': b'\x89PNG\r\n\x1a\n'}, 'bomb.png: not a readable image'),
])
def test_what_cannot_be_read_is_refused_by_name(tmp_path, place, files, says):
    if isinstance(files, bytes):
        (tmp_path / place).write_bytes(files)
    elif files:
        write(tmp_path / place, files)
    with pytest.raises(UserError, match=rf'--dataset \S+{place}.*{says}') as caught:
        ImageDataset(tmp_path / place, option='--dataset').images()
    assert '\n' not in str(caught.value)


@pytest.mark.parametrize('place', ['set', 'set.zip'])
def test_all_images_that_can_not_be_used_are_named_at_once(tmp_path, place):
    path = write(tmp_path / place, {f'{i:02d}.png': rgb()[0] for i in range(20)} | {
        f'{i:02d}.png': b'broken' for i in range(2, 16)} | {'01.png': rgb(size=8)[0]})
    with pytest.raises(UserError, match=r'15 of 20 images can.t be used: 01.png is 8x8 RGB, and 00.png is '
                       r'4x4 RGB; all must be alike; 02.png: not a .*; 10.png: .*; 5 more$') as caught:
        ImageDataset(path).images()
    assert '11.png' not in str(caught.value)


def test_damaged_zip_member_is_refused_by_name(tmp_path):
    path = write(tmp_path / 'set.zip', {'a.png': rgb(size=16)[0]})
    data = bytearray(path.read_bytes())
    data[200] ^= 1
    path.write_bytes(data)
    with pytest.raises(UserError, match=r'a\.png can\'t be unpacked'):
        ImageDataset(path)


def test_images_that_are_not_square_can_be_read_but_have_no_resolution(tmp_path):
    dataset = ImageDataset(write(tmp_path / 'set', {'a.png': rgb()[0, :2]}))
    assert dataset.images().shape == (1, 3, 2, 4)
    with pytest.raises(UserError, match='images are 4x2, and networks take square ones only'):
        dataset.resolution  # noqa: B018


@pytest.mark.parametrize('loaded', [False, True])
def test_a_data_set_can_be_sent_to_another_process(tmp_path, loaded):
    dataset = ImageDataset(write(tmp_path / 'set.zip', {'a.png': rgb(1)[0]}))
    if loaded:
        dataset.images()
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(dataset)).images(), chw(rgb(1)))


def test_threads_can_read_one_zip_at_once(tmp_path):
    images = rgb(40, size=32)
    path = write(tmp_path / 'set.zip', {f'{i:02d}.png': image for i, image in enumerate(images)})
    dataset = ImageDataset(path, cache=False)
    with ThreadPoolExecutor(8) as pool:
        read = list(pool.map(lambda i: dataset.images([i])[0], list(range(40)) * 5))
    np.testing.assert_array_equal(read, list(chw(images)) * 5)


def test_linked_folders_are_followed_but_not_in_circles(tmp_path):
    write(tmp_path / 'elsewhere', {'x.png': rgb()[0]})
    path = write(tmp_path / 'set', {'own.png': rgb()[0]})
    (path / 'linked').symlink_to(tmp_path / 'elsewhere')
    (path / 'circle').symlink_to(path)
    assert ImageDataset(path).file_names == ['linked/x.png', 'own.png']


GREY = np.arange(6, dtype=np.uint8).reshape(2, 3) * 40
COLOUR = np.stack([GREY, GREY // 2, 255 - GREY], axis=2)
OPAQUE = np.full((2, 3, 1), 255, dtype=np.uint8)


@pytest.mark.parametrize(('data', 'pixels'), [
    (encode(GREY), GREY),
    (encode(COLOUR), COLOUR),
    (encode(Image.fromarray(GREY).point(lambda x: 255 * (x > 99)).convert('1')), np.where(GREY > 99, 255, 0)),
    (encode(Image.fromarray(COLOUR).quantize(8)), COLOUR),
    (encode(np.concatenate([GREY[..., None], OPAQUE], axis=2)), GREY),
    (encode(np.concatenate([COLOUR, OPAQUE], axis=2)), COLOUR),
    (encode(Image.fromarray(COLOUR), transparency=(1, 2, 3)), COLOUR),
    (encode(COLOUR, format='BMP'), COLOUR),
])
def test_what_fits_grey_or_rgb_exactly_is_converted(data, pixels):
    image = decode_image(data, 'x')
    assert image.mode == ('L' if pixels.ndim == 2 else 'RGB')
    np.testing.assert_array_equal(np.asarray(image), pixels)


def test_a_colour_that_stands_for_transparency_is_refused():
    data = encode(Image.fromarray(COLOUR), transparency=(0, 0, 255))
    with pytest.raises(UserError, match=r'^folder/x\.png: has transparent pixels .mode RGB'):
        decode_image(data, 'folder/x.png')
