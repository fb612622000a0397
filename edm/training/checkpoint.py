"""State files: all that a run needs to go on as if it had never stopped.

States of NVlabs/edm and its forks are read, too. They hold `net`, a pickled module or a dict of tensors, and
`optimizer_state` alone. No code of a file is run.
"""

import math
import pickle
from pathlib import Path

import numpy as np
import torch
from torch.utils._pytree import tree_map_only

from data.data_form import Dataset
from torch_utils import distributed
from torch_utils.errors import UserError, shown
from torch_utils.files import atomic_write
from torch_utils.run_dir import number_in, snapshot_name, tick_after
from torch_utils.safe_archive import safe_load_archive
from torch_utils.safe_pickle import PersistentObject
from torch_utils.seeding import numpy_state, set_numpy_state
from torch_utils.training_stats import MEASURED
from training import snapshot


def _is_count(value) -> bool:
    return type(value) is int and 0 <= value < 2**53


def _is_number(value) -> bool:
    return type(value) in (int, float) and 0 <= value < math.inf


def _is_tensor(value, dtype: torch.dtype, *shape: int) -> bool:
    return isinstance(value, torch.Tensor) and value.dtype == dtype and (not shape or value.shape == shape)


def _are_tensors(value) -> bool:
    return isinstance(value, dict) and all(type(name) is str and isinstance(tensor, torch.Tensor)
                                           for name, tensor in value.items())


def _is_optimizer_state(value) -> bool:
    return (isinstance(value, dict) and isinstance(value.get('state'), dict)
            and all(isinstance(entry, dict) for entry in value['state'].values()))


def _is_numpy_state(value) -> bool:
    if not isinstance(value, dict) or not _is_tensor(value.get('rng_words'), torch.int64, 624):
        return False
    gauss = value.get('rng_gauss')
    return (0 <= value['rng_words'].min() and value['rng_words'].max() < 2**32
            and _is_count(value.get('rng_position')) and value['rng_position'] <= 624
            and isinstance(gauss, list) and len(gauss) == 2 and _is_count(gauss[0])
            and type(gauss[1]) is float and math.isfinite(gauss[1]))


def _is_data_order(value) -> bool:
    """As `InfiniteSampler.state_dict` gives it."""
    if not _is_numpy_state(value) or not _is_tensor(value.get('order'), torch.int64):
        return False
    order, window = value['order'], value.get('window')
    return (_is_count(value.get('visited')) and _is_count(window) and order.ndim == 1 and window <= len(order)
            and torch.equal(order.sort().values, torch.arange(len(order))))


def _are_random_states(value) -> bool:
    """As `get_random_states` gives them."""
    if not isinstance(value, list) or not value:
        return False
    for states in value:
        if not (isinstance(states, dict) and _is_numpy_state(states.get('numpy')) and 'cpu' in states and all(
                _is_tensor(states[key], torch.uint8) for key in states.keys() - {'numpy'})):
            return False
        try:
            torch.Generator().set_state(states['cpu'])
        except (RuntimeError, TypeError):
            return False
    return True


def _are_moments(value) -> bool:
    """As `torch_utils.training_stats.Moments.own_totals` gives them, of all processes."""
    return isinstance(value, list) and len(value) > 0 and all(
        isinstance(moments, dict) and moments.keys() == set(MEASURED) and all(
            isinstance(totals, torch.Tensor) and totals.is_floating_point() and totals.shape == (4,)
            and bool((totals.isfinite() & (totals >= 0)).all()) for totals in moments.values())
        for moments in value)


# Entry of a state -> whether a value may stand there, in words what is expected, and whether None may.
SCHEMA = {
    'net': (_are_tensors, 'a dict of tensors', False),
    'ema': (_are_tensors, 'a dict of tensors', False),
    'optimizer': (lambda value: type(value) is str, 'a name', False),
    'optimizer_state': (_is_optimizer_state, 'the state of an optimizer', False),
    'cur_nimg': (_is_count, 'a number of images', False),
    'cur_tick': (_is_count, 'a number of ticks', False),
    'tick_start_nimg': (_is_count, 'a number of images', False),
    'elapsed_sec': (_is_number, 'a number of seconds', False),
    'bad_steps': (_is_count, 'a number of steps', False),
    'ema_rampup_ratio': (_is_number, 'a number of at least 0', True),
    'seed': (lambda value: _is_count(value) and value < 2**32, 'a seed', True),
    'run_id': (lambda value: type(value) is str, 'a text', True),
    'data_sha256': (lambda value: type(value) is str, 'a text', True),
    'data_order': (_is_data_order, 'an order of images', True),
    'random_states': (_are_random_states, 'states of random generators', True),
    'moments': (_are_moments, 'sums of measurements', True),
}


