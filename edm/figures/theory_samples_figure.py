"""Samples of closed-form denoisers beside a network's from the same noises, and how alike they are."""

from collections.abc import Sequence

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from descriptors import similarity_words
from figures import style as figures
from figures.image_columns import Column, cell_size, choose_columns, draw_columns, height
from figures.regimes_curves import only
from figures.sizes_panel import scale_sizes
from figures.theory_figure import NAMES, article, line_style
from scores.score_table import SCORES, Row
from torch_utils.errors import UserError

TITLE = 'Samples of a network and of closed-form denoisers from the same noises'
KINDS = ('similarity', 'rp', 'pfd')  # a panel each
SHOWN = 8  # samples per training-set size, at most
_PANEL = 1.9  # inches


class PairScores:
    """Scores of pairs of a network and other models, over training-set sizes.

    network: its name. names: of the others, in the table's order. sizes: all N, rising.
    """

    def __init__(self, rows: Sequence[Row], network: str, where: str):
        rows = [row for row in rows if row.score in KINDS and row.size is not None
                and network in row.models and len(set(row.models)) == 2]
        if not rows:
            raise UserError(f'{where}: holds no scores of {network} and other models with a --size, as '
                            'sscd.py matrix --scores gives them')
        self.network, self._rows = network, {}
        for row in rows:
            other, = {*row.models} - {network}
            self._rows.setdefault((row.score, other), {})[row.size] = row
        self.names = list(dict.fromkeys(name for _, name in self._rows))
        self.sizes = sorted({row.size for row in rows})
        self.descriptor = only(rows, 'descriptor', where)
        self.thresholds = sorted({row.threshold for row in rows if row.threshold is not None})
        self.totals = sorted({row.total for row in rows if row.total})

    def curve(self, score: str, name: str) -> np.ndarray:
        """N, value, low and high of a score, float64 [4, number of sizes]."""
        found = sorted((size, row.value, row.low, row.high)
                       for size, row in self._rows.get((score, name), {}).items())
        return np.array(found, dtype=float).reshape(-1, 4).T


def draw_samples(scores: PairScores, columns: Sequence[Column], names: Sequence[str],
                 note: str = '', width: float = figures.WIDTH) -> tuple[Figure, str]:
    """Draw the figure; returns it and its caption, which `note` ends.

    Panels: a, samples, a row per model and a column per N; b to d, median similarity, RP score and PFD of the
    network and each other model over N. columns, names: as of `regimes_figure.load_same_noises`.
    """
    columns = choose_columns(columns)
    shown, cell = cell_size(columns, width, SHOWN)
    heights = [height(columns, cell), _PANEL]
    with matplotlib.rc_context(figures.STYLE):
        figure = figures.new_figure(width, sum(heights) + 0.4)
        panels = figure.subplot_mosaic([[*'aaa'], [*'bcd']], height_ratios=heights)
        draw_columns(panels['a'], 'a', columns, names, shown, cell)
        for letter, score in zip('bcd', KINDS, strict=True):
            _draw_score(panels[letter], scores, score)
            figures.add_letter(panels[letter], letter)
        lines, labels = panels['b'].get_legend_handles_labels()
        figure.legend(lines, labels, loc='outside lower center', ncols=4)
    return figure, f'{caption(scores)} {note}'.strip()


def _draw_score(axes: Axes, scores: PairScores, score: str) -> None:
    for i, name in enumerate(scores.names):
        size, value, low, high = scores.curve(score, name)
        style = line_style(name, i)
        axes.fill_between(size, low, high, color=style['color'], alpha=0.15, lw=0)
        axes.plot(size, value, label=NAMES.get(name, name), marker='o', ms=2.5, clip_on=False, **style)
    if score == 'rp':
        figures.scale_shares(axes)
    elif score == 'pfd':
        axes.set_ylim(bottom=0)
    else:
        axes.set_ylim(top=1)
    axes.set_ylabel({'rp': 'RP score'}.get(score, SCORES[score].label))
    scale_sizes(axes, scores.sizes)


def caption(scores: PairScores) -> str:
    """The text below the figure."""
    noises = ' to '.join(f'{total:,}' for total in sorted({*scores.totals[:1], *scores.totals[-1:]}))
    threshold = ' or '.join(f'{each:g}' for each in scores.thresholds)
    network = article(scores.network)
    return ' '.join([
        f'(a) Samples of {network}, of other networks (second: another width and seed, the same N '
        'images; disjoint: the same width, N others) and of closed-form denoisers of the N images, each '
        'column from one noise.',
        f'(b) Median similarity of a sample with that of {network} from the same noise. (c) Share of '
        f'noises with a similarity above {threshold}. (d) Probability flow distance, the root mean square '
        'distance of the descriptors.',
        f'{noises} noises. Similarity is {similarity_words(scores.descriptor)}. Bands: 95 % intervals over '
        'noises.'])
