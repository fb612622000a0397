"""Files of nearest training images: for each sample its number and the similarity."""

import json
import os
from dataclasses import dataclass

import numpy as np
from PIL import Image

from data.image_stream import open_images
from descriptors.features import Features, read_arrays, text_in
from torch_utils.errors import UserError
from torch_utils.files import atomic_write


@dataclass(frozen=True, kw_only=True)
class Neighbors:
    """similarity: of each sample and its nearest training image, float64 [N]. nearest: its index, int64 [N].

    threshold: samples above it count as memorized. size: of the training set, None if unknown.
    descriptor: its kind, or None. sample_names [N], training_names [M]: file names, or None.
    sample_images, training_images: paths as given to `sscd.py feature --images`, or None.
    """

    similarity: np.ndarray
    nearest: np.ndarray
    threshold: float
    size: int | None
    descriptor: str | None
    sample_names: list[str] | None
    training_names: list[str] | None
    sample_images: str | None
    training_images: str | None


def save_neighbors(path: str | os.PathLike, similarity: np.ndarray, nearest: np.ndarray, threshold: float,
                   samples: Features, training: Features, record: dict, size: int) -> None:
    """Write what `load_neighbors` reads; record: what made it, size: the number of training images."""
    arrays = {'similarity': similarity, 'nearest': nearest, 'threshold': np.float64(threshold),
              'size': np.int64(size), 'provenance': np.array(json.dumps(record))}
    for name, features in (('sample', samples), ('training', training)):
        if features.file_names is not None:
            arrays[f'{name}_names'] = np.array(features.file_names, dtype=np.str_)
        if features.images is not None:
            arrays[f'{name}_images'] = np.array(features.images)
    kind = samples.descriptor or training.descriptor
    if kind is not None:
        arrays['descriptor'] = np.array(kind)
    with atomic_write(path) as file:
        np.savez(file, **arrays)


def load_neighbors(path: str | os.PathLike) -> Neighbors:
    """Read a file of `save_neighbors`. Raises UserError naming `--neighbors` if it is none."""
    where, arrays = f'--neighbors {path}', read_arrays(path, '--neighbors')
    missing = {'similarity', 'nearest', 'threshold'} - set(arrays)
    if missing:
        raise UserError(f'{where}: expected the arrays similarity, nearest and threshold, as sscd.py mscore '
                        f'--neighbors writes them; {sorted(missing)[0]} is missing')
    similarity, nearest, threshold = (arrays[name] for name in ('similarity', 'nearest', 'threshold'))
    names = {name: _names(arrays.get(name)) for name in ('sample_names', 'training_names')}
    good = (similarity.dtype.kind == 'f' and similarity.ndim == 1 and similarity.size > 0
            and nearest.dtype.kind == 'i' and nearest.shape == similarity.shape and nearest.min() >= 0
            and threshold.dtype.kind == 'f' and threshold.ndim == 0 and np.isfinite(similarity).all())
    sizes = {name: len(values) for name, values in names.items() if values is not None}
    if not good or sizes.get('sample_names', len(similarity)) != len(similarity) or (
            nearest.max() >= sizes.get('training_names', np.inf)):
        raise UserError(f'{where}: its arrays don\'t fit together')
    size = arrays.get('size')
    size = int(size) if size is not None and size.dtype.kind == 'i' and size.ndim == 0 and size > 0 else None
    return Neighbors(similarity=similarity, nearest=nearest, threshold=float(threshold), size=size, **names,
                     descriptor=text_in(arrays, 'descriptor'), sample_images=text_in(arrays, 'sample_images'),
                     training_images=text_in(arrays, 'training_images'))


def _names(array: np.ndarray | None) -> list[str] | None:
    return array.tolist() if array is not None and array.dtype.kind == 'U' and array.ndim == 1 else None


def read_shown(neighbors: Neighbors, chosen: np.ndarray, *, samples: str | None = None,
               training: str | None = None) -> tuple[list[Image.Image], list[Image.Image]]:
    """The chosen samples and their nearest training images.

    samples, training: paths of the images, if they have moved.
    Raises UserError naming `--samples` or `--training` if they are missing or other images.
    """
    return (_read(samples or neighbors.sample_images, '--samples', neighbors.sample_names, chosen),
            _read(training or neighbors.training_images, '--training', neighbors.training_names,
                  neighbors.nearest[chosen]))


def _read(path: str | None, option: str, names: list[str] | None, numbers: np.ndarray) -> list[Image.Image]:
    if path is None:
        raise UserError(f'{option} is needed: the features do not say where their images lie')
    stream = open_images(path, option)
    for number in map(int, numbers):
        if number >= len(stream.names):
            raise UserError(f'{option} {path}: {len(stream.names)} images, and number {number} is to be '
                            'shown; the features were made from other images')
        if names is not None and stream.names[number] != names[number]:
            raise UserError(f'{option} {path}: image {number} is {stream.names[number]}, and was '
                            f'{names[number]} when the features were made')
    return [stream.read(int(number)) for number in numbers]
