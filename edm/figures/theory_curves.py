"""How far denoisers are from a network, noise level by noise level, and what share of it they explain."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from scores.denoising_table import CLEAN, Row
from torch_utils.errors import UserError

CEILINGS = {'second': 'second network', 'disjoint': 'network, disjoint data'}  # networks, and their names
MOST_LEFT = 0.5  # share of the variance up to which a network explains the other


@dataclass(frozen=True)
class Curve:
    """Over noise levels sigma, rising: squared distance as a share of the network's variance; float64 [L]."""

    sigma: np.ndarray
    share: np.ndarray


class Distances:
    """Curves by kind of noisy images ('data', 'trajectory'), N and denoiser.

    sizes: all N, rising. names: denoisers, in the tables' order. network: the name of the target.
    """

    def __init__(self, rows: Sequence[Row], where: str):
        rows = [row for row in rows if row.target != CLEAN and row.size is not None]
        if not rows:
            raise UserError(f'{where}: holds no distances, as denoise.py distance --size writes them')
        targets = sorted({row.target for row in rows})
        if len(targets) > 1:
            raise UserError(f'{where}: has distances from {", ".join(targets)}; expected those from one')
        self.network, self.names = targets[0], list(dict.fromkeys(row.denoiser for row in rows))
        self.sizes = sorted({row.size for row in rows})
        self.counts = sorted({row.count for row in rows})
        self._rows = {}
        for row in rows:
            self._rows.setdefault((row.images, row.size, row.denoiser), {})[row.sigma] = row.share

    def curve(self, images: str, size: int, name: str) -> Curve:
        """Empty where the tables have none."""
        found = sorted(self._rows.get((images, size, name), {}).items())
        return Curve(*np.array(found, dtype=float).reshape(-1, 2).T)

    @property
    def ceiling(self) -> str | None:
        """The network that tells what can be explained: of CEILINGS, the first that there is."""
        return next((name for name in CEILINGS if name in self.names), None)

    def explained(self, images: str, size: int, name: str) -> Curve:
        """The share that a denoiser explains: 0 like the network's mean output, 1 like `ceiling`.

        (1 - share) / (1 - share of the ceiling), at noise levels where the latter is at most MOST_LEFT.
        """
        curve, top = self.curve(images, size, name), self.curve(images, size, self.ceiling)
        common = np.intersect1d(curve.sigma, top.sigma[top.share <= MOST_LEFT])
        value = (1 - curve.share[np.isin(curve.sigma, common)]) / (1 - top.share[np.isin(top.sigma, common)])
        return Curve(common, value)


def format_explained(found: Distances) -> str:
    """Mean and least share explained on held-out images, a line per denoiser, a column pair per N."""
    if found.ceiling is None:
        return 'no second network says what can be explained'
    lines = [['mean / least', *(f'N = {size}' for size in found.sizes)]]
    for name in found.names:
        values = [found.explained('data', size, name).share for size in found.sizes]
        lines.append([name, *(f'{each.mean():.3f} / {each.min():.3f}' if len(each) else ''
                              for each in values)])
    wide = [max(map(len, column)) for column in zip(*lines, strict=True)]
    text = ['  '.join(cell.rjust(width) for cell, width in zip(line, wide, strict=True)) for line in lines]
    return '\n'.join([f'Share explained of what the {CEILINGS[found.ceiling]} explains, on held-out images',
                      *text])
