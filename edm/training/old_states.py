"""State files of NVlabs/edm and its forks: the network and the optimizer alone.

They are torch.save files of `net`, a pickled module or a dict of tensors, and of `optimizer_state`. A module
is read like a snapshot's network: no code of the file is run.
"""

import pickle
from pathlib import Path

import torch

from torch_utils.errors import UserError
from torch_utils.safe_archive import safe_load_archive
from torch_utils.safe_pickle import PersistentObject
from training import snapshot
from training.run_dir import kimg_of_state, snapshot_name, tick_after

KEYS = {'net', 'optimizer_state'}


def read(path: Path, where: str) -> dict:
    """The contents of a state, of ours or of others; a `net` that is a module becomes a dict of tensors.

    where: leads the messages. Raises UserError if it is no such file, is damaged or holds anything else.
    """
    try:
        state = safe_load_archive(path)
        if type(state) is dict and isinstance(state.get('net'), PersistentObject):
            state['net'] = snapshot.collect_tensors(state['net'], path.stat().st_size)[0]
    except (pickle.UnpicklingError, snapshot.Unfit) as err:
        raise UserError(f'{where}: no state file that this software can read: {err}; --transfer takes the '
                        'snapshot beside it') from err
    return state


def completed(state: dict, path: Path, where: str) -> dict:
    """What can be known of the run besides `state`, a dict with `KEYS`, under the keys of our own states.

    The images seen follow from the file's name, the averaged weights from the snapshot of the same number
    beside it. `not_restored` says in words what is missing. Raises UserError, led by `where`, on a malformed
    state.
    """
    net, optimizer = state['net'], state['optimizer_state']
    if not (_are_tensors(net) and isinstance(optimizer, dict) and isinstance(optimizer.get('state'), dict)):
        raise UserError(f'{where}: no training state; its network or optimizer is no dict of tensors')
    kimg = kimg_of_state(path)
    missing = ['the order of the data', 'the random numbers', 'the statistics since the last tick']
    if kimg is None:
        missing.append('the images seen, which are counted from 0 as the file\'s name has no number')
        kimg = 0
    beside = path.with_name(snapshot_name(1000 * kimg))
    if beside.is_file():
        ema = snapshot.load_snapshot(str(beside), option=f'{where}: its averaged weights')['ema'].state_dict()
    else:
        ema = net
        missing.append(f'the averaged weights, which start from the network\'s for want of {beside.name}')
    return {'net': net, 'ema': ema, 'optimizer_state': optimizer, 'optimizer': 'torch.optim.Adam',
            'cur_nimg': 1000 * kimg, 'tick_start_nimg': 1000 * kimg,
            'cur_tick': tick_after(path.parent, kimg), 'elapsed_sec': 0.0, 'bad_steps': 0, 'data_order': None,
            'random_states': None, 'moments': None, 'seed': None, 'run_id': None,
            'not_restored': missing}


def _are_tensors(values) -> bool:
    return isinstance(values, dict) and all(isinstance(value, torch.Tensor) for value in values.values())
