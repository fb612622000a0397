"""The score table: a CSV file with one row per score, which sscd.py adds to and plot.py draws.

A new kind of score is a function in `copy_scores` and an entry of SCORES, which names it in tables and
figures and gives sscd.py its sub-command.
"""

import csv
import io
import math
import os
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np

from scores.copy_scores import Share, nearest_neighbors, pair_similarities
from torch_utils.errors import UserError, shown
from torch_utils.files import atomic_write, locked


@dataclass(frozen=True, kw_only=True)
class Score:
    """A kind of score: a share of samples.

    label: in tables. title: of an axis. models: how many a row names.
    reference: what it compares a model with, for --reference. chance, heldout: the kinds that control it.
    For a sub-command of sscd.py: command, its name; help; printed, what it calls the score; key in --json;
    says, what it counts, {t} being the threshold; measure: (source [N, D], target [M, D], device) -> what is
    compared with the threshold, float64 [N], and the rows of `target` in question, int64 [N], or None;
    above: whether the values above the threshold count, or the others; paired: source and target are
    samples from the same noises, row by row; otherwise target is the training images.
    """

    label: str
    title: str = ''
    models: int
    reference: str = ''
    chance: str = ''
    heldout: str = ''
    command: str = ''
    help: str = ''
    printed: str = ''
    key: str = ''
    says: str = ''
    measure: Callable | None = None
    above: bool = True
    paired: bool = True

    def share(self, values: np.ndarray, threshold: float) -> Share:
        """The score of these values."""
        share = Share.above(values, threshold)
        return share if self.above else share.rest()

    def controls(self, source: np.ndarray, target: np.ndarray, training: np.ndarray, device,
                 heldout: np.ndarray) -> dict[str, np.ndarray]:
        """What `measure` gives where nothing is to be found, by the kind of that control.

        Of pairs, row i of source with row i + 1 of target: what samples of different noises have in common.
        Otherwise images that were never trained on, if there are any.
        """
        if self.chance and len(target) > 1:
            return {self.chance: self.measure(source, np.roll(target, -1, axis=0), device)[0]}
        if self.heldout and len(heldout):
            return {self.heldout: self.measure(heldout, training, device)[0]}
        return {}


_RP_HELP = """Reproducibility (RP) score of two models.

The share of rows in which source and target show the same image. Rows are paired by the images' names, or by
the number in which these differ.

\b
Example:
  python edm/sscd.py rpscore --source=a.npz --target=b.npz --size=1024 --width 64 128 --table=scores.csv
"""

_GL_HELP = """Generalization (GL) score of samples.

The share of source rows that no target row resembles. It is 1 - memorized fraction, and printed as the M
score, as in the papers' software.

\b
Example:
  python edm/sscd.py mscore --source=a.npz --target=train.npz --width=64 --table=scores.csv \\
      --neighbors=evaluation/neighbors.npz
"""

SCORES = {
    'rp': Score(
        label='RP', title='RP score (reproducibility)', models=2, chance='chance_rp', command='rpscore',
        help=_RP_HELP, printed='RP score', key='rp_score', says='pairs have a similarity above {t}',
        measure=lambda source, target, device: (pair_similarities(source, target), None)),
    'gl': Score(
        label='GL', title='GL score (generalization)', models=1, heldout='heldout_gl', command='mscore',
        help=_GL_HELP, printed='M score', key='generalization_score', measure=nearest_neighbors,
        says='samples have no training image of similarity above {t}: the generalization score',
        above=False, paired=False),
    'chance_rp': Score(label='RP, different noises', models=2),
    'heldout_gl': Score(label='GL, held-out images', models=0),
    'optimal_rp': Score(label='RP vs optimal denoiser', models=1, reference='optimal'),
    'gaussian_rp': Score(label='RP vs Gaussian denoiser', models=1, reference='gaussian'),
    'mae': Score(label='MAE', title='MAE score', models=2, key='mae_score'),
}
REFERENCES = {kind.reference: name for name, kind in SCORES.items() if kind.reference}

_VS = ' vs '  # between names of models; between widths, a dash


@dataclass(frozen=True, kw_only=True)
class Row:
    """One score; the fields are the columns of the file, in this order.

    score: key of SCORES. models: names of models, or widths, as text. size: N, the number of training
    images, or None. value: `count` of `total`, with its Wilson 95 % interval low..high. descriptor: what
    images were compared by, or empty.
    """

    threshold: float
    score: str
    models: tuple[str, ...]
    size: int | None
    value: float
    low: float
    high: float
    count: int
    total: int
    descriptor: str = ''

    @classmethod
    def of(cls, share: Share, **fields_) -> 'Row':
        """A row of this share and the fields that it doesn't give."""
        return cls(**share.as_dict(), **fields_)

    @property
    def key(self) -> tuple:
        """What tells scores apart: of two rows with equal keys the later replaces the earlier."""
        return self.threshold, self.score, self.models, self.size, self.descriptor

    @property
    def widths(self) -> tuple[int, ...] | None:
        """The models' widths as numbers; None where they have names."""
        return tuple(map(int, self.models)) if all(map(_is_width, self.models)) else None

    def cells(self) -> list:
        """The row as text and numbers for the file."""
        models = ('-' if self.widths else _VS).join(self.models)
        return [models if name == 'models' else '' if getattr(self, name) is None else getattr(self, name)
                for name in COLUMNS]


COLUMNS = [field.name for field in fields(Row)]


