"""Snapshot and state files that try to do harm, built in memory: published tricks and some of our own."""

import importlib
import io
import json
import os
import pickle
import struct
import zipfile

import numpy as np
import torch

from crafted_zips import Member, bomb, craft
from foreign_snapshots import dump_foreign, golden_bytes, module

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

# What a pickle may ask for by name, and the arguments; {path} is where the code would leave a mark. As far as
# the function exists here, pickle itself writes the call, under each of its protocols.
CALLS = {
    'os.system': ('touch {path}',),
    'os.popen': ('touch {path}',),
    'os.execv': ('/bin/touch', ['touch', '{path}']),
    'os.remove': ('{path}',),
    'os._exit': (0,),
    'os.putenv': ('PATH', '{path}'),
    'subprocess.Popen': (['touch', '{path}'],),
    'subprocess.check_output': (['touch', '{path}'],),
    'pty.spawn': (['touch', '{path}'],),
    'builtins.eval': ('open({path!r}, "w")',),
    'builtins.exec': ('open({path!r}, "w")',),
    'builtins.compile': ('1', '{path}', 'exec'),
    'builtins.open': ('{path}', 'w'),
    'builtins.__import__': ('antigravity',),
    'builtins.getattr': ('', '__class__'),
    'builtins.breakpoint': (),
    'builtins.input': ('{path}',),
    'builtins.globals': (),
    'builtins.map': (eval, ['open({path!r}, "w")']),
    'builtins.bytearray': (1 << 40,),
    'builtins.range': (1 << 40,),
    'builtins.type': ('X', (), {}),
    'importlib.import_module': ('antigravity',),
    'importlib.reload': ('os',),
    'runpy.run_path': ('{path}',),
    'runpy._run_code': ('open({path!r}, "w")', {}),
    'code.InteractiveInterpreter.runcode': (None, 'open({path!r}, "w")'),
    'operator.attrgetter': ('system',),
    'operator.methodcaller': ('system', 'touch {path}'),
    'operator.mul': ([0], 1 << 40),
    'functools.partial': (os.system, 'touch {path}'),
    'functools.reduce': (getattr, ['__class__', '__base__'], ''),
    'itertools.repeat': (0,),
    'marshal.loads': (b'c',),
    'pickle.loads': (b'cos\nsystem\n(Vtouch {path}\ntR.',),
    'pickle.Unpickler': (None,),
    'copyreg._reconstructor': (object, object, None),
    'copyreg.add_extension': ('os', 'system', 1),
    'io.FileIO': ('{path}', 'w'),
    'pathlib.Path.write_text': (None, '{path}'),
    'shutil.rmtree': ('{path}',),
    'tempfile.mkdtemp': (),
    'socket.create_connection': (('127.0.0.1', 9),),
    'urllib.request.urlopen': ('file://{path}',),
    'webbrowser.open': ('file://{path}',),
    'ctypes.CDLL': ('{path}',),
    'cProfile.run': ('open({path!r}, "w")',),
    'bdb.Bdb.run': (None, 'open({path!r}, "w")'),
    'timeit.timeit': ('open({path!r}, "w")',),
    'threading.Thread': (None, None, 'x'),
    'signal.raise_signal': (9,),
    'sys.setrecursionlimit': (1 << 30,),
    'logging.config.listen': (0,),
    'numpy.load': ('{path}', None, True),
    'numpy.save': ('{path}', 1),
    'numpy.zeros': (1 << 40,),
    'torch.load': ('{path}',),
    'torch.save': ({}, '{path}'),
    'torch.zeros': (1 << 40,),
    'torch.hub.load': ('{path}', 'x'),
    'torch.jit.load': ('{path}',),
    'torch_utils.files.write_json': ('{path}', 1),
    'torch_utils.downloads.local_path': ('http://127.0.0.1:9/x', ''),
    'torch_utils.persistence.persistent_class': (dict,),
}


