"""The device to compute on, and the processes that torchrun started (one, without it)."""

import contextlib
import os
from collections.abc import Iterator
from typing import Any

import torch

from torch_utils.errors import UserError
from torch_utils.memory import keep_freed_memory


def pick_device(name: str = 'auto') -> torch.device:
    """The device that `--device` names; every script asks here and nowhere else.

    name: 'auto' (the first that is there of cuda, mps, cpu), 'cpu', 'cuda', 'cuda:i' or 'mps'. Plain 'cuda'
    under torchrun is the GPU of this process's local rank. For a CPU the process keeps freed memory.
    Raises UserError if this machine has no such device.
    """
    if name == 'auto':
        name = 'cuda' if torch.cuda.is_available() else 'mps' if torch.backends.mps.is_available() else 'cpu'
    device = torch.device(name)
    if device.type == 'mps' and not torch.backends.mps.is_available():
        raise UserError('--device mps: PyTorch finds no MPS device on this machine')
    if device.type == 'cuda':
        count = torch.cuda.device_count()
        index = device.index if device.index is not None else int(os.environ.get('LOCAL_RANK', 0))
        if index >= count:
            raise UserError(f'--device {name}: GPU {index} is asked for and PyTorch finds {count}')
        device = torch.device('cuda', index)
    if device.type == 'cpu':
        keep_freed_memory()
    return device


def total_memory(device: torch.device) -> int:
    """Bytes that the GPU has in all or, for other devices, this machine."""
    if device.type == 'cuda':
        return torch.cuda.mem_get_info(device)[1]
    import psutil
    return psutil.virtual_memory().total


def init(device: torch.device) -> None:
    """Join the processes that torchrun started: nccl for CUDA, gloo otherwise. Without torchrun, nothing."""
    if 'RANK' not in os.environ or torch.distributed.is_initialized():
        return
    if device.type == 'cuda':
        torch.cuda.set_device(device)
        torch.distributed.init_process_group('nccl', device_id=device)
    else:
        torch.distributed.init_process_group('gloo')


def shutdown() -> None:
    """Leave the process group, if there is one."""
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def rank() -> int:
    """This process's number, 0 for the one that prints and writes."""
    return torch.distributed.get_rank() if torch.distributed.is_initialized() else 0


def world_size() -> int:
    """Number of processes."""
    return torch.distributed.get_world_size() if torch.distributed.is_initialized() else 1


def barrier() -> None:
    """Wait until all processes have come this far."""
    if torch.distributed.is_initialized():
        torch.distributed.barrier()


def from_rank0(value: Any) -> Any:
    """Rank 0's `value`, a small picklable object, on every process."""
    return gather(value)[0]


def gather(value: Any) -> list:
    """Every process's `value` (a small picklable object), in order of rank, on every process."""
    if world_size() == 1:
        return [value]
    values = [None] * world_size()
    torch.distributed.all_gather_object(values, value)
    return values


@contextlib.contextmanager
def shared_errors() -> Iterator[None]:
    """A UserError that the body raises on any process ends all of them; every process must come here.

    Rank 0 raises the one of the lowest rank, the others leave with exit status 1, so that it is told once.
    """
    error = None
    try:
        yield
    except UserError as err:
        if getattr(err, 'told', False):  # by a block within this one; the others have left
            raise
        error = err
    told = [message for message in gather(None if error is None else str(error)) if message is not None]
    if told and rank() == 0:
        error = error or UserError(told[0])
        error.told = True
        raise error
    if told:
        raise SystemExit(1)


@contextlib.contextmanager
def only_rank0_prints() -> Iterator[None]:
    """The body prints nothing on the other processes, to neither stream."""
    with contextlib.ExitStack() as stack:
        if rank() > 0:
            nowhere = stack.enter_context(open(os.devnull, 'w', encoding='utf-8'))
            stack.enter_context(contextlib.redirect_stdout(nowhere))
            stack.enter_context(contextlib.redirect_stderr(nowhere))
        yield


def print0(*args: Any, **kwargs: Any) -> None:
    """Print on rank 0 only."""
    if rank() == 0:
        print(*args, flush=True, **kwargs)
