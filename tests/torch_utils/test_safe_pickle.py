"""What the safe reader keeps of values, tensors and objects, and how it names what it refuses."""

import io
import pickle

import numpy as np
import pytest
import torch

from foreign_snapshots import golden_bytes
from hostile_files import call, whole
from torch_utils import bounded, safe_pickle
from training import snapshot
from training.networks import EDMPrecond


def test_refused_names_stand_in_the_message(tmp_path):
    for target in 'os.system', 'builtins.eval', 'torch.nn.modules.linear.Linear', 'numpy.load':
        with pytest.raises(pickle.UnpicklingError, match=f"'{target}'"):
            safe_pickle.safe_load(io.BytesIO(whole(call(target))))
    with pytest.raises(pickle.UnpicklingError, match=r"'os\.\\x1b\[31m") as caught:
        safe_pickle.safe_load(io.BytesIO(whole(call('os.\x1b[31m' + 'x' * 1000))))
    assert len(str(caught.value)) < 200


def test_plain_values_are_read_as_pickle_reads_them():
    values = {'a': [1, -2, 2**40, -2**2000, 1.5, float('inf'), None, True, False], 3: {'b', 'c'},
              'ü': ('x' * 300, b'y' * 70_000, b''),
              'same': [[]] * 2, 'big': 'z' * 70_000, 'dicts': {'e': {}, 'f': {'g': ()}}}
    for protocol in 2, 3, 4, 5:
        read = safe_pickle.safe_load(io.BytesIO(pickle.dumps(values, protocol=protocol)))
        assert read == values
        assert read['same'][0] is read['same'][1]


def test_numpy_numbers_and_arrays_keep_their_values():
    numbers = [np.float64(0.1), np.float32(0.1), np.int64(-5), np.uint8(200), np.bool_(True), np.half(0.5)]
    arrays = [np.arange(6.).reshape(2, 3).T, np.array([1, 2], dtype='i2'), np.zeros((0, 3))]
    for protocol in 2, 4:
        read = safe_pickle.safe_load(io.BytesIO(pickle.dumps(numbers + arrays, protocol=protocol)))
        assert [type(number) for number in read[:6]] == [float, float, int, int, bool, float]
        assert read[:6] == numbers
        for array, expected in zip(read[6:], arrays, strict=True):
            assert np.array_equal(array, expected)


@pytest.mark.parametrize('dtype', safe_pickle._STORAGE_TYPES.values())
def test_tensors_of_every_type_and_layout_keep_their_values(dtype):
    all_of_it = torch.arange(24).reshape(4, 6).to(dtype)
    tensors = [all_of_it, all_of_it.t(), all_of_it[1:3, ::2], all_of_it[:0], all_of_it[2, 3]]
    read = safe_pickle.safe_load(io.BytesIO(pickle.dumps(tensors, protocol=4)))
    for tensor_read, expected in zip(read, tensors, strict=True):
        assert tensor_read.dtype == dtype
        assert tensor_read.stride() == expected.stride()
        assert torch.equal(tensor_read, expected)


def test_tensors_read_are_aligned_for_fast_kernels():
    for tensor_read in safe_pickle.safe_load(io.BytesIO(pickle.dumps([torch.ones(n) for n in (1, 50, 999)]))):
        assert tensor_read.data_ptr() % 64 == 0


def test_a_network_of_the_largest_published_structure_needs_a_fifth_of_the_budget(tmp_path, monkeypatch):
    monkeypatch.setattr(bounded, 'MAX_OPCODES', bounded.MAX_OPCODES // 5)
    monkeypatch.setattr(bounded, 'MAX_CALLS', bounded.MAX_CALLS // 5)
    monkeypatch.setattr(safe_pickle, 'MAX_NAMES', safe_pickle.MAX_NAMES // 5)
    net = EDMPrecond(64, 3, label_dim=1000, model_type='DhariwalUNet', model_channels=32,
                     channel_mult=[1, 2, 3, 4], num_blocks=3)  # as edm-imagenet-64x64-cond-adm, but narrow
    snapshot.save_snapshot(tmp_path / 'net.pkl', ema=net)
    assert len(snapshot.load_snapshot(str(tmp_path / 'net.pkl'))['ema'].state_dict()) == 553


def test_objects_become_records():
    record = safe_pickle.safe_load(io.BytesIO(golden_bytes()))['ema']
    assert type(record) is safe_pickle.PersistentObject
    assert record.class_name == 'EDMPrecond'
    assert record.state['_init_kwargs']['model_channels'] == 16
    encoder = record.state['_modules']['model'].state['_modules']['enc']
    assert encoder.class_name == 'ModuleDict'
    assert '8x8_conv' in encoder.state['_modules']