def save_state(path: Path, *, net, ema, optimizer, **values) -> None:
    """Write a state file, whole or not at all; it holds tensors, numbers, texts and containers only.

    values: the other entries of `SCHEMA`. Raises OSError if the disk does not take it.
    """
    state = {'net': dict(net.state_dict()), 'ema': dict(ema.state_dict()),
             'optimizer_state': optimizer.state_dict()}
    state = tree_map_only(torch.Tensor, lambda x: x.clone(memory_format=torch.contiguous_format), state)
    state |= {'optimizer': f'torch.optim.{type(optimizer).__name__}', **values}
    assert state.keys() == SCHEMA.keys(), state.keys() ^ SCHEMA.keys()
    try:
        with atomic_write(path) as file:
            torch.save(state, file)
    except RuntimeError as err:
        if isinstance(err.__context__, OSError):  # PyTorch fails again as it closes a file that is not whole
            raise err.__context__ from None
        raise


def load_state(path: Path, option: str = '--resume') -> dict:
    """Read a state file, on the CPU; each entry is what `SCHEMA` says.

    Of another software's the key `not_restored` says in words what it lacks.
    Raises UserError naming `option` if it is no state, or damaged.
    """
    where = f'{option} {path}'
    try:
        state = safe_load_archive(path)
        if type(state) is dict and isinstance(state.get('net'), PersistentObject):
            state['net'] = snapshot.collect_tensors(state['net'], path.stat().st_size)[0]
    except (pickle.UnpicklingError, snapshot.Unfit) as err:
        raise UserError(f'{where}: no state file that this software can read: {err}; --transfer takes the '
                        'snapshot beside it') from err
    if not isinstance(state, dict) or not state.keys() >= {'net', 'optimizer_state'}:
        raise UserError(f'{where}: no training state; it lacks net, optimizer_state')
    if 'data_order' not in state:
        state |= _completion(state, path, where)
    state = {'data_sha256': None} | state  # which earlier versions did not write
    if missing := SCHEMA.keys() - state.keys():
        raise UserError(f'{where}: no whole training state; it lacks {", ".join(sorted(missing))}')
    for key, (fits, expected, optional) in SCHEMA.items():
        if not (fits(state[key]) or (optional and state[key] is None)):
            raise UserError(f'{where}: no training state; its {key} is {_described(state[key])}, expected '
                            f'{expected}')
    if state['tick_start_nimg'] > state['cur_nimg']:
        raise UserError(f'{where}: no training state; its tick began after {state["tick_start_nimg"]:,} '
                        f'images, and it has seen {state["cur_nimg"]:,}')
    return state


def _described(value) -> str:
    plain = value is None or type(value) in (bool, int, float, str)
    return shown(value) if plain else f'another {type(value).__name__}'


def _completion(state: dict, path: Path, where: str) -> dict:
    """What can be known of another software's run besides the entries of its `state`.

    The images seen follow from the file's name, the averaged weights from the snapshot of the same number
    beside it. Raises UserError, led by `where`, if that is damaged.
    """
    kimg = number_in(path)
    missing = ['the order of the data', 'the random numbers', 'the statistics since the last tick']
    if kimg is None:
        missing.append('the images seen, which are counted from 0 as the file\'s name has no number')
        kimg = 0
    ema, beside = state['net'], path.with_name(snapshot_name(1000 * kimg))
    if beside.is_file():
        ema = snapshot.load_snapshot(str(beside), option=f'{where}: its averaged weights')['ema'].state_dict()
        ema = dict(ema)
    else:
        missing.append(f'the averaged weights, which start from the network\'s for want of {beside.name}')
    counts = {'cur_nimg': 1000 * kimg, 'tick_start_nimg': 1000 * kimg, 'elapsed_sec': 0.0, 'bad_steps': 0,
              'cur_tick': tick_after(path.parent, kimg)}
    return dict.fromkeys(SCHEMA.keys() - state.keys()) | counts | {
        'ema': ema, 'optimizer': 'torch.optim.Adam', 'not_restored': missing}