def add_rows(path: str | os.PathLike, rows: Iterable[Row], option: str = '--table') -> None:
    """Put rows into the table, in the place of those with equal keys; a file that is not there is made.

    Processes may do so at the same time. The rows are kept sorted, so that equal scores of widths are
    equal files in whatever order they come.
    Raises UserError, and leaves the file as it is, if it is no score table.
    """
    with locked(Path(path).parent, 'writing into'):
        rows = {row.key: row for row in (*(read_table(path, option) if os.path.exists(path) else ()), *rows)}
        text = io.StringIO()
        writer = csv.writer(text, lineterminator='\n')
        writer.writerow(COLUMNS)
        writer.writerows(row.cells() for row in sorted(rows.values(), key=_order))
        if not os.path.exists(path) or Path(path).read_text(encoding='utf-8') != text.getvalue():
            with atomic_write(path, 'w') as file:
                file.write(text.getvalue())


def _order(row: Row) -> tuple:
    """High thresholds, the kinds as in SCORES, wide models and small sizes first; names as they came."""
    models = [-int(name) if _is_width(name) else 0 for name in row.models]
    return -row.threshold, list(SCORES).index(row.score), models, row.size or 0, row.descriptor


def read_table(path: str | os.PathLike, option: str = '--table') -> list[Row]:
    """All rows. Raises UserError naming `option`, the file and the line if something is wrong with it."""
    where = f'{option} {path}'
    if not Path(path).is_file():
        raise UserError(f'{where}: no such file')
    try:
        lines = list(csv.reader(io.StringIO(Path(path).read_text(encoding='utf-8'), newline='')))
    except (ValueError, csv.Error) as err:
        raise UserError(f'{where}: not a CSV file ({shown(err)})') from err
    if not lines or lines[0] != COLUMNS:
        raise UserError(f'{where}: not a table of scores: expected the columns {",".join(COLUMNS)}, which '
                        f'sscd.py --table writes, found {shown(",".join(lines[0] if lines else []))}')
    rows = [_parse(cells, f'{where}: line {number}') for number, cells in enumerate(lines[1:], start=2)]
    if not rows:
        raise UserError(f'{where}: holds no scores')
    if len({row.key for row in rows}) < len(rows):
        raise UserError(f'{where}: has one score twice; of rows with the same threshold, score, models, '
                        'size and descriptor only one can be right')
    return rows


def _parse(cells: list[str], where: str) -> Row:
    if len(cells) != len(COLUMNS):
        raise UserError(f'{where}: {len(cells)} cells, expected {len(COLUMNS)}')
    text = dict(zip(COLUMNS, cells, strict=True))
    if text['score'] not in SCORES:
        raise UserError(f'{where}: score is {shown(text["score"])}, expected one of {", ".join(SCORES)}')
    models = tuple(text['models'].split('-' if re.fullmatch(r'\d+(-\d+)*', text['models']) else _VS))
    models = models if text['models'] else ()
    wanted = SCORES[text['score']].models
    if len(models) != wanted or not all(name and name.isprintable() for name in models):
        raise UserError(f'{where}: models is {shown(text["models"])}, expected {wanted} for {text["score"]}, '
                        'such as 16-8 or A vs B')
    numbers = {name: _number(text[name], name, where, *limits) for name, limits in _LIMITS.items()
               if text[name] or name != 'size'}
    row = Row(score=text['score'], models=models, descriptor=text['descriptor'],
              **{'size': None} | numbers)
    share = Share(row.count, row.total) if row.count <= row.total else None
    if share is None or any(abs(getattr(row, name) - getattr(share, name)) > 1e-9
                            for name in ('value', 'low', 'high')):
        raise UserError(f'{where}: value {row.value:g} in {row.low:g} .. {row.high:g} is not the share of '
                        f'count {row.count} of total {row.total} with its Wilson 95 % interval')
    return row


# Of the columns with numbers: type, smallest, largest.
_LIMITS = {'threshold': (float, -1, 255), 'size': (int, 1, 10**12), 'value': (float, 0, 1),
           'low': (float, 0, 1), 'high': (float, 0, 1), 'count': (int, 0, 10**12), 'total': (int, 1, 10**12)}


def _number(text: str, name: str, where: str, kind: type, low: float, high: float) -> float:
    try:
        number = kind(text)
    except ValueError:
        number = math.nan
    if not low <= number <= high:
        what = 'an integer' if kind is int else 'a number'
        raise UserError(f'{where}: {name} is {shown(text)}, expected {what} from {low:g} to {high:g}')
    return number


def _is_width(name: str) -> bool:
    return re.fullmatch(r'[1-9]\d{0,8}', name) is not None


def format_table(rows: Iterable[Row]) -> str:
    """Scores over N as text: a line per size, a column per threshold and RP or GL curve."""
    cells, sizes = {}, set()
    for row in sorted(rows, key=_order):
        if row.size is not None and row.score in ('rp', 'gl'):
            title = f'{SCORES[row.score].label} {"-".join(row.models)} >{row.threshold:g}'
            cells.setdefault(title, {})[row.size] = f'{row.value:.2f}'
            sizes.add(row.size)
    columns = [['N', *map(str, sorted(sizes))]]
    columns += [[title, *(curve.get(size, '') for size in sorted(sizes))] for title, curve in cells.items()]
    wide = [max(map(len, column)) for column in columns]
    return '\n'.join('  '.join(cell.rjust(width) for cell, width in zip(line, wide, strict=True))
                     for line in zip(*columns, strict=True))
