"""From the class names and arguments in a run's settings to objects; only the classes listed here."""

import torch

from data.data_form import Dataset
from training.augment import AugmentPipe
from training.loss import EDMLoss, VELoss, VPLoss
from training.low_rank import LowRankDenoiser
from training.networks import PRECONDS

_CLASSES = {f'{cls.__module__}.{cls.__name__}': cls
            for cls in (*PRECONDS.values(), LowRankDenoiser, VPLoss, VELoss, EDMLoss, AugmentPipe)}
_CLASSES |= {'torch.optim.Adam': torch.optim.Adam, 'torch.optim.SGD': torch.optim.SGD}


def build(kwargs: dict, *args, **more):
    """The object that a dict `class_name` and arguments describes; `args` and `more` are added to these.

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


def build_optimizer(optimizer_kwargs: dict, parameters) -> torch.optim.Optimizer:
    """An optimizer that updates all parameters in one kernel."""
    return build(optimizer_kwargs, parameters, fused=True)
