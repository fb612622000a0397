"""The tables of an experiment's page, from the files that its stages leave."""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from jacobians.rank_file import load_ranks
from scores.copy_scores import wilson_interval
from torch_utils.cli import split_label
from torch_utils.errors import UserError

SCORES = {'rp': 'RP', 'gl': 'GL', 'chance_rp': 'RP, different noises', 'heldout_gl': 'GL, held-out images',
          'optimal_rp': 'RP vs optimal denoiser', 'gaussian_rp': 'RP vs Gaussian denoiser'}


@dataclass(frozen=True, kw_only=True)
class Table:
    """A title, the names of columns, and rows of as many values."""

    title: str
    head: Sequence[str]
    rows: Sequence[Sequence]


def score_tables(results: dict) -> list[Table]:
    """Of a regimes.json: per threshold a line per size, value and 95 % interval per curve."""
    tables = []
    for threshold, curves in results['scores'].items():
        columns = []
        for score, value in curves.items():
            for models, points in (value.items() if isinstance(value, dict) else [('', value)]):
                columns.append((f'{SCORES.get(score, score)} {models}'.strip(), points))
        rows = [[f'{size:,}', *(_interval(**{key: points[i][key] for key in ('value', 'low', 'high')})
                                for _, points in columns)] for i, size in enumerate(results['sizes'])]
        tables.append(Table(title=f'Similarity above {threshold}, with 95 % intervals',
                            head=['N', *(name for name, _ in columns)], rows=rows))
    return tables


def result_tables(outputs: Iterable[Path], words: Iterable[str]) -> list[Table]:
    """Of files ranks-*.npz and transition-*.json among `outputs`; in place of a damaged one's what is wrong.

    words: of the commands; some name the curves.
    """
    labels = {Path(path).name: label for label, path in map(split_label, (w for w in words if '.npz=' in w))}
    outputs = list(outputs)
    tables = [_or_what_is_wrong(_rank_table, path, labels.get(path.name, path.stem)) for path in outputs
              if path.match('ranks-*.npz') and path.is_file()]
    transitions = [str(path) for path in outputs if path.match('transition-*.json') and path.is_file()]
    return tables + ([_or_what_is_wrong(_transition_table, transitions)] if transitions else [])


def _or_what_is_wrong(make: Callable[..., Table], *args) -> Table:
    try:
        return make(*args)
    except UserError as err:
        return Table(title=f'No table: {err}', head=[], rows=[])


def _rank_table(path: Path, label: str) -> Table:
    """rank(J)/dim per noise level: mean over noises with the 95 % interval of the mean, and the range."""
    from scipy.stats import t

    ranks = load_ranks(path)
    rows = []
    for sigma, column in zip(ranks.sigma, ranks.rank.T, strict=True):
        share = column[column >= 0] / ranks.dim
        if len(share) < 2:
            rows.append([f'{1 / sigma:.3g}', ''.join(f'{value:.3f}' for value in share), ''])
            continue
        half = t.ppf(0.975, len(share) - 1) * share.std(ddof=1) / np.sqrt(len(share))
        low, high = max(share.mean() - half, 0), min(share.mean() + half, 1)
        rows.append([f'{1 / sigma:.3g}', _interval(share.mean(), low, high),
                     f'{share.min():.3f} to {share.max():.3f}'])
    title = f'Rank of the Jacobian over dimension ({ranks.dim}): {label}, {len(ranks.seed)} noises'
    return Table(title=title,
                 head=['1/sigma', 'mean, 95 % interval', 'range'], rows=rows)


def _transition_table(paths: Sequence[str]) -> Table:
    """Share of trials in which all classes were found, with Wilson's interval, and the median error."""
    from scores.recovery import RECOVERED, load_points

    points, _ = load_points(paths)
    rows = []
    for point in sorted(points, key=lambda point: (point.per_class_dim, point.samples)):
        found, trials = int(point.found.sum()), len(point.found)
        error = np.median(np.sqrt((point.errors**2).mean(axis=1)))
        ratio = point.samples / point.per_class_dim
        rows.append([f'{point.per_class_dim}', f'{point.samples}', f'{ratio:.2f}',
                     _interval(found / trials, *wilson_interval(found, trials)), f'{error:.3f}'])
    return Table(title=f'Phase transition: classes found (error up to {RECOVERED:g}), with 95 % intervals',
                 head=['d', 'N', 'N/d', 'share of trials', 'median error'], rows=rows)


def recovery_table(logs: Iterable[Path]) -> list[Table]:
    """The errors that trainMoLRG.py printed last, per class, if one of the logs has them."""
    for log in filter(Path.is_file, logs):  # an adopted stage has none
        found = re.findall(r'^Recovery error: ([^()]*) \(', log.read_text(errors='replace'), re.MULTILINE)
        if found:
            return [Table(title='Low-rank model: recovery error (root mean square of the sines of the angles '
                                'to the true subspace)', head=['class', 'error'],
                          rows=list(enumerate(found[-1].split(', '), start=1)))]
    return []


def _interval(value: float, low: float, high: float) -> str:
    return f'{value:.3f} ({low:.3f} to {high:.3f})'
