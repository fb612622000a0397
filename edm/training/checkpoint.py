"""State files: all that a run needs to resume as if it had never stopped.

States of NVlabs/edm and its forks are read, too. They hold `net`, a pickled module or a dict of tensors, and
`optimizer_state` alone. No code of a file is run.
"""

import pickle
from pathlib import Path

import torch
from torch.utils._pytree import tree_map_only

from data.batches import Dataset
from torch_utils.errors import UserError, shown
from torch_utils.files import atomic_write
from torch_utils.run_dir import number_in, snapshot_name, tick_after
from torch_utils.safe_archive import safe_load_archive
from torch_utils.safe_pickle import PersistentObject, collect_tensors
from torch_utils.state_schema import SCHEMA, check_entries, is_number, is_tensor
from training import snapshot


def save_state(path: Path, *, net, ema, optimizer, **values) -> None:
    """Write a state file of tensors, numbers, texts and containers; values: the other entries of `SCHEMA`.

    Raises OSError if it can't be written.
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

    For a state of other software, `not_restored` says in words what it lacks.
    Raises UserError naming `option` if it is no state, or damaged.
    """
    where = f'{option} {path}'
    try:
        state = safe_load_archive(path)
        if type(state) is dict and isinstance(state.get('net'), PersistentObject):
            state['net'] = collect_tensors(state['net'], path.stat().st_size)[0]
    except pickle.UnpicklingError as err:
        raise UserError(f'{where}: no state file that this software can read: {err}; --transfer takes the '
                        'snapshot beside it') from err
    if not isinstance(state, dict) or not state.keys() >= {'net', 'optimizer_state'}:
        raise UserError(f'{where}: no training state; it lacks net, optimizer_state')
    if 'data_order' not in state:
        state |= _completion(state, path, where)
    state = {'data_sha256': None} | state  # which earlier versions did not write
    if missing := SCHEMA.keys() - state.keys():
        raise UserError(f'{where}: no whole training state; it lacks {", ".join(sorted(missing))}')
    check_entries(state, where)
    return state


def _completion(state: dict, path: Path, where: str) -> dict:
    """What a `state` of other software lacks, as far as it can be inferred.

    The images seen follow from the file's name, the EMA from the snapshot of the same number beside it.
    Raises UserError, led by `where`, if that is damaged.
    """
    kimg = number_in(path)
    missing = ['the order of the data', 'the random numbers', 'the statistics since the last tick']
    if kimg is None:
        missing.append('the images seen, which are counted from 0 as the file\'s name has no number')
        kimg = 0
    ema, beside = state['net'], path.with_name(snapshot_name(1000 * kimg))
    if beside.is_file():
        ema = dict(snapshot.load_snapshot(str(beside), option=f'{where}: its EMA')['ema'].state_dict())
    else:
        missing.append(f'the EMA, which starts from the network\'s weights for want of {beside.name}')
    counts = {'cur_nimg': 1000 * kimg, 'tick_start_nimg': 1000 * kimg, 'elapsed_sec': 0.0, 'bad_steps': 0,
              'cur_tick': tick_after(path.parent, kimg)}
    return dict.fromkeys(SCHEMA.keys() - state.keys()) | counts | {
        'ema': ema, 'optimizer': 'torch.optim.Adam', 'not_restored': missing}


def check_state(state: dict, net: torch.nn.Module, dataset: Dataset, optimizer: str, where: str) -> None:
    """Raise UserError, led by `where`, unless a run of this network, data and optimizer can resume `state`.

    net: may be on the meta device. optimizer: such as 'torch.optim.Adam'.
    """
    own = net.state_dict()
    for key, whose in (('net', ''), ('ema', ', EMA')):
        for name in [*own, *state[key]]:
            there, here = (snapshot.form(tensors.get(name)) for tensors in (state[key], own))
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
        if index not in parameters or not _fits_parameter(values, parameters[index], optimizer):
            raise UserError(f'{where}: its optimizer is of another network')


def _fits_parameter(values: dict, parameter: torch.Tensor, optimizer: str) -> bool:
    """Whether an optimizer's state of one parameter is Adam's, or the nothing that plain SGD has."""
    if optimizer != 'torch.optim.Adam':
        return all(value is None for value in values.values())
    step = values.get('step')
    if isinstance(step, torch.Tensor) and step.numel() == 1:
        step = step.item()
    return is_number(step) and len(values) == 3 and all(
        is_tensor(values.get(key), parameter.dtype, *parameter.shape) for key in ('exp_avg', 'exp_avg_sq'))


def load_optimizer_state(optimizer: torch.optim.Optimizer, state: dict) -> None:
    """Set an optimizer's `state` and keep its settings."""
    optimizer.load_state_dict({'state': state, 'param_groups': optimizer.state_dict()['param_groups']})
    for parameter, values in optimizer.state.items():
        for key, value in values.items():
            if isinstance(value, torch.Tensor) and value.shape == parameter.shape:
                # In the parameter's memory format, on which a fused optimizer relies.
                values[key] = torch.empty_like(parameter, requires_grad=False).copy_(value)


def copy_tensors(source: torch.nn.Module, net: torch.nn.Module, where: str) -> str:
    """Copy the tensors of `source` to those of equal name in `net`; returns in words which.

    The label embedding stays as it is where the numbers of classes differ. To the meta device nothing is
    copied, only checked. Raises UserError, before it copies, if shapes differ, layers divide their channels
    differently, or no name is equal.
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
    theirs = dict(source.named_modules())
    for name, module in net.named_modules():
        for kind in ('num_heads', 'num_groups'):  # of converted networks, which no option here can change
            there, here = getattr(theirs.get(name, module), kind, None), getattr(module, kind, None)
            if there != here:
                raise UserError(f'{where}: {kind} of {name} is {there} there and {here} here')
    for name in common:
        own[name].copy_(saved[name])
    return f'{len(common)} of {len(own)} tensors' + (
        f'; not the label embedding, which starts from scratch: {source.label_dim or "no"} classes there, '
        f'{net.label_dim or "no"} here' if relabelled else '')
