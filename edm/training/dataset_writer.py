"""Writing a data set: numbered PNG files and `dataset.json` in a folder or a zip that appears as a whole."""

import contextlib
import io
import itertools
import json
import os
import shutil
import statistics
import time
import zipfile
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from torch_utils import files
from torch_utils.errors import UserError
from training.image_sources import ImageSource, SourceImage
from training.image_transforms import Transform

_OTHER_ARCHIVES = ('.tar', '.gz', '.tgz', '.bz2', '.xz', '.7z', '.rar', '.npz')
_ZIP_TIME = (1980, 1, 1, 0, 0, 0)  # one for all, so that equal data sets are equal files
_SECONDS_WORTH_A_THREAD = 0.002


@dataclass(kw_only=True)
class Summary:
    """What was written, and what was not. form: the common size and colour, such as '32x32 RGB'."""

    num_images: int = 0
    left_out: int = 0    # by the transform; they leave gaps in the numbering
    unreadable: int = 0  # skipped, in sources where that is allowed; they leave none
    labelled: bool = False
    form: str = ''


def write_dataset(source: ImageSource, dest: str, transform: Transform, *, max_images: int | None = None,
                  option: str = '--dest') -> Summary:
    """Write the first `max_images` of a source, transformed, to the folder or `.zip` dest.

    Equal input makes equal bytes. Image i is `{i:08d}[:5]/img{i:08d}.png`, stored without compression;
    `dataset.json` follows. All must be square, of one size, a power of two, and alike grey or RGB.
    Raises UserError, and then leaves nothing behind, if they are not, if none is left, or if `dest` is a
    folder with something in it.
    """
    with _open_dest(dest, option) as save:
        return _write_images(source, transform, max_images, save)


def _write_images(source: ImageSource, transform: Transform, max_images: int | None, save) -> Summary:
    summary, labels, first = Summary(), [], ''
    for number, image, form, data in _numbered(source, transform, max_images, summary):
        if summary.form not in ('', form):
            raise UserError(f'{image.name} is {form}, and {first} is {summary.form}; all must be alike: '
                            '--resolution makes sizes equal, --transform makes grey images RGB')
        summary.form, first = form, first or image.name
        name = f'{number:08d}'
        name = f'{name[:5]}/img{name}.png'
        save(name, data)
        labels.append([name, image.label])
    if not labels:
        raise UserError(f'no image is left: {summary.unreadable} are unreadable, {summary.left_out} too '
                        'small for --resolution with this --transform')
    summary.num_images = len(labels)
    summary.labelled = all(label is not None for _, label in labels)
    save('dataset.json', json.dumps({'labels': labels if summary.labelled else None}).encode())
    return summary


def _numbered(source: ImageSource, transform: Transform, max_images: int | None,
              summary: Summary) -> Iterator[tuple[int, SourceImage, str, bytes]]:
    """(number, image, form, PNG file) of all but the unreadable and left-out ones, which `summary` counts."""
    total = source.total if max_images is None else min(source.total, max_images)
    convert = partial(_convert, transform=transform, skip_unreadable=source.skips_unreadable)
    number = 0
    results = _map(convert, source.images)
    with tqdm(total=total, unit='image') as progress, contextlib.closing(results):
        while number < total and (pair := next(results, None)):
            image, result = pair
            if result == 'unreadable':
                summary.unreadable += 1
                continue
            if result == 'left out':
                summary.left_out += 1
            else:
                yield number, image, *result
            number += 1
            progress.update()


def _convert(image: SourceImage, transform: Transform, skip_unreadable: bool) -> tuple[str, bytes] | str:
    """The form and the PNG file of an image, or the reason why there is none."""
    try:
        loaded = image.load()
    except UserError:
        if skip_unreadable:
            return 'unreadable'
        raise
    result = transform(loaded)
    if result is None:
        return 'left out'
    form = f'{result.width}x{result.height} {"grey" if result.mode == "L" else "RGB"}'
    if result.width != result.height or result.width & (result.width - 1):
        raise UserError(f'{image.name} is {form}; images must be square with a side that is a power of two: '
                        'choose --resolution (and --transform)')
    file = io.BytesIO()
    Image.fromarray(np.asarray(result)).save(file, format='png', compress_level=0)  # pixels only, no metadata
    return form, file.getvalue()


def _map(function: Callable, items: Iterable) -> Iterator[tuple]:
    """(item, function(item)) in order; by several threads where the first items show that it pays.

    PIL frees Python's lock while it decodes and resizes, so that large images keep all cores busy; with small
    ones the threads would mostly wait for each other.
    """
    items, seconds = iter(items), []
    for item in itertools.islice(items, 16):
        start = time.perf_counter()
        result = function(item)
        seconds.append(time.perf_counter() - start)
        yield item, result
    if seconds and statistics.median(seconds) < _SECONDS_WORTH_A_THREAD:
        yield from ((item, function(item)) for item in items)
    else:
        yield from _map_in_threads(function, items)


def _map_in_threads(function: Callable, items: Iterable) -> Iterator[tuple]:
    workers = min(os.cpu_count() or 1, 16)
    pending = deque()
    pool = ThreadPoolExecutor(workers)
    try:
        for item in items:
            pending.append((item, pool.submit(function, item)))
            if len(pending) > 4 * workers:
                done, future = pending.popleft()
                yield done, future.result()
        for done, future in pending:
            yield done, future.result()
    finally:
        pool.shutdown(cancel_futures=True)


@contextlib.contextmanager
def _open_dest(dest: str, option: str) -> Iterator[Callable[[str, bytes], None]]:
    """A function that saves a file in the folder or zip `dest`, which takes its place when the body ends."""
    path = Path(dest).resolve()
    if path.suffix.lower() == '.zip':
        if path.is_dir():
            raise UserError(f'{option} {dest}: a folder with the name of a zip is in the way')
        files.make_output_dir(path.parent, option)
        with files.atomic_write(path) as file, zipfile.ZipFile(file, 'w', zipfile.ZIP_STORED) as archive:
            yield lambda name, data: archive.writestr(_zip_info(name), data)
        return
    if path.suffix.lower() in _OTHER_ARCHIVES:
        raise UserError(f'{option} {dest}: expected a folder or a .zip')
    if path.exists() and not path.is_dir():
        raise UserError(f'{option} {dest}: is a file; expected a folder or a .zip')
    if path.is_dir() and any(path.iterdir()):
        raise UserError(f'{option} {dest}: the folder must be empty or absent')
    files.make_output_dir(path.parent, option)
    temp = path.with_name(f'.{path.name}.{os.getpid()}.tmp')
    try:
        yield lambda name, data: _save_file(temp / name, data)
        os.replace(temp, path)
    finally:
        shutil.rmtree(temp, ignore_errors=True)


def _zip_info(name: str) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name, _ZIP_TIME)
    info.create_system = 3  # Unix, whatever the machine
    info.external_attr = 0o100644 << 16
    return info


def _save_file(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
