"""Which rows of two files belong together: those of the same noise, as far as the images' names tell."""

import os
import re
from collections.abc import Hashable, Sequence

import click
import numpy as np

from torch_utils.errors import UserError


def comparable_name(name: str) -> str:
    """What names of images made from the same noise share: no folder, no extension, no `.npz` around them.

    a/000012.png and b/000012.jpg are both 000012; samples.npz[12] is [12].
    """
    match = re.search(r'\.npz(\[\d+\])$', name)
    return match[1] if match else os.path.splitext(os.path.basename(name))[0]


def numbers_in(names: Sequence[str]) -> list[int] | None:
    """The one number in which the names differ, per name; None if they differ in other parts, or in several.

    sample_9.png, sample_10.png: 9, 10. cat1.png, dog2.png: None. a1-2.png, a2-3.png: None.
    """
    parts = [re.split(r'(\d+)', comparable_name(name)) for name in names]
    if len({tuple(part[::2]) for part in parts}) != 1:
        return None
    columns = list(zip(*(part[1::2] for part in parts), strict=True))
    varying = [column for column in columns if len(set(column)) > 1 or len(columns) == 1]
    return [int(digits) for digits in varying[0]] if len(varying) == 1 and _short(varying[0]) else None


def _short(texts: Sequence[str]) -> bool:
    return all(len(text) <= 30 for text in texts)


def pair_rows(first: Sequence[str], second: Sequence[str], *, force: bool = False,
              ) -> tuple[np.ndarray, str] | None:
    """Which row of `second` belongs to each row of `first`, and by what: (int64 [N], words).

    first, second: names of N images each. Row by row where the names agree (see `comparable_name`); else by
    the names, wherever they stand; else by the number in which they differ. None where that is ambiguous.
    force: pair other names, too: in the order of these numbers, as sample_10 comes before sample_2 in a list
        of names; failing that, row by row.
    """
    names = [[comparable_name(name) for name in both] for both in (first, second)]
    if names[0] == names[1]:
        return np.arange(len(first)), 'row by row'
    places = match_keys(names)
    if places is not None:
        return places, 'by name'
    numbers = numbers_in(first), numbers_in(second)
    if None not in numbers:
        places = match_keys(numbers)
        if places is not None:
            return places, 'by the number in the name'
        if force and all(len(set(each)) == len(each) for each in numbers):
            places = np.empty(len(first), dtype=np.int64)
            places[np.argsort(numbers[0])] = np.argsort(numbers[1])
            return places, 'in the order of the numbers in the names'
    return (np.arange(len(first)), 'row by row') if force else None


def match_keys(keys: Sequence[Sequence[Hashable]]) -> np.ndarray | None:
    """Where in keys[1] each of keys[0] stands, int64 [N]; None unless both are the same keys, each once."""
    place = {key: row for row, key in enumerate(keys[1])}
    if len(place) != len(keys[1]) or len(keys[0]) != len(keys[1]) or place.keys() != set(keys[0]):
        return None
    return np.array([place[key] for key in keys[0]], dtype=np.int64)


def first_difference(first: Sequence[str], second: Sequence[str]) -> tuple[str, str] | None:
    """The first two names at one place that don't agree, by `comparable_name`; None if all do."""
    return next(((a, b) for a, b in zip(first, second, strict=True)
                 if comparable_name(a) != comparable_name(b)), None)


def pair_features(where: str, first, other: str, second, *, force: bool):
    """`second` with its rows in the order of `first`, both `scores.features.Features`, as the names tell.

    where, other: what messages call them. How rows are paired is said on stderr, unless by their places.
    Raises UserError if the names don't tell and `force` is not given.
    """
    unnamed = [path for path, each in ((where, first), (other, second)) if each.file_names is None]
    if unnamed:
        if not force and first is not second:
            click.echo(f'{unnamed[0]} has no file names: that row i belongs to row i is not checked',
                       err=True)
        return second
    found = pair_rows(first.file_names, second.file_names, force=force)
    if found is None:
        a, b = first_difference(first.file_names, second.file_names)
        raise UserError(f'{where} and {other}: a row is {a} in one and {b} in the other, and names don\'t '
                        'tell which rows belong together; make both from samples of the same seeds')
    places, how = found
    difference = first_difference(first.file_names, [second.file_names[place] for place in places])
    if difference or how != 'row by row':
        a, b = difference or (first.file_names[-1], second.file_names[places[-1]])
        click.echo(f'{other}: rows are paired {how}, {b} with {a} of {where}', err=True)
    return second.reordered(places)
