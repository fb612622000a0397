"""From images to the noise that a denoiser's sampler would make them from."""

from collections.abc import Callable, Sequence
from contextlib import nullcontext

import numpy as np
import torch
from tqdm import tqdm

from sampling.denoiser import Denoiser, FiniteOutput
from sampling.generation import begin, own_batches
from sampling.noise import Noise
from sampling.pace import one_thread_per_operation
from sampling.sampler import invert
from torch_utils import distributed
from torch_utils.images import from_uint8
from torch_utils.processes import map_ahead


def invert_images(net: Denoiser, read: Callable[[Sequence[int]], np.ndarray], seeds: Sequence[int],
                  device: torch.device, *, classes: np.ndarray | None = None, class_idx: int | None = None,
                  vectors: np.ndarray | None = None, batch: int = 64, threads: int = 1, **options) -> Noise:
    """The latents of images, which `generalized_sampler` takes back to them; the processes share the work.

    read: images uint8 [n, C, H, W] at indices. seeds: their names, one each; a seed draws the class of its
        image as in `sampling.generation.begin`, unless class_idx or `classes`, int64 [N], gives it.
    batch, threads: images at a time, and batches side by side. options: those of `sampling.sampler.invert`.
    Raises UserError if the denoiser's output is not finite.
    """
    @torch.inference_mode()
    def encode(rows):
        output = FiniteOutput()
        images = from_uint8(torch.as_tensor(read(rows), device=device))
        _, _, labels = begin(net, [seeds[row] for row in rows], device, class_idx, vectors,
                             None if classes is None else classes[rows])
        latents = invert(net, images, labels, **options,
                         on_step=lambda i, sigma, x, denoised: output.note(sigma, denoised))
        output.check()
        return (rows, latents.to(torch.float32).cpu().numpy(),
                None if labels is None or vectors is not None else labels.argmax(dim=1).cpu().numpy())

    batches, parts = own_batches(range(len(seeds)), batch, threads=threads), []
    one_thread = one_thread_per_operation() if threads > 1 else nullcontext()
    with (distributed.shared_errors(), one_thread,
          tqdm(total=sum(map(len, batches)), unit='img', disable=distributed.rank() != 0) as progress):
        for part in map_ahead(encode, batches, threads, ahead=threads):
            parts.append(part)
            progress.update(len(part[0]))
    parts = [part for share in distributed.gather(parts) for part in share]
    order = np.argsort(np.concatenate([rows for rows, *_ in parts]))
    latents, used = (np.concatenate([part[k] for part in parts])[order] if parts[0][k] is not None else None
                     for k in (1, 2))
    return Noise(seeds=list(seeds), latents=latents, classes=used, generator='the ODE, from images')
