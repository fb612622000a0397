"""Damaged and strange data sets, by the tool that makes data sets and by the reader that trains on them.

Each works as dataset_tool.py's help says, or is refused in one line with the file's name.
"""

import io
import json
import os
import struct
import tarfile
import zipfile
import zlib

import numpy as np
import pytest
from PIL import Image, ImageOps

import dataset_tool
from crafted_zips import Member, bomb, craft
from data.dataset import ImageDataset
from data.image_decoding import decode_image
from helpers import refuse, run
from image_sets import encode, write
from torch_utils.errors import UserError

GREY = np.random.RandomState(0).randint(256, size=(8, 8), dtype=np.uint8)
RGB = np.random.RandomState(1).randint(256, size=(8, 8, 3), dtype=np.uint8)
OPAQUE = np.full((8, 8, 1), 255, dtype=np.uint8)
PNG = encode(RGB)
GOOD = ('a.png', Member(data=PNG))


def read(path):
    dataset = ImageDataset(path, use_labels=(path / 'dataset.json').is_file())
    return dataset.images(), dataset.labels()


def refused(path, *words):
    """Both the tool and the reader refuse `path` with these words; the tool leaves nothing."""
    refuse(dataset_tool.main, '--source', path, '--dest', path.parent / 'out.zip', status=1,
           says=('--source', path.name, *words))
    with pytest.raises(UserError) as caught:
        read(path)
    assert '\n' not in str(caught.value)
    for word in ('--data', path.name, *words):
        assert word in str(caught.value)
    assert sorted(path.parent.iterdir()) == [path]


def works(path) -> np.ndarray:
    """Both take `path`, and agree; returns the images, uint8 [N, C, H, W]."""
    run(dataset_tool.main, '--source', path, '--dest', path.parent / 'out.zip')
    images, _ = read(path)
    np.testing.assert_array_equal(read(path.parent / 'out.zip')[0], images)
    return images


# Zips.

@pytest.mark.parametrize(('members', 'says'), [
    ([GOOD, ('../b.png', Member(data=PNG))], "'../b.png' is no name"),
    ([GOOD, ('x/../../b.png', Member(data=PNG))], "'x/../../b.png' is no name"),
    ([GOOD, ('..\\b.png', Member(data=PNG))], 'is no name'),
    ([GOOD, ('/etc/b.png', Member(data=PNG))], "'/etc/b.png' is no name"),
    ([GOOD, ('C:\\b.png', Member(data=PNG))], 'is no name'),
    ([GOOD, ('b\x1b[31m.png', Member(data=PNG))], 'is no name'),
    ([GOOD, ('a\n.png', Member(data=PNG))], 'is no name'),
    ([GOOD, ('', Member(data=PNG))], "'' is no name"),
    ([GOOD, GOOD], 'a.png is in it twice'),
    ([('b.png', Member(data=PNG, flags=1))], 'b.png can\'t be unpacked (it is encrypted)'),
    ([('b.png', Member(data=PNG, method=99))], 'b.png can\'t be unpacked (it is packed in an unusual way'),
    ([('b.png', Member(data=PNG, crc=1))], 'b.png can\'t be unpacked (its contents are damaged)'),
    ([('b.png', Member(data=PNG, size=len(PNG) + 1))], 'b.png can\'t be unpacked'),
    ([('b.png', Member(data=PNG, method=8))], 'b.png can\'t be unpacked'),
    ([('b.png', bomb(10 << 30))], 'b.png: unpacks from'),
    ([('b.png', bomb(10 << 30, claimed=len(PNG)))], 'b.png can\'t be unpacked'),
    ([GOOD, ('dataset.json', bomb(10 << 30))], 'dataset.json: unpacks from'),
    ([('b.png', Member(data=b'PK'))], 'b.png: not a readable image'),
    ([('b.png', Member())], 'b.png: not a readable image'),
    ([('folder/', Member())], 'no images'),
    ([], 'no images'),
])
def test_zips_that_harm_or_deceive_are_refused(tmp_path, members, says):
    (tmp_path / 'set.zip').write_bytes(craft(members))
    if 'dataset.json' in dict(members):
        with pytest.raises(UserError, match=says):
            ImageDataset(tmp_path / 'set.zip', use_labels=True)
        refuse(dataset_tool.main, '--source', tmp_path / 'set.zip', '--dest', tmp_path / 'out', status=1,
               says=(says,))
    else:
        refused(tmp_path / 'set.zip', says)


