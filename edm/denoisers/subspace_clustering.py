"""The subspaces of a mixture of low-rank Gaussians in closed form, from the samples' inner products.

Samples of orthogonal subspaces have the inner product 0 with those of other classes, and of one class almost
surely not: the classes are the blocks of the samples' Gram matrix (Costeira & Kanade 1998 do so for subspaces
that are merely independent). Once a class has d samples these span its subspace. So without noise, N >= d
samples per class leave nothing to be learned.
"""

import torch

_SMALL = 1e-5  # of the largest singular value: below are errors of rounding of samples in float32


def closed_form_bases(samples: torch.Tensor, class_num: int, per_class_dim: int) -> torch.Tensor:
    """Orthonormal bases of K orthogonal subspaces of d dimensions, float64 [K, n, d], in any order.

    A class of fewer than d samples gets their span and, for the rest, random directions outside of the span
    of all samples, from torch's default generator.
    samples: clean, [S, n], S at least K, and K d at most n.
    """
    samples = samples.detach().cpu().double()
    labels, taken = cluster(samples, class_num), _row_space(samples)
    bases = []
    for k in range(class_num):
        own = _row_space(samples[labels == k])[:per_class_dim]
        free = torch.randn(per_class_dim - len(own), samples.shape[1], dtype=torch.float64)
        free -= free @ taken.T @ taken
        bases.append(torch.linalg.qr(torch.cat([own, free]).T).Q)
    return torch.stack(bases)


def cluster(samples: torch.Tensor, class_num: int) -> torch.Tensor:
    """The class of each sample [S, n], int64 [S] in 0 .. K - 1, by single linkage of absolute cosines."""
    from scipy.cluster.hierarchy import cut_tree, linkage

    if len(samples) == class_num:
        return torch.arange(class_num)
    units = torch.nn.functional.normalize(samples, dim=1)
    above = torch.triu_indices(len(samples), len(samples), 1)
    apart = (1 - (units @ units.T).abs()).clip(min=0)[above[0], above[1]]
    return torch.from_numpy(cut_tree(linkage(apart.numpy(), 'single'), class_num)[:, 0]).long()


def _row_space(samples: torch.Tensor) -> torch.Tensor:
    """An orthonormal basis of the span of rows [S, n], float64 [rank, n], the largest directions first."""
    _, values, rows = torch.linalg.svd(samples, full_matrices=False)
    return rows[values > _SMALL * values[0]]
