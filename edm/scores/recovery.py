"""How far the subspaces that a low-rank model has found are from the true ones, and files of such errors.

Paper 2 is "Diffusion Models Learn Low-Dimensional Distributions via Subspace Clustering", arXiv 2409.02426.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from torch_utils import provenance
from torch_utils.files import write_json
from torch_utils.json_place import Place, load_json

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

    Raises UserError that says what is wrong where.
    """
    points, settings = [], []
    for path in paths:
        content = load_json(path, option)
        points += [_point(place) for place in content.get('points').items()]
        settings.append(content.get('settings'))
        for key in ('img_res', 'class_num', 'trials', 'restarts', 'steps', 'batch'):
            number = settings[-1].get(key)
            if number.integer() != settings[0].value[key]:
                raise number.error(f'{settings[0].value[key]}, as in {paths[0]}')
    return points, settings[0].value


def _point(place: Place) -> Point:
    trials = [[error.number(0, 1.000001) for error in trial.items()] for trial in place.get('errors').items()]
    if len({len(trial) for trial in trials}) > 1:
        raise place.get('errors').error('lists of equal length')
    return Point(per_class_dim=place.get('per_class_dim').integer(), samples=place.get('samples').integer(),
                 errors=np.array(trials))
