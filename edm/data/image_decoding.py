"""The one way in which images are decoded: to 8-bit grey or RGB without loss, or refused by name."""

import functools
import io
import warnings
import zlib

from PIL import Image, ImageFile, PngImagePlugin, UnidentifiedImageError

from data.bit_depth import declared_bits
from data.jpeg_scans import load_jpeg
from torch_utils.errors import UserError, shown

_EXIF_ORIENTATION = 0x0112
_TURNS = {2: 'FLIP_LEFT_RIGHT', 3: 'ROTATE_180', 4: 'FLIP_TOP_BOTTOM', 5: 'TRANSPOSE', 6: 'ROTATE_270',
          7: 'TRANSVERSE', 8: 'ROTATE_90'}
warnings.filterwarnings('ignore', category=UserWarning, module=r'PIL\.')  # such as odd EXIF data
warnings.simplefilter('error', Image.DecompressionBombWarning)  # from 89 million pixels on
# One text or colour profile may take PIL's limit for all of them together (64 MiB), rather than 1 MiB.
PngImagePlugin.MAX_TEXT_CHUNK = PngImagePlugin.MAX_TEXT_MEMORY


def decode_image(data: bytes, where: str) -> Image.Image:
    """Decode an encoded image to mode L or RGB, 8 bits a channel, upright.

    A camera's EXIF orientation is applied. What fits without loss is converted: bilevel to L, palette to RGB,
    and an alpha channel that is opaque throughout is dropped. Of several frames or pages the first is used;
    info['frames'] of the result says how many there are.
    where: what errors call the image. Raises UserError if it is unreadable or of any other kind.
    """
    try:
        image = _open(data, where)
        frames = _count_frames(image, data)
        if image.format in ('JPEG', 'MPO'):
            load_jpeg(image, data)
        else:
            image.load()
        image = _upright(image)
    except UserError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as err:
        raise UserError(f'{where}: not a readable image (it has more than {Image.MAX_IMAGE_PIXELS:,} pixels)'
                        ) from err
    except Exception as err:  # PIL's many readers raise anything for broken or hostile files
        reason = 'PIL finds no image in it' if isinstance(err, UnidentifiedImageError) else shown(err)[1:-1]
        raise UserError(f'{where}: not a readable image ({reason})') from err
    if image.mode not in ('1', 'L', 'LA', 'P', 'PA', 'RGB', 'RGBA'):
        raise UserError(f'{where}: mode {image.mode} doesn\'t fit 8-bit grey or RGB; convert it first')
    if image.mode == '1':
        image = image.convert('L')
    elif image.mode not in ('L', 'RGB') or 'transparency' in image.info:
        image = _drop_alpha(image, where)
    image.info['frames'] = frames
    return image


def _open(data: bytes, where: str) -> ImageFile.ImageFile:
    """The image as PIL opens it, before it decodes any pixel."""
    _check_png(data)
    image = Image.open(io.BytesIO(data), formats=_formats())
    bits = declared_bits(image, data)
    if bits > 8 and not (bits == 32 and image.mode in ('I', 'F')):
        raise UserError(f'{where}: has {bits} bits a channel; convert it to 8 bits first')
    return image


def _count_frames(image: ImageFile.ImageFile, data: bytes) -> int:
    """The number of frames; 1 if PIL has to walk through them and meets a broken one."""
    if image.format == 'PSD':  # whose frames are the layers of one picture
        return 1
    if not isinstance(getattr(type(image), 'n_frames', None), property):
        return vars(image).get('n_frames', 1)
    try:
        return Image.open(io.BytesIO(data), formats=_formats()).n_frames
    except Exception:
        return 1


def _upright(image: Image.Image) -> Image.Image:
    """The image turned as a camera's EXIF or XMP says; damaged tags are ignored."""
    for name in ('exif', 'xmp'):  # a PNG may have texts of these names, which PIL takes for the data
        if isinstance(image.info.get(name), str):
            del image.info[name]
    try:
        turn = _TURNS.get(image.getexif().get(_EXIF_ORIENTATION))
    except Exception:
        turn = None
    return image.transpose(Image.Transpose[turn]) if turn else image


@functools.cache
def _formats() -> list[str]:
    """What PIL decodes by itself: for an EPS file it would start another program."""
    Image.init()
    return [name for name in Image.ID if name != 'EPS']


def _check_png(data: bytes) -> None:
    """Raise ValueError for a PNG that is cut short or was changed.

    PIL stops reading with the last pixel, and looks at no checksum of them.
    """
    if not data.startswith(b'\x89PNG\r\n\x1a\n'):
        return
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
