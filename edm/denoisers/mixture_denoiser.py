"""The posterior mean under a mixture of low-rank Gaussians that is fitted to a data set.

The model of "Diffusion Models Learn Low-Dimensional Distributions via Subspace Clustering" (paper 2, arXiv
2409.02426) with the means, variances and weights that images need: class k of K is N(mu_k, U_k L_k U_k^T)
with weight p_k, U_k an orthonormal basis [D, d] and L_k diagonal. With r_k = x - mu_k and noise level sigma

    D(x; sigma) = sum_k w_k(x) (mu_k + U_k L_k (L_k + sigma^2 I)^-1 U_k^T r_k),
    w(x) = softmax_k(log p_k + log N(x; mu_k, U_k L_k U_k^T + sigma^2 I)).

MoLRG itself, mu_k = 0, L_k = I and p_k = 1 / K, is in `molrg_denoiser`.
"""

import torch

from data.pixels import Pixels
from denoisers.data_denoiser import DataDenoiser
from denoisers.mixture_fit import fit
from torch_utils.errors import UserError


class MixtureDenoiser(DataDenoiser):
    """D(x; sigma) above, fitted at the first call to all images, or to those of a label.

    classes, dim: K and d. Raises UserError naming --classes or --dim if images are too few or too small.
    """

    def __init__(self, pixels: Pixels, *, classes: int | None = None, dim: int | None = None, **options):
        super().__init__(pixels, **options)
        if classes is None or dim is None:
            raise UserError('--denoiser molrg needs --classes and --dim, but for a MoLRG .pt file')
        if dim > pixels.shape[1]:
            raise UserError(f'--dim {dim}: images have {pixels.shape[1]:,} values')
        if not self._sharded and classes > pixels.shape[0]:
            raise UserError(f'--classes {classes}: --dataset has {pixels.shape[0]:,} images')
        self._shape, self._mixtures = (classes, dim), {}

    def _denoise(self, noisy, sigma, rows):
        if rows not in self._mixtures:
            self._mixtures[rows] = fit(self._pixels, rows, *self._shape, sharded=self._sharded)
        mixture, variance = self._mixtures[rows], sigma.square().clamp(min=1e-150)
        offsets = noisy[:, None] - mixture.means
        coordinates = torch.einsum('bkn,knd->bkd', offsets, mixture.bases)
        noise, squares = mixture.variances + variance[:, :, None], coordinates.square()
        outside = (offsets.square().sum(dim=2) - squares.sum(dim=2)).clamp(min=0)
        exponents = mixture.weights.log() - 0.5 * (
            outside / variance + (squares / noise).sum(dim=2) + noise.log().sum(dim=2))
        weights = exponents.softmax(dim=1)
        kept = weights[:, :, None] * coordinates * (mixture.variances / noise)
        return weights @ mixture.means + torch.einsum('bkd,knd->bn', kept, mixture.bases)