def check_state(state: dict, net: torch.nn.Module, dataset: Dataset, optimizer: str, where: str) -> None:
    """Make sure that a run of this network, data set and kind of optimizer can go on from `state`.

    net: may be on the meta device. optimizer: such as 'torch.optim.Adam'. where: leads the messages.
    Raises UserError if not.
    """
    own = net.state_dict()
    for key, whose in (('net', ''), ('ema', ', averaged weights')):
        for name in [*own, *state[key]]:
            there, here = ('nothing' if tensors.get(name) is None else
                           f'{str(tensors[name].dtype).removeprefix("torch.")} {list(tensors[name].shape)}'
                           for tensors in (state[key], own))
            if there != here:
                raise UserError(f'{where}{whose}: another network or other images; {shown(name)} is {there} '
                                f'there and {here} here')
    order = state['data_order']
    if order is not None and len(order['order']) != len(dataset):
        raise UserError(f'{where}: its run had {len(order["order"])} images, this one has {len(dataset)} '
                        '(--data, --xflip)')
    if state['optimizer'] != optimizer:
        raise UserError(f'{where}: its run had the optimizer {shown(state["optimizer"])}, this one has '
                        f'{optimizer}')
    parameters = dict(enumerate(net.parameters()))
    for index, values in state['optimizer_state']['state'].items():
        if not _fits_parameter(values, parameters.get(index), optimizer):
            raise UserError(f'{where}: its optimizer is of another network')


def _fits_parameter(values: dict, parameter: torch.Tensor | None, optimizer: str) -> bool:
    """Whether an optimizer's state of one parameter is Adam's, or the nothing that plain SGD has."""
    if optimizer != 'torch.optim.Adam':
        return parameter is not None and all(value is None for value in values.values())
    step, moments = values.get('step'), [values.get(key) for key in ('exp_avg', 'exp_avg_sq')]
    if isinstance(step, torch.Tensor) and step.numel() == 1 and step.dtype != torch.bool:
        step = step.item()
    return _is_number(step) and parameter is not None and len(values) == 3 and all(
        _is_tensor(moment, parameter.dtype, *parameter.shape) for moment in moments)


def load_optimizer_state(optimizer: torch.optim.Optimizer, state: dict) -> None:
    """Take over the entry `state` of an optimizer's state; the settings stay."""
    optimizer.load_state_dict({'state': state, 'param_groups': optimizer.state_dict()['param_groups']})
    for parameter, values in optimizer.state.items():
        for key, value in values.items():
            if isinstance(value, torch.Tensor) and value.shape == parameter.shape:
                # In the parameter's memory format, on which a fused optimizer relies.
                values[key] = torch.empty_like(parameter, requires_grad=False).copy_(value)


def copy_tensors(source: torch.nn.Module, net: torch.nn.Module, where: str) -> str:
    """Copy the tensors of `source` to those of equal name in `net`; returns in words which.

    The label embedding stays as it is where the numbers of classes differ. On the meta device nothing is
    copied, only checked. Raises UserError if a tensor has another shape, before any is copied, or if no name
    is equal.
    """
    saved, own = source.state_dict(), net.state_dict()
    relabelled = source.label_dim != net.label_dim
    common = [name for name in own if name in saved and not (relabelled and '.map_label.' in name)]
    for name in common:
        if saved[name].shape != own[name].shape:
            raise UserError(f'{where}: {name} is {list(saved[name].shape)} there and {list(own[name].shape)} '
                            'here; give the options of that network')
    if not common:
        raise UserError(f'{where}: has no tensor whose name this network knows')
    for name in common:
        own[name].copy_(saved[name])
    return f'{len(common)} of {len(own)} tensors' + (
        f'; not the label embedding, which starts from scratch: {source.label_dim or "no"} classes there, '
        f'{net.label_dim or "no"} here' if relabelled else '')


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
