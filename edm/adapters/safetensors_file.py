"""Safetensors files: the length of a header, the header as JSON, and the tensors' bytes."""

import json
import math
import os
import struct
from collections.abc import Iterator

import torch

from torch_utils.errors import shown
from torch_utils.files import atomic_write
from torch_utils.safe_pickle import torch_storage

MAX_HEADER = 10_000_000  # bytes; 1,000 tensors take 100,000
MAX_TENSORS, MAX_DIMS = 20_000, 8
_DTYPES = {'F64': torch.float64, 'F32': torch.float32, 'F16': torch.float16, 'BF16': torch.bfloat16,
           'I64': torch.int64, 'I32': torch.int32, 'I16': torch.int16, 'I8': torch.int8, 'U8': torch.uint8,
           'BOOL': torch.bool}


class Malformed(ValueError):
    """Why a file is no safetensors file."""


def read_safetensors(path: str | os.PathLike) -> dict[str, torch.Tensor]:
    """All tensors of a file by name, on the CPU.

    Raises Malformed unless the header is whole and the tensors fill the rest of the file without gap or
    overlap; no more is read or reserved than the file holds.
    """
    size = os.path.getsize(path)
    with open(path, 'rb') as file:
        start = file.read(8)
        _require(len(start) == 8, 'ends within its first eight bytes')
        length, = struct.unpack('<Q', start)
        _require(length <= size - 8, f'says that its header has {length:,} bytes, but has {size:,} itself')
        _require(length <= MAX_HEADER, f'has a header of {length:,} bytes, beyond any network')
        entries = sorted(_entries(_header(file.read(length))), key=lambda entry: entry[3:])
        tensors, read = {}, 0
        for name, dtype, shape, begin, end in entries:
            _require(begin == read, f'has a gap or an overlap before its tensor {shown(name)}')
            _require(end <= size - 8 - length, f'is cut short within its tensor {shown(name)}')
            tensors[name] = torch_storage(file.read(end - begin), dtype).reshape(shape)
            read = end
        _require(read == size - 8 - length, f'has {size - 8 - length - read:,} bytes behind its tensors')
    return tensors


def _require(condition: bool, what: str) -> None:
    if not condition:
        raise Malformed(f'it {what}')


def _header(text: bytes) -> dict:
    try:
        header = json.loads(text.decode('utf-8'), object_pairs_hook=_without_repeats)
    except Malformed:
        raise
    except (ValueError, RecursionError) as err:
        raise Malformed('it has a header that is no JSON') from err
    _require(type(header) is dict, 'has a header that is no JSON object')
    return header


def _without_repeats(pairs: list[tuple]) -> dict:
    found = dict(pairs)
    _require(len(found) == len(pairs), 'has a header that gives a name twice')
    return found


def _entries(header: dict) -> Iterator[tuple[str, torch.dtype, list[int], int, int]]:
    """Name, type, shape and the bytes [begin, end) of each tensor, which fit each other."""
    _require(len(header) <= MAX_TENSORS, f'names {len(header):,} tensors, beyond any network')
    for name, entry in header.items():
        if name == '__metadata__':
            continue
        where = f'in its header for the tensor {shown(name)}'
        _require(type(entry) is dict and entry.keys() == {'dtype', 'shape', 'data_offsets'},
                 f'lacks type, shape or place {where}')
        dtype, shape, offsets = entry['dtype'], entry['shape'], entry['data_offsets']
        _require(type(dtype) is str and dtype in _DTYPES, f'has the unknown type {shown(dtype)} {where}')
        for numbers in shape, offsets:
            _require(type(numbers) is list and len(numbers) <= MAX_DIMS
                     and all(type(number) is int and 0 <= number < 1 << 62 for number in numbers),
                     f'has no list of sizes {where}')
        _require(len(offsets) == 2 and offsets[1] - offsets[0] == math.prod(shape) * _DTYPES[dtype].itemsize,
                 f'has a shape and a place of different sizes {where}')
        yield name, _DTYPES[dtype], shape, *offsets


def write_safetensors(path: str | os.PathLike, tensors: dict[str, torch.Tensor]) -> None:
    """Write tensors of the types in _DTYPES, whole or not at all."""
    names = {dtype: name for name, dtype in _DTYPES.items()}
    header, end = {'__metadata__': {'format': 'pt'}}, 0
    arrays = [tensor.detach().cpu().flatten().view(torch.uint8).numpy() for tensor in tensors.values()]
    for (name, tensor), array in zip(tensors.items(), arrays, strict=True):
        header[name] = {'dtype': names[tensor.dtype], 'shape': list(tensor.shape),
                        'data_offsets': [end, end + array.nbytes]}
        end += array.nbytes
    text = json.dumps(header).encode()
    text += b' ' * (-len(text) % 8)
    with atomic_write(path) as file:
        file.write(struct.pack('<Q', len(text)) + text)
        for array in arrays:
            file.write(array)
