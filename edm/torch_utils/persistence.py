"""Classes whose objects can be pickled in the form of EDM snapshots.

The pinned names `persistent_class` and `_reconstruct_persistent_obj` stand in every snapshot file. An object
is pickled as a call of the latter with a dict: `type`, `version`, `module_src` (the text of the defining
module, which other software executes to read the file), `class_name` and `state`. Here the text is only
written and compared, never executed. Untrusted files are read by `torch_utils.safe_pickle`.
"""

import collections
import copy
import functools
import hashlib
import importlib
import pickle
import sys
import types
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch

VERSION = 6

_classes = {}  # name -> class, filled by @persistent_class
_sources = {}  # name of a module with such classes -> its text


def persistent_class(cls: type) -> type:
    """Class decorator: record the constructor's arguments and pickle objects in the snapshot form.

    Objects get `_init_args` and `_init_kwargs`, the arguments as given to the outermost constructor.
    """
    module = sys.modules[cls.__module__]
    # One string for all classes of a module, so that a pickle holds the text once.
    if module.__name__ not in _sources:
        _sources[module.__name__] = Path(module.__file__).read_text(encoding='utf-8')
    source = _sources[module.__name__]
    init = cls.__init__

    @functools.wraps(init)
    def __init__(self, *args, **kwargs):
        init(self, *args, **kwargs)
        self._init_args = args
        self._init_kwargs = kwargs

    def __reduce__(self):
        if type(self) is not cls:
            raise TypeError(f'{type(self).__name__} can\'t be pickled: it lacks @persistent_class')
        # torch.compile leaves a function in the module that no file can hold and no copy needs.
        state = {key: value for key, value in self.__dict__.items() if key != '_compiled_call_impl'}
        meta = {'type': 'class', 'version': VERSION, 'module_src': source, 'class_name': cls.__name__,
                'state': state}
        return _reconstruct_persistent_obj, (meta,)

    cls.__init__ = __init__
    cls.__reduce__ = __reduce__
    _classes[cls.__name__] = cls
    return cls


def is_persistent(cls: type) -> bool:
    """True for a class that @persistent_class made, not for one derived from it."""
    return _classes.get(cls.__name__) is cls


def known_source_hashes() -> set[str]:
    """SHA-256 of the texts that our own objects carry."""
    return {source_hash(text) for text in _sources.values()}


@functools.lru_cache(maxsize=4096)  # objects by the hundred share one text
def source_hash(text: str) -> str:
    """SHA-256 of a module's text, in hexadecimal."""
    return hashlib.sha256(text.encode('utf-8', 'surrogatepass')).hexdigest()


def _reconstruct_persistent_obj(meta: dict):
    """An object of our class `meta['class_name']` with attributes `meta['state']`; runs no recorded text.

    What copy.deepcopy and plain pickle.load call. The latter is for one's own files: it imports and calls
    whatever else a file names.
    """
    name = meta['class_name']
    if name not in _classes:
        # pickle.load has imported this module alone. The pinned homes of the classes are named here, against
        # the usual direction of imports, because the pickle names none.
        for home in ('training.networks', 'training.low_rank', 'training.loss', 'training.augment'):
            importlib.import_module(home)
    if name not in _classes:
        raise pickle.UnpicklingError(f'it holds an object of the unknown class {name!r}')
    obj = _classes[name].__new__(_classes[name])
    if hasattr(obj, '__setstate__'):
        obj.__setstate__(meta['state'])
    else:
        obj.__dict__.update(meta['state'])
    return obj


def dump(contents: dict, file: BinaryIO) -> None:
    """Pickle a snapshot: copies of its networks, on the CPU, in evaluation mode, float32, and plain values.

    Raises TypeError for an object that other software could not read.
    """
    _Pickler(file, protocol=4).dump(_portable(contents))


def _portable(value: Any) -> Any:
    """A copy of its own, with Python's numbers for numpy's, whose pickles depend on numpy's version."""
    if isinstance(value, np.generic):
        return value.item()
    if type(value) is dict:
        return {key: _portable(item) for key, item in value.items()}
    if type(value) in (list, tuple):
        return type(value)(_portable(item) for item in value)
    if not is_persistent(type(value)):
        return value
    obj = copy.deepcopy(value)
    is_module = isinstance(obj, torch.nn.Module)
    for part in obj.modules() if is_module else [obj]:
        for key in part.__dict__.keys() - {'_parameters', '_buffers', '_modules'}:
            part.__dict__[key] = _portable(part.__dict__[key])
    if is_module:
        obj.eval().requires_grad_(False).to('cpu', torch.float32).to(memory_format=torch.contiguous_format)
    return obj


class _Pickler(pickle.Pickler):
    """Writes the names that `safe_pickle.safe_load` knows and refuses all others."""

    NAMES = (_reconstruct_persistent_obj, collections.OrderedDict, torch.nn.ModuleDict,
             torch._utils._rebuild_parameter, torch._utils._rebuild_tensor_v2, torch.storage._load_from_bytes)
    TYPES = (collections.OrderedDict, torch.nn.ModuleDict, torch.Tensor, torch.nn.Parameter,
             torch.storage.TypedStorage)

    def reducer_override(self, obj):
        """Called for everything but numbers, texts and Python's own containers."""
        named = isinstance(obj, (type, types.FunctionType))
        if obj in self.NAMES if named else type(obj) in self.TYPES or is_persistent(type(obj)):
            return NotImplemented
        raise TypeError(f'a snapshot can\'t hold {obj!r}')
