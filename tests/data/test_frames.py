"""Files of several frames or pages: the first is used, and a line says that there are more."""

import io
import struct

import numpy as np
import pytest
from PIL import Image

import dataset_tool
from data.dataset import ImageDataset
from data.image_decoding import decode_image
from data.image_stream import open_images
from helpers import run
from image_sets import encode, write

PAGES = np.random.RandomState(0).randint(256, size=(5, 8, 8, 3), dtype=np.uint8)


def stack(form: str, pages=PAGES) -> bytes:
    first, *rest = (Image.fromarray(page) for page in pages)
    return encode(first, form, save_all=True, append_images=rest)


@pytest.mark.parametrize('form', ['TIFF', 'GIF', 'PNG', 'WEBP', 'AVIF', 'MPO'])
def test_frames_are_counted_and_the_first_is_taken(form):
    image = decode_image(stack(form), 'x')
    assert image.info['frames'] == 5
    file = Image.open(io.BytesIO(stack(form)))
    np.testing.assert_array_equal(np.asarray(image), np.asarray(file.convert('RGB')))
    assert decode_image(stack(form, PAGES[:1]), 'x').info['frames'] == 1


def test_a_broken_page_behind_the_first_does_no_harm():
    data = encode(PAGES[0], 'TIFF')
    directory = struct.unpack_from('<I', data, 4)[0]
    following = directory + 2 + 12 * struct.unpack_from('<H', data, directory)[0]
    broken = data[:following] + struct.pack('<I', 1 << 30) + data[following + 4:]
    np.testing.assert_array_equal(np.asarray(decode_image(broken, 'x')), PAGES[0])


def test_each_script_says_that_there_are_more(tmp_path, capsys):
    path = write(tmp_path / 'set', {'a.tif': stack('TIFF'), 'b.png': PAGES[0],
                                    'c.gif': stack('GIF', PAGES[:3])})
    said = run(dataset_tool.main, '--source', path, '--dest', tmp_path / 'out').stderr
    assert ('of files with several frames or pages only the first was used: a.tif has 5, c.gif has 3'
            in said)
    ImageDataset(path, cache=False).images([0, 2, 0])
    said = capsys.readouterr().err
    assert said.count('only the first is used') == said.count('a.tif has 5') == 1
    stream = open_images(str(path), '--images')
    for i in range(3):
        stream.read(i)
    assert capsys.readouterr().err.count('--images') == 1
