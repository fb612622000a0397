"""Denoisers that are given by one word each: a network, or KIND:DATASET for a closed form."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch

from data.image_files import describe_shape
from denoisers import split_word
from denoisers.open_denoiser import open_denoiser
from denoisers.open_network import open_network
from sampling.denoiser import Denoiser
from torch_utils.errors import UserError


class Opened(NamedTuple):
    """A denoiser, the path in its word, its files, and of a network `dataset_kwargs` and `made_by`."""

    denoiser: Denoiser
    path: str
    files: Sequence[str]
    recorded: dict | None


def open_words(words: Sequence[str], device: torch.device, *, option: str = '--network',
               class_idx: int | None = None, cache_gb: float | None = None,
               own: Mapping[str, dict] | None = None, **network_options) -> list[Opened]:
    """The denoisers of words: KIND:DATASET, KIND a key of DENOISERS, or a path as `open_network` takes.

    Networks compute in float32. Closed forms have the noise levels and classes of the first network, if any.
    class_idx, cache_gb: of closed forms, as in `open_denoiser`; own: further options of it, by kind.
    network_options: `scheduler` and `clip_sample` of `open_network`.
    Raises UserError naming `option` for what can't be read, or makes images of another size than the first.
    """
    words, opened = [split_word(word) for word in words], {}
    for kind, word in words:
        if kind is None and word not in opened:
            net, recorded, files = open_network(word, device, option, **network_options)
            net.use_fp16 = False  # half precision would be most of the differences at low noise levels
            opened[None, word] = Opened(net, word, files, recorded)
    first = next(iter(opened.values()), None)
    for kind, path in words:
        if kind is not None and (kind, path) not in opened:
            net = open_denoiser(kind, path, device, net=first and first.denoiser, class_idx=class_idx,
                                cache_gb=cache_gb, **(own or {}).get(kind, {}))
            opened[kind, path] = Opened(net, path, [path], None)
    found = [opened[word] for word in words]
    sizes = [(each.denoiser.img_channels, each.denoiser.img_resolution, each.denoiser.img_resolution)
             for each in found]
    for size, each in zip(sizes, found, strict=True):
        if size != sizes[0]:
            raise UserError(f'{option} {each.path}: images are {describe_shape(size)}, those of the first '
                            f'denoiser {describe_shape(sizes[0])}')
    return found
