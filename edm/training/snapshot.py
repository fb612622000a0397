"""Snapshot files of EDM: read without running any code in them, written so that NVlabs/edm reads them.

A snapshot is a pickled dict: `ema`, the preconditioned network, and with what it was trained, `loss_fn`,
`augment_pipe` and `dataset_kwargs`. Reading builds objects of our classes from the recorded constructor
arguments and fills the network with the recorded tensors, whose names and shapes must be ours.
"""

import collections
import contextlib
import copy
import os
import pickle
import types
from collections.abc import Iterator

import numpy as np
import torch
from torch.nn.modules.module import register_module_module_registration_hook
from torch.overrides import TorchFunctionMode

from torch_utils import downloads, files, persistence, safe_pickle
from torch_utils.errors import UserError, note
from torch_utils.safe_pickle import PersistentObject, shown
from training.build import SNAPSHOT_CLASSES

# SHA-256 of texts of networks.py that mean what ours means: of other software, here the placeholder of the
# files that the tests compare with, and of ours before PRECONDITIONINGS stood in training/config.py.
KNOWN_SOURCES = {'61a8bf19fac82cd0bab50c8ca26c2ad9d5bacde91413250bf1a357d0914fe69a',
                 '3becf4c171a029cdc131cf76f96556b0d0258a306d26844e984a84e414f066bb'}

MAX_PATH = 500  # characters in a tensor's name; a module that holds itself has endless ones
MAX_INTEGER = 100_000  # among a network's constructor arguments: width, resolution, classes, steps
MAX_ARGUMENTS = 10_000  # values there, in lists of lists counted as often as they stand there
MAX_NAMES = 20_000  # tensors, modules and None in all modules; NVIDIA's largest network has 1,000


def load_snapshot(path_or_url: str, option: str = '--network') -> dict:
    """Read a snapshot; the dict has the file's keys.

    `ema` is a network of ours on the CPU, in evaluation mode, float32, without gradients; `loss_fn` and
    `augment_pipe` are objects of ours or None; other values are plain.
    Raises UserError naming `option` and the file in one line if the file is no snapshot, is damaged, or holds
    objects of unknown classes or tensors that don't fit.
    """
    with _blame(path_or_url, option):
        contents, net = _read(path_or_url, option)
        return {key: _build(key, value) if key in SNAPSHOT_CLASSES and key != 'ema' else value
                for key, value in contents.items()} | {'ema': net}


def load_network(path_or_url: str, device: torch.device, option: str = '--network') -> torch.nn.Module:
    """The network `ema` of a snapshot on `device`; what else the file holds need not be known here.

    Errors as in `load_snapshot`.
    """
    return load_with_settings(path_or_url, device, option)[0]


def load_with_settings(path_or_url: str, device: torch.device, option: str = '--network',
                       ) -> tuple[torch.nn.Module, dict]:
    """The network `ema` as from `load_network`, and from beside it `dataset_kwargs` and `made_by`."""
    with _blame(path_or_url, option):
        contents, net = _read(path_or_url, option)
        return net.to(device), {key: contents.get(key) for key in ('dataset_kwargs', 'made_by')}


class Unfit(Exception):
    """Why a file is no snapshot for us."""


@contextlib.contextmanager
def _blame(path, option):
    try:
        yield
    except (Unfit, pickle.UnpicklingError) as err:
        if downloads.is_url(path):
            downloads.forget(path, option)
        raise UserError(f'{option} {path} is no snapshot this software can read: {err}') from err


def _read(path_or_url: str, option: str) -> tuple[dict, torch.nn.Module]:
    """The file's dict with records for objects, and the network."""
    path = downloads.local_path(path_or_url, option)
    with open(path, 'rb') as file:
        head = file.read(100)
        file.seek(0)
        _check_format(head)
        contents = safe_pickle.safe_load(file)
    if type(contents) is not dict or not all(type(key) is str for key in contents):
        raise Unfit('it holds no dict of names')
    if 'ema' not in contents:
        raise Unfit(f'it has no key \'ema\', only {shown(", ".join(contents))}')
    return contents, _build_network(contents['ema'], os.path.getsize(path), path_or_url)


def _check_format(head: bytes) -> None:
    if not head:
        raise Unfit('it is empty')
    if head.startswith((b'PK', b'\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.')):
        raise Unfit('it is a torch.save file, such as training-state-*.pt; expected network-snapshot-*.pkl')
    if head.startswith(b'\x1f\x8b'):
        raise Unfit('it is compressed by gzip; unpack it first')
    if head.lstrip()[:1] == b'<':
        raise Unfit('it is a web page or other markup, maybe a failed download')
    if head[:1] != b'\x80':
        raise Unfit('it is no pickle')


