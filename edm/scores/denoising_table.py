"""The table of denoising errors and of distances between denoisers: a CSV file, with its record beside it."""

import csv
import io
import math
import os
from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path

from scores.denoising import Differences
from scores.score_table import read_cells
from torch_utils.errors import UserError, shown
from torch_utils.files import atomic_write, write_json

IMAGES = ('train', 'heldout', 'data', 'trajectory')  # where denoisers are compared
CLEAN = 'images'  # the target of denoising errors


@dataclass(frozen=True, kw_only=True)
class Row:
    """The mean squared difference of a denoiser from a target at one noise level.

    denoiser: its name; KIND for a closed form. target: CLEAN, or the name of another denoiser. images: one of
    IMAGES. size: number of training images, or None. sigma: noise level. mse, stderr: mean over pixels and
    `count` seeds, and its standard error, images being in [-1, 1]. variance: of the target over the seeds.
    share: mse / variance, NaN without variance.
    """

    denoiser: str
    target: str
    images: str
    size: int | None
    sigma: float
    mse: float
    stderr: float
    variance: float
    share: float
    count: int


COLUMNS = [field.name for field in fields(Row)]
_NUMBERS = ('sigma', 'mse', 'stderr', 'variance', 'share')


def rows_of(found: Differences, names: Sequence[str], sigmas: Sequence[float], *, images: str,
            size: int | None, target: str = CLEAN) -> list[Row]:
    """The rows of measured differences. Held-out images stand for all that are like them."""
    means, errors = found.mean(), found.standard_error(of_population=images in ('heldout', 'data'))
    return [Row(denoiser=name, target=target, images=images, size=size, sigma=float(sigma),
                mse=float(means[i, j]), stderr=float(errors[i, j]), variance=float(found.variance[j]),
                share=float(means[i, j] / found.variance[j]) if found.variance[j] > 0 else math.nan,
                count=found.squares.shape[1])
            for i, name in enumerate(names) for j, sigma in enumerate(sigmas)]


def record_path(path: str | os.PathLike) -> Path:
    """Where the record of a table lies: beside it, as .json."""
    return Path(path).with_suffix('.json')


def write_rows(path: str | os.PathLike, rows: Iterable[Row], record: dict) -> None:
    """Write a table, in the place of an older one, and its record beside it."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator='\n')
    writer.writerow(COLUMNS)
    writer.writerows(['' if value is None else value for value in astuple(row)] for row in rows)
    write_json(record_path(path), record)
    with atomic_write(path, 'w') as file:
        file.write(text.getvalue())


def read_rows(path: str | os.PathLike, option: str = '--table') -> list[Row]:
    """The rows of a table. Raises UserError naming `option`, the file and the line of an error."""
    where = f'{option} {path}'
    rows = [_parse(cells, line) for cells, line in read_cells(path, COLUMNS, where, 'denoise.py')]
    if not rows:
        raise UserError(f'{where}: holds no rows')
    return rows


def _parse(values: dict, where: str) -> Row:
    for name in ('denoiser', 'target', 'images'):
        if not values[name] or not values[name].isprintable():
            raise UserError(f'{where}: {name} is {shown(values[name])}, expected a name')
    if values['images'] not in IMAGES:
        raise UserError(f'{where}: images is {shown(values["images"])}, expected one of {", ".join(IMAGES)}')
    for name in (*_NUMBERS, 'count', 'size'):
        kind, text = (float if name in _NUMBERS else int), values[name]
        try:
            values[name] = None if name == 'size' and not text else kind(text)
        except ValueError:
            values[name] = -1
        number = values[name]  # a share without variance is NaN
        if number is not None and (number < 0 or (name in ('sigma', 'count', 'size') and number == 0) or (
                name in ('sigma', 'mse') and not math.isfinite(number))):
            raise UserError(f'{where}: {name} is {shown(text)}, expected a number above 0')
    return Row(**values)


def format_rows(rows: Sequence[Row]) -> str:
    """The rows as text, one a line."""
    lines = [('denoiser', 'images', 'N', 'sigma', 'mse', 'stderr', 'share')]
    lines += [(row.denoiser, row.images, '' if row.size is None else f'{row.size}', f'{row.sigma:.4g}',
               f'{row.mse:.4g}', f'{row.stderr:.2g}', f'{row.share:.4g}') for row in rows]
    wide = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return '\n'.join('  '.join(cell.rjust(width) for cell, width in zip(line, wide, strict=True))
                     for line in lines)
