"""From a data set on the disk to one of its closed-form denoisers."""

import math
import os
import pkgutil

import numpy as np
import torch

from data.dataset import ImageDataset
from data.image_files import describe_shape
from data.molrg_data import CHANNELS, load_molrg, reordered
from data.pixels import Pixels
from denoisers import DENOISERS, patch_size
from denoisers.data_denoiser import DataDenoiser
from denoisers.molrg_denoiser import MoLRGDenoiser
from sampling.denoiser import Denoiser
from torch_utils import distributed
from torch_utils.errors import UserError


def open_denoiser(kind: str, path: str | os.PathLike, device: torch.device, *, net: Denoiser | None = None,
                  class_idx: int | None = None, cache_gb: float | None = None, sharded: bool = False,
                  heldout: str | os.PathLike | None = None, cond: bool = True, **options,
                  ) -> DataDenoiser | MoLRGDenoiser:
    """A denoiser of the images at `path`: a zip, a folder or an `.npz`, decoded here.

    kind: key of DENOISERS. For 'molrg' the path may be a MoLRG `.pt` file, whose true denoiser this is then.
    net: a network to compare with, of the same image size; sets noise levels and classes. Without it, all
        noise levels are supported, and the classes are the data set's.
    class_idx: use the images of this class only. Without it, samples of a data set with classes are denoised
        by the images of their class, unless `net` has no classes; classes of `net` alone have no effect.
    cond: without `net`, False ignores the classes.
    cache_gb: largest data set to keep in memory, by default a quarter of the RAM (of the GPU's memory).
    sharded: each process decodes and keeps a part of the images; all must denoise the same samples.
    heldout: with patch 'auto', images to choose P by; without, the images' own leave-one-out errors do.
    options: those of the kind, as `denoisers.own_options` returns them.
    Raises UserError, naming the option, for a data set that can't be read, or that does not fit `net` or the
    options.
    """
    if kind == 'molrg' and str(path).lower().endswith('.pt'):
        return _true_denoiser(path, device, net, class_idx, **options)
    data = ImageDataset(path, use_labels=None, cache=False, option='--dataset')
    shape = (data.num_channels, data.resolution, data.resolution)
    if net is not None and shape != (net.img_channels, net.img_resolution, net.img_resolution):
        raise UserError(f'--dataset {path}: images are {describe_shape(shape)}, and --network makes '
                        f'{describe_shape((net.img_channels, net.img_resolution, net.img_resolution))}')
    classes = data.classes
    label_dim = net.label_dim if net is not None else data.label_dim if cond and classes is not None else 0
    order, class_ends = _order(classes, class_idx, label_dim, len(data), f'--dataset {path}')
    device = torch.device('cpu') if device.type == 'mps' else device  # MPS has no float64
    examples = None
    if options.get('patch') == 'auto':
        by_class = None if class_ends is None else classes
        if heldout is None:
            examples = patch_size.training_examples(data, order, by_class, label_dim=label_dim, device=device,
                                                    sharded=sharded, where=f'--dataset {path}')
        else:
            examples = patch_size.heldout_examples(
                heldout, shape, label_dim=0 if by_class is None else label_dim, class_idx=class_idx,
                device=device)
    if sharded:
        mine = slice(distributed.rank(), None, distributed.world_size())
        if class_ends is not None:
            class_ends = np.searchsorted(classes[order[mine]], np.arange(label_dim), side='right').tolist()
        order = order[mine]

    cache_bytes = _default_cache_bytes(device) if cache_gb is None else cache_gb * 1e9
    with distributed.shared_errors():
        pixels = Pixels(data, order, shape, device=device, cache_bytes=cache_bytes,
                        show_progress=distributed.rank() == 0)
    limits = {} if net is None else {'sigma_min': float(net.sigma_min), 'sigma_max': float(net.sigma_max),
                                     'round_sigma': net.round_sigma}
    denoiser = pkgutil.resolve_name(DENOISERS[kind])(
        pixels, class_ends=class_ends, label_dim=label_dim, sharded=sharded, **limits, **options)
    if examples is not None:
        patch_size.choose(denoiser, examples, show_progress=distributed.rank() == 0)
    return denoiser


def _true_denoiser(path: str | os.PathLike, device: torch.device, net: Denoiser | None, class_idx: int | None,
                   classes: int | None = None, dim: int | None = None) -> MoLRGDenoiser:
    """The posterior mean under the distribution of a MoLRG data file, with the noise levels of `net`."""
    if class_idx is not None:
        raise UserError(f'--class {class_idx}: --dataset {path} is a mixture of all its classes')
    bases = reordered(load_molrg(path, None, None, '--dataset')['basis'])
    for option, given, found in ('classes', classes, len(bases)), ('dim', dim, bases.shape[2]):
        if given not in (None, found):
            raise UserError(f'--{option} {given}: --dataset {path} has {found}')
    denoiser = MoLRGDenoiser(bases.to(device), CHANNELS, math.isqrt(bases.shape[1] // CHANNELS))
    if net is not None:
        shapes = [(of.img_channels, of.img_resolution, of.img_resolution) for of in (denoiser, net)]
        if shapes[0] != shapes[1]:
            raise UserError(f'--dataset {path}: images are {describe_shape(shapes[0])}, and --network makes '
                            f'{describe_shape(shapes[1])}')
        denoiser.sigma_min, denoiser.sigma_max = float(net.sigma_min), float(net.sigma_max)
        denoiser.round_sigma, denoiser.label_dim = net.round_sigma, net.label_dim
    return denoiser


def _order(classes: np.ndarray | None, class_idx: int | None, label_dim: int, num_images: int, where: str,
           ) -> tuple[np.ndarray, list[int] | None]:
    """Indices of the images to use, sorted by class if samples choose one, and where each class ends."""
    if class_idx is not None:
        if classes is None:
            raise UserError(f'--class {class_idx}: {where} has no classes')
        if not (classes == class_idx).any():
            raise UserError(f'--class {class_idx}: {where} has no images of it, its classes are '
                            f'{classes.min()} to {classes.max()}')
        return np.flatnonzero(classes == class_idx), None
    if classes is None or label_dim == 0:
        return np.arange(num_images), None
    order = np.argsort(classes, kind='stable')
    counts = np.bincount(classes, minlength=label_dim)
    if len(counts) > label_dim:
        raise UserError(f'{where} has the classes 0 to {len(counts) - 1}, and --network 0 to {label_dim - 1}')
    if counts.min() == 0:
        raise UserError(f'{where} has no images of class {counts.argmin()}, which seeds may draw; --class '
                        'selects one')
    return order, np.cumsum(counts).tolist()


def _default_cache_bytes(device: torch.device) -> float:
    """A quarter of the GPU's memory, or of the RAM that the processes of this machine share."""
    sharing = 1 if device.type == 'cuda' else int(os.environ.get('LOCAL_WORLD_SIZE', 1))
    return distributed.total_memory(device) / 4 / sharing
