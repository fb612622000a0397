"""The posterior mean under a mixture of low-rank Gaussians (MoLRG).

Paper 2 is "Diffusion Models Learn Low-Dimensional Distributions via Subspace Clustering", arXiv 2409.02426.
Of K equally likely classes the k-th is N(0, U_k U_k^T), U_k an orthonormal basis [n, d]. With noise of level
sigma the posterior mean is D(x; sigma) = sum_k w_k(x) U_k U_k^T x / (1 + sigma^2), where w_k is the
probability of class k: softmax_k(|U_k^T x|^2 / (2 sigma^2 (1 + sigma^2))).
"""

import math

import torch

from data.molrg_data import MoLRG


class MoLRGDenoiser:
    """D(x; sigma) above, with the interface of a network; computes in float64.

    bases: the U_k, orthonormal, [K, n, d], n being img_channels * img_resolution**2.
    """

    sigma_min, sigma_max, label_dim = 0.0, math.inf, 0

    def __init__(self, bases: torch.Tensor, img_channels: int, img_resolution: int):
        self.img_channels, self.img_resolution = img_channels, img_resolution
        self.bases = bases.double()

    def round_sigma(self, sigma: torch.Tensor) -> torch.Tensor:
        """All noise levels are supported."""
        return torch.as_tensor(sigma)

    def __call__(self, x: torch.Tensor, sigma: torch.Tensor | float,
                 class_labels: torch.Tensor | None = None) -> torch.Tensor:
        """The posterior mean for x [B, C, H, W], in its dtype. sigma: above 0, one for all, or [B]."""
        device = self.bases.device  # x's, but for MPS, which has no float64
        sigma = torch.as_tensor(sigma).to(device, torch.float64).reshape(-1, 1)
        coordinates = torch.einsum('bn,knd->bkd', x.to(device).double().flatten(1), self.bases)
        energies = coordinates.square().sum(dim=2)
        weights = (energies / (2 * sigma**2 * (1 + sigma**2))).softmax(dim=1)
        mean = torch.einsum('bk,bkd,knd->bn', weights, coordinates, self.bases) / (1 + sigma**2)
        return mean.to(x.dtype).to(x.device).reshape(x.shape)


def true_denoiser(data: MoLRG) -> MoLRGDenoiser:
    """The posterior mean under the distribution that `data` was drawn from."""
    return MoLRGDenoiser(data.bases(), data.num_channels, data.resolution)
