"""What a training run reported at its ticks, from its folder."""

import io
import json
import math
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from torch_utils.errors import UserError, shown

_NAMES = ('Progress/kimg', 'Loss/loss', 'Progress/lr', 'Timing/sec_per_kimg')  # in stats.jsonl


@dataclass(frozen=True, kw_only=True)
class Curves:
    """One run's reports; arrays float64 [number of ticks], NaN where a tick has no value.

    name: of the folder. kimg: thousands of images seen. loss: mean since the tick before.
    learning_rate: of the tick's last step; all NaN if the run did not record it.
    images_per_sec: of all processes since the tick before, saving left out; NaN for tick 0, which warms up.
    """

    name: str
    kimg: np.ndarray
    loss: np.ndarray
    learning_rate: np.ndarray
    images_per_sec: np.ndarray


def load_curves(run_dir: str | os.PathLike) -> Curves:
    """Read stats.jsonl, also of NVlabs/edm; a line that a killed run did not finish is left out.

    Raises UserError that names the folder or the place in the file if there are no reports to be read.
    """
    path = Path(run_dir, 'stats.jsonl')
    if not path.is_file():
        raise UserError(f'{run_dir}: no run\'s folder, there is no stats.jsonl in it')
    ticks = [_report(line, f'{path}: line {number}')
             for number, line in enumerate(io.BytesIO(path.read_bytes()), start=1) if line.endswith(b'\n')]
    if not ticks:
        raise UserError(f'{path}: no tick is reported yet')
    kimg, loss, learning_rate, sec_per_kimg = np.array(ticks).T
    speed = np.divide(1000, sec_per_kimg, out=np.full(len(kimg), math.nan), where=sec_per_kimg > 0)
    speed[0] = math.nan
    return Curves(name=Path(run_dir).resolve().name, kimg=kimg, loss=loss, learning_rate=learning_rate,
                  images_per_sec=speed)


def _report(line: bytes, where: str) -> list[float]:
    try:
        report = json.loads(line)
    except (ValueError, RecursionError) as err:
        raise UserError(f'{where}: not a JSON text') from err
    means = [_mean(report, name, where) for name in _NAMES]
    if not math.isfinite(means[0]):
        raise UserError(f'{where}: {_NAMES[0]} is no number')
    return means


def _mean(report, name: str, where: str) -> float:
    """NaN if it is null or, as the learning rate of NVlabs/edm, not there."""
    entry = report.get(name) if isinstance(report, dict) else None
    value = entry.get('mean', 'nothing') if isinstance(entry, dict) else entry
    if value is None and (isinstance(entry, dict) or name == 'Progress/lr'):
        return math.nan
    if isinstance(value, bool) or not isinstance(value, int | float) or abs(value) > 1e30:
        raise UserError(f'{where}: {name} must have a number as mean, found {shown(value)}')
    return float(value)
