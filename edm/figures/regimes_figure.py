"""The regimes figure: RP and GL scores over training-set size, and samples."""

import functools
from collections.abc import Sequence

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from data.image_stream import open_images
from figures import style as figures
from figures.denoising_figure import Errors, draw_gap
from figures.image_columns import Column, cell_size, choose_columns, draw_columns, height
from figures.regimes_curves import Regimes
from figures.sizes_panel import caption_parts, draw_control, draw_curves, finish_panel, name_regimes
from figures.style import BLACK, GREEN, GREY, MARKERS, ORANGE, PURPLE, SKY, VERMILION
from scores.neighbors import load_neighbors, read_shown
from torch_utils.errors import UserError

TITLE = 'Memorization and generalization over training-set size'
PAIR_COLORS = (BLACK, ORANGE, SKY, VERMILION)
DISJOINT_STYLE = {'color': GREEN, 'marker': 'D'}
EXAMPLES, SAME_NOISES = 4, 8  # samples per training-set size, at most
_PANEL_HEIGHT = 2.3  # inches


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
                 errors: Errors | None = None, width: float = figures.WIDTH) -> tuple[Figure, str]:
    """Draw the figure; returns it and its caption.

    Panels: RP score per pair of widths and of disjoint training sets; GL score per width; if there are any,
    PFD of the same models, the ratio of denoising `errors`, `examples` and `same_noises`, as `load_examples`
    and `load_same_noises` give them.
    """
    panels = [_rp_panel, _gl_panel, *([_pfd_panel] if 'pfd' in regimes.main else []),
              *([functools.partial(_denoising_panel, errors=errors)] if errors else [])]
    sheets = [(columns, names, *cell_size(columns, width, most)) for columns, names, most in (
        (choose_columns(examples), ('sample', 'nearest', 'similarity'), EXAMPLES),
        (choose_columns(same_noises[0]), same_noises[1], SAME_NOISES)) if columns]
    across, letters = 1 if figures.is_narrow(width) else 2, 'abcdef'[:len(panels) + len(sheets)]
    curves = letters[:len(panels)]
    rows = [[*curves[i:i + across].ljust(across, '.')] for i in range(0, len(curves), across)]
    heights = [_PANEL_HEIGHT] * len(rows) + [height(columns, cell) for columns, _, _, cell in sheets]
    rows += [[letter] * across for letter in letters[len(panels):]]
    with matplotlib.rc_context(figures.STYLE):
        figure = figures.new_figure(width, sum(heights))
        axes = figure.subplot_mosaic(rows, height_ratios=heights)
        texts = [draw(axes[letter], letter, regimes) for letter, draw in zip(curves, panels, strict=True)]
        for letter, sheet in zip(letters[len(panels):], sheets, strict=True):
            draw_columns(axes[letter], letter, *sheet)
        figure.draw_without_rendering()
        for letter in curves:
            name_regimes(axes[letter])
    return figure, caption(regimes, texts, letters[len(panels):], examples, same_noises[0])


def caption(regimes: Regimes, texts: Sequence[str], letters: str, examples, same_noises) -> str:
    """The text below the figure. texts: of the panels of curves; letters: of the others."""
    controls = ['the RP score of samples from different noises'] if 'chance_rp' in regimes.main else []
    if 'heldout_gl' in regimes.main:
        controls.append('the GL score of held-out images, on which no model of (b) was trained')
    panels = [f'({letter}) {text}' for letter, text in zip('abcd', texts, strict=False)]
    parts, left = caption_parts(regimes, panels, controls), iter(letters)
    if 'gaussian_rp' in regimes.main:
        parts.append('Dash-dotted in (a): the RP score with the denoiser of a Gaussian that has the mean and '
                     'the covariance of the training images.')
    if examples:
        parts.append(f'({next(left)}) Samples above their nearest training images, with their similarity, '
                     f'bold if > {regimes.threshold:g}.')
    if same_noises:
        parts.append(f'({next(left)}) Samples of the models of training-set size N, in each column from the '
                     'same noise.')
    return ' '.join(parts)


