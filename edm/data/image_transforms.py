"""How dataset_tool.py brings images to one size, always by Lanczos resampling."""

from PIL import Image


def stretch(image: Image.Image, size: tuple[int, int] | None) -> Image.Image:
    """Resize to `size` (width, height) whatever the proportions; None keeps the size."""
    return image if size in (None, image.size) else image.resize(size, Image.Resampling.LANCZOS)


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


TRANSFORMS = {None: stretch, 'center-crop': center_crop, 'center-crop-wide': center_crop_wide}
