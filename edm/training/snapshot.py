"""Snapshot files of EDM: read without running any code in them, written so that NVlabs/edm reads them.

A snapshot is a pickled dict: `ema`, the preconditioned network, and with what it was trained, `loss_fn`,
`augment_pipe` and `dataset_kwargs`. Reading builds a network of our class from the recorded constructor
arguments and fills it with the recorded tensors, whose names and shapes must be ours.
"""

import os
import pickle

import torch

from torch_utils import downloads, files, persistence, safe_pickle
from torch_utils.errors import UserError, note
from torch_utils.safe_pickle import PersistentObject, shown
from torch_utils.sketch import sketch
from training.build import NETWORKS

# SHA-256 of texts of our networks that mean what ours mean: of other software, here the placeholder of the
# files that the tests compare with, and of earlier versions of ours.
KNOWN_SOURCES = {'61a8bf19fac82cd0bab50c8ca26c2ad9d5bacde91413250bf1a357d0914fe69a',
                 '3becf4c171a029cdc131cf76f96556b0d0258a306d26844e984a84e414f066bb',
                 'a00e82d3a55c73bc48fefdcaf9edc275e9032209355f20a45900958bd9d27326',
                 '6b2dd30f5d3ff24b65fc7d8f9876e6c3bca3886dd5e0671ec63c791d0413210b',
                 '5d56dadadcd58a6cbd10876171e3d7a48a95c338867c1e4305de326d6c4e0928',
                 '162f90203a3250b4645beedc70fee455b7a76e51fdd522d96d7e4b415d72a9ce'}


def load_snapshot(path_or_url: str, option: str = '--network') -> dict:
    """Read a snapshot; the dict has the file's keys.

    `ema` is a network of ours on the CPU, in evaluation mode, float32, without gradients. Other objects are
    `PersistentObject`, not built, of any class; all else is plain.
    Raises UserError naming `option` and the file in one line if the file is no snapshot, is damaged, or its
    network is of an unknown class or has tensors that don't fit.
    """
    try:
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
        return contents | {'ema': _build_network(contents['ema'], os.path.getsize(path), path_or_url)}
    except (Unfit, pickle.UnpicklingError) as err:
        if downloads.is_url(path_or_url):
            downloads.forget(path_or_url, option)
        raise UserError(f'{option} {path_or_url} is no snapshot this software can read: {err}') from err


def load_network(path_or_url: str, device: torch.device, option: str = '--network') -> torch.nn.Module:
    """The network `ema` of a snapshot on `device`. Errors as in `load_snapshot`."""
    return load_snapshot(path_or_url, option)['ema'].to(device)


def load_with_settings(path_or_url: str, device: torch.device, option: str = '--network',
                       ) -> tuple[torch.nn.Module, dict]:
    """The network `ema` of a snapshot on `device`, and from beside it `dataset_kwargs` and `made_by`."""
    contents = load_snapshot(path_or_url, option)
    return contents['ema'].to(device), {key: contents.get(key) for key in ('dataset_kwargs', 'made_by')}


class Unfit(Exception):
    """Why a file can't be read as a snapshot."""


def _check_format(head: bytes) -> None:
    for wrong, why in (
            (not head, 'it is empty'),
            (head.startswith((b'PK', b'\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.')),
             'it is a torch.save file, such as training-state-*.pt; expected network-snapshot-*.pkl, which '
             'convert.py makes of a checkpoint of ADM'),
            (head.startswith(b'\x1f\x8b'), 'it is compressed by gzip; unpack it first'),
            (head.lstrip()[:1] == b'<', 'it is a web page or other markup, maybe a failed download'),
            (head[:1] != b'\x80', 'it is no pickle')):
        if wrong:
            raise Unfit(why)


def _sketch(record: PersistentObject, modules: int) -> torch.nn.Module:
    """The network of a record, from its constructor arguments alone, with at most `modules` modules.

    Its tensors are on the meta device, so that arguments of any size cost nothing.
    """
    if record.class_name == 'Precond':
        raise Unfit('it is an EDM2 network (Karras et al. 2024), an architecture that is not read')
    if record.class_name not in NETWORKS:
        raise Unfit(f'ema is of class {shown(record.class_name)}, expected one of {", ".join(NETWORKS)}')
    args, kwargs = record.state.get('_init_args', ()), record.state.get('_init_kwargs', {})
    if type(args) is not tuple or type(kwargs) is not dict:
        raise Unfit('ema lacks its constructor arguments')
    try:
        return sketch(NETWORKS[record.class_name], args, kwargs, modules)
    except ValueError as err:
        raise Unfit(f'{record.class_name} can\'t be built as recorded ({err})') from err


def _build_network(record, size: int, path) -> torch.nn.Module:
    """The network of a record, with the record's tensors; `size` bytes of file bound what it may claim."""
    if type(record) is not PersistentObject:
        raise Unfit(f'ema is a plain {type(record).__name__}')
    tensors, modules, sources = safe_pickle.collect_tensors(record, size)
    net = _sketch(record, modules + 100)  # newer versions may have more modules than the file
    expected = net.state_dict()
    for name in [*expected, *tensors]:
        theirs, ours = tensors.get(name), expected.get(name)
        if theirs is None or ours is None or theirs.shape != ours.shape or not theirs.is_floating_point():
            raise Unfit(f'its tensor {shown(name)} is {form(theirs)}, expected {form(ours)}')
    tensors = {name: tensor.to(torch.float32).contiguous() for name, tensor in tensors.items()}
    net.load_state_dict(tensors, assign=True)
    if not sources <= persistence.known_source_hashes() | KNOWN_SOURCES:
        note(f'note: {path} holds an unknown networks.py; its tensors are read by names and shapes')
    return net.eval().requires_grad_(False)


def form(tensor: torch.Tensor | None) -> str:
    """Type and shape in words."""
    return 'nothing' if tensor is None else f'{str(tensor.dtype).removeprefix("torch.")} {list(tensor.shape)}'


def save_snapshot(path, *, ema, loss_fn=None, augment_pipe=None, dataset_kwargs: dict | None = None,
                  made_by: dict | None = None) -> None:
    """Write a snapshot, whole or not at all.

    ema: a preconditioned network, of which a copy is written: on the CPU, in evaluation mode, float32.
    made_by: its provenance (`torch_utils.provenance.record`), under a key that other software ignores.
    Raises TypeError if an object holds something that other software could not read.
    """
    contents = {'ema': ema, 'loss_fn': loss_fn, 'augment_pipe': augment_pipe,
                'dataset_kwargs': dict(dataset_kwargs or {})}
    with files.atomic_write(path) as file:
        persistence.dump(contents if made_by is None else contents | {'made_by': made_by}, file)