def _build(key: str, record, modules: int | None = None):
    """An object of our class for the record under `key`, from the constructor arguments alone.

    modules: how many modules a network may have; None for what is no network. A network's tensors are on
    the meta device, so that arguments that ask for too much cost nothing.
    """
    if record is None and key != 'ema':
        return None
    if type(record) is not PersistentObject:
        raise Unfit(f'{key} is a plain {type(record).__name__}')
    classes = {cls.__name__: cls for cls in SNAPSHOT_CLASSES[key]}
    if record.class_name not in classes:
        raise Unfit(f'{key} is of class {shown(record.class_name)}, expected one of {", ".join(classes)}')
    args, kwargs = record.state.get('_init_args', ()), record.state.get('_init_kwargs', {})
    if type(args) is not tuple or type(kwargs) is not dict:
        raise Unfit(f'{key} lacks its constructor arguments')
    # The arguments are a stranger's and can make a constructor fail in any way.
    try:
        left = iter(range(MAX_ARGUMENTS))
        args, kwargs = _plain_arguments(args, left), _plain_arguments(kwargs, left)
        if modules is None:
            return classes[record.class_name](*args, **kwargs)
        with _limited_modules(modules), _ShapesOnly():
            return classes[record.class_name](*args, **kwargs)
    except Exception as err:
        raise Unfit(f'{record.class_name} can\'t be built as recorded ({shown(err, 200)})') from err


def _plain_arguments(value, left: Iterator):
    """Recorded constructor arguments as plain values, small enough for the constructor to end soon.

    left: has an item for each value that may still come; lists that share lists could hold billions.
    """
    if isinstance(value, np.ndarray) and value.size <= MAX_ARGUMENTS:
        value = value.tolist()
    if next(left, None) is None:
        raise ValueError(f'more than {MAX_ARGUMENTS} values are beyond any network')
    if isinstance(value, dict):
        return {key: _plain_arguments(item, left) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_plain_arguments(item, left) for item in value)
    if type(value) is int and abs(value) > MAX_INTEGER:
        raise ValueError(f'{shown(value)} is beyond any network')
    if value is None or type(value) in (int, float, bool, str):
        return value
    raise ValueError(f'an argument is a {type(value).__name__}')


@contextlib.contextmanager
def _limited_modules(count):
    """Fail once the constructors inside have put together more than `count` modules."""
    left = count

    def check(module, name, submodule):
        nonlocal left
        left -= 1
        if left < 0:
            raise ValueError('more modules than the file has')

    handle = register_module_module_registration_hook(check)
    try:
        yield
    finally:
        handle.remove()


class _ShapesOnly(TorchFunctionMode):
    """Inside, tensors that constructors draw or fill have a shape and no memory (the meta device).

    Arithmetic with numbers is skipped: for its first one PyTorch would load its compiler, for seconds.
    """

    FACTORIES = (torch.empty, torch.ones, torch.zeros, torch.rand, torch.randn)
    ARITHMETIC = ('mul', 'sub')

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func in self.FACTORIES:
            return func(*args, **{'device': 'meta'} | kwargs)
        tensors = [arg for arg in args if isinstance(arg, torch.Tensor)]
        if func.__name__ in self.ARITHMETIC and len(tensors) == 1 and tensors[0].is_meta:
            return tensors[0]
        return func(*args, **kwargs)


def _build_network(record, size: int, path) -> torch.nn.Module:
    """The network of a record, with the record's tensors; `size` bytes of file bound what it may claim."""
    if type(record) is not PersistentObject:
        raise Unfit(f'ema is a plain {type(record).__name__}')
    tensors, modules, sources = collect_tensors(record, size)
    net = _build('ema', record, modules + 100)  # some modules may have come since the file was written
    expected = net.state_dict()
    for name, ours in expected.items():
        if name not in tensors:
            raise Unfit(f'it has no tensor {name}, which its {record.class_name} must have')
        theirs = tensors[name]
        if theirs.shape != ours.shape or not theirs.is_floating_point():
            raise Unfit(f'tensor {name} is {_form(theirs)}, expected {_form(ours)}')
    extra = [name for name in tensors if name not in expected]
    if extra:
        raise Unfit(f'it has a tensor {shown(extra[0])}, which its {record.class_name} has not')
    tensors = {name: tensor.to(torch.float32).contiguous() for name, tensor in tensors.items()}
    net.load_state_dict(tensors, assign=True)
    if not sources <= persistence.known_source_hashes() | KNOWN_SOURCES:
        note(f'note: {path} holds a networks.py that this software does not know; its tensors are read by '
             'names and shapes')
    return net.eval().requires_grad_(False)