def test_a_crafted_zip_of_good_members_is_read(tmp_path):
    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    packed = Member(data=packer.compress(PNG) + packer.flush(), method=8, size=len(PNG), crc=zlib.crc32(PNG))
    (tmp_path / 'set.zip').write_bytes(craft([GOOD, ('x..y/b..png', packed), ('./c.png', packed)]))
    np.testing.assert_array_equal(works(tmp_path / 'set.zip'), [RGB.transpose(2, 0, 1)] * 3)


@pytest.mark.parametrize('lost', [1, 21, 22, 30, 80, 200])
def test_a_zip_without_all_of_its_directory_is_refused(tmp_path, lost):
    (tmp_path / 'set.zip').write_bytes(craft([GOOD, ('b.png', Member(data=PNG))])[:-lost])
    refused(tmp_path / 'set.zip', 'not a zip file, or a damaged one')


def test_a_zip_that_lost_its_beginning_is_refused(tmp_path):
    data = craft([GOOD, ('b.png', Member(data=PNG))])
    (tmp_path / 'set.zip').write_bytes(data[100:])
    refused(tmp_path / 'set.zip')
    (tmp_path / 'set.zip').write_bytes(bytes(100) + data[100:])
    refused(tmp_path / 'set.zip', 'a.png can\'t be unpacked')


class Pipe(io.BytesIO):
    """Takes what is written but can't go back in it."""

    def seekable(self) -> bool:
        return False

    def tell(self) -> int:
        raise OSError('a pipe')


def test_a_zip_that_was_streamed_is_read(tmp_path):
    for method in zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED:
        pipe = Pipe()
        with zipfile.ZipFile(pipe, 'w', method) as archive:
            archive.writestr('a.png', PNG)
            with archive.open('b.png', 'w', force_zip64=True) as member:  # sizes follow the contents
                member.write(PNG)
        (tmp_path / 'set.zip').write_bytes(b'#!/bin/sh\n' + pipe.getvalue())
        np.testing.assert_array_equal(works(tmp_path / 'set.zip'), [RGB.transpose(2, 0, 1)] * 2)


# Images.

@pytest.mark.parametrize('number', range(1, 9))
@pytest.mark.parametrize('form', ['JPEG', 'PNG', 'WEBP', 'TIFF'])
def test_a_cameras_orientation_is_applied(number, form):
    data = encode(RGB[:5], form, exif=orientation(number))
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    image = decode_image(data, 'x')
    assert image.size == ((8, 5) if number < 5 else (5, 8))
    np.testing.assert_array_equal(np.asarray(image), np.asarray(upright))


