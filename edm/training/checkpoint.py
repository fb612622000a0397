"""State files: all that a run needs to go on as if it had never stopped."""

import pickle
from pathlib import Path

import torch

from torch_utils import distributed
from torch_utils.errors import UserError
from torch_utils.files import atomic_write

_KEYS = {'net', 'ema', 'optimizer_state', 'cur_nimg', 'cur_tick', 'tick_start_nimg', 'elapsed_sec',
         'data_order', 'random_states', 'moments', 'seed', 'ema_rampup_ratio', 'optimizer'}


def save_state(path: Path, *, net, ema, optimizer, **values) -> None:
    """Write a state file, whole or not at all; it holds tensors, numbers, texts and containers only.

    values: the other entries of `_KEYS`.
    """
    state = {'net': dict(net.state_dict()), 'ema': dict(ema.state_dict()),
             'optimizer': f'torch.optim.{type(optimizer).__name__}',
             'optimizer_state': optimizer.state_dict(), **values}
    assert state.keys() == _KEYS, state.keys() ^ _KEYS
    with atomic_write(path) as file:
        torch.save(state, file)


def load_state(path: Path, option: str = '--resume') -> dict:
    """Read a state file, on the CPU; runs no code from it.

    Raises UserError naming `option` if it is none of ours, or damaged.
    """
    where = f'{option} {path}'
    try:
        state = torch.load(path, map_location='cpu', weights_only=True)
    except pickle.UnpicklingError as err:
        raise UserError(f'{where}: no state file of this software; those of NVlabs/edm hold a pickled '
                        'network and are not read, but --transfer takes the snapshot beside it') from err
    except (RuntimeError, EOFError, ValueError, KeyError) as err:
        raise UserError(f'{where}: no state file, or a damaged one') from err
    missing = _KEYS - state.keys() if isinstance(state, dict) else _KEYS
    if missing:
        raise UserError(f'{where}: no training state; it lacks {", ".join(sorted(missing))}')
    return state


def check_state(state: dict, net: torch.nn.Module, dataset, optimizer: str, where: str) -> None:
    """Make sure that a run of this network, data set and kind of optimizer can go on from `state`.

    net: may be on the meta device. optimizer: such as 'torch.optim.Adam'. where: leads the messages.
    Raises UserError if not.
    """
    _check_tensors(state['net'], net.state_dict(), where)
    if len(state['data_order']['order']) != len(dataset):
        raise UserError(f'{where}: its run had {len(state["data_order"]["order"])} images, this one has '
                        f'{len(dataset)} (--data, --xflip)')
    if state['optimizer'] != optimizer:
        raise UserError(f'{where}: its run had the optimizer {state["optimizer"]}, this one has {optimizer}')


def _check_tensors(saved: dict, own: dict, where: str) -> None:
    for name in [*own, *saved]:
        shapes = [list(tensors[name].shape) if name in tensors else 'nothing' for tensors in (saved, own)]
        if shapes[0] != shapes[1]:
            raise UserError(f'{where}: another network or other images; {name} is {shapes[0]} there and '
                            f'{shapes[1]} here')


def copy_tensors(source: torch.nn.Module, net: torch.nn.Module, where: str) -> int:
    """Copy the tensors of `source` to those of equal name in `net`; returns how many.

    Raises UserError if one has another shape, before any is copied, or if no name is equal. On the meta
    device nothing is copied, only checked.
    """
    saved, own = source.state_dict(), net.state_dict()
    common = [name for name in own if name in saved]
    for name in common:
        if saved[name].shape != own[name].shape:
            raise UserError(f'{where}: {name} is {list(saved[name].shape)} there and {list(own[name].shape)} '
                            'here; give the options of that network')
    if not common:
        raise UserError(f'{where}: has no tensor whose name this network knows')
    for name in common:
        own[name].copy_(saved[name])
    return len(common)


def get_random_states(device: torch.device) -> list[dict]:
    """The states of torch's default generators that training draws from, per process."""
    states = {'cpu': torch.get_rng_state()}
    if device.type != 'cpu':
        states['device'] = torch.get_device_module(device).get_rng_state(*_which(device))
    return distributed.gather(states)


def set_random_states(states: list[dict], device: torch.device) -> bool:
    """Continue from `get_random_states`; False, and nothing done, for other processes or another device."""
    if len(states) != distributed.world_size() or ('device' in states[0]) != (device.type != 'cpu'):
        return False
    own = states[distributed.rank()]
    torch.set_rng_state(own['cpu'])
    if device.type != 'cpu':
        torch.get_device_module(device).set_rng_state(own['device'], *_which(device))
    return True


def _which(device: torch.device) -> tuple[torch.device, ...]:
    """The argument that says which of several devices; there is only one MPS device."""
    return (device,) if device.type == 'cuda' else ()

