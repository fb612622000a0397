"""Writing a data set: numbered PNG files and `dataset.json` in a folder or a zip that appears as a whole."""

import contextlib
import io
import itertools
import json
import os
import shutil
import time
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from data.image_files import describe_shape
from data.image_names import refuse_images
from data.image_sources import ImageSource, SourceImage
from torch_utils import files
from torch_utils.errors import UserError
from torch_utils.processes import map_in_processes

_OTHER_ARCHIVES = ('.tar', '.gz', '.tgz', '.bz2', '.xz', '.7z', '.rar', '.npz')
SECONDS_IN_PLACE = 0.1  # of work, before processes are started
SECONDS_AT_A_TIME, IMAGES_AT_A_TIME = 0.02, 64  # what a process is given at once, at most


tqdm.monitor_interval = 0  # without its thread: processes can be forked only where there is none


@dataclass(kw_only=True)
class Summary:
    """What was written, and what was not. form: the common size and colour, such as '32x32 RGB'."""

    num_images: int = 0
    left_out: int = 0    # by the transform; they leave gaps in the numbering
    unreadable: int = 0  # skipped, in sources where that is allowed; they leave none
    labels: list[int | list | None] = field(default_factory=list)  # all None if one image has none
    form: str = ''
    frames: list[str] = field(default_factory=list)  # files with more than one, of which the first is used


def write_dataset(source: ImageSource, dest: str, transform: Callable, *, max_images: int | None = None,
                  workers: int = 1, option: str = '--dest') -> Summary:
    """Write the first `max_images` of a source, transformed, to the folder or `.zip` dest.

    Equal input makes equal bytes, whatever the number of `workers`, processes that decode and encode. Image i
    is `{i:08d}[:5]/img{i:08d}.png`, stored without compression; `dataset.json` follows, with labels if all
    images have one. All must be square, of one size, a power of two, and alike grey or RGB.
    Raises UserError, and then leaves nothing behind, if they are not, if none is left, or if `dest` is a
    folder with something in it.
    """
    total = source.total if max_images is None else min(source.total, max_images)
    results = _convert_all(source, transform, total, workers)
    with _open_dest(dest, option) as save, contextlib.closing(results):
        return _write_images(results, total, save, source)


def _write_images(results: Iterator[tuple], total: int, save: Callable[[str, bytes], None],
                  source: ImageSource) -> Summary:
    """Save `total` images, fewer if `results`, from `_convert_all`, has fewer.

    After one that can't be used nothing is saved, but all are looked at, so that UserError tells of all.
    """
    summary, labels, faults, forms, number = Summary(), [], [], {}, 0
    with tqdm(total=total, unit='image') as progress:
        while number < total and (pair := next(results, None)):
            image, result = pair
            if result == 'unreadable':
                summary.unreadable += 1
                continue
            name = f'{number:08d}'
            name = f'{name[:5]}/img{name}.png'
            number += 1
            progress.update()
            if result == 'left out':
                summary.left_out += 1
                continue
            if isinstance(result, UserError):
                faults.append(str(result).removeprefix(f'{source.where}: '))
                continue
            form, data, frames = result
            if not data and not forms:
                raise UserError(f'{source.where}: {image.name} is {form}; images must be square with a side '
                                'that is a power of two: choose --resolution (and --transform)')
            forms.setdefault(form, []).append(image.name)
            if frames > 1:
                summary.frames.append(f'{image.name} has {frames}')
            if not faults and len(forms) == 1:
                save(name, data)
                labels.append([name, image.label])
    usual = max(forms, key=lambda form: len(forms[form]), default='')
    others = [f'{name} is {form}' for form, names in forms.items() if form != usual for name in names]
    hint = (f', and {forms[usual][0]} is {usual}; all must be alike: --resolution makes sizes equal, '
            '--transform makes grey images RGB') if others and not faults else ''
    refuse_images(faults + others, total, source.where, hint)
    if not labels:
        raise UserError(f'{source.where}: no image is left: {summary.unreadable} are unreadable, '
                        f'{summary.left_out} too small for --resolution with this --transform')
    content = {'labels': labels}
    if any(label is None for _, label in labels):
        content = {'labels': None}
    elif source.labels.folders:
        content['classes'] = source.labels.folders
    save('dataset.json', json.dumps(content).encode())
    summary.num_images, summary.form = len(labels), form
    summary.labels = [label for _, label in content['labels'] or []]
    return summary


