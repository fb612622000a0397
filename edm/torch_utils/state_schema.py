"""What the entries of a training state must be: a state may be untrusted, or damaged."""

import math
from collections.abc import Callable

import torch

from torch_utils.errors import UserError, shown
from torch_utils.training_stats import MEASURED


def _is_count(value, limit: int = 2**53) -> bool:
    return type(value) is int and 0 <= value < limit


def is_number(value) -> bool:
    return type(value) in (int, float) and 0 <= value < math.inf


def _is_text(value) -> bool:
    return type(value) is str


def is_tensor(value, dtype: torch.dtype, *shape: int) -> bool:
    return isinstance(value, torch.Tensor) and value.dtype == dtype and (not shape or value.shape == shape)


def _are_tensors(value) -> bool:
    return all(type(name) is str and isinstance(tensor, torch.Tensor) for name, tensor in value.items())


def _is_optimizer_state(value) -> bool:
    return all(isinstance(entry, dict) for entry in value['state'].values())


def _is_numpy_state(value) -> bool:
    words, (has_gauss, gauss) = value['rng_words'], value['rng_gauss']
    return (is_tensor(words, torch.int64, 624) and 0 <= words.min() and words.max() < 2**32
            and _is_count(value['rng_position'], 625) and _is_count(has_gauss) and math.isfinite(gauss))


def _is_data_order(value) -> bool:
    """As `InfiniteSampler.state_dict` gives it."""
    order = value['order']
    return (_is_numpy_state(value) and is_tensor(order, torch.int64) and _is_count(value['visited'])
            and _is_count(value['window'], len(order) + 1)
            and torch.equal(order.sort().values, torch.arange(len(order))))


def _are_random_states(value) -> bool:
    """As `torch_utils.seeding.get_random_states` gives them."""
    for states in value:
        torch.Generator().set_state(states['cpu'])
    return type(value) is list and len(value) > 0 and all(
        _is_numpy_state(states['numpy']) and is_tensor(states.get('device', states['cpu']), torch.uint8)
        for states in value)


def _are_moments(value) -> bool:
    """As `torch_utils.training_stats.Moments.own_totals` gives them, of all processes."""
    totals = torch.stack([moments[name] for moments in value for name in MEASURED])
    return (type(value) is list and totals.is_floating_point() and totals.shape[1:] == (4,)
            and bool(totals.isfinite().all() and (totals >= 0).all()))


# Entry of a state -> a check of its value, which may fail in any way; what is expected; whether None may be.
SCHEMA = {
    'net': (_are_tensors, 'a dict of tensors', False),
    'ema': (_are_tensors, 'a dict of tensors', False),
    'optimizer': (_is_text, 'a name', False),
    'optimizer_state': (_is_optimizer_state, 'the state of an optimizer', False),
    'cur_nimg': (_is_count, 'a number of images', False),
    'cur_tick': (_is_count, 'a number of ticks', False),
    'tick_start_nimg': (_is_count, 'a number of images', False),
    'elapsed_sec': (is_number, 'a number of seconds', False),
    'bad_steps': (_is_count, 'a number of steps', False),
    'ema_rampup_ratio': (is_number, 'a number of at least 0', True),
    'seed': (lambda value: _is_count(value, 2**32), 'a seed', True),
    'run_id': (_is_text, 'a text', True),
    'data_sha256': (_is_text, 'a text', True),
    'data_order': (_is_data_order, 'an order of images', True),
    'random_states': (_are_random_states, 'states of random generators', True),
    'moments': (_are_moments, 'sums of measurements', True),
}


def _fits(value, check: Callable[..., bool], optional: bool) -> bool:
    try:
        return (optional and value is None) or check(value)
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError):
        return False


def check_entries(state: dict, where: str) -> None:
    """Raise UserError, led by `where`, unless each entry of a state is what `SCHEMA` says."""
    for key, (check, expected, optional) in SCHEMA.items():
        if not _fits(value := state[key], check, optional):
            plain = value is None or type(value) in (bool, int, float, str)
            got = shown(value) if plain else f'another {type(value).__name__}'
            raise UserError(f'{where}: no training state; its {key} is {got}, expected {expected}')
    if state['tick_start_nimg'] > state['cur_nimg']:
        raise UserError(f'{where}: no training state; its tick began after {state["tick_start_nimg"]:,} '
                        f'images, and it has seen {state["cur_nimg"]:,}')
