"""Seeds: which random numbers a run and a sample get."""

from collections.abc import Iterable, Sequence
from types import ModuleType

import numpy as np
import torch

from torch_utils import distributed


class SampleGenerators:
    """One generator per sample, so that a sample depends on its seed alone, not on its batch.

    seeds: integers; sample i draws from a generator on `device` with `manual_seed(seeds[i] mod 2**32)`.
    A CUDA generator gives other numbers than a CPU generator for the same seed.
    """

    def __init__(self, seeds: Iterable[int], device: torch.device):
        self.generators = [torch.Generator(device).manual_seed(int(seed) % (1 << 32)) for seed in seeds]

    def randn(self, shape: Sequence[int], dtype: torch.dtype = torch.float32) -> torch.Tensor:
        """Standard normal [number of seeds, *shape]."""
        draws = [torch.randn(shape, generator=g, device=g.device, dtype=dtype) for g in self.generators]
        return torch.stack(draws)

    def randint(self, high: int) -> torch.Tensor:
        """One integer in [0, high) per sample, int64 [number of seeds]."""
        return torch.stack([torch.randint(high, (), generator=g, device=g.device) for g in self.generators])


def seed_training(seed: int, rank: int, world_size: int) -> None:
    """Seed numpy's and torch's default generators for a training process.

    numpy gets (seed * world_size + rank) mod 2**31, torch an integer that numpy then draws.
    """
    np.random.seed((seed * world_size + rank) % (1 << 31))
    torch.manual_seed(np.random.randint(1 << 31))


def numpy_state(rng: np.random.RandomState | ModuleType) -> dict:
    """The state of a numpy RandomState, or of `np.random`, as numbers and an int64 tensor (a copy)."""
    _, words, position, has_gauss, gauss = rng.get_state()
    return {'rng_words': torch.from_numpy(words.astype(np.int64)), 'rng_position': position,
            'rng_gauss': [has_gauss, gauss]}


def set_numpy_state(rng: np.random.RandomState | ModuleType, state: dict) -> None:
    """Restore what `numpy_state` returned."""
    words = np.array(state['rng_words'].tolist(), dtype=np.uint32)
    has_gauss, gauss = state['rng_gauss']
    rng.set_state(('MT19937', words, int(state['rng_position']), int(has_gauss), float(gauss)))


def get_random_states(device: torch.device) -> list[dict]:
    """The states of the generators that `seed_training` seeds, per process."""
    states = {'cpu': torch.get_rng_state(), 'numpy': numpy_state(np.random)}
    if device.type != 'cpu':
        states['device'] = torch.get_device_module(device).get_rng_state(*_which(device))
    return distributed.gather(states)


def set_random_states(states: list[dict], device: torch.device) -> bool:
    """Resume from `get_random_states`; False, and nothing done, for other processes or another device."""
    if len(states) != distributed.world_size() or ('device' in states[0]) != (device.type != 'cpu'):
        return False
    own = states[distributed.rank()]
    torch.set_rng_state(own['cpu'])
    set_numpy_state(np.random, own['numpy'])
    if device.type != 'cpu':
        torch.get_device_module(device).set_rng_state(own['device'], *_which(device))
    return True


def _which(device: torch.device) -> tuple[torch.device, ...]:
    """The argument that says which of several devices; there is only one MPS device."""
    return (device,) if device.type == 'cuda' else ()
