import io
import os
import pickle
import struct
import subprocess

import numpy as np
import pytest
import torch

from foreign_snapshots import dump_foreign, golden_bytes, module
from torch_utils import safe_pickle
from torch_utils.errors import UserError
from training import snapshot

DEEP = 200_000  # far more levels than a C stack has room for
CALL = 'torch_utils.persistence._reconstruct_persistent_obj'


def name(text: str) -> bytes:
    """The opcodes that push the global MODULE.NAME."""
    home, _, last = text.rpartition('.')
    return pickle.GLOBAL + home.encode() + b'\n' + last.encode() + b'\n'


def value(obj) -> bytes:
    """The opcodes that push a plain value."""
    return pickle.dumps(obj, protocol=2)[2:-1]


def call(target: str, *args: bytes) -> bytes:
    return name(target) + pickle.MARK + b''.join(args) + pickle.TUPLE + pickle.REDUCE


def whole(body: bytes) -> bytes:
    return b'\x80\x04' + body + pickle.STOP


class Evil:
    """Pickles as a call of any function."""

    def __init__(self, function, *args):
        self.reduced = function, args

    def __reduce__(self):
        return self.reduced


def nested_storage(description: bytes, payload: bytes, keys=('0',)) -> bytes:
    """A torch.save file of the old form with any description of its storage."""
    machine = {'protocol_version': 1001, 'little_endian': True, 'type_sizes': {'int': 4}}
    parts = [pickle.dumps(part, protocol=2) for part in (0x1950a86a20f9469cfc6c, 1001, machine)]
    return b''.join([*parts, whole(description), pickle.dumps(list(keys), protocol=2), payload])


def storage_id(count: int, storage='torch.FloatStorage') -> bytes:
    return (pickle.MARK + value('storage') + name(storage) + value('0') + value('cpu') + value(count)
            + value(None) + pickle.TUPLE + pickle.BINPERSID)


def tensor(data: bytes, offset=0, size=(2,), stride=(1,)) -> bytes:
    return call('torch._utils._rebuild_tensor_v2', call('torch.storage._load_from_bytes', value_bytes(data)),
                value(offset), value(size), value(stride), value(False), call('collections.OrderedDict'))


def value_bytes(data: bytes) -> bytes:
    return pickle.BINBYTES + struct.pack('<I', len(data)) + data


def touch(path) -> str:
    return f'import os; os.system("touch {path}")'


def nested(depth: int, opcode: bytes) -> bytes:
    return value(()) + opcode * depth


def numpy_object_array(path) -> bytes:
    return pickle.dumps(np.array([Evil(os.system, f'touch {path}')], dtype=object), protocol=4)


TWO_FLOATS = nested_storage(storage_id(2), struct.pack('<q2f', 2, 1, 2))

