"""The denoiser of a mixture of low-rank Gaussians (MoLRG), with the subspaces as its parameters.

Paper 2 is "Diffusion Models Learn Low-Dimensional Distributions via Subspace Clustering", arXiv 2409.02426.
Of K equally likely classes the k-th is N(0, U_k U_k^T), U_k an orthonormal basis [n, d]. With noise of level
sigma the posterior mean is D(x; sigma) = sum_k w_k(x) U_k U_k^T x / (1 + sigma^2), where w_k is the
probability of class k: softmax_k(|U_k^T x|^2 / (2 sigma^2 (1 + sigma^2))).

The text of this file travels inside snapshots and is executed by other software there, so it stands on
torch and `torch_utils.persistence` alone.
"""

import math

import torch

from torch_utils import persistence


def posterior_mean(x: torch.Tensor, sigma: torch.Tensor, bases: torch.Tensor) -> torch.Tensor:
    """D(x; sigma) as above, [B, n]. x: [B, n]. sigma: [B or 1, 1]. bases: U_k, orthonormal, [K, n, d]."""
    coordinates = torch.einsum('bn,knd->bkd', x, bases)
    weights = (coordinates.square().sum(dim=2) / (2 * sigma**2 * (1 + sigma**2))).softmax(dim=1)
    return torch.einsum('bk,bkd,knd->bn', weights, coordinates, bases) / (1 + sigma**2)


@persistence.persistent_class
class LowRankDenoiser(torch.nn.Module):
    """D(x; sigma) above as a network to train, the "low-rank model" of paper 2; a preconditioner of its own.

    The parameter `bases` [K, n, d] may be any of full rank: the forward pass makes it orthonormal. Calls,
    attributes and results are those of the preconditioners in networks.py.

    class_num, per_class_dim: K and d. n is img_channels * img_resolution**2.
    Raises ValueError if K d exceeds n, or for class labels, which it has no use for.
    """

    def __init__(self, img_resolution, img_channels, label_dim=0, use_fp16=False, class_num=2,
                 per_class_dim=6):
        super().__init__()
        dim = img_channels * img_resolution**2
        if class_num < 1 or per_class_dim < 1 or class_num * per_class_dim > dim:
            raise ValueError(f'{class_num} subspaces of {per_class_dim} dimensions do not fit into {dim}')
        if label_dim:
            raise ValueError(f'the low-rank denoiser has no class labels, got label_dim {label_dim}')
        self.img_resolution = img_resolution
        self.img_channels = img_channels
        self.label_dim = label_dim
        self.use_fp16 = use_fp16
        self.sigma_min = 0.0
        self.sigma_max = float('inf')
        scale = 1 / math.sqrt(dim)
        self.bases = torch.nn.Parameter(torch.randn(class_num, dim, per_class_dim) * scale)

    def orthonormal_bases(self) -> torch.Tensor:
        """U_k, [K, n, d]."""
        bases = self.bases.cpu() if self.bases.device.type == 'mps' else self.bases  # MPS has no QR
        return torch.linalg.qr(bases).Q.to(self.bases.device)

    def round_sigma(self, sigma: torch.Tensor) -> torch.Tensor:
        """The nearest noise levels that it knows: all."""
        return torch.as_tensor(sigma)

    def forward(self, x: torch.Tensor, sigma: torch.Tensor | float, class_labels: torch.Tensor | None = None,
                force_fp32: bool = False, augment_labels: torch.Tensor | None = None) -> torch.Tensor:
        """The posterior mean of the clean images; always in float32."""
        flat = x.to(torch.float32).flatten(1)
        sigma = torch.as_tensor(sigma, dtype=torch.float32, device=x.device).reshape(-1, 1)
        return posterior_mean(flat, sigma, self.orthonormal_bases()).reshape(x.shape)

    @torch.no_grad()
    def start_from(self, samples: torch.Tensor) -> None:
        """Begin with bases from which training separates the classes. Draws from torch's default generator.

        From independent random bases about one run in five would merge classes for good. Here all share all
        directions but the first, a sample of its own for each class (`pick_directions`), so that each begins
        with its own share of the data.
        samples: clean images [N, C, H, W] or [N, n].
        """
        class_num, dim, per_class_dim = self.bases.shape
        first = pick_directions(samples.flatten(1).to(self.bases), class_num)
        shared = torch.randn(dim, per_class_dim - 1, device=first.device).expand(class_num, -1, -1)
        self.bases.copy_(torch.linalg.qr(torch.cat([first[:, :, None], shared], dim=2)).Q)


def pick_directions(samples: torch.Tensor, count: int, max_candidates: int = 256,
                    max_samples: int = 4096) -> torch.Tensor:
    """Directions of `count` samples that together point at as many of the others as possible, [count, n].

    Greedy k-means++ (Arthur & Vassilvitskii 2007) for directions: each next one, of max_candidates random
    samples, raises sum_i max_j cos^2(sample_i, direction_j) the most. samples: float [N, n], N >= 1.
    """
    order = torch.randperm(len(samples), device=samples.device)
    units = torch.nn.functional.normalize(samples[order[:max_samples]], dim=1)
    candidates = units[:max_candidates]
    closeness = (units @ candidates.T).square()
    covered = torch.zeros(len(units), 1, device=samples.device)
    chosen = []
    for _ in range(count):
        best = (closeness - covered).clip(min=0).sum(dim=0).argmax()
        chosen.append(candidates[best])
        covered = torch.maximum(covered, closeness[:, best, None])
    return torch.stack(chosen)