def _convert_all(source: ImageSource, transform: Callable, total: int, workers: int) -> Iterator[tuple]:
    """(image, what `_convert` makes of it) in order, until `total` were readable or a bit beyond.

    The first images are converted in place; processes are started once these have taken long enough.
    """
    images = source.images if source.skips_unreadable else itertools.islice(source.images, total)
    convert = partial(_convert, load=source.load, transform=transform,
                      skip_unreadable=source.skips_unreadable)
    took = []
    for image in images:
        start = time.perf_counter()
        result = convert(image)
        took.append(time.perf_counter() - start)
        yield image, result
        if workers > 1 and sum(took) > SECONDS_IN_PLACE:
            break
    else:
        return
    size = min(max(round(SECONDS_AT_A_TIME * len(took) / sum(took)), 1), IMAGES_AT_A_TIME)
    chunks = iter(lambda: list(itertools.islice(images, size)), [])
    with contextlib.closing(map_in_processes(partial(_convert_chunk, convert), chunks, workers)) as pairs:
        for chunk, results in pairs:
            yield from zip(chunk, results, strict=True)


def _convert_chunk(convert: Callable, chunk: list[SourceImage]) -> list:
    return [convert(image) for image in chunk]


def _convert(image: SourceImage, load: Callable, transform: Callable,
             skip_unreadable: bool) -> tuple[str, bytes, int] | str | UserError:
    """An image's form, PNG file and number of frames, or why there are none: a word or an error.

    The file is empty if the image is not square, with a side that is a power of two.
    """
    try:
        loaded = load(image)
    except UserError as err:
        return 'unreadable' if skip_unreadable else err
    result, frames = transform(loaded), loaded.info.get('frames', 1)
    if result is None:
        return 'left out'
    form = describe_shape((len(result.getbands()), result.height, result.width))
    if result.width != result.height or result.width & (result.width - 1):
        return form, b'', frames
    file = io.BytesIO()
    Image.fromarray(np.asarray(result)).save(file, format='png', compress_level=0)  # pixels only, no metadata
    return form, file.getvalue(), frames


@contextlib.contextmanager
def _open_dest(dest: str, option: str) -> Iterator[Callable[[str, bytes], None]]:
    """A function that saves a file in the folder or zip `dest`, which takes its place when the body ends."""
    path = Path(dest).resolve()
    to_zip = path.suffix.lower() == '.zip'
    if to_zip and path.is_dir():
        raise UserError(f'{option} {dest}: a folder with the name of a zip is in the way')
    if path.suffix.lower() in _OTHER_ARCHIVES or (path.exists() and not path.is_dir() and not to_zip):
        raise UserError(f'{option} {dest}: expected a folder or a .zip')
    if path.is_dir() and any(path.iterdir()):
        raise UserError(f'{option} {dest}: the folder must be empty or absent')
    files.make_output_dir(path.parent, option)
    if to_zip:
        with files.atomic_write(path) as file, zipfile.ZipFile(file, 'w', zipfile.ZIP_STORED) as archive:
            yield lambda name, data: archive.writestr(_zip_info(name), data)
        return
    temp = files.temp_beside(path)
    try:
        temp.mkdir()
        with files.locked(temp, doing='writing'), files.named_when_full(path):
            yield lambda name, data: _save_file(temp / name, data)
        if hasattr(os, 'sync'):  # Windows lacks it
            os.sync()  # once for all files
        os.replace(temp, path)
    finally:
        shutil.rmtree(temp, ignore_errors=True)


def _zip_info(name: str) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)  # of one date, so that equal data sets are equal files
    info.create_system, info.external_attr = 3, 0o100644 << 16  # Unix, whatever the machine
    return info


def _save_file(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
