"""Quality of samples from descriptors, on the CPU: `fd`, `kid`, `prdc`.

- `fd, 10,000 x 2048`: both moments and the distance, beside the bare products of the same numbers on whole
  float64 arrays (two covariances, two eigendecompositions, one product and its singular values), and beside
  the plain formulation: numpy's `cov` and scipy's `sqrtm`.
- `kid` and `prdc, 4,000 x 4,000 x 512`: beside the plain numpy formulation in float64, which holds all
  kernels or distances at once.
- `memory`: the peak of a process that makes two arrays of 50,000 x 2048 (781 MiB) and computes their FD. The
  other scores hold blocks of 2,048 rows, whatever the number of rows.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from measure import Row, run_python, side_by_side

from scores.frechet import frechet_distance, moments
from scores.kernel_distance import kernel_distance
from scores.manifold_scores import manifold_scores

HERE = Path(__file__).resolve().parent
_PEAK = '''
import sys
sys.path[:0] = sys.argv[1:]
import numpy as np
from measure import peak_mib
from scores.frechet import frechet_distance, moments
rng = np.random.default_rng(0)
sets = [rng.standard_normal((50000, 2048), dtype=np.float32) for _ in range(2)]
frechet_distance(*map(moments, sets))
print(peak_mib())
'''


def rows() -> Iterator[Row]:
    """The rows of the table."""
    threads = f'{torch.get_num_threads()} threads'
    x, y = features(10000, 2048)
    wide = [x.astype(np.float64), y.astype(np.float64)]
    ours, bare = side_by_side([lambda: frechet_distance(moments(x), moments(y)), lambda: products(*wide)], 3)
    yield Row(what='fd, 10,000 x 2048', ours=ours, unit='s', baseline=bare, ratio=ours / bare,
              must='<= 1.3 times the bare products', reached=ours <= 1.3 * bare, note=threads)
    ours, plain = side_by_side([lambda: frechet_distance(moments(x), moments(y)), lambda: sqrtm(*wide)], 1, 0)
    yield Row(what='fd, 10,000 x 2048', ours=ours, unit='s', baseline=plain, ratio=plain / ours,
              note=f'baseline: numpy.cov and scipy.linalg.sqrtm; {threads}')
    x, y = features(4000, 512)
    for name, function, baseline in (('kid', lambda: kernel_distance(x, y), lambda: plain_kid(x, y)),
                                     ('prdc', lambda: manifold_scores(x, y), lambda: plain_prdc(x, y))):
        ours, plain = side_by_side([function, baseline], 3)
        yield Row(what=f'{name}, 4,000 x 4,000 x 512', ours=ours, unit='s', baseline=plain,
                  ratio=plain / ours, note=f'baseline: numpy on whole float64 arrays; {threads}')
    peak = float(run_python(_PEAK, *(str(HERE.parents[1] / 'edm'), str(HERE))))
    yield Row(what='fd, 50,000 x 2048: memory with both inputs', ours=peak, unit='MiB', must='< 2 GiB',
              reached=peak < 2048)


def features(n: int, dim: int) -> list[np.ndarray]:
    """Two sets of correlated random features, float32 [n, dim]."""
    rng = np.random.default_rng(0)
    scale = np.linspace(.1, 1, dim, dtype=np.float32)
    return [rng.standard_normal((n, dim), dtype=np.float32) * scale + shift for shift in (0, .1)]


def products(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """What a Frechet distance can't do without."""
    vectors = [np.linalg.eigh(each.T @ each)[1] for each in (x, y)]
    return np.linalg.svd(vectors[0].T @ vectors[1], compute_uv=False)


def sqrtm(x: np.ndarray, y: np.ndarray) -> float:
    """The Frechet distance as most software has it."""
    import scipy.linalg

    a, b = np.cov(x, rowvar=False), np.cov(y, rowvar=False)
    difference = x.mean(axis=0) - y.mean(axis=0)
    return difference @ difference + np.trace(a + b - 2 * scipy.linalg.sqrtm(a @ b).real)


def plain_kid(x: np.ndarray, y: np.ndarray) -> float:
    """The unbiased MMD^2 of all rows."""
    x, y = x.astype(np.float64), y.astype(np.float64)
    a, b, c = ((p @ q.T / x.shape[1] + 1) ** 3 for p, q in ((x, x), (y, y), (x, y)))
    m, n = len(x), len(y)
    return (a.sum() - np.trace(a)) / m / (m - 1) + (b.sum() - np.trace(b)) / n / (n - 1) - 2 * c.mean()


def plain_prdc(x: np.ndarray, y: np.ndarray, k: int = 5) -> tuple[float, ...]:
    """Precision, recall, density and coverage of samples x."""
    x, y = x.astype(np.float64), y.astype(np.float64)

    def squares(p, q):
        return (p ** 2).sum(axis=1)[:, None] + (q ** 2).sum(axis=1) - 2 * p @ q.T

    own, real = (np.partition(squares(p, p), k, axis=1)[:, k] for p in (x, y))
    across = squares(y, x)
    inside = across <= real[:, None]
    return (inside.any(axis=0).mean(), (across <= own).any(axis=1).mean(), inside.sum() / (k * len(x)),
            inside.any(axis=1).mean())
