"""Sampling as the reference's loop does it, for the benchmark of ours: a script, NETWORK OUTDIR NUMBER.

Eager, contiguous tensors, batches of 64, one generator per sample, states in float64, each PNG written in the
main thread after its batch.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / 'edm'))

import PIL.Image
import torch
import tqdm

from training.snapshot import load_network

BATCH, STEPS, SIGMA_MIN, SIGMA_MAX, RHO = 64, 18, 0.002, 80, 7


def main(network: str, outdir: str, number: str) -> None:
    """Write the images of the seeds 0 to number - 1."""
    device = torch.device('cpu')
    net = load_network(network, device)
    Path(outdir).mkdir(parents=True, exist_ok=True)
    for seeds in tqdm.tqdm(torch.arange(int(number)).split(BATCH)):
        generators = [torch.Generator(device).manual_seed(int(seed)) for seed in seeds]
        shape = (net.img_channels, net.img_resolution, net.img_resolution)
        latents = torch.stack([torch.randn(shape, generator=generator) for generator in generators])
        images = (heun(net, latents) * 127.5 + 128).clip(0, 255).to(torch.uint8)
        for seed, image in zip(seeds, images.permute(0, 2, 3, 1).numpy(), strict=True):
            PIL.Image.fromarray(image[:, :, 0] if image.shape[2] == 1 else image).save(
                f'{outdir}/{seed:06d}.png')


@torch.no_grad()
def heun(net: torch.nn.Module, latents: torch.Tensor) -> torch.Tensor:
    """Karras et al. 2022, Algorithm 1, from unit noise [N, C, H, W] to images, float64."""
    rise = torch.arange(STEPS, dtype=torch.float64) / (STEPS - 1)
    steps = (SIGMA_MAX ** (1 / RHO) + rise * (SIGMA_MIN ** (1 / RHO) - SIGMA_MAX ** (1 / RHO))) ** RHO
    steps = torch.cat([net.round_sigma(steps), torch.zeros(1)]).to(latents.device)
    x = latents.to(torch.float64) * steps[0]
    for i in range(STEPS):
        here, there = steps[i], steps[i + 1]
        slope = (x - net(x, here).to(torch.float64)) / here
        ahead = x + (there - here) * slope
        if i < STEPS - 1:
            end = (ahead - net(ahead, there).to(torch.float64)) / there
            ahead = x + (there - here) * (slope + end) / 2
        x = ahead
    return x


if __name__ == '__main__':
    main(*sys.argv[1:])
