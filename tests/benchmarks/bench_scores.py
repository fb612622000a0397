"""Scores of features, on the CPU.

- `mscore, 2,000 x 10,000 x 512`: `nearest_neighbors` beside the broadcast formulation, which multiplies
  samples with all training images element by element, [16, 10000, 512] at a time, and sums. Both get the same
  random descriptors of length 1; the baseline gets a part of the rows, and its time is scaled up.
- `mscore, memory`: the peak of `sscd.py mscore` for 10,000 x 50,000 x 512, without the inputs (117 MiB) and
  without what the same command needs for three descriptors.
- `rpscore, 50,000 x 512`: row-wise similarities, beside the sum of the product in numpy, in float32.
- `mscore --criterion ratio, 2,000 x 10,000 x 3,072`: `two_nearest` of random pixels, beside the float32
  product of the same matrices alone, in the same blocks.
- `mscore` and `mscore --criterion ratio`, 20,000 x 20,000 x 512: the share of the float32 products' rate, of
  torch.mm of blocks of 2,048 rows each into a kept array.
- `pfd, 50,000 x 512`: with its bootstrap interval, beside the root of the mean square in numpy, in float32.
"""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from measure import Row, run_python, side_by_side

from scores.comparison import probability_flow_distance
from scores.copy_scores import nearest_neighbors, pair_similarities
from scores.two_nearest import two_nearest
from torch_utils.distributed import pick_device

HERE = Path(__file__).resolve().parent
SCRIPT = HERE.parents[1] / 'edm' / 'sscd.py'
_PART, _AT_A_TIME = 64, 16  # rows of source that the baseline gets, and takes at a time
_PEAK = '''
import os, runpy, sys
sys.path[:0] = [os.path.dirname(sys.argv[2]), sys.argv[1]]
sys.argv = sys.argv[2:]
from measure import peak_mib
try:
    runpy.run_path(sys.argv[0], run_name='__main__')
finally:
    print(peak_mib())
'''


def rows() -> Iterator[Row]:
    """The rows of the table."""
    pick_device('cpu')  # keeps freed memory, as the scripts do
    source, target = unit_rows(2000, 512, seed=0), unit_rows(10000, 512, seed=1)
    some = source[:_PART]
    assert np.allclose(nearest_neighbors(some, target)[0], broadcast(some, target), atol=1e-6)
    ours, part = side_by_side([lambda: nearest_neighbors(source, target), lambda: broadcast(some, target)])
    baseline = part * len(source) / _PART
    yield Row(what='mscore, 2,000 x 10,000 x 512', ours=ours, unit='s', baseline=baseline,
              ratio=baseline / ours, must='>= 30 times the baseline', reached=baseline / ours >= 30,
              note=f'baseline: broadcast, {_PART} rows scaled up; {torch.get_num_threads()} threads')
    yield _memory()
    a, b = unit_rows(50000, 512, seed=2), unit_rows(50000, 512, seed=3)
    ours, baseline = side_by_side([lambda: pair_similarities(a, b), lambda: (a * b).sum(axis=1)])
    yield Row(what='rpscore, 50,000 x 512', ours=ours, unit='s', baseline=baseline, ratio=baseline / ours,
              note='baseline: numpy in float32; ours sums in float64')
    samples, images = pixels(2000, 3072, seed=4), pixels(10000, 3072, seed=5)
    ours, baseline = side_by_side([lambda: two_nearest(samples, images), lambda: products(samples, images)])
    yield Row(what='mscore --criterion ratio, 2,000 x 10,000 x 3,072', ours=ours, unit='s', baseline=baseline,
              ratio=ours / baseline, must='<= 1.3 times the bare products', reached=ours / baseline <= 1.3,
              note='baseline: torch.mm in float32, blocks of 2,048')
    some, others = a[:20000], b[:20000]
    *times, baseline = side_by_side([
        lambda: nearest_neighbors(some, others), lambda: two_nearest(some, others),
        lambda: blocks(some, others)], warmup=0, repeats=3)
    for name, ours in zip(('mscore', 'mscore --criterion ratio'), times, strict=True):
        yield Row(what=f'{name}, 20,000 x 20,000 x 512', ours=ours, unit='s', baseline=baseline,
                  ratio=baseline / ours, must='>= 0.7 of the bare products', reached=baseline / ours >= 0.7,
                  note='baseline: torch.mm in float32, into a kept array')
    ours, baseline = side_by_side([
        lambda: probability_flow_distance(a, b), lambda: np.sqrt(((a - b) ** 2).sum(axis=1).mean())])
    yield Row(what='pfd, 50,000 x 512', ours=ours, unit='s', baseline=baseline, ratio=ours / baseline,
              must='<= 1.3 times the bare sum', reached=ours / baseline <= 1.3,
              note='baseline: numpy in float32, no interval; ours sums in float64')


def unit_rows(n: int, dim: int, seed: int) -> np.ndarray:
    """Random descriptors, float32 [n, dim]."""
    values = np.random.default_rng(seed).standard_normal((n, dim), dtype=np.float32)
    return values / np.linalg.norm(values, axis=1, keepdims=True)


def pixels(n: int, dim: int, seed: int) -> np.ndarray:
    """Random pixels, float32 [n, dim]."""
    return np.random.default_rng(seed).integers(256, size=(n, dim)).astype(np.float32)


def products(source: np.ndarray, target: np.ndarray) -> None:
    """Inner products of all rows, which are not kept."""
    source, target = torch.from_numpy(source), torch.from_numpy(target)
    for part in target.split(2048):
        torch.mm(source, part.T)


def blocks(source: np.ndarray, target: np.ndarray, rows: int = 2048) -> None:
    """The same, block by block into one array."""
    found = torch.empty(rows * rows)
    for x in torch.from_numpy(source).split(rows):
        for y in torch.from_numpy(target).split(rows):
            torch.mm(x, y.T, out=found[:len(x) * len(y)].view(len(x), -1))


def broadcast(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """The largest similarity of each row, as the product of all elements summed over the last axis."""
    target = torch.from_numpy(target)[None]
    return torch.cat([(part[:, None] * target).sum(dim=-1).amax(dim=1)
                      for part in torch.from_numpy(source).split(_AT_A_TIME)]).numpy()


def _memory() -> Row:
    with tempfile.TemporaryDirectory() as folder:
        peaks = []
        for name, num_source, num_target in (('small', 3, 3), ('large', 10000, 50000)):
            files = [Path(folder, f'{name}-{kind}.npz') for kind in ('source', 'target')]
            for path, num_rows in zip(files, (num_source, num_target), strict=True):
                np.savez(path, features=unit_rows(num_rows, 512, seed=num_rows))
            peaks.append(_peak_of_mscore(*files))
    inputs = 60000 * 512 * 4 / 2 ** 20
    extra = peaks[1] - peaks[0] - inputs
    return Row(what='mscore, 10,000 x 50,000 x 512: memory beyond the inputs', ours=extra, unit='MiB',
               must='< 300 MB', reached=extra * 2 ** 20 < 300e6,
               note=f'peak of the process: {peaks[1]:.0f} MiB')


def _peak_of_mscore(source: Path, target: Path) -> float:
    """MiB."""
    printed = run_python(_PEAK, str(HERE), str(SCRIPT), 'mscore', '--source', str(source),
                         '--target', str(target), '--device', 'cpu')
    return float(printed.split()[-1])
