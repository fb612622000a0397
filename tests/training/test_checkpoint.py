"""A state file whose entries are not what they should be is refused in one line, whatever stands there."""

import math
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from torch_utils.errors import UserError
from torch_utils.state_schema import SCHEMA
from torch_utils.training_stats import MEASURED
from training import loop
from training.build import build_network
from training.checkpoint import check_state, load_state
from training.config import TrainingConfig
from training.launch import sketch

CPU = torch.device('cpu')


class Images:
    """Six images."""

    resolution, num_channels, label_dim = 4, 3, 0

    def __len__(self):
        return 6

    def images(self, indices):
        return np.zeros((len(indices), 3, 4, 4), np.uint8)

    def labels(self, indices):
        return np.zeros((len(indices), 0), np.float32)


def config(folder, **changes):
    return TrainingConfig(**{
        'run_dir': str(folder), 'dataset_kwargs': {}, 'total_kimg': 1, 'batch_size': 500,
        'network_kwargs': {'class_name': 'training.networks.EDMPrecond', 'model_type': 'MLP',
                           'model_channels': 4, 'num_blocks': 1},
        'loss_kwargs': {'class_name': 'training.loss.EDMLoss'},
        'optimizer_kwargs': {'class_name': 'torch.optim.Adam', 'lr': 1e-3}, 'state_dump_ticks': 1} | changes)


@pytest.fixture(scope='module')
def state_file(tmp_path_factory):
    folder = tmp_path_factory.mktemp('run')
    settings = config(folder)
    loop.train(settings, Images(), partial(build_network, settings.network_kwargs, Images()), device=CPU)
    return folder / 'training-state-000001.pt'


# What may stand where something else is expected. Numbers that are too large are tried as well.
ANYTHING = st.recursive(
    st.none() | st.text(max_size=3) | st.just(math.nan) | st.just(-math.inf) | st.booleans()
    | st.integers(-2**70, 2**70) | st.floats() | st.just(torch.zeros(0)) | st.just(torch.tensor(-1))
    | st.just(torch.full((4,), -1.0)) | st.just(torch.zeros(5056, dtype=torch.uint8))
    | st.just(torch.full((624,), -1)),
    lambda values: st.lists(values, max_size=3) | st.dictionaries(
        st.integers(0, 2) | st.sampled_from(['state', 'step', 'cpu', 'numpy', 'order', *MEASURED]), values,
        max_size=3), max_leaves=6)


@st.composite
def replaced(draw, value):
    """`value` with something else in its place or, in a dict or list, in a place in it."""
    if isinstance(value, dict | list) and value and draw(st.booleans()):
        copy = value.copy()
        key = draw(st.sampled_from([*value] if isinstance(value, dict) else range(len(value))))
        copy[key] = draw(replaced(value[key]))
        return copy
    return draw(ANYTHING)


@given(st.data())
@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_other_entry_is_one_line_or_a_state_to_resume(state_file, tmp_path, data):
    state = torch.load(state_file)
    key = data.draw(st.sampled_from(sorted(SCHEMA)))
    state[key] = data.draw(replaced(state[key]))
    path = tmp_path / 'training-state-000001.pt'
    torch.save(state, path)
    settings = config(tmp_path / 'new', total_kimg=0)
    make_net = partial(build_network, settings.network_kwargs, Images())
    said = None
    try:
        state = load_state(path)
        check_state(state, sketch(make_net), Images(), 'torch.optim.Adam', f'--resume {path}')
    except UserError as err:
        said = str(err)
    if said is not None:
        assert said.startswith(f'--resume {path}')
        assert '\n' not in said
        assert len(said) < 400 + len(str(path))
    else:  # so it can be resumed, and a step made
        run = loop.prepare(config(tmp_path), Images(), make_net, device=CPU, state=state)
        loop.train_step(run)


@pytest.mark.parametrize(('key', 'value'), [
    ('cur_nimg', -1), ('cur_nimg', True), ('cur_tick', '3'), ('bad_steps', 10**30), ('bad_steps', None),
    ('seed', torch.tensor(3)), ('elapsed_sec', math.nan), ('data_order', {}), ('random_states', {}),
    ('random_states', [{'cpu': torch.zeros(3)}]),
    ('moments', [dict.fromkeys(MEASURED, torch.full((4,), -1.))]),
    ('run_id', 7), ('optimizer', None), ('optimizer_state', {'state': {0: 1}}), ('ema', [1]),
    ('ema_rampup_ratio', -1.0), ('tick_start_nimg', 10**6)])
def test_entries_of_another_type_or_value_are_named(key, value, state_file, tmp_path):
    path = tmp_path / 'state.pt'
    torch.save(torch.load(state_file) | {key: value}, path)
    with pytest.raises(UserError, match=f'--resume {path}: no training state; its {key.split("_start")[0]}'):
        load_state(path)


def test_an_order_must_be_one_of_all_images(state_file, tmp_path):
    state = torch.load(state_file)
    state['data_order']['order'][0] = state['data_order']['order'][1]
    torch.save(state, tmp_path / 'state.pt')
    with pytest.raises(UserError, match='its data_order is another dict, expected an order of images'):
        load_state(tmp_path / 'state.pt')
