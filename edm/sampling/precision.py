"""The precision and the memory format in which a network is sampled. Imports no torch for its registry."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch_utils.errors import UserError

if TYPE_CHECKING:
    import torch

# Of a network's features: torch's name of the type.
PRECISIONS = {'fp32': 'float32', 'fp16': 'float16', 'bf16': 'bfloat16'}

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
