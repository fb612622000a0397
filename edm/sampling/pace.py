"""How a network is sampled on a device: precision, memory format, threads and batch."""

import contextlib
from collections.abc import Iterator

import torch

from sampling import PRECISIONS
from sampling.denoiser import Denoiser
from sampling.sampler import widest_float
from torch_utils import distributed
from torch_utils.errors import UserError

DEFAULT_BATCH = 64
LARGEST_BATCH = 4096  # on a GPU, where far fewer images fill it
# Pixels of a batch on a CPU. Measured with networks of 8 to 64 channels: below, the cost of an image rises
# (at 8x8 pixels by half from 256 to 64 images), above, it falls no more; memory stays small.
CPU_PIXELS = 256 * 8 * 8
STATES = 12  # arrays of float64 that a sampler may hold beside the network's features
MIN_CHANNELS_LAST = 16  # resolution from which channels_last is faster on a CPU: 1.1 times at 32, 0.9 at 8


def prepare(net: torch.nn.Module, device: torch.device, precision: str | None) -> None:
    """Set a network on `device` up for sampling.

    precision: of its features, a key of PRECISIONS, None for that recorded in the network; weights,
        embeddings of noise levels and output stay float32.
    Raises UserError naming --precision if the device or the network does not support it.
    """
    if precision is not None:
        net.use_fp16 = precision != 'fp32'
        if net.use_fp16:
            _check_half(net, device, precision)
            net.half_type, net.half_devices = getattr(torch, PRECISIONS[precision]), (device.type,)
    half_on_gpu = device.type == 'cuda' and getattr(net, 'use_fp16', False)
    if half_on_gpu or (device.type == 'cpu' and net.img_resolution >= MIN_CHANNELS_LAST):
        net.to(memory_format=torch.channels_last)


def _check_half(net: torch.nn.Module, device: torch.device, precision: str) -> None:
    if not hasattr(net, 'half_type'):
        raise UserError(f'--precision {precision}: a {type(net).__name__} computes in fp32 only')
    if precision == 'fp16':
        supported = device.type in ('cuda', 'mps')
    elif device.type == 'cuda':
        supported = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        supported = (device.type == 'cpu' and torch.backends.mkldnn.is_available()
                     and torch.ops.mkldnn._is_mkldnn_bf16_supported())
    if not supported:
        raise UserError(f'--precision {precision}: {device} here does not support it; expected fp32')


def batch_threads(device: torch.device) -> int:
    """How many batches to compute side by side, on a CPU one per thread of PyTorch.

    For small networks this is faster than splitting each operation over threads, as most are too short.
    """
    return torch.get_num_threads() if device.type == 'cpu' else 1


@contextlib.contextmanager
def one_thread_per_operation() -> Iterator[None]:
    """Inside, PyTorch does not split an operation over threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def auto_batch(net: Denoiser, device: torch.device, most: int) -> int:
    """Batch size for sampling a network, the same on all processes.

    On a CPU by the number of pixels; on a GPU the largest power of two that fits its memory, by trial, from
    the first that is not below `most`.
    """
    if device.type == 'cpu':
        return max(4, min(256, CPU_PIXELS // net.img_resolution**2))
    if device.type != 'cuda':
        return DEFAULT_BATCH
    with distributed.shared_errors():
        batch = largest_that_fits(net, device, min(most, LARGEST_BATCH))
    return min(distributed.gather(batch))


def largest_that_fits(net: Denoiser, device: torch.device, most: int) -> int:
    """The trial of `auto_batch`. Raises UserError if memory does not suffice for one image."""
    batch = 1 << (max(most, 1) - 1).bit_length()
    while batch:
        try:
            states = torch.zeros(STATES, batch, net.img_channels, net.img_resolution, net.img_resolution,
                                 dtype=widest_float(device), device=device)
            labels = torch.zeros(batch, net.label_dim, device=device) if net.label_dim else None
            with torch.inference_mode():
                net(states[0], torch.ones([], device=device), labels)
            return batch
        except torch.OutOfMemoryError:
            batch //= 2
        states = None
        if device.type == 'cuda':
            torch.cuda.empty_cache()
    raise UserError(f'--batch auto: one image takes more memory than {device} has')