# Files that try to run code, and files that try to exhaust the reader; code would leave a mark at `path`.
HOSTILE = {
    'os.system': lambda path: pickle.dumps({'ema': Evil(os.system, f'touch {path}')}),
    'eval': lambda path: pickle.dumps({'ema': Evil(eval, f'open({str(path)!r}, "w")')}),
    'exec': lambda path: pickle.dumps({'ema': Evil(exec, touch(path))}),
    'subprocess': lambda path: pickle.dumps({'ema': Evil(subprocess.Popen, ['touch', str(path)])}),
    'getattr chain': lambda path: whole(call('builtins.getattr', name(CALL), value('__globals__'))),
    'dotted name': lambda path: whole(value('torch_utils.persistence') + value(
        '_reconstruct_persistent_obj.__globals__') + pickle.STACK_GLOBAL),
    'import': lambda path: whole(call('importlib.import_module', value('this'))),
    'torch.load': lambda path: whole(call('torch.load', value(str(path)))),
    'the real _load_from_bytes': lambda path: whole(call('torch.storage._load_from_bytes', value_bytes(
        pickle.dumps(Evil(os.system, f'touch {path}'))))),
    'code in a nested file': lambda path: whole(tensor(nested_storage(
        call('os.system', value(f'touch {path}')), b''))),
    'a zip in a nested file': lambda path: whole(call('torch.storage._load_from_bytes', value_bytes(
        zipped(Evil(os.system, f'touch {path}'))))),
    'code as source text': lambda path: dump_foreign({'ema': module('EDMPrecond', touch(path))}),
    'code as source text of an unknown class': lambda path: dump_foreign({'ema': module('X', touch(path))}),
    'code as class name': lambda path: dump_foreign({'ema': module(touch(path))}),
    'state of a function': lambda path: whole(name(CALL) + value((None, {'__code__': 1, 'call': 2}))
                                              + pickle.BUILD),
    'state of a class': lambda path: whole(name('collections.OrderedDict') + value({'update': 1})
                                           + pickle.BUILD),
    'state of a tensor': lambda path: whole(tensor(TWO_FLOATS) + value({'grad': 1}) + pickle.BUILD),
    'setstate of a dict': lambda path: whole(value({}) + value({'__setstate__': 1}) + pickle.BUILD),
    'an own __setstate__': lambda path: whole(name('torch.nn.modules.container.ModuleDict') + value(())
                                              + pickle.NEWOBJ + value((1, {'__class__': 2})) + pickle.BUILD),
    'a new builtin object': lambda path: whole(name('builtins.type') + value(('X', (), {})) + pickle.NEWOBJ),
    'call of a value': lambda path: whole(value('text') + value(()) + pickle.REDUCE),
    'call of a dtype': lambda path: whole(name('torch.FloatStorage') + value((2**50,)) + pickle.REDUCE),
    'old instance': lambda path: b'\x80\x02(' + value(f'touch {path}') + b'ios\nsystem\n.',
    'old object': lambda path: whole(pickle.MARK + name('os.system') + value(f'touch {path}') + pickle.OBJ),
    'persistent id': lambda path: whole(value(('storage', 1)) + pickle.BINPERSID),
    'text persistent id': lambda path: whole(pickle.PERSID + b'storage\n'),
    'extension registry': lambda path: whole(pickle.EXT1 + b'\x01'),
    'new object with keywords': lambda path: whole(
        name('collections.OrderedDict') + value(()) + value({}) + pickle.NEWOBJ_EX),
    'out-of-band buffer': lambda path: whole(pickle.NEXT_BUFFER),
    'object array': numpy_object_array,
    'object scalar': lambda path: whole(call('numpy.core.multiarray.scalar', call(
        'numpy.dtype', value('O8'), value(False), value(True)), value({}))),
    'encode with any codec': lambda path: whole(call('_codecs.encode', value('aa'), value('hex'))),
    'items for a global': lambda path: whole(name(CALL) + pickle.MARK + value((1, 2)) + pickle.SETITEMS),
    'append to a global': lambda path: whole(name('collections.OrderedDict') + value(1) + pickle.APPEND),
    'add to a dict': lambda path: whole(value({}) + pickle.MARK + value(1) + pickle.ADDITEMS),
    'a deep key': lambda path: whole(value({}) + nested(DEEP, pickle.TUPLE1) + value(1) + pickle.SETITEM),
    'a deep set item': lambda path: whole(pickle.EMPTY_SET + pickle.MARK + nested(DEEP, pickle.TUPLE1)
                                          + pickle.ADDITEMS),
    'deep lists': lambda path: whole(pickle.EMPTY_LIST * DEEP + pickle.APPEND * (DEEP - 1)),
    'a deep argument': lambda path: dump_foreign({'ema': module('EDMPrecond', _init_args=(1,))}).replace(
        b'K\x01\x85', nested(DEEP, pickle.TUPLE1)),
    'huge bytes': lambda path: b'\x80\x04' + pickle.BINBYTES8 + struct.pack('<Q', 2**62) + b'x.',
    'large bytes': lambda path: b'\x80\x04' + pickle.BINBYTES8 + struct.pack('<Q', 2**40) + b'x.',
    'huge text': lambda path: b'\x80\x04' + pickle.BINUNICODE8 + struct.pack('<Q', 2**40) + b'x.',
    'huge frame': lambda path: b'\x80\x04' + pickle.FRAME + struct.pack('<Q', 2**40) + b'N.',
    'huge byte array': lambda path: b'\x80\x05' + pickle.BYTEARRAY8 + struct.pack('<Q', 2**40) + b'x.',
    'huge memo': lambda path: whole(b'N' + pickle.LONG_BINPUT + struct.pack('<I', 2**32 - 1)),
    'huge integer': lambda path: whole(pickle.LONG4 + struct.pack('<i', 2**31 - 1)),
    'huge storage': lambda path: whole(tensor(nested_storage(storage_id(2**50), b''))),
    'negative storage': lambda path: whole(tensor(nested_storage(storage_id(-4), struct.pack('<q', -4)))),
    'short storage': lambda path: whole(tensor(nested_storage(storage_id(2), struct.pack('<qf', 2, 1)))),
    'beyond the storage': lambda path: whole(tensor(TWO_FLOATS, offset=1)),
    'negative stride': lambda path: whole(tensor(TWO_FLOATS, offset=1, stride=(-1,))),
    'expanded tensor': lambda path: whole(value({}) + value('ema') + tensor(
        TWO_FLOATS, size=(2**40,), stride=(0,)) + pickle.SETITEM),
    'unknown storage': lambda path: whole(tensor(nested_storage(storage_id(2, 'torch.cuda.X'), b''))),
    'wrong array': lambda path: whole(call('numpy._core.multiarray._reconstruct', name('numpy.ndarray'),
                                           value((0,)), value('b'))
                                      + value((1, (2**40,), 1, False, 'x')) + pickle.BUILD),
    'no stack': lambda path: whole(pickle.TUPLE3),
    'no mark': lambda path: whole(pickle.TUPLE),
    'no memo': lambda path: whole(pickle.BINGET + b'\x07'),
    'unknown opcode': lambda path: whole(b'\xff'),
    'unknown protocol': lambda path: b'\x80\x63N.',
    'bad text': lambda path: whole(pickle.SHORT_BINUNICODE + b'\x02\xff\xfe'),
    'truncated': lambda path: golden_bytes()[:400_000],
    'one byte short': lambda path: golden_bytes()[:-1],
    'a flipped byte': lambda path: golden_bytes()[:300] + b'\xee' + golden_bytes()[301:],
    'only the start': lambda path: b'\x80\x04',
    'text': lambda path: b'these are no weights\n',
    'empty': lambda path: b'',
    'web page': lambda path: b'<!DOCTYPE html><html><script>x</script></html>',
}


