"""Networks as diffusers' `save_pretrained` writes them, with outputs of the package: tests/data/diffusers.

`v-cosine` and `class-sample` are golden files; the other two, smaller, were made in the same way to cover
further choices of config.json.
"""

import gzip
import json
import shutil
from pathlib import Path

import numpy as np
import torch

from helpers import DATA

NAMES = ('v-cosine', 'class-sample', 'eps-variance', 'resnet-classes')
WEIGHTS = 'unet/diffusion_pytorch_model.safetensors'


def unpack(name: str, folder: Path) -> Path:
    """Write the network NAME into `folder`, with unet/ and scheduler/; returns it."""
    shutil.copytree(DATA / 'diffusers' / name, folder, dirs_exist_ok=True)
    packed = folder / f'{WEIGHTS}.gz'
    (folder / WEIGHTS).write_bytes(gzip.decompress(packed.read_bytes()))
    packed.unlink()
    (folder / 'golden.npz').unlink()
    return folder


def outputs(name: str) -> dict[str, torch.Tensor]:
    """x, t, out and class labels, one-hot or None; a run of DDIM; alphas_cumprod."""
    with np.load(DATA / 'diffusers' / name / 'golden.npz') as file:
        arrays = {key: torch.from_numpy(file[key]) for key in file}
    classes = json.loads((DATA / 'diffusers' / name / 'unet' / 'config.json').read_text())['num_class_embeds']
    return arrays | {'labels': torch.eye(classes)[arrays['y']] if classes else None}


def change_json(path: Path, **changes) -> None:
    """Change entries of a JSON file; those set to ... are removed."""
    values = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in values.items() if value is not ...}))
