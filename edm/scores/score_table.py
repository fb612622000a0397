"""The score table: a CSV file with one row per score, which sscd.py writes and plot.py draws.

A new kind of score is a function and an entry of SCORES.
"""

import csv
import io
import math
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import KW_ONLY, dataclass
from pathlib import Path

from scores.copy_scores import Share
from torch_utils.errors import UserError, shown
from torch_utils.files import atomic_write, locked


@dataclass(frozen=True, kw_only=True)
class Score:
    """A kind of score.

    label: in tables and figures. models: how many models a row names. is_share: whether it is a share of
    samples, with count, total and the Wilson interval; other scores have a value and an interval alone.
    interval: what gives the ends.
    thresholded: whether scores at several thresholds are several scores; others have none, or their own.
    control: the kind of score that `scores.comparison` computes beside it for comparison. key: its name in
    --json. printed: what sscd.py calls it; says: what it counts or is, {t} being the threshold.
    command, help: of a sub-command of sscd.py that compares two models' samples from the same noises.
    copies: whether it counts the samples that are no copies; their rest is the memorized fraction.
    """

    label: str
    models: int
    is_share: bool = True
    interval: str = 'Wilson'
    thresholded: bool = True
    control: str = ''
    key: str = ''
    command: str = ''
    help: str = ''
    printed: str = ''
    says: str = ''
    copies: bool = False


_RP_HELP = """Reproducibility (RP) score of two models.

The share of noises from which both models make the same image. Rows are paired by the images' names, or by
the number in which these differ.

\b
Example:
  python edm/sscd.py rpscore --source=a.npz --target=b.npz --size=1024 --width 64 128 --table=scores.csv
"""

_PFD_HELP = """Probability flow distance (PFD) of two models.

The root mean square distance of the descriptors of their samples from the same noises (Zhang et al. 2025,
arXiv 2505.20123): reproducibility without a threshold. With --reference=optimal it is the memorization error.

\b
Example:
  python edm/sscd.py pfd --source=a.npz --target=b.npz --size=1024 --width 64 128 --table=scores.csv
"""

_SIMILARITY_HELP = """Median similarity of two models' samples from the same noises.

With pixel descriptors similarity is the Pearson correlation.

Example: python edm/sscd.py similarity --source=a.npz --target=b.npz
"""

_NOT_ALIKE = 'samples have no training image of similarity above {t}: the generalization score'
_NOT_NEAR = ('samples have no training image nearer than {t} of the distance to the second nearest: the '
             'generalization score')
_CALIBRATED = 'the threshold that at most a share of --false-positives of held-out images passes'
_CT = ('z score of the distances from the nearest training image, of samples against held-out images; '
       'negative: samples are nearer, and copy')
_DISTANCE = {'is_share': False, 'thresholded': False, 'interval': 'bootstrap'}
_PAIRS = 'root mean square distance of descriptors of samples from the same noises'

