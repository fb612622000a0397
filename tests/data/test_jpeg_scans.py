"""JPEGs that are whole come out as PIL decodes them; those damaged among their pixels are refused."""

import io
import itertools

import numpy as np
import pytest
from PIL import Image, ImageFile

from data.image_decoding import decode_image
from image_sets import encode
from torch_utils.errors import UserError

END = b'\xff\xd9'


def photo(width=96, height=96, seed=0):
    """Smooth, with some noise, uint8 [H, W, 3]."""
    rng = np.random.RandomState(seed)
    smooth = Image.fromarray(rng.randint(256, size=(6, 6, 3), dtype=np.uint8))
    pixels = np.asarray(smooth.resize((width, height), Image.Resampling.BICUBIC), dtype=np.int16)
    return (pixels + rng.randint(-9, 10, size=pixels.shape)).clip(0, 255).astype(np.uint8)


def scan_start(data: bytes) -> int:
    place = data.index(b'\xff\xda') + 2
    return place + int.from_bytes(data[place:place + 2])


def damaged(kind: str, data: bytes) -> bytes:
    start, end = scan_start(data), len(data) - len(END)
    third, fifth = start + (end - start) // 3, (end - start) // 5
    match kind:
        case 'a fifth is zeros':
            return data[:third] + bytes(fifth) + data[third + fifth:]
        case 'a fifth is missing':
            return data[:third] + data[third + fifth:]
        case 'a fifth is noise':
            return data[:third] + bytes(i * 37 % 251 for i in range(fifth)) + data[third + fifth:]
        case 'a fifth is there twice':
            return data[:third + fifth] + data[third:]
        case 'the second half is missing':
            return data[:(start + end) // 2] + END
        case 'the last bytes are missing':
            return data[:-20] + END
        case 'bytes are left over':
            return data[:end] + b'\x5a' * 20 + END


def refused(data: bytes, says: str) -> None:
    with pytest.raises(UserError, match=rf'^x\.jpg: not a readable image \({says}'):
        decode_image(data, 'x.jpg')


def test_every_kind_of_good_jpeg_has_the_pixels_that_pil_gives(monkeypatch):
    monkeypatch.setattr(ImageFile, 'MAXBLOCK', 1 << 20)  # what PIL needs to write some of them
    options = itertools.product([(1, 1), (17, 33), (64, 48)], [30, 95], ['L', '4:4:4', '4:2:2', '4:2:0'],
                                [False, True], [False, True], [0, 3])
    for (width, height), quality, colour, progressive, optimize, restart in options:
        pixels, kinds = photo(width, height, quality), {'subsampling': colour}
        if colour == 'L':
            pixels, kinds = pixels[..., 0], {}
        data = encode(pixels, 'JPEG', quality=quality, progressive=progressive, optimize=optimize,
                      restart_marker_blocks=restart, **kinds)
        np.testing.assert_array_equal(np.asarray(decode_image(data, 'x.jpg')),
                                      np.asarray(Image.open(io.BytesIO(data))))


@pytest.mark.parametrize('form', [{}, {'progressive': True}, {'restart_marker_rows': 2}, {'optimize': True}])
@pytest.mark.parametrize('kind', [
    'a fifth is zeros', 'a fifth is missing', 'a fifth is noise', 'a fifth is there twice',
    'the second half is missing', 'the last bytes are missing', 'bytes are left over'])
def test_damage_among_the_pixels_is_refused(kind, form):
    for seed, grey in (0, False), (1, True):
        pixels = photo(seed=seed)
        data = encode(pixels[..., 0] if grey else pixels, 'JPEG', **form)
        assert decode_image(data, 'x.jpg').size == (96, 96)
        refused(damaged(kind, data), 'it is damaged|broken data stream')


def test_a_lost_piece_between_restart_markers_is_refused():
    data = encode(photo(), 'JPEG', restart_marker_rows=1)
    first, second = data.index(b'\xff\xd0'), data.index(b'\xff\xd1')
    refused(data[:first] + data[second:], 'it is damaged: a restart marker is missing')
    refused(data[:first + 2] + data[second:], 'it is damaged: data are missing')


@pytest.mark.parametrize('behind', [
    b'\0' * 1000, b'\xff\xda' + bytes(100), b'\xff', b'ftypmp42' + np.random.RandomState(0).bytes(50_000)])
def test_what_lies_behind_the_end_is_left_alone(behind):
    data = encode(photo(), 'JPEG')
    np.testing.assert_array_equal(np.asarray(decode_image(data + behind, 'x.jpg')),
                                  np.asarray(decode_image(data, 'x.jpg')))


@pytest.mark.parametrize('filling', [b'\0', bytes(500), b'\xff', b'\xff\xff\xff\xff'])
def test_filling_before_the_end_is_fine(filling):
    for form in {}, {'progressive': True}:
        data = encode(photo(), 'JPEG', **form)
        np.testing.assert_array_equal(np.asarray(decode_image(data[:-2] + filling + END, 'x.jpg')),
                                      np.asarray(decode_image(data, 'x.jpg')))


def test_a_file_of_many_empty_scans_is_refused_before_it_takes_long():
    data = encode(photo(), 'JPEG', progressive=True)
    scan = data.rindex(b'\xff\xda')
    refused(data[:scan] + data[scan:-2] * 200 + END, 'it has more than 100 scans')