def call_of(target: str, path, protocol: int) -> bytes:
    """A snapshot whose network is a call of `target` (a key of CALLS), as pickle writes it."""
    home, _, last = target.rpartition('.')
    try:
        owner = importlib.import_module(home)
    except ImportError:  # a class in the module
        outer, _, cls = home.rpartition('.')
        owner = getattr(importlib.import_module(outer), cls)
    function = getattr(owner, last)
    return pickle.dumps({'ema': Evil(function, *(filled(arg, path) for arg in CALLS[target]))}, protocol)


def filled(argument, path):
    """An argument of CALLS with the path put in."""
    if isinstance(argument, list):
        return [filled(item, path) for item in argument]
    if isinstance(argument, bytes):
        return argument.replace(b'{path}', str(path).encode())
    return argument.format(path=str(path)) if isinstance(argument, str) else argument


def under(data: bytes, protocol: int) -> bytes:
    """A file of TRICKS that says it were of another protocol; 0 and 1 say nothing."""
    if data[:1] != pickle.PROTO:
        return data
    return (pickle.PROTO + bytes([protocol]) if protocol >= 2 else b'') + data[2:]


MEMO, AGAIN = pickle.BINPUT + b'\xff', pickle.BINGET + b'\xff'


def repeated(first: bytes, body: bytes, count: int) -> bytes:
    """A snapshot whose network is a list of `count` times what `body` makes of what `first` has memoized."""
    return whole(value({}) + value('ema') + first + MEMO + pickle.POP + pickle.EMPTY_LIST + pickle.MARK
                 + body * count + pickle.APPENDS + pickle.SETITEM)


def call_again(target: str, *more: bytes) -> bytes:
    return call(target, AGAIN, *more)


def storage(count: int) -> bytes:
    return value_bytes(nested_storage(storage_id(count), struct.pack('<q', count) + bytes(4 * count)))


# A little that is asked for again and again: what is memoized, and what is done with it each time.
BOMBS = {
    'tensors': (call('torch.storage._load_from_bytes', storage(2)), call_again(
        'torch._utils._rebuild_tensor_v2', value(0), value((2,)), value((1,)), value(False), value({}))),
    'parameters': (tensor(TWO_FLOATS), call_again('torch._utils._rebuild_parameter', value(False))),
    'storages': (storage(1 << 18), call_again('torch.storage._load_from_bytes')),
    'dicts': (value([(f'{i}', i) for i in range(3000)]), call_again('collections.OrderedDict')),
    'sets': (value([f'{i}' for i in range(3000)]), call_again('builtins.set')),
    'bytes': (value('x' * 1_000_000), call_again('_codecs.encode', value('latin1'))),
    'arrays': (value_bytes(bytes(1_000_000)), call(
        'numpy._core.multiarray._reconstruct', name('numpy.ndarray'), value((0,)), value('b')) + pickle.MARK
        + value(1) + value((500_000,)) + call('numpy.dtype', value('i2'), value(False), value(True))
        + value((3, '<', None, None, None, -1, -1, 0)) + pickle.BUILD + value(False) + AGAIN + pickle.TUPLE
        + pickle.BUILD),
    'modules': (value('x' * 500_000), call(CALL, (
        value({}) + pickle.MARK + value('type') + value('class') + value('version') + value(6)
        + value('module_src') + AGAIN + value('class_name') + value('X') + value('state') + value({})
        + pickle.SETITEMS))),
    'empty sets': (value(None), pickle.EMPTY_SET),
    'lists in lists': (value(None), pickle.MARK),
    'nothing': (value(None), pickle.NONE + pickle.POP),
}


def shared_lists(depth: int, width: int) -> list:
    """width**depth numbers of which `width * depth` exist."""
    numbers = [1] * width
    for _ in range(depth - 1):
        numbers = [numbers] * width
    return numbers


def shared_module(copies: int, names: int, content=None):
    """A network of one module at `copies` places, which has one content under many names."""
    shared = module('Conv2d', _parameters=dict.fromkeys([f'p{i}' for i in range(names)], content))
    return dump_foreign({'ema': module('EDMPrecond', _modules={f'm{i}': shared for i in range(copies)})})


