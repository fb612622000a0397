"""Any network by its path: snapshots of EDM and of ours, and diffusers networks in folders and on the hub."""

import hashlib
from typing import NamedTuple

import torch

from adapters.diffusers_files import find_files, is_diffusers
from adapters.diffusers_network import open_diffusers
from torch_utils.errors import UserError
from torch_utils.provenance import fingerprint
from torch_utils.run_dir import find_snapshot
from training.snapshot import load_with_settings


class Network(NamedTuple):
    """A network as a denoiser, and where it comes from.

    recorded: from a snapshot `dataset_kwargs` and `made_by`, else what corresponds to them.
    files: paths or URLs of all that decides its numbers.
    """

    net: torch.nn.Module
    recorded: dict
    files: tuple[str, ...]

    def sha256(self) -> str:
        """Of its file or, of several, of the lines of their hashes."""
        hashes = [fingerprint(path) for path in self.files]
        return hashes[0] if len(hashes) == 1 else hashlib.sha256('\n'.join(hashes).encode()).hexdigest()


def open_network(path: str, device: torch.device, option: str = '--network', *, scheduler: str | None = None,
                 clip_sample: bool = False) -> Network:
    """The network at `path` on `device`, in evaluation mode, float32, without gradients.

    path: a snapshot, its URL, a run folder for its newest snapshot, or a diffusers network as of
        `diffusers_files.find_files`.
    scheduler, clip_sample: of a diffusers network, see `find_files` and `open_diffusers`.
    Raises UserError naming `option` in one line for what is not there or can't be read.
    """
    if is_diffusers(path):
        files = find_files(path, option, scheduler)
        net = open_diffusers(files, f'{option} {path}', option, clip_sample=clip_sample)
        return Network(net.to(device), {'made_by': {'labels': 'classes'}}, files)
    for given, name in ((scheduler is not None, 'scheduler'), (clip_sample, 'clip_sample')):
        if given:
            raise UserError(f'--{name} is for networks of diffusers, and {option} {path} is none')
    path = find_snapshot(path, option)
    net, recorded = load_with_settings(path, device, option)
    return Network(net, recorded, (path,))
