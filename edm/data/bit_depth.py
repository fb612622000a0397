"""How many bits a channel has in an image file. PIL silently cuts more than 8 to 8 in some formats."""

import re
from collections.abc import Iterator

from PIL import ImageFile

_RAW_BITS = re.compile(r'(?:;|SGI)(\d+)')  # in the names of decoders and of raw modes, such as RGB;16L
_PACKED = re.compile(r'(RGB|BGR)A?;1[56]Z?')  # 15 or 16 bits for all channels of a pixel
_BITS_PER_SAMPLE = 258  # TIFF
_DDS_HALF_FLOATS = 6  # block compression BC6H

# What files say inside where PIL doesn't: AV1's configuration, SIZ of JPEG 2000, IHDR of a PNG in an icon.
_AV1_CONFIG = re.compile(rb'av1C\x81.(.)', re.DOTALL)
_SIZ = re.compile(rb'\xff\x4f\xff\x51.{36}(..)', re.DOTALL)
_PNG_HEADER = re.compile(rb'\x89PNG\r\n\x1a\n....IHDR.{8}(.)', re.DOTALL)


def declared_bits(image: ImageFile.ImageFile, data: bytes) -> int:
    """The most bits of a channel in the file `data`, which PIL opened as `image` and has not decoded yet."""
    bits = [8]
    for decoder, _, _, args in image.tile:
        args = args if isinstance(args, tuple) else (args,)
        for name in (decoder, *args):
            if isinstance(name, str) and not _PACKED.fullmatch(name):
                bits.extend(int(number) for number in _RAW_BITS.findall(name))
        if decoder in ('ppm', 'ppm_plain'):
            bits.extend(value.bit_length() for value in args if isinstance(value, int))  # the largest value
        elif decoder == 'dds_rgb':
            bits.extend(mask.bit_count() for mask in args[1])
        elif decoder == 'bcn' and args[0] == _DDS_HALF_FLOATS:
            bits.append(16)
    if image.format == 'TIFF':
        bits.extend(number for number in image.tag_v2.get(_BITS_PER_SAMPLE, ()) if isinstance(number, int))
    if image.format in ('AVIF', 'JPEG2000', 'ICNS', 'ICO'):
        bits.extend(_bits_inside(data))
    return max(bits)


def _bits_inside(data: bytes) -> Iterator[int]:
    for config in _AV1_CONFIG.finditer(data):
        high, twelve = config[1][0] & 0x40, config[1][0] & 0x20
        yield (12 if twelve else 10) if high else 8
    for siz in _SIZ.finditer(data):
        count = int.from_bytes(siz[1])
        yield from (number % 128 + 1 for number in data[siz.end():siz.end() + 3 * count:3])  # 128: has a sign
    for header in _PNG_HEADER.finditer(data):
        yield header[1][0]
