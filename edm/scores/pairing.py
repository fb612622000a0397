"""Which rows of two features files are of the same noise, by the images' names."""

import os
import re
from collections.abc import Hashable, Sequence
from dataclasses import replace

import numpy as np

from descriptors.features import Features, check_comparable
from torch_utils.errors import UserError, note


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
    if len(varying) != 1 or max(map(len, varying[0])) > 30:
        return None
    return [int(digits) for digits in varying[0]]


def pair_rows(first: Sequence[str], second: Sequence[str], *, force: bool = False,
              ) -> tuple[np.ndarray, str] | None:
    """Which row of `second` belongs to each row of `first`, and by what: (int64 [N], words).

    first, second: names of N images each. Row by row where the names agree (see `comparable_name`), else by
    name, else by the number in which the names differ. None where that is ambiguous.
    force: pair other names, too: in the order of these numbers, else row by row.
    """
    names = [[comparable_name(name) for name in both] for both in (first, second)]
    if names[0] == names[1]:
        return np.arange(len(first)), 'row by row'
    places = _match(*names)
    if places is not None:
        return places, 'by name'
    numbers = numbers_in(first), numbers_in(second)
    if None not in numbers:
        places = _match(*numbers)
        if places is not None:
            return places, 'by the number in the name'
        if force and all(len(set(each)) == len(each) for each in numbers):
            places = np.empty(len(first), dtype=np.int64)
            places[np.argsort(numbers[0])] = np.argsort(numbers[1])
            return places, 'in the order of the numbers in the names'
    return (np.arange(len(first)), 'row by row') if force else None


def _match(first: Sequence[Hashable], second: Sequence[Hashable]) -> np.ndarray | None:
    """Where in `second` each key of `first` stands, int64 [N]; None unless both have the same keys, once."""
    place = {key: row for row, key in enumerate(second)}
    if len(place) != len(second) or len(first) != len(second) or place.keys() != set(first):
        return None
    return np.array([place[key] for key in first], dtype=np.int64)


def _first_difference(first: Sequence[str], second: Sequence[str]) -> tuple[str, str] | None:
    """The first two names in one place that don't agree, by `comparable_name`; None if all do."""
    return next(((a, b) for a, b in zip(first, second, strict=True)
                 if comparable_name(a) != comparable_name(b)), None)


def pair_features(first: Features, second: Features, *, force: bool) -> Features:
    """`second` with its rows in the order of `first`, by the images' names.

    A note says how rows are paired, unless they are row by row.
    force: pair rows also where the names don't tell which belong together.
    Raises UserError if the two can't be compared row by row.
    """
    check_comparable(first, second)
    pair = f'{first.where} and {second.where}'
    if len(first.values) != len(second.values):
        raise UserError(f'{pair}: {len(first.values)} and {len(second.values)} rows; rows are compared in '
                        'pairs, so both need the same number')
    unnamed = [each.where for each in (first, second) if each.file_names is None]
    if unnamed:
        if not force and first is not second:
            note(f'{unnamed[0]} has no file names: whether row i belongs to row i is not checked')
        return second
    found = pair_rows(first.file_names, second.file_names, force=force)
    if found is None:
        a, b = _first_difference(first.file_names, second.file_names)
        raise UserError(f'{pair}: a row is {a} in one and {b} in the other, and names don\'t tell which rows '
                        'belong together; make both from samples of the same seeds')
    places, how = found
    names = [second.file_names[place] for place in places]
    difference = _first_difference(first.file_names, names)
    if difference or how != 'row by row':
        a, b = difference or (first.file_names[-1], names[-1])
        note(f'{second.where}: rows are paired {how}, {b} with {a} of {first.where}')
    return replace(second, values=second.values[places], file_names=names)
