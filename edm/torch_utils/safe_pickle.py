"""A reader of untrusted pickles (snapshots, CIFAR-10) that runs no code in them.

It is a pickle machine with three restrictions: an opcode table without the risky ones, names that are looked
up in one fixed table instead of being imported, and calls and state changes only on what that table made. It
gives plain values, tensors, and `PersistentObject` records; `training.snapshot` makes networks of them.
"""

import dataclasses
import io
import math
import pickle
import re
import struct
import typing
import warnings

import numpy as np
import torch

from torch_utils.bounded import Bounded, Budget
from torch_utils.errors import shown
from torch_utils.persistence import VERSION, source_hash

MAX_TEXT = 1 << 20  # characters of a module's source
MAX_PATH = 500  # characters in a tensor's name; a module that holds itself has endless ones
MAX_NAMES = 20_000  # tensors, modules and None in all modules; NVIDIA's largest network has 1,000
MAX_KEY = 1 << 60  # beyond 2**61 hashes of integers collide, and a dict takes quadratic time


@dataclasses.dataclass(eq=False)
class PersistentObject:
    """An object of a snapshot as it stands in the file; nothing was built or run for it.

    class_name: one of any; `ModuleDict` stands for PyTorch's class, whose state has the same form.
    state: the object's `__dict__`.
    source_hash: SHA-256 of the defining module's text, None for a ModuleDict.
    """

    class_name: str
    state: dict
    source_hash: str | None


def safe_load(file: typing.BinaryIO) -> typing.Any:
    """The object in a pickle, with records in place of what would need code to be run.

    file: a seekable binary file. OrderedDict and EasyDict become dict, numpy scalars Python numbers,
    parameters tensors (on the CPU, whatever device wrote them).
    Raises pickle.UnpicklingError with one line on anything that is no snapshot, or no intact one.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            return _SafeUnpickler(Bounded(file)).load()
    except pickle.UnpicklingError:
        raise
    # A malformed pickle can make the machine fail in any way; none of them is worth a traceback.
    except Exception as err:
        raise pickle.UnpicklingError(f'it is damaged or no pickle at all ({type(err).__name__})') from err


def collect_tensors(record: PersistentObject, size: int) -> tuple[dict[str, torch.Tensor], int, set[str]]:
    """Tensors of a module's record by their path, the number of modules, and the hashes of their texts.

    size: of the file, whose bytes bound what it may claim. Raises pickle.UnpicklingError.
    """
    tensors, sources, modules, claimed, names = {}, set(), 0, 0, 0
    pending = [('', record)]
    while pending:
        prefix, module = pending.pop()
        modules += 1
        sources |= {module.source_hash} - {None}
        kinds = [module.state.get(kind) for kind in ('_parameters', '_buffers', '_modules')]
        require(all(type(kind) is dict for kind in kinds), f'an incomplete module {shown(prefix)}')
        # A module that stands in several places, or in itself, can stand for endlessly many.
        names += sum(map(len, kinds))
        require(names <= MAX_NAMES, 'fewer tensors than it claims')
        for name, value in (kinds[0] | kinds[1] | kinds[2]).items():
            path = f'{prefix}{name}'
            if isinstance(value, torch.Tensor):
                tensors[path] = value
                claimed += value.nbytes
            elif type(value) is PersistentObject:
                pending.append((f'{path}.', value))
            else:
                require(value is None, f'a plain {type(value).__name__} as {shown(path)}')
            require(len(path) <= MAX_PATH and claimed <= size and modules + len(pending) <= size // 10,
                    'fewer tensors than it claims')
    return tensors, modules, sources


@dataclasses.dataclass(frozen=True, slots=True)
class _Global:
    """What a name in a pickle stands for: something that can be called, or a storage's element type."""

    name: str
    call: object = None
    dtype: torch.dtype | None = None


def require(condition: bool, what: str) -> None:
    """Raise pickle.UnpicklingError, which says that the file holds `what`, unless the condition holds."""
    if not condition:
        raise pickle.UnpicklingError(f'it holds {what}')


