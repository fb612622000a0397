"""Labels of images: from dataset.json, from arrays, from the names of folders; and what is odd about them."""

import json
import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from data.image_files import Folder, Zip, parts
from data.image_names import listed
from torch_utils.errors import UserError, note

MAX_CLASSES = 1_000_000  # more would make one-hot labels larger than images
LARGEST = 3e38  # number in a label that is a list; float32 ends there
CLASSES_SHOWN = 100


@dataclass(frozen=True, kw_only=True)
class FileLabels:
    """labels: of each image file, in their order: a class, a list of numbers, or None.

    folders: the class of each folder, where classes are or once were folders. problem: which images have no
    label though others have, or an empty text.
    """

    labels: list[int | list | None] = field(default_factory=list)
    folders: dict[str, int] = field(default_factory=dict)
    problem: str = ''

    def __bool__(self) -> bool:
        return bool(self.problem) or any(label is not None for label in self.labels)


def read_labels(files: Folder | Zip, names: Sequence[str], where: str) -> FileLabels:
    """The labels of the images `names` from the `dataset.json` at the root of a folder or zip.

    A label is an integer from 0 up (a class; 1.0 is read as 1) or a list of numbers. A name there may differ
    from the file's in separators, a `./` in front, or Unicode normalization.
    where: leads messages. Raises UserError if the file is not of the form {"labels": [[name, label], ...]} or
    {"labels": null}, or holds other labels.
    """
    found = [name for name in files.names if name.endswith('dataset.json') and 'dataset.json' in parts(name)]
    root = [name for name in found if len(parts(name)) == 1]
    if not root:
        if found:
            note(f'{where}: {found[0]} is not at the root and was not read: {len(names):,} of {len(names):,} '
                 f'images, the first {names[0]}, get no label from it')
        return FileLabels(labels=[None] * len(names))
    where = f'{where}: dataset.json'
    try:
        content = json.loads(files.read(root[0]))
    except (ValueError, RecursionError) as err:
        raise UserError(f'{where} is not JSON ({err})') from err
    if not isinstance(content, dict) or not isinstance(content.get('labels'), list | None):
        raise UserError(f'{where} must be of the form {{"labels": [[name, label], ...]}}')
    by_name = _by_name(content.get('labels') or [], where)
    labels, problem = _match(names, by_name, where), ''
    missing = [name for name, label in zip(names, labels, strict=True) if label is None]
    if by_name and missing:
        problem = (f'dataset.json has no label for {missing[0]}; {len(missing):,} of {len(names):,} images '
                   'lack one' + f' (it names {next(iter(by_name))})' * (len(missing) == len(names)))
    folders = content.get('classes')
    known = isinstance(folders, dict) and all(type(number) is int for number in folders.values())
    return FileLabels(labels=labels, folders=folders if known else {}, problem=problem)


def _by_name(entries: list, where: str) -> dict[str, int | list]:
    labels = {}
    for entry in entries:
        if not (isinstance(entry, list) and len(entry) == 2 and isinstance(entry[0], str)):
            raise UserError(f'{where}: {_short(entry)} in "labels" is not of the form [name, label]')
        name, label = entry
        if not (_is_class(label) or _is_vector(label)):
            raise UserError(f'{where}: the label of {name} is {_short(label)}; expected an integer from 0 to '
                            f'{MAX_CLASSES - 1} or a list of float32 numbers')
        if isinstance(label, float):
            note(f'{where}: whole numbers written as floats are taken as classes')
            label = int(label)
        if labels.setdefault(name, label) != label:
            raise UserError(f'{where} gives {name} two labels, {_short(labels[name])} and {_short(label)}')
    kinds = {name: len(label) if isinstance(label, list) else None for name, label in labels.items()}
    for name, kind in kinds.items():
        if kind != (first := next(iter(kinds.items())))[1]:
            raise UserError(f'{where}: the labels of {first[0]} and {name} differ in kind or length')
    return labels


def _match(names: Sequence[str], by_name: dict[str, int | list], where: str) -> list[int | list | None]:
    """A label for each name: the entry of exactly this name, else of one that is spelled differently.

    Raises UserError if two spellings of one file have two labels.
    """
    files, spelled, others = set(names), {}, {}
    for name, label in by_name.items():
        first = spelled.setdefault(_plain(name), name)
        if by_name[first] != label and not files >= {first, name}:
            raise UserError(f'{where} gives {first} two labels, {_short(by_name[first])} and, as {name}, '
                            f'{_short(label)}')
        if name not in files:
            others[_plain(name)] = label
    return [by_name[name] if name in by_name else others.get(_plain(name)) for name in names]


