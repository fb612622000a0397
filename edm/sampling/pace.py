"""How many samples a device computes at a time: threads and batch."""

import torch

from sampling.denoiser import Denoiser
from sampling.sampler import widest_float
from torch_utils import distributed
from torch_utils.errors import UserError

DEFAULT_BATCH = 64  # where nothing is known of the denoiser
LARGEST_BATCH = 4096  # on a GPU, where far fewer fill it
# Pixels of a batch on a CPU. Measured with networks of 8 to 64 channels: below, the cost of an image rises
# (at 8x8 pixels by half from 256 to 64 images), above, it falls no more; memory stays small.
CPU_PIXELS = 256 * 8 * 8
STATES = 8  # arrays of float64 that a sampler may hold beside the network's features


def batch_threads(device: torch.device) -> int:
    """How many threads work on a batch each: on a CPU all of PyTorch's.

    Small networks gain far less if the threads share each operation, of which most are too short to share.
    """
    return torch.get_num_threads() if device.type == 'cpu' else 1


def auto_batch(net: Denoiser, device: torch.device, most: int) -> int:
    """The batch for sampling a network, at most `most`; the same on all processes.

    On a CPU by the number of pixels; on a GPU the largest power of two that fits its memory, by trial.
    """
    if device.type == 'cpu':
        return max(4, min(256, CPU_PIXELS // net.img_resolution**2))
    if device.type != 'cuda':
        return DEFAULT_BATCH
    with distributed.shared_errors():
        batch = largest_that_fits(net, device, min(most, LARGEST_BATCH))
    return min(distributed.gather(batch))


@torch.inference_mode()
def largest_that_fits(net: Denoiser, device: torch.device, most: int) -> int:
    """The largest power of two, from the first that is not below `most`, for which memory suffices.

    Raises UserError if it does not suffice for one image.
    """
    batch = 1 << (max(most, 1) - 1).bit_length()
    while batch:
        try:
            states = torch.zeros(STATES, batch, net.img_channels, net.img_resolution, net.img_resolution,
                                 dtype=widest_float(device), device=device)
            labels = torch.zeros(batch, net.label_dim, device=device) if net.label_dim else None
            net(states[0], torch.ones([], device=device), labels)
            return batch
        except torch.OutOfMemoryError:
            batch //= 2
        states = None
        if device.type == 'cuda':
            torch.cuda.empty_cache()
    raise UserError(f'--batch auto: one image takes more than the memory of {device} holds')
