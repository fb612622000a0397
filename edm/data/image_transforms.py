"""How dataset_tool.py brings images to one size, always by Lanczos resampling."""

from collections.abc import Callable
from functools import partial

from PIL import Image

Transform = Callable[[Image.Image], Image.Image | None]
TRANSFORMS = ('center-crop', 'center-crop-wide')


def make_transform(name: str | None, size: tuple[int, int] | None) -> Transform:
    """A function from an image to the transformed one, or to None where the image is left out.

    name: None stretches to `size`, the others (TRANSFORMS) are `center_crop` and `center_crop_wide`.
    size: (width, height); None, allowed without a name only, keeps images as they are.
    Raises ValueError for other names, or a size that is missing or doesn't suit.
    """
    if name is None:
        return _keep if size is None else partial(stretch, size=size)
    if name not in TRANSFORMS:
        raise ValueError(f'{name!r} is none of {", ".join(TRANSFORMS)}')
    if size is None:
        raise ValueError(f'{name} needs a size')
    if name == 'center-crop-wide' and size[1] > size[0]:
        raise ValueError(f'{name} needs a size at least as wide as high, got {size[0]}x{size[1]}')
    return partial(center_crop if name == 'center-crop' else center_crop_wide, size=size)


def _keep(image: Image.Image) -> Image.Image:
    return image


def stretch(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Resize to `size` (width, height) whatever the proportions."""
    return image if image.size == size else image.resize(size, Image.Resampling.LANCZOS)


def center_crop(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """The largest centred square, in RGB, resized to `size`; small images are enlarged."""
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    square = image.convert('RGB').crop((left, top, left + side, top + side))
    return square.resize(size, Image.Resampling.LANCZOS)


def center_crop_wide(image: Image.Image, size: tuple[int, int]) -> Image.Image | None:
    """A centred band of full width, in RGB, resized to `size` and put in the middle of a black square.

    Of an image w x h the band has round(width * h / w) rows (halves to even). None if the image is narrower
    than `size`, or the band lower.
    """
    width, height = size
    rows = round(width * image.height / image.width)
    if image.width < width or rows < height:
        return None
    top = (image.height - rows) // 2
    band = image.convert('RGB').crop((0, top, image.width, top + rows))
    square = Image.new('RGB', (width, width))
    square.paste(band.resize(size, Image.Resampling.LANCZOS), (0, (width - height) // 2))
    return square
