"""A mixture of low-rank Gaussians in closed form: its denoiser, that one's Jacobian, how far bases are off.

See `training.low_rank` for the model and its symbols; the classes' subspaces are orthogonal to each other.
"""

import torch

from data.molrg_data import MoLRG
from training.low_rank import LowRankDenoiser, class_weights


def true_denoiser(data: MoLRG) -> LowRankDenoiser:
    """The posterior mean under the distribution of `data`, with the interface of a network."""
    net = LowRankDenoiser(data.resolution, data.num_channels, class_num=data.shape.class_num,
                          per_class_dim=data.shape.per_class_dim)
    net.bases.data.copy_(data.bases())
    return net.eval().requires_grad_(False)


def recovery_errors(found: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """How far found subspaces are from the true ones: one number per true class, float64 [K] in [0, 1].

    It is |U - P U|_F / sqrt(d) with the true basis U and the projector P on the found subspace, the root mean
    square of the sines of the angles between them: 0 if they agree, 1 if they are orthogonal. Which found
    one belongs to which true one is decided for all together, so that the squares' sum is smallest.

    found, truth: bases of full rank, [K, n, d].
    """
    from scipy.optimize import linear_sum_assignment

    found, truth = (torch.linalg.qr(bases.detach().cpu().double()).Q for bases in (found, truth))
    # Not 1 - cos^2, which would round all below 1e-8 away.
    rest = truth[:, None] - found @ (found.mT @ truth[:, None])
    squares = rest.square().sum(dim=(2, 3)) / truth.shape[2]
    _, matched = linear_sum_assignment(squares.numpy())
    return squares[torch.arange(len(truth)), torch.from_numpy(matched)].sqrt()


def describe_errors(errors: torch.Tensor) -> str:
    """Recovery errors as a line of text."""
    numbers = ', '.join(f'{error:.1e}' for error in errors.tolist())
    return (f'Recovery error: {numbers} (root mean square of the sines of the angles to the true subspace, '
            'per class)')


def jacobian_spectrum(x: torch.Tensor, sigma: float, bases: torch.Tensor) -> torch.Tensor:
    """Singular values of the true denoiser's Jacobian at `x`, those that aren't 0.

    With y_k = U_k^T x and c = 1 / (sigma^2 (1 + sigma^2)) the Jacobian is (1 + sigma^2)^-1 times, between
    classes k and j, [k = j] w_k (I + c y_k y_k^T) - c w_k w_j y_k y_j^T. Across y_k it is w_k, d - 1 times;
    in the span of the directions of all y_k it is a symmetric K x K matrix.

    x: noisy samples [B, n]. bases: the U_k, orthogonal to each other, [K, n, d].
    Returns float64 [B, K d], descending.
    """
    x, bases = x.double(), bases.double()
    coordinates = torch.einsum('bn,knd->bkd', x, bases)
    weights = class_weights(coordinates, torch.tensor([[sigma]], dtype=torch.float64))
    norms = coordinates.norm(dim=2)
    among = torch.diag_embed(weights * (1 + norms**2 / (sigma**2 * (1 + sigma**2))))
    moved = weights * norms
    among -= moved[:, :, None] * moved[:, None, :] / (sigma**2 * (1 + sigma**2))
    across = weights.repeat_interleave(bases.shape[2] - 1, dim=1)
    values = torch.cat([across, torch.linalg.svdvals(among)], dim=1) / (1 + sigma**2)
    return values.sort(dim=1, descending=True).values
