"""Which labels samples of a network may take: one-hot classes, or vectors from the set it was trained on."""

import contextlib
import os

import numpy as np

from data.dataset import ImageDataset
from torch_utils.errors import UserError, note


def label_vectors(recorded: dict, label_dim: int, option: str) -> np.ndarray | None:
    """The labels of the training set if they are vectors, float32 [N, label_dim]; None if they are classes.

    recorded: a snapshot's `dataset_kwargs`, with the data set's `path`, and its `made_by`, whose `labels`
    tells "classes" from "vectors". Other software writes no such word; if the data set isn't there either,
    labels are taken for classes, and a line on stderr says so.
    Raises UserError naming `option` if they are vectors and the data set isn't there or has others.
    """
    kwargs, made_by = (recorded[key] if isinstance(recorded.get(key), dict) else {}
                       for key in ('dataset_kwargs', 'made_by'))
    kind, path = made_by.get('labels'), kwargs.get('path')
    if kind == 'classes' or label_dim == 0:
        return None
    if isinstance(path, str) and (os.path.isfile(path) or os.path.isdir(path)):  # no pipe
        with contextlib.suppress(UserError):
            dataset = ImageDataset(path, use_labels=True, cache=False, option=option)
            if dataset.label_dim == label_dim:
                return dataset.labels() if dataset.classes is None else None
    lacking = f'its training set, {path}, is not here'
    if kind == 'vectors':
        raise UserError(f'{option}: the network was trained on label vectors of {label_dim} numbers, samples '
                        f'draw theirs from those, and {lacking}')
    note(f'note: samples take one-hot labels of the classes 0 to {label_dim - 1}; whether the network was '
         f'trained on classes can\'t be told, as {lacking}')
    return None