SCORES = {
    'rp': Score(
        label='RP', models=2, control='chance_rp', key='rp_score', command='rpscore', help=_RP_HELP,
        printed='RP score', says='pairs have a similarity above {t}'),
    'gl': Score(label='GL', models=1, key='generalization_score', printed='M score', says=_NOT_ALIKE,
                copies=True),
    'chance_rp': Score(label='RP, different noises', models=2),
    'heldout_gl': Score(label='GL, held-out images', models=0),
    'optimal_rp': Score(label='RP vs optimal denoiser', models=1),
    'gaussian_rp': Score(label='RP vs Gaussian denoiser', models=1),
    'disjoint_rp': Score(label='RP disjoint', models=1, control='chance_disjoint_rp'),
    'chance_disjoint_rp': Score(label='RP disjoint, different noises', models=1),
    'mae': Score(label='MAE', models=2, key='mae_score', printed='MAE score',
                 says='pairs differ by less than {t} of 255 on average'),
    'gl_difference': Score(label='GL, samples less held-out images', models=1, is_share=False,
                           interval='Newcombe'),
    'calibrated_gl': Score(label='GL, calibrated threshold', models=1, thresholded=False, says=_CALIBRATED),
    'ratio_gl': Score(label='GL by ratio', models=1, key='generalization_score', printed='M score',
                      says=_NOT_NEAR, copies=True),
    'heldout_ratio_gl': Score(label='GL by ratio, held-out images', models=0),
    'ratio_gl_difference': Score(label='GL by ratio, samples less held-out images', models=1, is_share=False,
                                 interval='Newcombe'),
    'calibrated_ratio_gl': Score(label='GL by ratio, calibrated threshold', models=1, thresholded=False,
                                 says=_CALIBRATED),
    'ct': Score(label='C_T', models=1, is_share=False, thresholded=False, interval='Newcombe', says=_CT),
    'pfd': Score(label='PFD', models=2, **_DISTANCE, control='chance_pfd', key='pfd', command='pfd',
                 help=_PFD_HELP, printed='PFD', says=_PAIRS),
    'chance_pfd': Score(label='PFD, different noises', models=2, **_DISTANCE),
    'optimal_pfd': Score(label='Memorization error', models=1, **_DISTANCE, key='memorization_error',
                         printed='Memorization error', says=_PAIRS),
    'gaussian_pfd': Score(label='PFD to Gaussian denoiser', models=1, **_DISTANCE),
    'disjoint_pfd': Score(label='PFD disjoint', models=1, **_DISTANCE,
                          control='chance_disjoint_pfd'),
    'chance_disjoint_pfd': Score(label='PFD disjoint, different noises', models=1, **_DISTANCE),
    'similarity': Score(label='Median similarity', models=2, is_share=False, thresholded=False,
                        interval='order statistics', control='chance_similarity', key='median_similarity',
                        command='similarity', help=_SIMILARITY_HELP, printed='Median similarity',
                        says='median similarity of samples from the same noises'),
    'chance_similarity': Score(label='Median similarity, different noises', models=2, is_share=False,
                               thresholded=False, interval='order statistics'),
    'fd': Score(label='FD', models=1, is_share=False, thresholded=False,
                says='the Frechet distance from real images: 0 at best'),
    'kid': Score(label='KID', models=1, is_share=False, thresholded=False,
                 says='the kernel distance from real images: about 0 at best'),
    'precision': Score(label='Precision', models=1, thresholded=False,
                       says='samples lie in the ball of a real image'),
    'recall': Score(label='Recall', models=1, thresholded=False,
                    says='real images lie in the ball of a sample'),
    'density': Score(label='Density', models=1, is_share=False, thresholded=False,
                     says='balls of real images around a sample, over k: about 1 at best'),
    'coverage': Score(label='Coverage', models=1, thresholded=False,
                      says='real images have a sample in their ball'),
}
HELDOUT = 'held-out images'  # the control among the models of a matrix
# What --reference calls a model without a width of its own; of the score `rp` it makes `optimal_rp`.
REFERENCES = ('optimal', 'gaussian', 'disjoint')

_VS = ' vs '  # between names of models; between widths, a dash


@dataclass(frozen=True)
class Row:
    """One score with its 95 % interval, and what it is the score of.

    A share of samples is given by count and total alone, which decide value and interval; any other score by
    value, low and high, where an interval that is not known is None. threshold: None for scores without one.
    score: key of SCORES. models: names of models, or widths, as text. size: N, the number of training
    images, or None. descriptor: what images were compared by, or empty.
    """

    count: int | None = None
    total: int | None = None
    _: KW_ONLY
    score: str
    models: tuple[str, ...]
    size: int | None
    threshold: float | None = None
    value: float | None = None
    low: float | None = None
    high: float | None = None
    descriptor: str = ''

    def __post_init__(self):
        if self.count is not None:
            share = Share(self.count, self.total)
            for name in 'value', 'low', 'high':
                object.__setattr__(self, name, getattr(share, name))

    @property
    def key(self) -> tuple:
        """Of two rows with equal keys, the later replaces the earlier."""
        threshold = self.threshold if SCORES[self.score].thresholded else None
        return threshold, self.score, self.models, self.size, self.descriptor

    @property
    def widths(self) -> tuple[int, ...] | None:
        """The models' widths as numbers; None where they have names."""
        return tuple(map(int, self.models)) if all(map(_is_width, self.models)) else None

    def cells(self) -> list:
        """The row as text and numbers for the file."""
        models = ('-' if self.widths else _VS).join(self.models)
        return [models if name == 'models' else '' if getattr(self, name) is None else getattr(self, name)
                for name in COLUMNS]


COLUMNS = ['threshold', 'score', 'models', 'size', 'value', 'low', 'high', 'count', 'total', 'descriptor']


def add_rows(path: str | os.PathLike, rows: Iterable[Row]) -> None:
    """Add rows to the table, in the place of those with equal keys; without a file, write one.

    Several processes may do so at the same time. Rows are kept sorted, so that equal scores make equal files
    in whatever order they come, but for names of models, which keep the order in which they came.
    Raises UserError, and leaves the file as it is, if it is no score table.
    """
    with locked(Path(path).parent, 'writing into'):
        rows = {row.key: row for row in (*(read_table(path) if os.path.exists(path) else ()), *rows)}
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
    threshold = math.inf if row.key[0] is None else -row.threshold
    return threshold, list(SCORES).index(row.score), models, row.size or 0, row.descriptor