def _form(tensor) -> str:
    return f'{str(tensor.dtype).removeprefix("torch.")} {list(tensor.shape)}'


def collect_tensors(record, size: int) -> tuple[dict[str, torch.Tensor], int, set[str]]:
    """Tensors of a module's record by their path, the number of modules, and the hashes of their texts."""
    tensors, sources, modules, claimed, names = {}, set(), 0, 0, 0
    pending = [('', record)]
    while pending:
        prefix, module = pending.pop()
        modules += 1
        sources |= {module.source_hash} - {None}
        kinds = [module.state.get(kind) for kind in ('_parameters', '_buffers', '_modules')]
        if not all(type(kind) is dict for kind in kinds):
            raise Unfit(f'module {shown(prefix)} is incomplete')
        # A module that stands in several places, or in itself, can stand for endlessly many.
        names += sum(map(len, kinds))
        if names > MAX_NAMES:
            raise Unfit('it claims more tensors than it holds')
        for name, value in (kinds[0] | kinds[1] | kinds[2]).items():
            path = f'{prefix}{name}'
            if isinstance(value, torch.Tensor):
                tensors[path] = value
                claimed += value.nbytes
            elif type(value) is PersistentObject:
                pending.append((f'{path}.', value))
            elif value is not None:
                raise Unfit(f'{shown(path)} is a plain {type(value).__name__}')
            if len(path) > MAX_PATH or claimed > size or modules + len(pending) > size // 10:
                raise Unfit('it claims more tensors than it holds')
    return tensors, modules, sources


# Writing.


def save_snapshot(path, *, ema, loss_fn=None, augment_pipe=None, dataset_kwargs: dict | None = None,
                  made_by: dict | None = None) -> None:
    """Write a snapshot, whole or not at all.

    ema: a preconditioned network on any device and in any mode, compiled or wrapped for data parallelism or
    not; a copy is written, on the CPU, in evaluation mode, float32. dataset_kwargs: plain values.
    made_by: its model card (`torch_utils.provenance.record`), under a key that other software passes over.
    Raises TypeError if an object holds something that other software could not read.
    """
    contents = {'ema': _detached(ema), 'loss_fn': _detached(loss_fn), 'augment_pipe': _detached(augment_pipe),
                'dataset_kwargs': _plain(dict(dataset_kwargs or {}))}
    if made_by is not None:
        contents['made_by'] = _plain(made_by)
    with files.atomic_write(path) as file:
        _Pickler(file, protocol=4).dump(contents)


def _detached(obj):
    """A copy of a network, loss or pipe that holds float32 tensors of its own, and plain numbers."""
    while isinstance(obj, torch.nn.Module) and not persistence.is_persistent(type(obj)):
        inner = getattr(obj, '_orig_mod', None) or getattr(obj, 'module', None)
        if inner is None:
            raise TypeError(f'{type(obj).__name__} can\'t be written to a snapshot')
        obj = inner
    obj = copy.deepcopy(obj)
    if not isinstance(obj, torch.nn.Module):
        return _plain_attributes(obj)
    for module in obj.modules():
        _plain_attributes(module)
    return obj.eval().requires_grad_(False).to('cpu', torch.float32).to(memory_format=torch.contiguous_format)


def _plain_attributes(obj):
    for key, value in getattr(obj, '__dict__', {}).items():
        if key not in ('_parameters', '_buffers', '_modules'):
            obj.__dict__[key] = _plain(value)
    return obj


def _plain(value):
    """`value` with Python's numbers for numpy's: how numpy's are pickled depends on its version."""
    if isinstance(value, np.generic):
        return value.item()
    if type(value) is dict:
        return {key: _plain(item) for key, item in value.items()}
    if type(value) in (list, tuple):
        return type(value)(_plain(item) for item in value)
    return value


class _Pickler(pickle.Pickler):
    """Writes the names that `safe_pickle.safe_load` knows and refuses all others."""

    NAMES = (persistence._reconstruct_persistent_obj, collections.OrderedDict, torch.nn.ModuleDict,
             torch._utils._rebuild_parameter, torch._utils._rebuild_tensor_v2, torch.storage._load_from_bytes)
    TYPES = (collections.OrderedDict, torch.nn.ModuleDict, torch.Tensor, torch.nn.Parameter,
             torch.storage.TypedStorage)

    def reducer_override(self, obj):
        """Called for everything but numbers, texts and Python's own containers."""
        named = isinstance(obj, (type, types.FunctionType))
        if obj in self.NAMES if named else type(obj) in self.TYPES or persistence.is_persistent(type(obj)):
            return NotImplemented
        raise TypeError(f'a snapshot can\'t hold {obj!r}')
