"""The values that a training run reported at its ticks."""

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

    name: of the run folder. kimg: thousands of images seen. loss: mean since the previous tick.
    learning_rate: of the tick's last step. images_per_sec: of all processes, without the time of saving; NaN
    for tick 0, which includes the warm-up of kernels.
    """

    name: str
    kimg: np.ndarray
    loss: np.ndarray
    learning_rate: np.ndarray
    images_per_sec: np.ndarray


def load_curves(run_dir: str | os.PathLike) -> Curves:
    """Read stats.jsonl, also of NVlabs/edm, without a last line that a killed run did not finish.

    Raises UserError that names the folder, or the line in the file, if there are no reports to be read.
    """
    path = Path(run_dir, 'stats.jsonl')
    if not path.is_file():
        raise UserError(f'{run_dir}: not a run folder, it has no stats.jsonl')
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
    """The means of _NAMES in a line; NaN for null and for a learning rate that is not there."""
    try:
        report = json.loads(line)
    except (ValueError, RecursionError) as err:
        raise UserError(f'{where}: not a JSON text') from err
    means = []
    for name in _NAMES:
        entry = report.get(name, {}) if isinstance(report, dict) else {}
        missing = math.nan if name == 'Progress/lr' else 'nothing'
        value = entry.get('mean', missing) if isinstance(entry, dict) else entry
        value = math.nan if value is None else value
        if isinstance(value, bool) or not isinstance(value, int | float) or abs(value) > 1e30 or (
                name == 'Progress/kimg' and math.isnan(value)):
            raise UserError(f'{where}: {name} must have a number as mean, found {shown(value)}')
        means.append(float(value))
    return means
