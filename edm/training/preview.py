"""A sheet of samples, to see during training what the network has learned."""

import math
from pathlib import Path

import torch

from sampling.sampler import edm_sampler
from torch_utils.images import make_grid, to_uint8, write_png
from torch_utils.seeding import SampleGenerators

NUM_IMAGES = 16


def write_preview(path: Path, ema: torch.nn.Module, device: torch.device) -> None:
    """Write a PNG with samples of the seeds 0..15; with labels, of the classes in turn.

    ema: in evaluation mode, on `device`. Draws from generators of its own.
    """
    shape = (ema.img_channels, ema.img_resolution, ema.img_resolution)
    latents = SampleGenerators(range(NUM_IMAGES), device).randn(shape)
    labels = None
    if ema.label_dim:
        labels = torch.eye(ema.label_dim, device=device)[torch.arange(NUM_IMAGES) % ema.label_dim]
    with torch.no_grad():
        images = edm_sampler(ema, latents, labels)
    write_png(path, make_grid(to_uint8(images).cpu().numpy(), columns=math.isqrt(NUM_IMAGES)))
