"""Heat maps of the RP and MAE scores of all pairs of models: paper 1 (arXiv 2310.05264), figures 6 and 12."""

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from figures import style as figures
from scores.descriptors import SIMILARITY
from scores.similarity import Matrix, Similarity

TITLE = 'Similarity of the samples of different models'

# Inches.
_GAP, _BAR, _TICKS, _HEAD, _LARGEST = 0.12, 0.1, 0.42, 0.24, 2.6
_LETTER = 0.058  # average width of a letter in the models' names


def draw_similarity(similarity: Similarity) -> tuple[Figure, str]:
    """Draw one heat map per matrix side by side with one colour bar; returns the figure and its caption.

    Axes: the maps, RP first, then the colour bar. Colour goes from 0 to 1 in both.
    """
    maps = [(name, matrix) for name, matrix in (('RP score', similarity.rp), ('MAE score', similarity.mae))
            if matrix is not None]
    text = caption(similarity)
    wrapped, caption_height = figures.wrap_caption(text)
    names = min(1.3, _LETTER * max(map(len, similarity.names)) + 0.12)
    room = figures.WIDTH - 2 * figures.MARGIN - names - _GAP - _BAR - _TICKS
    side = min((room - _GAP * (len(maps) - 1)) / len(maps), _LARGEST)
    bottom = figures.MARGIN + caption_height + _GAP + names * 0.75
    left = figures.MARGIN + names + (room - len(maps) * side - (len(maps) - 1) * _GAP) / 2
    with matplotlib.rc_context(figures.STYLE):
        figure = figures.new_figure(bottom + side + _HEAD)
        for number, (name, matrix) in enumerate(maps):
            axes = figures.add_axes(figure, left + number * (side + _GAP), bottom, side, side)
            image = _draw_map(axes, matrix, similarity.names, side)
            axes.set_title(name, pad=4)
            if number > 0:
                axes.tick_params(labelleft=False)
        bar = figures.add_axes(figure, left + len(maps) * (side + _GAP), bottom, _BAR, side)
        figure.colorbar(image, cax=bar, ticks=[0, 0.25, 0.5, 0.75, 1])
        bar.set_yticklabels(['0', '0.25', '0.5', '0.75', '1'])
        bar.tick_params(length=2)
        figures.draw_caption(figure, wrapped, top=figures.MARGIN + caption_height)
    return figure, text


def caption(similarity: Similarity) -> str:
    """What the maps show, with the numbers that a reader needs to judge them."""
    parts = ['Samples of two models from the same noises, all pairs of models.']
    if similarity.rp is not None:
        words = SIMILARITY.get(similarity.descriptor, 'the inner product of descriptors')
        parts.append(f'RP score: share of {similarity.rp.total} noises from which both make the same image '
                     f'(similarity > {similarity.rp.threshold:g}; similarity is {words}).')
    if similarity.mae is not None:
        parts.append(f'MAE score: share of {similarity.mae.total} pairs of images whose pixels differ by '
                     f'less than {similarity.mae.threshold:g} of 255 on average.')
    widest = max(float((matrix.high - matrix.low).max())
                 for matrix in (similarity.rp, similarity.mae) if matrix is not None)
    parts.append(f'Wilson 95 % intervals are at most {widest:.2g} wide.')
    return ' '.join(parts)


def _draw_map(axes: Axes, matrix: Matrix, names: list[str], side: float):
    """Cells with their values, white on dark; returns the image for the colour bar."""
    image = axes.imshow(matrix.value, cmap='Oranges', vmin=0, vmax=1)
    size = min(7, 0.32 * 72 * side / len(names))  # points: a value takes about 2.2 times as much
    for i, row in enumerate(matrix.value):
        for j, value in enumerate(row):
            axes.text(j, i, f'{value:.2f}', ha='center', va='center', fontsize=size,
                      color='white' if value > 0.75 else 'black')
    places = range(len(names))
    axes.set_xticks(places, names, rotation=40, ha='right', rotation_mode='anchor')
    axes.set_yticks(places, names)
    for label in (*axes.get_xticklabels(), *axes.get_yticklabels()):
        label.set_parse_math(False)
    axes.tick_params(length=0, pad=3)
    axes.spines[:].set_visible(False)
    axes.set_xticks([i - 0.5 for i in range(1, len(names))], minor=True)
    axes.set_yticks([i - 0.5 for i in range(1, len(names))], minor=True)
    axes.grid(which='minor', color='white', lw=0.8)
    axes.tick_params(which='minor', length=0)
    return image