def _check_key(key) -> None:
    # Not any hashable: hashing tuples nested a million deep would overflow the C stack.
    require(type(key) is str or (type(key) is int and abs(key) < MAX_KEY),
            'a dict key or set item that is no text or small integer')


def _persistent_object(meta):
    require(type(meta) is dict and meta.get('type') == 'class', 'a malformed persistent object')
    require(meta.get('version') == VERSION, f'a persistent object of another version than {VERSION}')
    name, state, source = meta.get('class_name'), meta.get('state'), meta.get('module_src')
    require(type(name) is str and type(state) is dict and type(source) is str, 'an incomplete object')
    require(len(source) <= MAX_TEXT, 'a source text that is too long')
    return PersistentObject(name, state, source_hash(source))


def _dict(pairs=()):
    require(type(pairs) in (list, tuple), 'a malformed dict')
    for key, _ in pairs:
        _check_key(key)
    return dict(pairs)


def _set(items=()):
    require(type(items) in (list, tuple), 'a malformed set')
    for item in items:
        _check_key(item)
    return set(items)


def _encode(text, encoding):
    require(type(text) is str and encoding == 'latin1', 'malformed bytes')
    return text.encode('latin1')


def _numpy_type(code, align=False, copy=True):
    require(type(code) is str and re.fullmatch('b1|[iu][1248]|f[248]', code) is not None,
            'a numpy value of a type that is no number')
    return np.dtype(code, copy=True)  # its byte order follows


def _numpy_scalar(kind, data):
    require(isinstance(kind, np.dtype) and type(data) is bytes and len(data) == kind.itemsize,
            'a malformed numpy number')
    return np.frombuffer(data, kind)[0].item()


def _empty_array(cls, shape, code):
    require(type(cls) is _Global and cls.name == 'numpy.ndarray', 'a malformed numpy array')
    return np.empty(0)


def _set_array(array: np.ndarray, state) -> None:
    require(type(state) is tuple and len(state) == 5, 'a malformed numpy array')
    _, shape, kind, fortran, data = state
    data = data.encode('latin1') if type(data) is str else data  # Python 2 has one type for both
    require(_are_sizes(shape) and isinstance(kind, np.dtype) and type(data) is bytes
            and len(data) == math.prod(shape) * kind.itemsize, 'a malformed numpy array')
    array.__setstate__((1, shape, kind, bool(fortran), data))


def _are_sizes(numbers) -> bool:
    return type(numbers) is tuple and len(numbers) <= 32 and all(type(n) is int and n >= 0 for n in numbers)


def _tensor(storage, offset, size, stride, requires_grad=False, backward_hooks=None, metadata=None):
    require(isinstance(storage, torch.Tensor) and storage.ndim == 1 and not metadata, 'a malformed tensor')
    require(_are_sizes(size) and _are_sizes(stride) and len(size) == len(stride) and _are_sizes((offset,)),
             'a malformed tensor')
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    require(0 in size or last < storage.numel(), 'a tensor that reaches beyond its data')
    return storage.as_strided(size, stride, offset)


def _parameter(data, requires_grad=False, backward_hooks=None):
    require(isinstance(data, torch.Tensor), 'a malformed parameter')
    return data


def _storage(data, budget: Budget):
    """The numbers of a nested torch.save file of the old form, as a tensor [n].

    It is five pickles (a magic number, the form's version, facts of the machine, the storage's description,
    its key), the count and the raw numbers. Only a single plain storage is taken: torch's own weights-only
    loading also builds sparse and quantised tensors and dicts with any key.
    """
    require(type(data) is bytes, 'malformed tensor data')
    file = io.BytesIO(data)
    magic, version, machine, (dtype, key, count), keys = (
        StorageUnpickler(Bounded(file), budget).load() for _ in range(5))
    require(magic == 0x1950a86a20f9469cfc6c and version == 1001 and keys == [key], 'malformed tensor data')
    require(machine.get('little_endian') is True, 'tensors of a big-endian machine')
    require(file.read(8) == struct.pack('<q', count), 'malformed tensor data')
    require(len(data) - file.tell() == count * dtype.itemsize, 'tensors that are cut short')
    return torch_storage(memoryview(data)[file.tell():], dtype)


