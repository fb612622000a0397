"""The posterior mean under a mixture of low-rank Gaussians (MoLRG), and the spectrum of its Jacobian.

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
        coordinates, weights = posterior(x.to(device).double().flatten(1), sigma, self.bases)
        mean = torch.einsum('bk,bkd,knd->bn', weights, coordinates, self.bases) / (1 + sigma**2)
        return mean.to(x.dtype).to(x.device).reshape(x.shape)


def true_denoiser(data: MoLRG) -> MoLRGDenoiser:
    """The posterior mean under the distribution that `data` was drawn from."""
    return MoLRGDenoiser(data.bases(), data.num_channels, data.resolution)


def posterior(x: torch.Tensor, sigma: torch.Tensor, bases: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """U_k^T x [B, K, d] and w_k [B, K]. x: [B, n]. sigma: [B or 1, 1]. bases: U_k, [K, n, d]."""
    coordinates = torch.einsum('bn,knd->bkd', x, bases)
    energies = coordinates.square().sum(dim=2)
    return coordinates, (energies / (2 * sigma**2 * (1 + sigma**2))).softmax(dim=1)


def jacobian_spectrum(x: torch.Tensor, sigma: float, bases: torch.Tensor) -> torch.Tensor:
    """The nonzero singular values of the Jacobian dD(x; sigma)/dx, float64 [B, K d], descending.

    With y_k = U_k^T x and c = 1 / (sigma^2 (1 + sigma^2)) the Jacobian is (1 + sigma^2)^-1 times, between
    classes k and j, [k = j] w_k (I + c y_k y_k^T) - c w_k w_j y_k y_j^T. Across y_k it is w_k, d - 1 times;
    in the span of the directions of all y_k it is a symmetric K x K matrix.

    x: noisy samples [B, n]. bases: the U_k, orthogonal to each other, [K, n, d].
    """
    x, bases = x.double(), bases.double()
    coordinates, weights = posterior(x, torch.tensor([[sigma]], dtype=torch.float64), bases)
    norms = coordinates.norm(dim=2)
    among = torch.diag_embed(weights * (1 + norms**2 / (sigma**2 * (1 + sigma**2))))
    moved = weights * norms
    among -= moved[:, :, None] * moved[:, None, :] / (sigma**2 * (1 + sigma**2))
    across = weights.repeat_interleave(bases.shape[2] - 1, dim=1)
    values = torch.cat([across, torch.linalg.svdvals(among)], dim=1) / (1 + sigma**2)
    return values.sort(dim=1, descending=True).values