def read_table(path: str | os.PathLike, option: str = '--table') -> list[Row]:
    """All rows. Raises UserError naming `option`, the file and the line of an error."""
    where = f'{option} {path}'
    rows = [_parse(cells, line) for cells, line in read_cells(path, COLUMNS, where, 'sscd.py --table')]
    if not rows:
        raise UserError(f'{where}: holds no scores')
    if len({row.key for row in rows}) < len(rows):
        raise UserError(f'{where}: two rows have the same threshold, score, models, size and descriptor')
    return rows


def read_cells(path: str | os.PathLike, columns: list[str], where: str, writer: str,
               ) -> Iterator[tuple[dict[str, str], str]]:
    """The cells of each row of a CSV file by column, and what messages call that line.

    Raises UserError, led by `where`, if the file is missing or has other columns than `writer` writes.
    """
    if not Path(path).is_file():
        raise UserError(f'{where}: no such file')
    try:
        lines = list(csv.reader(io.StringIO(Path(path).read_text(encoding='utf-8'), newline='')))
    except (ValueError, csv.Error) as err:
        raise UserError(f'{where}: not a CSV file ({shown(err)})') from err
    if not lines or lines[0] != columns:
        raise UserError(f'{where}: expected the columns {",".join(columns)}, which {writer} writes, found '
                        f'{shown(",".join(lines[0] if lines else []))}')
    for number, cells in enumerate(lines[1:], start=2):
        line = f'{where}: line {number}'
        if len(cells) != len(columns):
            raise UserError(f'{line}: {len(cells)} cells, expected {len(columns)}')
        yield dict(zip(columns, cells, strict=True)), line


def _parse(text: dict[str, str], where: str) -> Row:
    def number(name: str, kind: type, low: float, high: float) -> float:
        try:
            value = kind(text[name])
        except ValueError:
            value = math.nan
        if not low <= value <= high:
            what = 'an integer' if kind is int else 'a number'
            raise UserError(f'{where}: {name} is {shown(text[name])}, expected {what} from {low:g} to '
                            f'{high:g}')
        return value

    if text['score'] not in SCORES:
        raise UserError(f'{where}: score is {shown(text["score"])}, expected a kind that sscd.py has, such '
                        f'as {", ".join([*SCORES][:4])}')
    models = tuple(text['models'].split('-' if re.fullmatch(r'\d+(-\d+)*', text['models']) else _VS))
    models = models if text['models'] else ()
    wanted = SCORES[text['score']].models
    if len(models) != wanted or not all(name and name.isprintable() for name in models):
        raise UserError(f'{where}: models is {shown(text["models"])}, expected {wanted} for {text["score"]}, '
                        'such as 16-8 or A vs B')
    kind = SCORES[text['score']]
    has_threshold = text['threshold'] or kind.thresholded
    more = {'score': text['score'], 'models': models, 'descriptor': text['descriptor'],
            'size': number('size', int, 1, 10**12) if text['size'] else None,
            'threshold': number('threshold', float, -1, 255) if has_threshold else None}
    if not kind.is_share:
        low, high = (number(name, float, -1e300, 1e300) if text['low'] or text['high'] else None
                     for name in ('low', 'high'))
        if text['count'] or text['total'] or (low is not None and low > high):
            raise UserError(f'{where}: expected a value, low up to high, and neither count nor total for '
                            f'{text["score"]}, which is no share of samples')
        return Row(value=number('value', float, -1e300, 1e300), low=low, high=high, **more)
    total = number('total', int, 1, 10**12)
    row = Row(number('count', int, 0, total), total, **more)
    for name in 'value', 'low', 'high':
        if abs(number(name, float, 0, 1) - getattr(row, name)) > 1e-9:
            raise UserError(f'{where}: {name} is {text[name]}, expected {getattr(row, name)} for {row.count} '
                            f'of {total} with the Wilson 95 % interval')
    return row


def _is_width(name: str) -> bool:
    return re.fullmatch(r'[1-9]\d{0,8}', name) is not None


def format_table(rows: Iterable[Row]) -> str:
    """Scores over N as text: a line per size, a column per threshold and curve of RP or GL scores."""
    cells, sizes = {}, set()
    for row in sorted(rows, key=_order):
        if row.size is not None and row.score in ('rp', 'gl', 'disjoint_rp'):
            title = f'{SCORES[row.score].label} {"-".join(row.models)} >{row.threshold:g}'
            cells.setdefault(title, {})[row.size] = f'{row.value:.2f}'
            sizes.add(row.size)
    columns = [['N', *map(str, sorted(sizes))]]
    columns += [[title, *(curve.get(size, '') for size in sorted(sizes))] for title, curve in cells.items()]
    wide = [max(map(len, column)) for column in columns]
    return '\n'.join('  '.join(cell.rjust(width) for cell, width in zip(line, wide, strict=True))
                     for line in zip(*columns, strict=True))
