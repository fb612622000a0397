"""From class names and arguments, in settings and files, to objects; only of what `training.config` lists."""

from importlib import import_module

import torch

from data.batches import Dataset
from training.config import ARCHITECTURES, AUGMENTATION, OPTIMIZERS, PRECONDITIONINGS


def _named(path: str) -> type:
    module, _, name = path.rpartition('.')
    return getattr(import_module(module), name)


PRECONDS = {name: _named(choice.network) for name, choice in PRECONDITIONINGS.items()}
LOSSES = {name: _named(choice.loss) for name, choice in PRECONDITIONINGS.items() if choice.loss}

_PATHS = [path for choice in PRECONDITIONINGS.values() for path in choice if path]
_PATHS += [kwargs['class_name'] for kwargs in (*ARCHITECTURES.values(), *OPTIMIZERS.values(), AUGMENTATION)
           if 'class_name' in kwargs]
_CLASSES = {path: _named(path) for path in _PATHS}

NETWORKS = {cls.__name__: cls for cls in _CLASSES.values() if issubclass(cls, torch.nn.Module)}


def build(kwargs: dict, *args, **more):
    """Build the object that a dict of `class_name` and arguments describes, with `args` and `more` added.

    Raises KeyError for a class that is not listed here.
    """
    arguments = {key: value for key, value in kwargs.items() if key != 'class_name'}
    return _CLASSES[kwargs['class_name']](*args, **arguments, **more)


def build_network(network_kwargs: dict, dataset: Dataset) -> torch.nn.Module:
    """A preconditioned network for the images and labels of `dataset`, on the CPU.

    Raises ValueError where the arguments do not suit each other or the images.
    """
    return build(network_kwargs, img_resolution=dataset.resolution, img_channels=dataset.num_channels,
                 label_dim=dataset.label_dim)