def orientation(number: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = number
    return exif.tobytes()


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack('>I', len(data)) + kind + data + struct.pack('>I', zlib.crc32(kind + data))


def png_of_size(width: int, height: int) -> bytes:
    """A PNG with any size in its header and hardly any pixels."""
    header = struct.pack('>IIBBBBB', width, height, 8, 2, 0, 0, 0)
    return (b'\x89PNG\r\n\x1a\n' + chunk(b'IHDR', header) + chunk(b'IDAT', zlib.compress(bytes(100)))
            + chunk(b'IEND', b''))


def with_text(size: int, kind: bytes = b'zTXt', key: bytes = b'Comment') -> bytes:
    """A PNG with a compressed comment, or profile, that unpacks to `size` bytes."""
    head = key + (b'\0\0\0\0\0' if kind == b'iTXt' else b'\0\0')
    text = bytes(size) if kind == b'iTXt' else zlib.compress(bytes(size), 1)
    return PNG[:33] + chunk(kind, head + text) + PNG[33:]


@pytest.mark.parametrize(('data', 'says'), [
    (PNG[:-1], 'cut short'),
    (PNG[:100], 'cut short'),
    (PNG[:20], 'cut short'),
    (PNG[:60] + b'x' + PNG[61:], 'damaged'),
    (encode(RGB, 'JPEG')[:-2], 'cut short'),
    (encode(RGB, 'JPEG')[:300], 'not a readable image'),
    (encode(GREY.astype(np.uint16) * 256), '16 bits'),
    (encode(GREY.astype(np.float32), 'TIFF'), 'mode F doesn\'t fit'),
    (encode(GREY.astype(np.int32), 'TIFF'), 'mode I doesn\'t fit'),
    (encode(np.concatenate([RGB, OPAQUE // 2], axis=2)), 'transparent pixels (mode RGBA)'),
    (encode(np.concatenate([GREY[..., None], OPAQUE // 2], axis=2)), 'transparent pixels (mode LA)'),
    (encode(Image.fromarray(RGB).quantize(4), transparency=0), 'transparent pixels (mode P)'),
    (encode(Image.fromarray(RGB).convert('CMYK'), 'JPEG'), 'mode CMYK doesn\'t fit'),
    (encode(Image.fromarray(RGB).convert('LAB'), 'TIFF'), 'mode LAB doesn\'t fit'),
    (png_of_size(0, 8), 'not a readable image'),
    (png_of_size(8, 0), 'not a readable image'),
    (png_of_size(30_000, 30_000), 'not a readable image (it has more than 89,478,485 pixels)'),
    (png_of_size(10_000, 10_000), 'not a readable image (it has more than 89,478,485 pixels)'),
    (png_of_size(8192, 8192), 'not a readable image'),
    (with_text(100 << 20), 'not a readable image'),
    (b'', 'not a readable image'),
    (b'%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\nshowpage\n', 'not a readable image'),
    (b'<svg xmlns="http://www.w3.org/2000/svg"/>', 'not a readable image'),
])
def test_images_that_are_broken_or_would_lose_something_are_refused(tmp_path, data, says):
    refused(write(tmp_path / 'set', {'a.png': data}), 'a.png', says)


@pytest.mark.parametrize(('data', 'pixels'), [
    (encode(Image.fromarray(RGB).quantize(256)), RGB),
    (encode(Image.fromarray(GREY).convert('P')), np.repeat(GREY[..., None], 3, axis=2)),
    (encode(np.concatenate([RGB, OPAQUE], axis=2)), RGB),
    (encode(np.concatenate([GREY[..., None], OPAQUE], axis=2)), GREY),
    (encode(RGB, exif=orientation(6)), np.rot90(RGB, -1)),
    (encode(RGB, exif=orientation(2)), RGB[:, ::-1]),
    (encode(RGB, exif=orientation(77)), RGB),
    (encode(RGB, exif=b'no EXIF data'), RGB),
    (with_text(3 << 20), RGB),
    (with_text(3 << 20, b'iCCP'), RGB),
    (with_text(3 << 20, b'iTXt'), RGB),
    (with_text(100, key=b'xmp'), RGB),
    (with_text(100, key=b'exif'), RGB),
    (encode(RGB) + b'something behind the end', RGB),
    (encode(RGB, 'BMP'), RGB),
    (encode(RGB, 'WEBP', lossless=True), RGB),
])
def test_images_that_fit_are_converted_as_the_help_says(tmp_path, data, pixels):
    found = works(write(tmp_path / 'set', {'a.png': data}))
    np.testing.assert_array_equal(found[0], pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1))


def test_grey_among_colour_and_other_sizes_are_refused_until_the_tool_makes_them_alike(tmp_path):
    big = np.repeat(np.repeat(RGB, 2, axis=0), 2, axis=1)
    for other, says in (GREY, 'b.png is 8x8 grey'), (big, 'b.png is 16x16 RGB'):
        path = write(tmp_path / f'set-{len(says)}', {'a.png': RGB, 'b.png': other})
        with pytest.raises(UserError, match=f'{says}, and a.png is 8x8 RGB'):
            read(path)
        refuse(dataset_tool.main, '--source', path, '--dest', tmp_path / 'out', status=1,
               says=(says, 'a.png'))
        run(dataset_tool.main, '--source', path, '--dest', tmp_path / f'{path.name}.zip',
            '--transform=center-crop', '--resolution=8x8')
        assert read(tmp_path / f'{path.name}.zip')[0].shape == (2, 3, 8, 8)


def test_pipes_and_dead_links_among_the_images_are_named(tmp_path):
    path = write(tmp_path / 'set', {'a.png': RGB})
    os.mkfifo(path / 'pipe.png')
    refused(path, 'pipe.png: not a file')
    (path / 'pipe.png').unlink()
    (path / 'link.png').symlink_to('nowhere')
    refused(path, 'link.png: gone, or a link that leads nowhere')


# dataset.json.

@pytest.mark.parametrize(('text', 'says'), [
    ('{"labels": [["a.png", 0], ["b.png"', 'not JSON'),
    ('[' * 100_000, 'not JSON'),
    ('1' * 10_000, 'not JSON'),
    ('{"labels": [["a.png", ' + '[' * 900 + ']' * 900 + ']]}', 'dataset.json'),
    ('null', 'must be of the form'),
    ('{"labels": "a.png"}', 'must be of the form'),
    ('{"labels": [["a.png", 0, 1]]}', 'is not of the form [name, label]'),
    ('{"labels": [[1, 0]]}', 'is not of the form [name, label]'),
    ('{"labels": [["a.png", "cat"]]}', 'the label of a.png is "cat"'),
    ('{"labels": [["a.png", 1.5]]}', 'the label of a.png is 1.5'),
    ('{"labels": [["a.png", true]]}', 'the label of a.png is true'),
    ('{"labels": [["a.png", null]]}', 'the label of a.png is null'),
    ('{"labels": [["a.png", -1]]}', 'the label of a.png is -1; expected an integer from 0'),
    ('{"labels": [["a.png", 1000000]]}', 'is 1000000; expected an integer from 0 to 999999'),
    ('{"labels": [["a.png", [1e39]]]}', 'the label of a.png'),
    ('{"labels": [["a.png", [NaN]]]}', 'the label of a.png'),
    ('{"labels": [["a.png", [1' + '0' * 400 + ']]]}', 'the label of a.png'),
    ('{"labels": [["a.png", 1], ["a.png", 2]]}', 'gives a.png two labels, 1 and 2'),
    ('{"labels": [["a.png", 1], [".\\\\a.png", 2], ["b.png", 0]]}', 'gives a.png two labels, 1 and, as'),
    ('{"labels": [["a.png", 1], ["b.png", [1]]]}', 'the labels of a.png and b.png differ'),
    ('{"labels": [["a.png", [1, 2]], ["b.png", [1]]]}', 'the labels of a.png and b.png differ'),
])
def test_labels_that_are_none_are_refused(tmp_path, text, says):
    path = write(tmp_path / 'set', {'a.png': RGB, 'b.png': RGB})
    (path / 'dataset.json').write_text(text, encoding='utf-8')
    refused(path, 'dataset.json', says)


def test_labels_that_are_missing_leave_the_tool_without_and_the_reader_with_an_error(tmp_path):
    path = write(tmp_path / 'set', {'a.png': RGB, 'b.png': RGB, 'dataset.json': {'labels': [['b.png', 1]]}})
    printed = run(dataset_tool.main, '--source', path, '--dest', tmp_path / 'out').stdout
    assert 'without labels' in printed
    assert json.loads((tmp_path / 'out' / 'dataset.json').read_text()) == {'labels': None}
    with pytest.raises(UserError, match=r'dataset\.json has no label for a\.png; 1 of 2 images lack one'):
        ImageDataset(path, use_labels=True)
    assert 'if any image lacks one, none is written' in ' '.join(dataset_tool.main.help.split())


def test_labels_of_files_that_are_not_there_do_no_harm(tmp_path):
    labels = {'labels': [['gone.png', 3], ['a.png', 1]]}
    path = write(tmp_path / 'set', {'a.png': RGB, 'dataset.json': labels})
    assert read(path)[1].tolist() == [[0, 1]]
    assert works(path).shape == (1, 3, 8, 8)


# CIFAR-10 and MNIST.

def test_archives_that_unpack_to_gigabytes_are_refused(tmp_path):
    def zeros(head: bytes, size: int) -> bytes:
        packer = zlib.compressobj(9, zlib.DEFLATED, 31)
        first = packer.compress(head) + packer.flush(zlib.Z_FULL_FLUSH)
        mib = packer.compress(bytes(1 << 20)) + packer.flush(zlib.Z_FULL_FLUSH)
        return first + mib * (size >> 20)

    mnist, cifar = tmp_path / 'train-images-idx3-ubyte.gz', tmp_path / 'cifar-10-python.tar.gz'
    mnist.write_bytes(zeros(bytes([0, 0, 8, 3]) + struct.pack('>3I', 1 << 21, 28, 28), 2 << 30))
    header = tarfile.TarInfo('cifar-10-batches-py/data_batch_1')
    header.size = 10 << 30
    cifar.write_bytes(zeros(header.tobuf(), 10 << 30))
    for path in mnist, cifar:
        refuse(dataset_tool.main, '--source', path, '--dest', tmp_path / 'out', status=1,
               says=(path.name, 'unpacks from'))


# .npz files.

@pytest.mark.parametrize('damage', ['bomb', 'too large a shape', 'objects', 'crc'])
def test_npz_files_that_harm_are_refused(tmp_path, damage):
    file = io.BytesIO()
    np.lib.format.write_array(file, RGB[None] if damage != 'objects' else np.array([{}], dtype=object))
    data = file.getvalue()
    if damage == 'too large a shape':
        data = data.replace(b"(1, 8, 8, 3), }      ", b"(1000000, 800, 800, 3), }"[:25]).ljust(len(data))
    member = bomb(10 << 30) if damage == 'bomb' else Member(data=data, crc=1 if damage == 'crc' else None)
    (tmp_path / 'set.npz').write_bytes(craft([('samples.npy', member)]))
    with pytest.raises(UserError, match=r'--data \S+set\.npz'):
        ImageDataset(tmp_path / 'set.npz')
