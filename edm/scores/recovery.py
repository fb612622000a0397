"""Recovery errors: distances of the subspaces that a low-rank model has found from the true ones.

Paper 2 is "Diffusion Models Learn Low-Dimensional Distributions via Subspace Clustering", arXiv 2409.02426.
"""

import itertools
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
    """Distance of the found from the true subspace, per true class: float64 [K] in [0, 1].

    |U - P U|_F / sqrt(d) with the true basis U and the projector P on the found subspace, which is the root
    mean square of the sines of the angles between them: 0 if they agree, 1 if they are orthogonal. Found and
    true subspaces are matched so that the sum of squares is smallest.
    found, truth: bases of full rank, [K, n, d].
    """
    from scipy.optimize import linear_sum_assignment

    found, truth = (torch.linalg.qr(bases.detach().cpu().double()).Q for bases in (found, truth))
    # Not 1 - cos^2, which rounds errors below 1e-8 to 0.
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
    """All trials of one data set size: errors [trials, K] as of `recovery_errors`.

    errors: of the bases that training finds. closed_form: those of the control, and excess: how much higher
    the training loss is at the former, [trials]; both None in files without.
    """

    per_class_dim: int
    samples: int
    errors: np.ndarray
    closed_form: np.ndarray | None = None
    excess: np.ndarray | None = None

    @property
    def found(self) -> np.ndarray:
        """Whether all classes of a trial were found, [trials]."""
        return (self.errors <= RECOVERED).all(axis=1)


def save_points(path: Path, settings: dict, points: list[Point]) -> None:
    """Write settings, errors and what made them as JSON."""
    write_json(path, {
        'settings': settings, 'recovered_below': RECOVERED,
        'points': [{'per_class_dim': point.per_class_dim, 'samples': point.samples,
                    **{name: [[_short(error) for error in trial] for trial in errors]
                       for name, errors in (('errors', point.errors), ('closed_form', point.closed_form))
                       if errors is not None},
                    **({} if point.excess is None else {'excess': [_short(loss) for loss in point.excess]})}
                   for point in points],
        'made_by': provenance.record()})


def _short(number: float) -> float:
    return float(f'{number:.4g}')


def load_points(paths: Sequence[str]) -> tuple[list[Point], dict]:
    """Read files of `save_points`: all points, and the settings, in which all but the dimensions must agree.

    Raises UserError naming `--results` and a file that is none, or has other settings than the first.
    """
    points, first = [], None
    for path in paths:
        where = f'--results {path}'
        if not Path(path).is_file():
            raise UserError(f'{where}: no such file')
        try:
            content = json.loads(Path(path).read_text(encoding='utf-8'))
            settings = {name: _count(content['settings'][name]) for name in _SETTINGS} | {
                'start': shown(content['settings'].get('start', 'samples'))[1:-1]}
            points += [_point(entry) for entry in content['points']]
        except (ValueError, KeyError, TypeError, RecursionError) as err:
            raise UserError(f'{where}: not what reproduce.py phase-transition writes '
                            f'({shown(err if isinstance(err, ValueError) else repr(err))})') from err
        first = first or settings
        if settings != first:
            raise UserError(f'{where}: expected the settings of {paths[0]}, {first}, found {settings}')
    if not points:
        raise UserError(f'--results {paths[0]}: holds no points')
    return points, first


def _point(entry: dict) -> Point:
    errors, control = _errors(entry['errors']), {}
    if 'closed_form' in entry:
        excess = np.array(entry['excess'], dtype=np.float64)
        control = {'closed_form': _errors(entry['closed_form']), 'excess': excess}
        if control['closed_form'].shape != errors.shape or excess.shape != errors.shape[:1] or (
                not np.isfinite(excess).all()):
            raise ValueError('closed_form and excess must be finite numbers, as many as errors and trials')
    return Point(per_class_dim=_count(entry['per_class_dim']), samples=_count(entry['samples']),
                 errors=errors, **control)


def _errors(trials: list) -> np.ndarray:
    if not trials or not trials[0] or len({len(trial) for trial in trials}) > 1:
        raise ValueError('errors must be lists of equal length')
    for error in itertools.chain(*trials):
        if type(error) not in (int, float) or not 0 <= error < 1.00001:
            raise ValueError(f'errors must be from 0 to 1, found {error}')
    return np.array(trials, dtype=np.float64)


def _count(value) -> int:
    if type(value) is not int or not 0 < value < 1e12:
        raise ValueError(f'expected a positive integer, found {value}')
    return value