def colliding_keys(count: int) -> bytes:
    """A dict of integers with one hash, for which it needs the square of the time."""
    keys = (pickle.encode_long(i * (2**61 - 1)) for i in range(1, count))
    return whole(value({}) + pickle.MARK + b''.join(
        pickle.LONG1 + bytes([len(key)]) + key + pickle.NONE for key in keys) + pickle.SETITEMS)


# Opcode by opcode: what no pickler would write. Of those that run code, it would leave a mark at `path`.
TRICKS = {
    'getattr chain': lambda path: whole(call('builtins.getattr', name(CALL), value('__globals__'))),
    'dotted name': lambda path: whole(value('torch_utils.persistence') + value(
        '_reconstruct_persistent_obj.__globals__') + pickle.STACK_GLOBAL),
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
    'memo of a call': lambda path: whole(name(CALL) + pickle.BINPUT + b'\1' + value('x') + pickle.BINPUT
                                         + b'\1' + pickle.BINGET + b'\1' + value(()) + pickle.REDUCE),
    'memo doubling': lambda path: whole(pickle.EMPTY_LIST + 60 * (
        pickle.BINPUT + b'\1' + pickle.MARK + 2 * (pickle.BINGET + b'\1') + pickle.LIST)),
    'memo doubling in tuples': lambda path: whole(value({}) + value('ema') + value(()) + (
        pickle.BINPUT + b'\1' + pickle.BINGET + b'\1' + pickle.TUPLE2) * 60 + pickle.SETITEM),
    'a list in itself': lambda path: whole(
        value({}) + value('ema') + pickle.EMPTY_LIST + pickle.BINPUT + b'\1' + pickle.BINGET + b'\1'
        + pickle.APPEND + pickle.SETITEM),
    'a dict in itself': lambda path: whole(
        pickle.EMPTY_DICT + pickle.BINPUT + b'\1' + value('ema') + pickle.BINGET + b'\1' + pickle.SETITEM),
    'a key of our own': lambda path: whole(value({}) + name(CALL) + value(1) + pickle.SETITEM),
    'a long name': lambda path: b'\x80\x04c' + b'a' * 1_000_000 + b'\nb\n.',
    'a dotted module': lambda path: whole(value('torch_utils.persistence.importlib') + value('import_module')
                                          + pickle.STACK_GLOBAL),
    'a name that is no text': lambda path: whole(value(1) + value(2) + pickle.STACK_GLOBAL),
    'a class with __setstate__': lambda path: whole(
        name('numpy.ndarray') + value((0,)) + pickle.NEWOBJ + value((1, (2,), 'O', False, [1, 2]))
        + pickle.BUILD),
    'a generator state': lambda path: whole(call('torch_utils.persistence._reconstruct_persistent_obj', value(
        {'type': 'class', 'version': 6, 'module_src': '', 'class_name': 'EDMPrecond',
         'state': {'__setstate__': 1, '__reduce_ex__': 2, '__class__': 3, '_modules': 4}}))),
    'a network of tens of thousands of arguments': lambda path: dump_foreign({'ema': module(
        'EDMPrecond', _init_kwargs={f'a{i}': i for i in range(50_000)})}),
    'a network of shared lists': lambda path: dump_foreign({'ema': module(
        'EDMPrecond', _init_args=(shared_lists(4, 900),))}),
    'a loss of shared lists': lambda path: dump_foreign({
        'ema': module('EDMPrecond'), 'loss_fn': module('EDMLoss', _init_args=(shared_lists(30, 2),))}),
    'one module in many places, without tensors': lambda path: shared_module(100, 5000),
    'one module in many places, with an empty tensor': lambda path: shared_module(
        100, 5000, torch.empty(0)),
    'a type of shared tuples': lambda path: whole(name('numpy.dtype') + pickle.EMPTY_TUPLE + (
        MEMO + AGAIN + pickle.TUPLE2) * 60 + value(False) + value(True) + pickle.TUPLE3 + pickle.REDUCE),
    'keys that collide': lambda path: colliding_keys(30_000),
    'a sparse tensor': lambda path: whole(call(
        'torch._utils._rebuild_sparse_tensor', value(1), value((1, 2)))),
    'a quantised tensor': lambda path: whole(call('torch._utils._rebuild_qtensor', value(1))),
    'a device tensor from numpy': lambda path: whole(call('torch._utils._rebuild_device_tensor_from_numpy',
                                                          value(1), value('f4'), value('cpu'), value(False))),
    'a typed storage': lambda path: whole(call('torch.storage.TypedStorage', value(1 << 40))),
    'a mapped file': lambda path: whole(call('torch.FloatStorage.from_file', value(str(path)), value(True),
                                             value(1 << 40))),
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


def archive(data: bytes, records: dict[str, bytes] | None = None) -> bytes:
    """A state file in torch.save's present form around any pickle; records: further members."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, 'w') as members:
        for member, contents in ({'data.pkl': data, 'byteorder': b'little', 'version': b'3\n'}
                                 | (records or {})).items():
            members.writestr(f'archive/{member}', contents)
    return file.getvalue()


def old_archive(data: bytes) -> bytes:
    """A state file in torch.save's old form around any pickle."""
    machine = {'protocol_version': 1001, 'little_endian': True, 'type_sizes': {'int': 4}}
    head = [pickle.dumps(part, protocol=2) for part in (0x1950a86a20f9469cfc6c, 1001, machine)]
    return b''.join([*head, data, pickle.dumps([], protocol=2)])


def state_of_tensor(count: int, size: tuple = (2,)) -> bytes:
    """The pickle of a state whose only tensor claims a storage of `count` numbers."""
    return whole(value({}) + value('net') + call(
        'torch._utils._rebuild_tensor_v2', storage_id(count), value(0), value(size), value((1,)),
        value(False), call('collections.OrderedDict')) + pickle.SETITEM)


# State files that do harm by their form.
STATES = {
    'a huge storage': lambda: archive(state_of_tensor(1 << 40), {'data/0': b'x' * 8}),
    'a negative storage': lambda: archive(state_of_tensor(-1), {'data/0': b'x' * 8}),
    'a missing storage': lambda: archive(state_of_tensor(2)),
    'a short storage': lambda: archive(state_of_tensor(2), {'data/0': b'x'}),
    'a bomb': lambda: craft([('a/data.pkl', Member(data=state_of_tensor(1 << 29))),
                             ('a/data/0', bomb(1 << 31))]),
    'a pickle that is a bomb': lambda: craft([('a/data.pkl', bomb(10 << 30))]),
    'a bomb that says it were none': lambda: craft([('a/data.pkl', bomb(1 << 30, claimed=1000))]),
    'an encrypted pickle': lambda: craft([('a/data.pkl', Member(data=b'N.', flags=1))]),
    'two pickles': lambda: craft([('a/data.pkl', Member(data=b'N.')), ('b/data.pkl', Member(data=b'N.'))]),
    'an enlarged tensor': lambda: archive(state_of_tensor(2, (1 << 40,)), {'data/0': bytes(8)}),
    'a TorchScript archive': lambda: archive(b'N.', {'constants.pkl': b'N.', 'code/__torch__.py': b'1'}),
    'no pickle': lambda: archive(b''),
    'half a zip': lambda: archive(state_of_tensor(2), {'data/0': bytes(8)})[:-30],
    'a zip of something else': lambda: archive(b'N.').replace(b'archive/data.pkl', b'archive/data.txt'),
    'text': lambda: b'no state\n',
    'empty': lambda: b'',
}


def safetensors(header, data: bytes = b'', length: int | None = None) -> bytes:
    """A safetensors file. header: an object or the bytes themselves; length: what the file says of them."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack('<Q', len(text) if length is None else length) + text + data


def entry(begin, end, shape=(2,), dtype='F32', **more) -> dict:
    return {'dtype': dtype, 'shape': list(shape), 'data_offsets': [begin, end]} | more


# Safetensors files, and the words by which each is refused.
SAFETENSORS = {
    'empty': (b'', 'first eight bytes'),
    'seven bytes': (bytes(7), 'first eight bytes'),
    'header of no byte': (bytes(8), 'no JSON'),
    'header of 10 GB': (safetensors(b'{}', length=10**10), 'header has 10,000,000,000 bytes'),
    'header of 2^64 bytes': (safetensors(b'{}', length=2**64 - 1), 'header has'),
    'header of spaces': (safetensors(b'{}' + b' ' * 10_000_000), 'beyond any network'),
    'no text': (safetensors(b'\xff\xfe'), 'no JSON'),
    'cut JSON': (safetensors(b'{"a": {'), 'no JSON'),
    'deep JSON': (safetensors(b'[' * 1_000_000), 'no JSON'),
    'long integer': (safetensors(b'{"a": ' + b'9' * 1_000_000 + b'}'), 'no JSON'),
    'list': (safetensors([]), 'no JSON object'),
    'name twice': (safetensors(b'{"a": {"dtype": "U8"}, "a": {}}'), 'a name twice'),
    'many tensors': (safetensors({str(i): 0 for i in range(30_000)}), 'beyond any network'),
    'no entry': (safetensors({'a': 1}), 'lacks type'),
    'no place': (safetensors({'a': {'dtype': 'F32', 'shape': [2]}}, bytes(8)), 'lacks type'),
    'more': (safetensors({'a': entry(0, 8, more=1)}, bytes(8)), 'lacks type'),
    'unknown type': (safetensors({'a': entry(0, 8, dtype='C64')}, bytes(8)), 'unknown type'),
    'type of no name': (safetensors({'a': entry(0, 8, dtype=[])}, bytes(8)), 'unknown type'),
    'negative shape': (safetensors({'a': entry(0, 8, [-1, -2])}, bytes(8)), 'no list of sizes'),
    'fraction': (safetensors({'a': entry(0, 8, [2.0])}, bytes(8)), 'no list of sizes'),
    'truth': (safetensors({'a': entry(0, 4, [True])}, bytes(4)), 'no list of sizes'),
    'not a number': (safetensors(b'{"a": {"dtype": "F32", "shape": [NaN], "data_offsets": [0, 8]}}'),
                     'no list of sizes'),
    'many dimensions': (safetensors({'a': entry(0, 4, [1] * 100_000)}, bytes(4)), 'no list of sizes'),
    'huge shape': (safetensors({'a': entry(0, 8, [1 << 40] * 8)}, bytes(8)), 'different sizes'),
    'huge place': (safetensors({'a': entry(0, 1 << 42, [1 << 40])}, bytes(8)), 'cut short'),
    'shape and place': (safetensors({'a': entry(0, 12)}, bytes(12)), 'different sizes'),
    'reversed place': (safetensors({'a': entry(8, 0, [0])}, bytes(8)), 'different sizes'),
    'three offsets': (safetensors({'a': {'dtype': 'F32', 'shape': [2], 'data_offsets': [0, 8, 8]}}, bytes(8)),
                      'different sizes'),
    'overlap': (safetensors({'a': entry(0, 8), 'b': entry(4, 12)}, bytes(12)), "before its tensor 'b'"),
    'the same bytes': (safetensors({'a': entry(0, 8), 'b': entry(0, 8)}, bytes(8)), "before its tensor 'b'"),
    'gap': (safetensors({'a': entry(0, 8), 'b': entry(12, 20)}, bytes(20)), "before its tensor 'b'"),
    'first gap': (safetensors({'a': entry(4, 12)}, bytes(12)), "before its tensor 'a'"),
    'cut short': (safetensors({'a': entry(0, 8)}, bytes(7)), "cut short within its tensor 'a'"),
    'bytes behind': (safetensors({'a': entry(0, 8)}, bytes(9)), '1 bytes behind'),
    'terminal codes': (safetensors({'\x1b[2J\n': 1}), 'lacks type'),
}
