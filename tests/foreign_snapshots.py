"""Snapshots as other software and other versions write them, made from the golden ones."""

import gzip
import io
import pickle
import pickletools
import sys
import types
from pathlib import Path

from helpers import DATA
from torch_utils import persistence

GOLDEN = {'edm-adm-cond': 'edm-adm-cond', 'edm-ddpmpp': 'edm-ddpmpp', 'iddpm-adm': 'iddpm-adm',
          'vp-ddpmpp': 'vp-ddpmpp-augment'}  # snapshot -> network with the same weights


def golden_bytes(name: str = 'edm-ddpmpp') -> bytes:
    """The uncompressed tests/data/snapshot-NAME.pkl.gz."""
    return gzip.decompress((DATA / f'snapshot-{name}.pkl.gz').read_bytes())


def write(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


class Foreign:
    """A persistent object as a test reads, changes and writes it."""

    def __init__(self, meta: dict):
        self.meta = meta

    @property
    def state(self) -> dict:
        return self.meta['state']

    def __reduce__(self):
        return persistence._reconstruct_persistent_obj, (self.meta,)


def module(class_name: str, source: str = 'unknown', **state) -> Foreign:
    """A module that was written elsewhere, without tensors and sub-modules of its own unless in `state`."""
    state = {'_parameters': {}, '_buffers': {}, '_modules': {}, '_init_args': (), '_init_kwargs': {}} | state
    return Foreign({'type': 'class', 'version': 6, 'module_src': source, 'class_name': class_name,
                    'state': state})


class EasyDict(dict):
    pass


EasyDict.__module__ = 'dnnlib.util'


class _Unpickler(pickle.Unpickler):
    """Python's own reader, for the golden files only, with `Foreign` for persistent objects."""

    def find_class(self, module_name, name):
        if name == '_reconstruct_persistent_obj':
            return Foreign
        return EasyDict if name == 'EasyDict' else super().find_class(module_name, name)


def load_foreign(data: bytes) -> dict:
    return _Unpickler(io.BytesIO(data)).load()


def dump_foreign(contents, protocol: int = 4) -> bytes:
    """Pickle with the names that NVlabs/edm gives its classes."""
    util = types.ModuleType('dnnlib.util')
    util.EasyDict = EasyDict
    stubs = {'dnnlib': types.ModuleType('dnnlib'), 'dnnlib.util': util}
    try:
        sys.modules.update(stubs)
        return pickle.dumps(contents, protocol=protocol)
    finally:
        for name in stubs:
            del sys.modules[name]


def with_old_numpy_names(data: bytes) -> bytes:
    """The pickle as numpy before 2.0 writes it: `numpy.core` for `numpy._core`."""
    frames = [position for opcode, _, position in pickletools.genops(data) if opcode.name == 'FRAME']
    for start in reversed(frames):  # a frame's length would no longer be right, and frames are optional
        data = data[:start] + data[start + 9:]
    new, old = b'numpy._core.multiarray', b'numpy.core.multiarray'
    assert new in data
    return data.replace(bytes([len(new)]) + new, bytes([len(old)]) + old).replace(b'c' + new, b'c' + old)
