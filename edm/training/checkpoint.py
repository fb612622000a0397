"""State files: all that a run needs to go on as if it had never stopped."""

from pathlib import Path

import numpy as np
import torch
from torch.utils._pytree import tree_map_only

from data.data_form import Dataset
from torch_utils import distributed
from torch_utils.errors import UserError
from torch_utils.files import atomic_write
from torch_utils.seeding import numpy_state, set_numpy_state
from training import old_states
from training.run_dir import states_in

_KEYS = {'net', 'ema', 'optimizer_state', 'cur_nimg', 'cur_tick', 'tick_start_nimg', 'elapsed_sec',
         'data_order', 'random_states', 'moments', 'bad_steps', 'seed', 'ema_rampup_ratio', 'optimizer',
         'run_id'}


def save_state(path: Path, *, net, ema, optimizer, **values) -> None:
    """Write a state file, whole or not at all; it holds tensors, numbers, texts and containers only.

    values: the other entries of `_KEYS`.
    Raises OSError if the disk does not take it.
    """
    state = {'net': _copies(net), 'ema': _copies(ema),
             'optimizer': f'torch.optim.{type(optimizer).__name__}',
             'optimizer_state': tree_map_only(torch.Tensor, _copy, optimizer.state_dict()), **values}
    assert state.keys() == _KEYS, state.keys() ^ _KEYS
    try:
        with atomic_write(path) as file:
            torch.save(state, file)
    except RuntimeError as err:
        if isinstance(err.__context__, OSError):  # PyTorch fails again as it closes a file that is not whole
            raise err.__context__ from None
        raise


def _copies(net: torch.nn.Module) -> dict[str, torch.Tensor]:
    """A network's tensors, each in its own contiguous memory."""
    return {name: _copy(tensor) for name, tensor in net.state_dict().items()}


def _copy(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.clone(memory_format=torch.contiguous_format)


def load_optimizer_state(optimizer: torch.optim.Optimizer, state: dict) -> None:
    """Take over the entry `state` of an optimizer's state; the settings stay."""
    optimizer.load_state_dict({'state': state, 'param_groups': optimizer.state_dict()['param_groups']})
    for parameter, values in optimizer.state.items():
        for key, value in values.items():
            if isinstance(value, torch.Tensor) and value.shape == parameter.shape:
                # In the parameter's memory format, on which a fused optimizer relies.
                values[key] = torch.empty_like(parameter, requires_grad=False).copy_(value)


def prune_states(folder: Path, keep: int, newest: Path) -> None:
    """Delete states older than `newest`, which was just written, so that `keep` remain of them together."""
    states = states_in(folder)
    for path in states[states.index(newest) + keep:]:
        path.unlink(missing_ok=True)


def load_state(path: Path, option: str = '--resume') -> dict:
    """Read a state file, on the CPU; runs no code from it.

    Of another software's (see `training.old_states`) the key `not_restored` says what it lacks.
    Raises UserError naming `option` if it is no state, or damaged.
    """
    where = f'{option} {path}'
    state = old_states.read(path, where)
    if not isinstance(state, dict) or not state.keys() >= old_states.KEYS:
        raise UserError(f'{where}: no training state; it lacks {", ".join(sorted(old_states.KEYS))}')
    if 'data_order' not in state:
        return old_states.completed(state, path, where)
    missing = _KEYS - state.keys()
    if missing:
        raise UserError(f'{where}: no whole training state; it lacks {", ".join(sorted(missing))}')
    return state


def check_state(state: dict, net: torch.nn.Module, dataset: Dataset, optimizer: str, where: str) -> None:
    """Make sure that a run of this network, data set and kind of optimizer can go on from `state`.

    net: may be on the meta device. optimizer: such as 'torch.optim.Adam'. where: leads the messages.
    Raises UserError if not.
    """
    own = net.state_dict()
    _check_tensors(state['net'], own, where)
    _check_tensors(state['ema'], own, f'{where}, averaged weights')
    order = state['data_order']
    if order is not None and len(order['order']) != len(dataset):
        raise UserError(f'{where}: its run had {len(order["order"])} images, this one has {len(dataset)} '
                        '(--data, --xflip)')
    if state['optimizer'] != optimizer:
        raise UserError(f'{where}: its run had the optimizer {state["optimizer"]}, this one has {optimizer}')
    for index, values in state['optimizer_state']['state'].items():
        parameters = list(net.parameters())
        fits = type(index) is int and index < len(parameters) and isinstance(values, dict) and all(
            not isinstance(value, torch.Tensor) or value.ndim == 0 or value.shape == parameters[index].shape
            for value in values.values())
        if not fits:
            raise UserError(f'{where}: its optimizer is of another network')


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
    """The states of the generators that `torch_utils.seeding.seed_training` seeds, per process."""
    states = {'cpu': torch.get_rng_state(), 'numpy': numpy_state(np.random)}
    if device.type != 'cpu':
        states['device'] = torch.get_device_module(device).get_rng_state(*_which(device))
    return distributed.gather(states)


def set_random_states(states: list[dict], device: torch.device) -> bool:
    """Continue from `get_random_states`; False, and nothing done, for other processes or another device."""
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

