"""How far the subspaces that a low-rank model has found are from the true ones, and files of such errors.

Paper 2 is "Diffusion Models Learn Low-Dimensional Distributions via Subspace Clustering", arXiv 2409.02426.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from torch_utils import provenance
from torch_utils.errors import UserError, shown
from torch_utils.files import write_json

_SETTINGS = ('img_res', 'class_num', 'trials', 'restarts', 'steps', 'batch')  # of one figure
RECOVERED = 0.1  # an error up to which a subspace counts as found: an angle of 6 degrees


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


@dataclass(frozen=True, kw_only=True)
class Point:
    """All trials of one size of data set: errors [trials, K] as of `recovery_errors`."""

    per_class_dim: int
    samples: int
    errors: np.ndarray

    @property
    def found(self) -> np.ndarray:
        """Whether all classes of a trial were found, [trials]."""
        return (self.errors <= RECOVERED).all(axis=1)


def save_points(path: Path, settings: dict, points: list[Point]) -> None:
    """Write settings, errors and what made them as JSON."""
    write_json(path, {
        'settings': settings, 'recovered_below': RECOVERED,
        'points': [{'per_class_dim': point.per_class_dim, 'samples': point.samples,
                    'errors': [[float(f'{error:.4g}') for error in trial] for trial in point.errors]}
                   for point in points],
        'made_by': provenance.record()})


def load_points(paths: Sequence[str], option: str = '--results') -> tuple[list[Point], dict]:
    """Read files of `save_points`: all points, and the settings, in which all but the dimensions must agree.

    Raises UserError naming `option` and the file that is none, or has other settings than the first.
    """
    points, first = [], None
    for path in paths:
        where = f'{option} {path}'
        if not Path(path).is_file():
            raise UserError(f'{where}: no such file')
        try:
            content = json.loads(Path(path).read_text(encoding='utf-8'))
            settings = {name: content['settings'][name] for name in _SETTINGS}
            if not all(type(value) is int and 0 < value < 1e12 for value in settings.values()):
                raise ValueError(f'settings {settings}')
            points += [_point(entry, f'points[{i}]') for i, entry in enumerate(content['points'])]
        except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as err:
            raise UserError(f'{where}: not what reproduce.py phase-transition writes '
                            f'({shown(err if isinstance(err, ValueError) else repr(err))})') from err
        first = first or settings
        for name, value in settings.items():
            if value != first[name]:
                raise UserError(f'{where}: settings/{name} must be {first[name]}, as in {paths[0]}, found '
                                f'{value}')
    if not points:
        raise UserError(f'{option} {paths[0]}: holds no points')
    return points, first


def _point(entry: dict, where: str) -> Point:
    dim, samples, trials = (entry[name] for name in ('per_class_dim', 'samples', 'errors'))
    if not all(type(number) is int and 0 < number < 1e12 for number in (dim, samples)):
        raise ValueError(f'{where}: dimension {dim}, samples {samples}')
    if not trials or len({len(trial) for trial in trials}) > 1:
        raise ValueError(f'{where}/errors must be lists of equal length')
    for i, j in np.ndindex(len(trials), len(trials[0])):
        if type(trials[i][j]) not in (int, float) or not 0 <= trials[i][j] < 1.00001:
            raise ValueError(f'{where}/errors[{i}][{j}] must be from 0 to 1, found {trials[i][j]}')
    return Point(per_class_dim=dim, samples=samples, errors=np.array(trials, dtype=np.float64))
