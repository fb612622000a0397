"""plot.py theory and theory-samples: what is drawn is what the tables hold."""

import math

import numpy as np
import pytest
from PIL import Image

from figures.image_columns import Column
from figures.theory_curves import Distances, format_explained
from figures.theory_figure import draw_theory
from figures.theory_samples_figure import PairScores, draw_samples
from helpers import assert_fits
from scores import denoising_table, score_table
from torch_utils.errors import UserError

SIGMAS = (0.1, 1.0, 10.0)
SHARES = {'second': (0.01, 0.1, 0.8), 'disjoint': (0.02, 0.2, 0.9), 'patch': (0.01, 0.4, 1.5)}


def distances(sizes=(8, 64), kinds=('data', 'trajectory'), shares=SHARES, target='network'):
    return [denoising_table.Row(denoiser=name, target=target, images=kind, size=size, sigma=sigma,
                                mse=2 * share, stderr=0.1, variance=2.0, share=share, count=10)
            for size in sizes for kind in kinds for name, values in shares.items()
            for sigma, share in zip(SIGMAS, values, strict=True)]


def test_the_share_explained_is_that_of_the_second_network():
    found = Distances(distances(), '')
    explained = found.explained('data', 64, 'patch')
    np.testing.assert_array_equal(explained.sigma, [0.1, 1])  # at 10 the networks differ too much
    np.testing.assert_allclose(explained.share, [1, 0.6 / 0.9])
    np.testing.assert_allclose(found.explained('data', 64, 'second').share, 1)
    assert format_explained(found).startswith('Share explained of what the second network explains, on')
    assert '0.833 / 0.667' in format_explained(found)


def test_the_figure_of_distances_has_a_column_per_training_set():
    along = {name: tuple(value / 2 for value in values) for name, values in SHARES.items()}
    rows = distances(kinds=('data',)) + distances(kinds=('trajectory',), shares=along)
    figure, caption = draw_theory(Distances(rows, ''), 'A note.')
    assert len(figure.axes) == 6
    for axes, shares in ((figure.axes[1], SHARES), (figure.axes[3], along)):
        lines = {line.get_label(): line for line in axes.lines}
        np.testing.assert_allclose(lines['_patch'].get_ydata(), shares['patch'])
    explained = {line.get_label(): line for line in figure.axes[5].lines}
    np.testing.assert_allclose(explained['_patch'].get_ydata(), [1, 0.6 / 0.9])  # of (a), not of (b)
    assert figure.axes[1].get_title() == 'N = 64'
    assert '(c) The share explained' in caption
    assert 'that of the second network, where' in caption
    assert 'trained on N others' in caption
    assert caption.endswith('not shown. A note.')
    assert_fits(figure)


def test_the_network_of_disjoint_data_is_the_ceiling_where_no_second_one_is():
    shares = {name: values for name, values in SHARES.items() if name != 'second'}
    found = Distances(distances(shares=shares), '')
    np.testing.assert_allclose(found.explained('data', 64, 'patch').share, [0.99 / 0.98, 0.6 / 0.8])
    _, caption = draw_theory(found)
    assert 'that of the network, disjoint data, where' in caption
    assert 'another width' not in caption


def test_without_other_networks_nothing_counts_as_explained():
    figure, caption = draw_theory(Distances(distances(shares={'patch': (1, 2, 3)}, kinds=('data',)), ''))
    assert len(figure.axes) == 2
    assert 'share explained' not in caption
    assert 'no second network' in format_explained(Distances(distances(shares={'patch': (1, 2, 3)}), ''))


@pytest.mark.parametrize(('rows', 'says'), [
    ([], 'no distances'), (distances(target='images'), 'no distances'),
    ([*distances(), *distances(target='other')], 'network, other')])
def test_tables_that_can_not_be_drawn_are_refused(rows, says):
    with pytest.raises(UserError, match=f'--tables x: .*{says}'):
        Distances(rows, '--tables x')


def pair_scores():
    rows = []
    values = ((8, 'patch', 0.5), (64, 'patch', 0.75), (8, 'second', 1.0), (64, 'second', 0.25))
    for size, name, value in values:
        both = {'models': ('network', name), 'size': size, 'descriptor': 'pixel'}
        rows.append(score_table.Row(int(100 * value), 100, score='rp', threshold=0.9, **both))
        rows += [score_table.Row(score=score, value=value, low=value / 2, high=value, **both)
                 for score in ('pfd', 'similarity')]
    return [*rows, score_table.Row(5, 100, score='rp', threshold=0.9, models=('patch', 'second'), size=8)]


def test_the_figure_of_samples_has_the_scores_with_the_network():
    images = [Image.fromarray(np.full((8, 8), 17, np.uint8))] * 3
    scores = PairScores(pair_scores(), 'network', '')
    assert scores.names == ['patch', 'second']
    columns = [Column(size=size, rows=[images] * 3) for size in (8, 64)]
    figure, caption = draw_samples(scores, columns, ['network', 'second', 'patch'])
    similarity, rp, pfd = figure.axes[1:]
    for axes in (similarity, rp, pfd):
        np.testing.assert_allclose(axes.lines[0].get_ydata(), [0.5, 0.75])
        np.testing.assert_allclose(axes.lines[0].get_xdata(), [8, 64])
    corners = pfd.collections[0].get_paths()[0].vertices
    assert sorted({*corners[corners[:, 0] == 8, 1]}) == [0.25, 0.5]  # the interval
    assert '100 noises' in caption
    assert '(a) Samples of the network, of' in caption
    assert_fits(figure)
    with pytest.raises(UserError, match='no scores of other and'):
        PairScores(pair_scores(), 'other', '--table x')
    assert not math.isnan(scores.curve('pfd', 'second')[1].sum())
