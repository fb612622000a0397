"""The golden networks: seven small preconditioned U-Nets with inputs and outputs of the reference.

tests/data/networks.json.gz says how each is built, tests/data/network-NAME.npz holds its tensors: those that
are exact in bfloat16 as the upper halves of their float32 bits (uint16, `bf16/...`), the others as they are
(`param/...`).
"""

import gzip
import json
from functools import cache

import numpy as np
import torch

from helpers import DATA, golden
from training import networks


@cache
def network_specs() -> dict[str, dict]:
    """For each golden network its class, constructor arguments, sigma limits and initial fingerprints."""
    return json.loads(gzip.decompress((DATA / 'networks.json.gz').read_bytes()))


def golden_network(name: str) -> tuple[torch.nn.Module, dict[str, np.ndarray]]:
    """The golden network NAME in evaluation mode, and its other arrays: x, sigma, out, ..."""
    spec = network_specs()[name]
    net = getattr(networks, spec['precond'])(**spec['kwargs'])
    state, arrays = {}, {}
    for key, array in golden(f'network-{name}').items():
        if key.startswith('bf16/'):
            floats = (array.astype(np.uint32) << 16).view(np.float32)
            state[key.removeprefix('bf16/')] = torch.from_numpy(floats)
        elif key.startswith('param/'):
            state[key.removeprefix('param/')] = torch.from_numpy(array)
        else:
            arrays[key] = array
    net.load_state_dict(state)
    return net.eval(), arrays
