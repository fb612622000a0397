"""Convert images into a training set."""

import re
from functools import partial
from pathlib import Path

import click

from torch_utils import cli
from torch_utils.errors import UserError, note

LARGEST_SIDE = 8192  # in pixels; images of the next power of two would be refused when read


class Size(click.ParamType):
    """Width and height such as 32x32 or 32,32, as (width, height)."""

    name = 'WxH'

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None,
                ) -> tuple[int, int]:
        if isinstance(value, tuple):
            return value
        match = re.fullmatch(r'\s*(\d+)\s*[xX,]\s*(\d+)\s*', value)
        if match is None or not all(0 < int(side) <= LARGEST_SIDE for side in match.groups()):
            self.fail(f'{value!r} is no width and height such as 32x32 or 32,32, of at most '
                      f'{LARGEST_SIDE} pixels', param, ctx)
        return int(match[1]), int(match[2])


@cli.command()
@cli.options(
    'Main options',
    click.option('--source', metavar='PATH', required=True,
                 help='Folder or .zip of images, .npz of samples, LSUN *_lmdb folder, '
                      'cifar-10-python.tar.gz, or MNIST\'s train-images-idx3-ubyte.gz (labels beside it).'),
    click.option('--dest', metavar='PATH', required=True,
                 help='Folder (empty or absent) or .zip to write; an existing .zip data set is replaced.'),
    click.option('--max-images', metavar='INT', type=click.IntRange(min=1),
                 help='Number of images to keep, the first ones.  [default: all]'),
    click.option('--skip-images', metavar='INT', type=click.IntRange(min=0), default=0,
                 help='Number of images to leave out, the first ones.'),
    click.option('--shuffle', metavar='SEED', type=click.IntRange(0, 2 ** 31 - 1),
                 help='Take the images in a random order, drawn with this seed.'),
    click.option('--random-subset', metavar='SEED', type=click.IntRange(0, 2 ** 31 - 1),
                 help='Keep a random subset of --max-images images, drawn with this seed, in source order.'),
    click.option('--class-order', type=click.Choice(['names', 'natural']), default='names',
                 help='Sort class folders as strings (10 before 2), or naturally (2 before 10).'))
@cli.options(
    'Size and shape',
    click.option('--transform', type=click.Choice(['center-crop', 'center-crop-wide']),
                 help='Crop the largest centred square, or a wide band padded with black; both turn grey '
                      'into RGB.  [default: stretch]'),
    click.option('--resolution', metavar='WxH', type=Size(),
                 help='Width and height in pixels of the images, or of the band.  [default: unchanged]'))
@cli.options(
    'Performance',
    click.option('--workers', metavar='INT', type=click.IntRange(1, 256),
                 help='Processes that decode and encode.  [default: one per core]'))
@cli.writes(['source'], dest='dataset')
def main(source: str, dest: str, max_images: int | None, skip_images: int, shuffle: int | None,
         random_subset: int | None, class_order: str, transform: str | None,
         resolution: tuple[int, int] | None, workers: int | None) -> None:
    """Convert images into a training set.

    The data set is a folder or an uncompressed .zip of square PNG images, whose side is a power of two, and
    dataset.json with their labels. Labels come from the source's dataset.json, archive or .npz, else from the
    names of the top-level folders, also in a .zip; if any image lacks one, none is written. The same input
    gives the same bytes, whatever the number of processes. Hidden files and folders are skipped.

    Images become 8-bit grey or RGB where that is lossless (from palettes, bilevel images, opaque alpha), and
    are refused by name where it is not (transparent, 16-bit, CMYK, grey among RGB), as are those that are
    damaged, truncated or over 89 million pixels; in a JPEG, changed bytes are detected if they alter the
    length of the compressed pixels. Of several frames or pages the first is used. EXIF orientation is
    applied. A .zip is refused if it is damaged, encrypted, a zip bomb, or has duplicate names or names
    outside its folder.

    \b
    Examples:
      python edm/dataset_tool.py --source=cifar-10-python.tar.gz --dest=datasets/cifar10-32x32.zip
      python edm/dataset_tool.py --source=photos --dest=datasets/photos-64x64.zip --transform=center-crop \\
          --resolution=64x64
      python edm/dataset_tool.py --source=samples --dest=datasets/samples-n1024.zip --max-images=1024
    """
    if random_subset is not None and max_images is None:
        raise click.UsageError(f'--random-subset={random_subset} needs --max-images')
    if random_subset is not None and shuffle is not None:
        raise click.UsageError('--random-subset and --shuffle can\'t be given together: the first images '
                               'of a random order are a random subset')
    check_size(transform, resolution)
    if not dest.lower().endswith('.zip') and Path(dest).resolve().is_relative_to(Path(source).resolve()):
        raise click.UsageError(f'--dest {dest}: lies in --source {source}, which its images would join')

    from data.dataset import kept_by_max_size
    from data.dataset_writer import write_dataset
    from data.image_names import listed
    from data.image_sources import open_source
    from data.image_transforms import TRANSFORMS
    from data.labels import describe_classes
    from torch_utils.memory import keep_freed_memory
    from torch_utils.processes import usable_cores

    keep_freed_memory()
    images = open_source(source, class_order=class_order)
    if class_order == 'natural' and not images.by_folder:
        raise UserError(f'--class-order=natural: the labels of {source} are not from the names of folders')
    if skip_images >= images.total:
        raise UserError(f'--skip-images={skip_images}: {source} holds {images.total} images')
    images = images.shuffled(shuffle) if shuffle is not None else images
    images = images.some(range(skip_images, images.total)) if skip_images else images
    if random_subset is not None:
        images = images.some(kept_by_max_size(images.total, max_images, random_subset))
    done = write_dataset(images, dest, partial(TRANSFORMS[transform], size=resolution), max_images=max_images,
                         workers=workers or usable_cores())
    if done.unreadable:
        click.echo(f'{done.unreadable} entries are no readable images and were skipped', err=True)
    if done.left_out:
        click.echo(f'{done.left_out} images are too small for --resolution and were left out', err=True)
    if images.labels.problem and not done.labels:
        note(f'--source {source}: warning: {images.labels.problem}, so that no labels are written')
    for line in describe_classes(done.labels, images.labels.folders):
        note(line)
    if done.frames:
        note(f'--source {source}: of files with several frames or pages only the first was used: '
             f'{listed(done.frames)}')
    labels = 'with labels' if done.labels else 'without labels'
    click.echo(f'{done.num_images} images, {done.form}, {labels}: {dest}')


def check_size(transform: str | None, resolution: tuple[int, int] | None) -> None:
    """Raise click.UsageError if no image could be square, with a side that is a power of two, in the end."""
    if resolution is None:
        if transform is not None:
            raise click.UsageError(f'--transform={transform} needs --resolution')
        return
    width, height = resolution
    given = f'--resolution={width}x{height}'
    if width & (width - 1):
        raise click.UsageError(f'{given}: the width must be a power of two')
    if transform == 'center-crop-wide' and height > width:
        raise click.UsageError(f'{given}: --transform=center-crop-wide needs a height of at most the width')
    if transform != 'center-crop-wide' and height != width:
        raise click.UsageError(f'{given}: must be square, but for --transform=center-crop-wide')


if __name__ == '__main__':
    main()