def zipped(obj) -> bytes:
    file = io.BytesIO()
    torch.save(obj, file)
    return file.getvalue()


@pytest.mark.parametrize('kind', HOSTILE)
def test_hostile_files_are_refused_in_one_line_and_run_nothing(kind, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    mark = tmp_path / 'mark'
    path = tmp_path / 'net.pkl'
    path.write_bytes(HOSTILE[kind](mark))
    tables = dict(safe_pickle._GLOBALS)
    with pytest.raises(UserError) as caught:
        snapshot.load_snapshot(str(path))
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < len(str(path)) + 400
    assert 'net.pkl is no snapshot this software can read: ' in str(caught.value)
    assert list(tmp_path.iterdir()) == [path]
    assert tables == safe_pickle._GLOBALS
    assert capsys.readouterr() == ('', '')


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
    arrays = [np.arange(6.).reshape(2, 3).T, np.array([1, 2], dtype='>i2'), np.zeros((0, 3))]
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


def test_objects_become_records():
    record = safe_pickle.safe_load(io.BytesIO(golden_bytes()))['ema']
    assert type(record) is safe_pickle.PersistentObject
    assert record.class_name == 'EDMPrecond'
    assert record.state['_init_kwargs']['model_channels'] == 16
    encoder = record.state['_modules']['model'].state['_modules']['enc']
    assert encoder.class_name == 'ModuleDict'
    assert '8x8_conv' in encoder.state['_modules']