def _plain(name: str) -> tuple[str, ...]:
    """The same for all spellings of a name. To normalize more than a file's name can hold takes minutes."""
    return tuple(unicodedata.normalize('NFC', part) if len(part) < 256 else part for part in parts(name))


def _is_number(value) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_class(label) -> bool:
    return _is_number(label) and 0 <= label < MAX_CLASSES and label == int(label)


def _is_vector(label) -> bool:
    return isinstance(label, list) and len(label) > 0 and all(
        _is_number(x) and abs(x) <= LARGEST for x in label)


def _short(value) -> str:
    try:
        text = json.dumps(value)
    except RecursionError:
        return 'nested without end'
    return text if len(text) <= 60 else text[:57] + '...'


def check_array(labels: np.ndarray, n: int, what: str) -> np.ndarray:
    """Classes int64 [N] or vectors float64 [N, label_dim] from an array beside N images.

    Whole numbers from 0 up, [N] or [N, 1], are classes, with a note where type or shape do not say so.
    Raises UserError beginning with `what` for anything but these and rows of numbers.
    """
    kind, shape, given = labels.dtype.kind, labels.shape, labels.dtype
    labels = labels.astype(np.float64) if kind == 'f' else labels  # float16 has no large numbers
    if kind in 'iuf' and shape in ((n,), (n, 1)) and (
            (labels >= 0) & (labels < MAX_CLASSES) & (labels == np.floor(labels))).all():
        if kind == 'f' or labels.ndim == 2:
            note(f'{what} is {given} {list(shape)}, whole numbers that are taken as classes')
        return labels.reshape(n).astype(np.int64)
    if kind not in 'iuf' or labels.ndim != 2 or len(labels) != n or not 0 < labels.size == (
            abs(labels) <= LARGEST).sum():
        raise UserError(f'{what} is {given} {list(shape)}, expected {n} integers from 0 to '
                        f'{MAX_CLASSES - 1} or {n} rows of float32 numbers')
    return labels.astype(np.float64)


def labels_from_folders(names: Sequence[str], order: str, where: str) -> FileLabels:
    """A class for each top-level folder, if there are two; images outside folders are of the folder ''.

    order: 'names' sorts them as texts, 'natural' puts 2 before 10; a note tells where these differ.
    """
    tops = [folders[0] if folders else '' for *folders, _ in map(parts, names)]
    natural = sorted(set(tops), key=lambda folder: (_by_numbers(folder), folder))
    ordered = natural if order == 'natural' else sorted(natural)
    if len(ordered) < 2:
        inner = {parts(name)[1] for name in names if len(parts(name)) > 2}
        if len(inner) > 1:
            note(f'{where}: all images are in {ordered[0]}/, so its {len(inner):,} folders are no classes')
        return FileLabels(labels=[None] * len(names))
    folders = {folder: number for number, folder in enumerate(ordered)}
    if ordered != natural:
        moved = next(folder for number, folder in enumerate(natural) if folders[folder] != number)
        note(f'{where}: warning: classes are folders in the order of their names as texts, so that folder '
             f'{moved} is class {folders[moved]}; --class-order=natural puts 2 before 10')
    return FileLabels(labels=[folders[top] for top in tops], folders=folders)


def _by_numbers(text: str) -> tuple:
    if re.fullmatch(r'[+-]?[0-9]+(\.[0-9]+)?', text):
        return '', float(text)
    return tuple(float(part) if i % 2 else part for i, part in enumerate(re.split(r'([0-9]+)', text)))


def describe_classes(labels: Sequence[int | list], folders: dict[str, int]) -> list[str]:
    """Lines for users: of each class that is a folder, its images; and which classes have no images."""
    if not labels or isinstance(labels[0], list):
        return []
    counts = Counter(labels)
    lines = [f'class {number}: folder {folder or "(none)"}, {counts[number]:,} images'
             for folder, number in folders.items()]
    more = [f'and {len(lines) - CLASSES_SHOWN:,} more classes'] if len(lines) > CLASSES_SHOWN else []
    return lines[:CLASSES_SHOWN] + more + empty_classes(labels, max(max(labels) + 1, len(folders)))


def empty_classes(classes: Sequence[int], count: int) -> list[str]:
    """A warning if some of the classes 0 to count - 1 have no images."""
    empty = np.flatnonzero(np.bincount(classes, minlength=count) == 0).tolist()
    return [f'warning: of the classes 0 to {count - 1}, no images are of {listed(empty)}'] if empty else []
