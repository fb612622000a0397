"""Images of more than 8 bits a channel are refused in every format, and those of 8 or fewer are read."""

import re
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from data.image_decoding import decode_image
from image_sets import encode
from torch_utils.errors import UserError

RGB = np.random.RandomState(0).randint(256, size=(16, 16, 3), dtype=np.uint8)
GREY, ALPHA = RGB[..., 0], np.full((16, 16, 1), 255, np.uint8)


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack('>I', len(data)) + kind + data + struct.pack('>I', zlib.crc32(kind + data))


def png(bits: int, colour: int, channels: int) -> bytes:
    header = struct.pack('>IIBBBBB', 16, 16, bits, colour, 0, 0, 0)
    rows = bytes(1 + 16 * channels * bits // 8) * 16
    return (b'\x89PNG\r\n\x1a\n' + chunk(b'IHDR', header) + chunk(b'IDAT', zlib.compress(rows))
            + chunk(b'IEND', b''))


def tiff(bits: int, *, planar: bool, channels: int = 3, order: str = '<') -> bytes:
    """An uncompressed TIFF of 16x16 pixels, in one strip or in one for each channel."""
    size, strips = 16 * 16 * bits // 8, channels if planar else 1
    tags = {256: 16, 257: 16, 258: [bits] * channels, 259: 1, 262: 2 if channels == 3 else 1,
            273: [8 + i * size for i in range(strips)], 277: channels, 278: 16,
            279: [size * channels // strips] * strips, 284: 2 if planar else 1}
    data, entries = bytearray(size * channels), b''
    for tag, values in tags.items():
        values = values if isinstance(values, list) else [values]
        packed = struct.pack(f'{order}{len(values)}I', *values)
        if len(values) > 1:
            data += packed
            packed = struct.pack(f'{order}I', 8 + len(data) - len(packed))
        entries += struct.pack(f'{order}HHI', tag, 4, len(values)) + packed
    head = (b'II*\0' if order == '<' else b'MM\0*') + struct.pack(f'{order}I', 8 + len(data))
    return head + bytes(data) + struct.pack(f'{order}H', len(tags)) + entries + bytes(4)


def ppm(kind: str, largest: int) -> bytes:
    channels = 3 if kind in ('P3', 'P6') else 1
    values = np.full(16 * 16 * channels, largest)
    plain = ' '.join(map(str, values)).encode()
    return f'{kind}\n16 16\n{largest}\n'.encode() + (
        plain if kind in ('P2', 'P3') else values.astype('>u2' if largest > 255 else 'u1').tobytes())


def sgi(bytes_a_channel: int, channels: int, packed: int = 0) -> bytes:
    head = struct.pack('>HBBHHHH', 474, packed, bytes_a_channel, 3 if channels > 1 else 2, 16, 16, channels)
    return head.ljust(512, b'\0') + bytes(16 * 16 * channels * bytes_a_channel)


def jpeg2000(bits: int, channels: int) -> bytes:
    """An 8-bit file that says it has other bits."""
    data = bytearray(encode(RGB if channels == 3 else GREY, 'JPEG2000'))
    size = data.index(b'\xff\x4f\xff\x51') + 2
    for i in range(channels):
        data[size + 40 + 3 * i] = bits - 1
    return bytes(data)


def avif(bits: int) -> bytes:
    """An 8-bit file that says it has other bits."""
    data = re.sub(rb'(pixi....\x03)\x08\x08\x08', lambda found: found[1] + bytes([bits] * 3),
                  encode(RGB, 'AVIF', subsampling='4:4:4'), flags=re.DOTALL)
    flags = data.index(b'av1C') + 6
    high = {8: 0, 10: 0x40, 12: 0x60}[bits]
    return data[:flags] + bytes([data[flags] & 0x9f | high]) + data[flags + 1:]


def icon(image: bytes) -> bytes:
    return struct.pack('<HHHBBBBHHII', 0, 1, 1, 16, 16, 0, 0, 1, 32, len(image), 22) + image


def apple_icon(image: bytes) -> bytes:
    return struct.pack('>4sI4sI', b'icns', 16 + len(image), b'icp4', 8 + len(image)) + image


def dds(masks: tuple[int, ...] | None) -> bytes:
    """Pixels of 32 bits with these masks, or blocks of half floats."""
    head = struct.pack('<4s7I44x', b'DDS ', 124, 0x1007, 16, 16, 0, 0, 0)
    if masks:
        return head + struct.pack('<8I', 32, 0x40, 0, 32, *masks, 0) + bytes(20 + 16 * 16 * 4)
    return head + struct.pack('<II4s', 32, 4, b'DX10') + bytes(20 + 20) + struct.pack(
        '<5I', 95, 3, 0, 1, 0) + bytes(256)


@pytest.mark.parametrize(('data', 'bits'), [
    (png(16, 0, 1), 16), (png(16, 2, 3), 16), (png(16, 4, 2), 16), (png(16, 6, 4), 16),
    (tiff(16, planar=True), 16), (tiff(16, planar=False), 16), (tiff(16, planar=True, order='>'), 16),
    (tiff(16, planar=False, channels=1), 16), (encode(GREY.astype(np.uint16) * 257, 'TIFF'), 16),
    (ppm('P6', 65535), 16), (ppm('P6', 1023), 10), (ppm('P3', 4095), 12), (ppm('P2', 256), 9),
    (ppm('P5', 65535), 16), (ppm('P5', 300), 9),
    (sgi(2, 3), 16), (sgi(2, 1), 16), (sgi(2, 4), 16), (sgi(2, 3, packed=1), 16),
    (jpeg2000(16, 3), 16), (jpeg2000(10, 3), 10), (jpeg2000(12, 1), 12),
    (encode(Image.fromarray(GREY.astype(np.uint16) * 257), 'JPEG2000'), 16),
    (avif(10), 10), (avif(12), 12),
    (icon(png(16, 2, 3)), 16), (apple_icon(png(16, 6, 4)), 16),
    (dds((0x3ff00000, 0xffc00, 0x3ff)), 10), (dds(None), 16),
])
def test_more_than_8_bits_are_refused(data, bits):
    with pytest.raises(UserError, match=f'^x: has {bits} bits a channel; convert it to 8 bits first$'):
        decode_image(data, 'x')


@pytest.mark.parametrize('data', [
    tiff(8, planar=True), tiff(8, planar=False), tiff(8, planar=True, order='>'), ppm('P6', 255),
    ppm('P3', 100), ppm('P5', 1), ppm('P2', 255), sgi(1, 3), sgi(1, 1), jpeg2000(8, 3), jpeg2000(8, 1),
    avif(8), png(8, 2, 3), png(1, 0, 1), dds((0xff0000, 0xff00, 0xff)),
])
def test_up_to_8_bits_are_read(data):
    assert decode_image(data, 'x').size == (16, 16)


@pytest.mark.parametrize('masks', [(0xf800, 0x7e0, 0x1f), (0x7c00, 0x3e0, 0x1f)])
def test_16_bits_for_a_whole_pixel_are_no_more_than_8_a_channel(masks):
    head = struct.pack('<2sIHHIIiiHHIIiiII3I', b'BM', 66 + 16 * 16 * 2, 0, 0, 66, 40, 16, 16, 1, 16, 3,
                       16 * 16 * 2, 0, 0, 0, 0, *masks)
    image = decode_image(head + struct.pack('<H', masks[0]) * 256, 'x')
    assert image.getcolors() == [(256, (255, 0, 0))]