def torch_storage(data: bytes | memoryview, dtype: torch.dtype) -> torch.Tensor:
    """Raw numbers as a tensor [n], in memory that torch has aligned for its fast kernels."""
    # On the CPU whatever a caller's default device is.
    storage = torch.empty(len(data) // dtype.itemsize, dtype=dtype, device='cpu')
    storage.view(torch.uint8).numpy()[:] = np.frombuffer(data, np.uint8)
    return storage


_STORAGE_TYPES = {'Float': torch.float32, 'Double': torch.float64, 'Half': torch.float16,
                  'BFloat16': torch.bfloat16, 'Long': torch.int64, 'Int': torch.int32, 'Short': torch.int16,
                  'Char': torch.int8, 'Byte': torch.uint8, 'Bool': torch.bool}

_CALLS = {
    'torch_utils.persistence._reconstruct_persistent_obj': _persistent_object,
    'torch._utils._rebuild_parameter': _parameter,
    'torch._utils._rebuild_tensor': _tensor,
    'torch._utils._rebuild_tensor_v2': _tensor,
    'torch.storage._load_from_bytes': _storage,
    'torch.nn.modules.container.ModuleDict': lambda: PersistentObject('ModuleDict', {}, None),
    'collections.OrderedDict': _dict,
    'dnnlib.util.EasyDict': _dict,
    'numpy.dtype': _numpy_type,
    'numpy.core.multiarray.scalar': _numpy_scalar,
    'numpy._core.multiarray.scalar': _numpy_scalar,
    'numpy.core.multiarray._reconstruct': _empty_array,
    'numpy._core.multiarray._reconstruct': _empty_array,
    # Protocols 2 and 3 have no opcode for sets, protocol 2 none for bytes, empty or not.
    'builtins.set': _set,
    '__builtin__.set': _set,
    '__builtin__.bytes': lambda: b'',
    '_codecs.encode': _encode,
}

_GLOBALS = {name: _Global(name, call=call) for name, call in _CALLS.items()}
_GLOBALS |= {'numpy.ndarray': _Global('numpy.ndarray')}
_GLOBALS |= {f'torch.{kind}Storage': _Global(f'torch.{kind}Storage', dtype=dtype)
             for kind, dtype in _STORAGE_TYPES.items()}


class _Opcodes:
    """Opcode -> method; counts them, and says in one line that one is none of a snapshot's."""

    def __init__(self, table: dict, budget: Budget):
        self._table, self._budget = table, budget

    def __getitem__(self, code):
        self._budget.spend('opcodes')
        if code not in self._table:
            raise pickle.UnpicklingError(f'it uses pickle opcode 0x{code:02x}, which no snapshot needs')
        return self._table[code]


# Opcodes that only make or move builtin values. Not here, and so refused: persistent ids, the extension
# registry, the text opcodes of protocols 0 and 1, NEWOBJ_EX, and those that reserve memory by a claim.
_HARMLESS = ('PROTO FRAME STOP MARK POP POP_MARK NONE NEWTRUE NEWFALSE BININT BININT1 BININT2 LONG1 BINFLOAT '
             'BINUNICODE SHORT_BINUNICODE BINUNICODE8 BINSTRING SHORT_BINSTRING BINBYTES SHORT_BINBYTES '
             'BINBYTES8 EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3 EMPTY_LIST EMPTY_DICT EMPTY_SET BINGET '
             'LONG_BINGET BINPUT LONG_BINPUT MEMOIZE GLOBAL STACK_GLOBAL').split()


class _SafeUnpickler(pickle._Unpickler):
    """The interpreter of the standard library in Python, whose opcode table can be replaced.

    Its speed hardly matters: a snapshot is a few hundred large byte strings.
    """

    def __init__(self, file: Bounded, budget: Budget | None = None):
        super().__init__(file, encoding='latin1')  # of the texts of Python 2
        self._budget = budget or Budget(file.size)
        self.dispatch = _Opcodes(self.table, self._budget)

    table: typing.ClassVar = {
        getattr(pickle, name)[0]: pickle._Unpickler.dispatch[getattr(pickle, name)[0]] for name in _HARMLESS}

    def find_class(self, module, name):
        known = _GLOBALS.get(f'{module}.{name}')
        if known is None:
            raise pickle.UnpicklingError(f'it names {shown(f"{module}.{name}")}, which no snapshot needs')
        return known

    def load_call(self):
        args = self.stack.pop()
        target = self.stack[-1]
        require(type(target) is _Global and target.call is not None and type(args) is tuple,
                 'a call of something that is no function')
        self._budget.spend_call(args)
        self.stack[-1] = target.call(*args) if target.call is not _storage else _storage(*args, self._budget)

    def load_build(self):
        state = self.stack.pop()
        target = self.stack[-1]
        if isinstance(target, np.dtype):
            require(type(state) is tuple and len(state) >= 5 and state[1] in ('<', '=', '>', '|')
                    and state[2:5] == (None, None, None), 'a numpy type with parts')
            target.__setstate__((3, state[1], None, None, None, -1, -1, 0))
        elif type(target) is np.ndarray:
            self._budget.spend_call(state if type(state) is tuple else ())
            _set_array(target, state)
        elif type(target) is dict and type(state) is dict and list(state) == ['_metadata']:
            pass  # what a module's state_dict() carries besides the tensors
        else:
            require(type(target) is PersistentObject and target.class_name == 'ModuleDict'
                     and not target.state and type(state) is dict, 'a change of an object\'s state')
            target.state = state

    def load_items(self):
        self._add_items(self.pop_mark())

    def load_item(self):
        self._add_items([self.stack.pop()])

    def _add_items(self, items):
        target = self.stack[-1]
        require(type(target) in (list, set), 'items for something that is no list or set')
        if type(target) is list:
            target.extend(items)
        else:
            target |= _set(items)

    def load_pairs(self):
        items = self.pop_mark()
        self._set_pairs(zip(items[::2], items[1::2], strict=True))

    def load_pair(self):
        value, key = self.stack.pop(), self.stack.pop()
        self._set_pairs([(key, value)])

    def _set_pairs(self, pairs):
        target = self.stack[-1]
        require(type(target) is dict, 'items for something that is no dict')
        for key, value in pairs:
            _check_key(key)
            target[key] = value

    table |= {pickle.REDUCE[0]: load_call, pickle.NEWOBJ[0]: load_call, pickle.BUILD[0]: load_build,
              pickle.APPEND[0]: load_item, pickle.APPENDS[0]: load_items, pickle.ADDITEMS[0]: load_items,
              pickle.SETITEM[0]: load_pair, pickle.SETITEMS[0]: load_pairs}


class StorageUnpickler(_SafeUnpickler):
    """For the nested torch.save files: a persistent id there describes the storage."""

    table = _SafeUnpickler.table | {pickle.BINPERSID[0]: pickle._Unpickler.dispatch[pickle.BINPERSID[0]]}

    def persistent_load(self, pid):
        """(dtype, key, number of elements) of ('storage', class, key, device, number of elements[, None])."""
        require(type(pid) is tuple and len(pid) >= 5 and pid[0] == 'storage' and pid[5:] in ((), (None,))
                 and type(pid[1]) is _Global and pid[1].dtype is not None and type(pid[2]) is str
                 and _are_sizes(pid[4:5]), 'malformed tensor data')
        return pid[1].dtype, pid[2], pid[4]
