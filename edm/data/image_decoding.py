"""The one way in which images are decoded: to 8-bit grey or RGB without loss, or refused by name."""

import functools
import io
import struct
import warnings
import zlib

from PIL import Image, ImageOps, UnidentifiedImageError

from torch_utils.errors import UserError

_EXIF_ORIENTATION = 0x0112
# Whatever PIL's many readers raise for broken or hostile files.
_BROKEN_IMAGE = (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error, IndexError, KeyError,
                 TypeError, AttributeError, NotImplementedError, OverflowError, MemoryError, RuntimeError,
                 Image.DecompressionBombError, Warning)
warnings.filterwarnings('ignore', category=UserWarning, module=r'PIL\.')  # such as odd EXIF data
warnings.simplefilter('error', Image.DecompressionBombWarning)  # from 89 million pixels on


def decode_image(data: bytes, where: str) -> Image.Image:
    """Decode an encoded image to mode L or RGB, 8 bits a channel, upright.

    A camera's EXIF orientation is applied. What fits without loss is converted: bilevel to L, palette to RGB,
    and an alpha channel that is opaque throughout is dropped. Of several frames the first counts.
    where: what errors call the image. Raises UserError if it is unreadable or of any other kind.
    """
    try:
        _check_whole(data)
        image = Image.open(io.BytesIO(data), formats=_formats())
        stored = [str(tile[3]) for tile in image.tile]  # PIL itself would cut 16-bit RGB to 8 bits in silence
        image.load()
        if image.getexif().get(_EXIF_ORIENTATION, 1) != 1:
            image = ImageOps.exif_transpose(image)
    except _BROKEN_IMAGE as err:
        reason = 'PIL finds no image in it' if isinstance(err, UnidentifiedImageError) else err
        raise UserError(f'{where}: not a readable image ({reason})') from err
    if 0 in image.size:
        raise UserError(f'{where}: not a readable image (it has no pixels)')
    if any(';16' in mode for mode in stored):
        raise UserError(f'{where}: has 16 bits a channel; convert it to 8 bits first')
    if image.mode == '1':
        return image.convert('L')
    if image.mode in ('L', 'RGB') and 'transparency' not in image.info:
        return image
    if image.mode in ('L', 'LA', 'RGB', 'RGBA', 'P', 'PA'):
        return _drop_alpha(image, where)
    raise UserError(f'{where}: mode {image.mode} doesn\'t fit 8-bit grey or RGB; convert it first')


@functools.cache
def _formats() -> list[str]:
    """What PIL decodes by itself: for an EPS file it would start another program."""
    Image.init()
    return [name for name in Image.ID if name != 'EPS']


def _check_whole(data: bytes) -> None:
    """Raise ValueError for a PNG or JPEG that is cut short or a PNG that was changed: PIL may take it.

    It stops reading with the last pixel, and looks at no checksum of them.
    """
    if data.startswith(b'\xff\xd8'):
        if data.rfind(b'\xff\xd9') < data.rfind(b'\xff\xda'):
            raise ValueError('it is cut short')
    elif data.startswith(b'\x89PNG\r\n\x1a\n'):
        start, view = 8, memoryview(data)
        while True:
            if start + 12 > len(data):
                raise ValueError('it is cut short')
            end = start + 8 + int.from_bytes(data[start:start + 4])
            if zlib.crc32(view[start + 4:end]) != int.from_bytes(data[end:end + 4]):
                raise ValueError('it is damaged or cut short')
            if data[start + 4:start + 8] == b'IEND':
                return
            start = end + 4


def _drop_alpha(image: Image.Image, where: str) -> Image.Image:
    mode = 'L' if image.mode in ('L', 'LA') else 'RGB'
    if image.mode in ('LA', 'RGBA', 'PA') or 'transparency' in image.info:
        with_alpha = image.convert(f'{mode}A')
        if with_alpha.getchannel('A').getextrema()[0] < 255:
            raise UserError(f'{where}: has transparent pixels (mode {image.mode}); make it opaque first')
        image = with_alpha
    return image.convert(mode)
