"""The regimes figure: RP and GL scores over training-set size, and samples."""

from collections.abc import Sequence

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from data.image_stream import open_images
from figures import style as figures
from figures.image_columns import Column, cell_size, choose_columns, draw_columns, height
from figures.regimes_curves import Regimes
from figures.sizes_panel import caption_parts, draw_control, draw_curves, finish_panel, name_regimes
from figures.style import BLACK, GREEN, GREY, MARKERS, ORANGE, PURPLE, SKY, VERMILION
from scores.neighbors import load_neighbors, read_shown
from torch_utils.errors import UserError

TITLE = 'Memorization and generalization over training-set size'
PAIR_COLORS = (BLACK, PURPLE, GREEN, ORANGE, SKY, VERMILION)
EXAMPLES, SAME_NOISES = 4, 8  # samples per training-set size, at most
_PANEL_HEIGHT = 2.5  # inches


def load_examples(paths: Sequence[str]) -> list[Column]:
    """The first samples of files of `scores.neighbors`, the nearest training images, the similarities.

    Raises UserError naming `--neighbors` and a file without training-set size.
    """
    examples = []
    for path in paths:
        neighbors = load_neighbors(path)
        if neighbors.size is None:
            raise UserError(f'--neighbors {path}: has no training-set size')
        chosen = range(min(EXAMPLES, len(neighbors.similarity)))
        notes = [(f'{similarity:z.2f}', bool(similarity > neighbors.threshold))
                 for similarity in neighbors.similarity[:EXAMPLES]]
        examples.append(Column(size=neighbors.size, notes=notes, rows=read_shown(neighbors, [*chosen])))
    return examples


def load_same_noises(folders: Sequence[tuple[str, str]]) -> tuple[list[Column], list[str]]:
    """The first samples of several models per training-set size, a row per model, and the rows' names.

    folders: `N:NAME` and a folder of samples. Raises UserError naming `--samples` if a label is no such, or
    a size has other models than the first, or the names of the images differ.
    """
    found = {}
    for label, path in folders:
        size, _, name = label.partition(':')
        if not size.isdigit() or not name:
            raise UserError(f'--samples {path}={label}: expected =N:NAME, training-set size and model')
        found.setdefault(int(size), {})[name] = open_images(path, '--samples')
    names = list(next(iter(found.values()), ()))
    for size, models in found.items():
        if list(models) != names:
            raise UserError(f'--samples: of N = {size} there are {", ".join(models)}, expected '
                            f'{", ".join(names)}')
        if len({tuple(images.names[:SAME_NOISES]) for images in models.values()}) > 1:
            raise UserError(f'--samples: the models of N = {size} have samples of other names, so that they '
                            'can\'t be from the same seeds')
    return [Column(size=size, rows=[[images.read(i) for i in range(min(SAME_NOISES, len(images.names)))]
                                    for images in models.values()])
            for size, models in found.items()], names


def draw_regimes(regimes: Regimes, examples: Sequence[Column] = (),
                 same_noises: tuple[Sequence[Column], Sequence[str]] = ((), ()),
                 width: float = figures.WIDTH) -> tuple[Figure, str]:
    """Draw the figure; returns it and its caption.

    Panels: a, RP score per pair of widths and of disjoint training sets; b, GL score per width; if there are
    any, `examples` and `same_noises`, as `load_examples` and `load_same_noises` give them.
    """
    sheets = [(columns, names, *cell_size(columns, width, most)) for columns, names, most in (
        (choose_columns(examples), ('sample', 'nearest', 'similarity'), EXAMPLES),
        (choose_columns(same_noises[0]), same_noises[1], SAME_NOISES)) if columns]
    rows = [['a'], ['b']] if figures.is_narrow(width) else [['a', 'b']]
    heights = [_PANEL_HEIGHT] * len(rows) + [height(columns, cell) for columns, _, _, cell in sheets]
    rows += [[letter] * len(rows[0]) for letter, _ in zip('cd', sheets, strict=False)]
    with matplotlib.rc_context(figures.STYLE):
        figure = figures.new_figure(width, sum(heights))
        panels = figure.subplot_mosaic(rows, height_ratios=heights)
        _draw_rp(panels['a'], regimes)
        _draw_gl(panels['b'], regimes)
        for letter, sheet in zip('cd', sheets, strict=False):
            draw_columns(panels[letter], letter, *sheet)
        figure.draw_without_rendering()
        for letter in 'ab':
            name_regimes(panels[letter])
    return figure, caption(regimes, examples, same_noises[0])


def caption(regimes: Regimes, examples: Sequence[Column] = (), same_noises: Sequence[Column] = ()) -> str:
    """The text below the figure."""
    t = f'{regimes.threshold:g}'
    rp = f'(a) RP score: share of noises from which two models make the same image (similarity > {t})'
    if 'disjoint_rp' in regimes.main:
        rp += '; disjoint: the second of the two models is trained on N other images'
    panels = [f'{rp}.',
              f'(b) GL score: share of samples that no training image resembles (similarity > {t}).']
    controls = ['the RP score of samples from different noises'] if 'chance_rp' in regimes.main else []
    if 'heldout_gl' in regimes.main:
        controls.append('the GL score of images that no model was trained on')
    parts = caption_parts(regimes, panels, controls)
    if 'gaussian_rp' in regimes.main:
        parts.append('Dash-dotted: the RP score with the denoiser of a Gaussian that has the mean and the '
                     'covariance of the training images.')
    letters = iter('cd')
    if examples:
        parts.append(f'({next(letters)}) Samples above their nearest training images, with their similarity, '
                     f'bold if > {t}.')
    if same_noises:
        parts.append(f'({next(letters)}) Samples of the models of training-set size N, in each column from '
                     'the same noise.')
    return ' '.join(parts)


def _draw_rp(axes: Axes, regimes: Regimes) -> None:
    several = len(regimes.pairs) > 1
    for i, pair in enumerate(regimes.pairs):
        color = PAIR_COLORS[i % len(PAIR_COLORS)]
        draw_curves(axes, regimes, 'rp', pair, 'UNet-{} vs UNet-{}'.format(*sorted(pair)),
                    {'color': color, 'marker': MARKERS[i % len(MARKERS)]})
        draw_control(axes, regimes, 'chance_rp', pair, f'{"_" * bool(i)}different noises',
                     color=color if several else GREY)
    for width in regimes.widths('disjoint_rp'):
        draw_curves(axes, regimes, 'disjoint_rp', (width,), f'UNet-{width} vs UNet-{width}, disjoint',
                    {'color': GREEN, 'marker': 'D'})
        draw_control(axes, regimes, 'chance_disjoint_rp', (width,), '_different noises', color=GREEN)
    for width in regimes.widths('gaussian_rp')[-1:]:
        draw_control(axes, regimes, 'gaussian_rp', (width,), f'UNet-{width} vs Gaussian', '-.', others=False)
    finish_panel(axes, 'a', 'RP score (reproducibility)', regimes)


def _draw_gl(axes: Axes, regimes: Regimes) -> None:
    for i, width in enumerate(regimes.widths('gl')):
        draw_curves(axes, regimes, 'gl', (width,), f'UNet-{width}', figures.series_style(i))
    for models in regimes.main.get('heldout_gl', {}):
        draw_control(axes, regimes, 'heldout_gl', models, 'held-out images')
    finish_panel(axes, 'b', 'GL score (generalization)', regimes)