def _rp_panel(axes: Axes, letter: str, regimes: Regimes) -> str:
    """Draw RP scores; returns the caption, as the other panels do."""
    several = len(regimes.pairs) > 1
    for i, pair in enumerate(regimes.pairs):
        draw_curves(axes, regimes, 'rp', pair, _versus(pair), _pair_style(i))
        draw_control(axes, regimes, 'chance_rp', pair, f'{"_" * bool(i)}different noises',
                     color=_pair_style(i)['color'] if several else GREY)
    for width in regimes.widths('disjoint_rp'):
        draw_curves(axes, regimes, 'disjoint_rp', (width,), _disjoint(width), DISJOINT_STYLE)
        draw_control(axes, regimes, 'chance_disjoint_rp', (width,), '_different noises',
                     color=DISJOINT_STYLE['color'])
    for width in regimes.widths('gaussian_rp')[-1:]:
        draw_control(axes, regimes, 'gaussian_rp', (width,), f'UNet-{width} vs Gaussian', '-.', others=False)
    finish_panel(axes, letter, 'RP score (reproducibility)', regimes)
    others = '; disjoint: the second of the two is trained on N other images'
    return ('RP score: share of noises from which two models make the same image (similarity > '
            f'{regimes.threshold:g}){others if "disjoint_rp" in regimes.main else ""}.')


def _gl_panel(axes: Axes, letter: str, regimes: Regimes) -> str:
    for i, width in enumerate(regimes.widths('gl')):
        style = figures.series_style(i)
        draw_curves(axes, regimes, 'gl', (width,), f'UNet-{width}', style)
        draw_control(axes, regimes, 'calibrated_gl', (width,), '_calibrated', '-.', style['color'])
    if 'calibrated_gl' in regimes.main:
        axes.plot([], [], '-.', lw=1, color=GREY, label='calibrated threshold')
    for models in regimes.main.get('heldout_gl', {}):
        draw_control(axes, regimes, 'heldout_gl', models, 'held-out images')
    finish_panel(axes, letter, 'GL score (generalization)', regimes)
    calibrated = ('; dash-dotted, at the threshold that 1 % of held-out images exceed'
                  if 'calibrated_gl' in regimes.main else '')
    return ('GL score: share of samples that no training image resembles (similarity > '
            f'{regimes.threshold:g}{calibrated}).')


def _pfd_panel(axes: Axes, letter: str, regimes: Regimes) -> str:
    for i, pair in enumerate(regimes.pairs):
        draw_curves(axes, regimes, 'pfd', pair, _versus(pair), _pair_style(i))
    for width in regimes.widths('disjoint_pfd'):
        draw_curves(axes, regimes, 'disjoint_pfd', (width,), _disjoint(width), DISJOINT_STYLE)
    for width in regimes.widths('optimal_pfd')[-1:]:
        draw_curves(axes, regimes, 'optimal_pfd', (width,), f'UNet-{width} vs optimal denoiser',
                    {'color': PURPLE, 'marker': 's'})
    for pair in regimes.pairs[:1]:
        draw_control(axes, regimes, 'chance_pfd', pair, 'different noises')
    axes.set_ylim(bottom=0)
    finish_panel(axes, letter, 'probability flow distance', regimes, shares=False)
    return ('Probability flow distance: root mean square distance of the descriptors of two models\' samples '
            'from the same noises; to the optimal denoiser of the training set it is the memorization error. '
            'Bands: bootstrap intervals.')


def _denoising_panel(axes: Axes, letter: str, regimes: Regimes, *, errors: Errors) -> str:
    draw_gap(axes, errors)
    finish_panel(axes, letter, 'held-out / training error (dB)', regimes, shares=False)
    return (f'Mean squared denoising error of {errors.name} on held-out images over that on training images, '
            'at three noise levels: above 0 dB it knows its training images. Bands: 95 % intervals over '
            'noises and images.')


def _versus(pair: tuple[int, ...]) -> str:
    return 'UNet-{} vs UNet-{}'.format(*sorted(pair))


def _disjoint(width: int) -> str:
    return f'UNet-{width}, disjoint sets'


def _pair_style(i: int) -> dict:
    return {'color': PAIR_COLORS[i % len(PAIR_COLORS)], 'marker': MARKERS[i % len(MARKERS)]}
