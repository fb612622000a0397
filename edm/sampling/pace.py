"""How a network is sampled on a device: precision, memory format, threads and batch, as both allow.

torch is imported where a function needs it, so that command lines can name the precisions at once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch_utils.errors import UserError

if TYPE_CHECKING:
    import torch

    from sampling.denoiser import Denoiser

# Of a network's features: torch's name of the type.
PRECISIONS = {'fp32': 'float32', 'fp16': 'float16', 'bf16': 'bfloat16'}

DEFAULT_BATCH = 64  # where nothing is known of the denoiser
LARGEST_BATCH = 4096  # on a GPU, where far fewer fill it
# Pixels of a batch on a CPU. Measured with networks of 8 to 64 channels: below, the cost of an image rises
# (at 8x8 pixels by half from 256 to 64 images), above, it falls no more; memory stays small.
CPU_PIXELS = 256 * 8 * 8
STATES = 12  # arrays of float64 that a sampler may hold beside the network's features
MIN_CHANNELS_LAST = 16  # resolution from which convolutions on a CPU are faster so: 1.1 times at 32, 0.9 at 8


def prepare(net: torch.nn.Module, device: torch.device, precision: str | None) -> None:
    """Set a network on `device` up for sampling.

    precision: of its features, a key of PRECISIONS; its weights, embeddings of noise levels and output stay
        float32. None leaves it as it is recorded in the network.
    Raises UserError naming --precision if the device or the network has no such type.
    """
    import torch

    if precision is not None:
        dtype = getattr(torch, PRECISIONS[precision])
        if dtype == torch.float32:
            net.use_fp16 = False
        else:
            _check_half(net, device, precision, dtype)
            net.use_fp16, net.half_type, net.half_devices = True, dtype, (device.type,)
    half_on_gpu = device.type == 'cuda' and getattr(net, 'use_fp16', False)
    if half_on_gpu or (device.type == 'cpu' and net.img_resolution >= MIN_CHANNELS_LAST):
        net.to(memory_format=torch.channels_last)


def _check_half(net, device: torch.device, precision: str, dtype: torch.dtype) -> None:
    import torch

    if not hasattr(net, 'half_type'):
        raise UserError(f'--precision {precision}: a {type(net).__name__} computes in fp32 only')
    half, brain = dtype == torch.float16, dtype == torch.bfloat16
    has = {'cuda': lambda: half or (brain and torch.cuda.is_bf16_supported(including_emulation=False)),
           'mps': lambda: half,
           'cpu': lambda: brain and torch.backends.mkldnn.is_available()
                          and torch.ops.mkldnn._is_mkldnn_bf16_supported()}
    if not has[device.type]():
        raise UserError(f'--precision {precision}: {device} here does not compute in it; expected fp32')


def batch_threads(device: torch.device) -> int:
    """How many threads work on a batch each: on a CPU all of PyTorch's.

    Small networks gain far less if the threads share each operation, of which most are too short to share.
    """
    import torch

    return torch.get_num_threads() if device.type == 'cpu' else 1


def auto_batch(net: Denoiser, device: torch.device, most: int) -> int:
    """The batch for sampling a network, at most `most`; the same on all processes.

    On a CPU by the number of pixels; on a GPU the largest power of two that fits its memory, by trial.
    """
    from torch_utils import distributed

    if device.type == 'cpu':
        return max(4, min(256, CPU_PIXELS // net.img_resolution**2))
    if device.type != 'cuda':
        return DEFAULT_BATCH
    with distributed.shared_errors():
        batch = largest_that_fits(net, device, min(most, LARGEST_BATCH))
    return min(distributed.gather(batch))


def largest_that_fits(net: Denoiser, device: torch.device, most: int) -> int:
    """The largest power of two, from the first that is not below `most`, for which memory suffices.

    Raises UserError if it does not suffice for one image.
    """
    import torch

    from sampling.sampler import widest_float

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
    raise UserError(f'--batch auto: one image takes more than the memory of {device} holds')
