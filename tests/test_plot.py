"""plot.py: the figures over training-set size show the numbers of the table, and other tables are refused."""

import numpy as np
import pytest
from PIL import Image

import plot
from figures.denoisers_figure import draw_denoisers
from figures.regimes_curves import collect_curves, generalization_start, memorization_end
from figures.regimes_figure import Examples, draw_regimes, load_examples
from helpers import assert_fits, refuse, run
from image_sets import write
from scores.score_table import Row, add_rows

SIZES = [2, 4, 8, 16, 32, 64, 256, 1536]
RP = [0.86, 0.72, 0.60, 0.52, 0.48, 0.57, 0.76, 0.84]
GL = {'16': [0, 0, 0, 0.1, 0.5, 0.92, 0.99, 1], '8': [0, 0, 0.02, 0.25, 0.7, 0.97, 1, 1]}


def curve(score, models, values, **more):
    more = {'threshold': 0.97, 'descriptor': 'pixel'} | more
    return [Row(round(value * 256), 256, score=score, models=models, size=size, **more)
            for size, value in zip(SIZES, values, strict=True)]


SCORES = [
    *curve('rp', ('16', '8'), RP), *curve('rp', ('16', '8'), np.array(RP) + 0.04, threshold=0.95),
    *(row for width, values in GL.items() for row in curve('gl', (width,), values)),
    *curve('chance_rp', ('16', '8'), [0.4, 0.2, 0.1, 0.05, 0.02, 0.02, 0.01, 0.01]),
    *curve('heldout_gl', (), [1, 1, 1, 1, 0.99, 0.98, 0.96, 0.94]),
    *curve('optimal_rp', ('16',), [0.9, 0.8, 0.6, 0.5, 0.3, 0.1, 0.02, 0]),
    *curve('optimal_rp', ('8',), [0.8] + [0.2] * 7),
    *curve('gaussian_rp', ('16',), [0.1] * 7 + [0.3]), *curve('gaussian_rp', ('8',), [0.1] * 7 + [0.4])]


@pytest.fixture
def table(tmp_path):
    add_rows(tmp_path / 'scores.csv', SCORES)
    return tmp_path / 'scores.csv'


def regimes(rows=SCORES, **more):
    more = {'data': 'digits_$8x8', 'kimg': 20, 'threshold': 0.97, 'where': '--table t'} | more
    return collect_curves(rows, **more)


EXAMPLES = [Examples(size=size, similarity=[0.99, 0.5, -0.25],
                     **{name: [Image.fromarray(np.full((8, 8), 80 * i, np.uint8)) for i in order]
                        for name, order in (('samples', (0, 1, 2)), ('nearest', (2, 1, 0)))})
            for size in SIZES]


def lines(axes):
    return {line.get_label(): line for line in axes.lines}


def counted(values):
    return [round(value * 256) / 256 for value in values]


@pytest.mark.parametrize(('width', 'pixels'), [(3.25, 975), (6.75, 2025)])
def test_the_picture_is_ready_for_print(table, tmp_path, width, pixels):
    for name in ('new/regimes.png', 'new/regimes.pdf'):
        run(plot.main, 'regimes', '--table', table, '--threshold', '.97', '--out', tmp_path / name,
            '--width', width)
    with Image.open(tmp_path / 'new' / 'regimes.png') as image:
        assert image.size[0] == pixels
        assert image.info['dpi'] == pytest.approx((300, 300), abs=0.01)
        caption = image.info['Description']
        colors = image.convert('RGB').getcolors(1 << 16)
        assert len(colors) > 100
        assert max(colors)[1] == (255, 255, 255)
    assert 'threshold 0.95' in caption
    text = (tmp_path / 'new' / 'regimes.txt').read_text()
    assert ' '.join(text.split()).endswith(caption)
    pdf = (tmp_path / 'new' / 'regimes.pdf').read_bytes()
    assert pdf.startswith(b'%PDF')
    assert b'/FontFile2' in pdf  # TrueType
    assert b'/Type3' not in pdf
    assert sorted(path.name for path in (tmp_path / 'new').iterdir()) == [
        'regimes.pdf', 'regimes.png', 'regimes.txt']


@pytest.mark.parametrize('width', [3.25, 6.75])
def test_letters_are_legible_and_nothing_is_cut_off(width):
    for figure, _ in (draw_regimes(regimes(), EXAMPLES, width), draw_denoisers(regimes(), width)):
        assert_fits(figure)


def test_the_panels_show_the_numbers_of_the_table():
    figure, _ = draw_regimes(regimes())
    rp, gl = figure.axes[:2]
    drawn = {**lines(rp), **lines(gl)}
    for label, values in {
            'UNet-8 vs UNet-16': RP, '_UNet-8 vs UNet-16, 0.95': np.array(RP) + 0.04, 'UNet-8': GL['8'],
            'UNet-16': GL['16'], 'different noises': [0.4, 0.2, 0.1, 0.05, 0.02, 0.02, 0.01, 0.01],
            'held-out images': [1, 1, 1, 1, 0.99, 0.98, 0.96, 0.94]}.items():
        assert list(drawn[label].get_xdata()) == SIZES
        np.testing.assert_array_equal(drawn[label].get_ydata(), counted(values))
    legend = [text.get_text() for text in gl.get_legend().get_texts()]
    assert legend == ['UNet-8', 'UNet-16', 'held-out images']


def test_bands_are_the_intervals_of_the_main_threshold():
    figure, _ = draw_regimes(regimes())
    band, = figure.axes[0].collections
    corners = band.get_paths()[0].vertices
    for row in curve('rp', ('16', '8'), RP):
        heights = corners[corners[:, 0] == row.size, 1]
        assert (heights.min(), heights.max()) == (row.low, row.high)


def test_the_axes_are_powers_of_two_and_shares():
    figure, _ = draw_regimes(regimes())
    for axes in figure.axes[:2]:
        assert (axes.get_xscale(), axes.get_ylim()) == ('log', (0, 1))
        assert list(axes.get_xticks()) == [2 ** k for k in range(1, 11)]
        assert axes.xaxis.get_major_formatter()(8) == '$2^{3}$'


def test_the_regimes_follow_from_the_gl_scores():
    figure, _ = draw_regimes(regimes())
    spans = {patch.get_label(): patch for patch in figure.axes[0].patches}
    end = spans['_memorization'].get_x() + spans['_memorization'].get_width()
    curves = [np.array(counted(values)) for values in GL.values()]
    assert end == pytest.approx(memorization_end(SIZES, curves))
    assert 8 < end < 16
    assert 32 < spans['_generalization'].get_x() < 64
    flat = [row for row in SCORES if row.models != ('8',)] + curve('gl', ('8',), [0.5] * 8)
    figure, _ = draw_regimes(regimes(flat))
    assert not figure.axes[0].patches


def test_regimes_end_where_the_first_curve_leaves_them():
    sizes = [4, 16, 64]
    low, high = np.array([0, 0.1, 1.0]), np.array([0, 0.05, 0.8])
    assert memorization_end(sizes, [low]) == pytest.approx(8)  # half of the way in log2
    assert memorization_end(sizes, [low, high]) == pytest.approx(8)
    assert memorization_end(sizes, [high]) == pytest.approx(16)
    assert memorization_end(sizes, [0 * low]) == 64
    assert memorization_end(sizes, [low + 0.06]) is None
    assert generalization_start(sizes, [low]) == pytest.approx(2 ** (4 + 2 * 0.8 / 0.9))
    assert generalization_start(sizes, [low, high]) is None
    assert generalization_start(sizes, [1 - 0 * low]) == 4
    assert generalization_start(sizes, [np.array([1, 0.8, 1])]) == pytest.approx(32)  # the last time


def test_examples_stand_above_their_nearest_images():
    figure, caption = draw_regimes(regimes(), EXAMPLES)
    axes = figure.axes[2]
    first, below = axes.images[:2]
    grey = [image.get_array()[0, 0, 0] for image in axes.images]
    count = len(grey) // len(SIZES)  # above and below in turn
    assert grey == [0, 160, 80, 80, 160, 0][:count] * len(SIZES)
    assert count >= 4
    assert first.get_extent()[2] > below.get_extent()[3]
    bold = {text.get_text() for text in axes.texts if text.get_fontweight() == 'bold'}
    assert bold == {'c', '0.99'}
    heads = [text.get_text() for text in axes.texts if text.get_text().isdigit()]
    assert heads == [str(n) for n in SIZES]
    assert '(c) Samples' in caption


def test_examples_are_the_first_samples_of_the_files_of_neighbors(table, tmp_path):
    for name, values in (('samples', (10, 20)), ('pool', (30, 40))):
        write(tmp_path / name, {f'{i}.png': np.full((4, 4), value, np.uint8)
                                for i, value in enumerate(values)})
    arrays = {'similarity': np.array([0.5, 0.25]), 'nearest': np.array([1, 0]), 'threshold': np.float64(0.9),
              'sample_images': str(tmp_path / 'samples'), 'training_images': str(tmp_path / 'pool')}
    np.savez(tmp_path / 'n.npz', **arrays, size=np.int64(64))
    (column,) = load_examples([str(tmp_path / 'n.npz')])
    assert (column.size, column.similarity) == (64, [0.5, 0.25])
    assert [image.getpixel((0, 0)) for image in (*column.samples, *column.nearest)] == [10, 20, 40, 30]
    options = ('regimes', '--table', table, '--threshold', '.97', '--out', tmp_path / 'o.png', '--neighbors')
    run(plot.main, *options, tmp_path / 'n.npz')
    np.savez(tmp_path / 'n.npz', **arrays)
    refuse(plot.main, *options, tmp_path / 'n.npz', status=1, says=('--neighbors', 'no training-set size'))


def test_the_caption_tells_what_was_measured():
    _, caption = draw_regimes(regimes())
    for words in ('digits_$8x8', '20 kimg', '256 noises', '> 0.97', 'threshold 0.95', 'Pearson', 'Wilson'):
        assert words in caption


def test_controls_examples_and_further_thresholds_may_be_missing():
    figure, caption = draw_regimes(regimes([row for row in SCORES if row.score in ('rp', 'gl')
                                            and row.threshold == 0.97], threshold=None))
    assert len(figure.axes) == 2
    for words in ('dashed', 'different noises', '(c)', 'Dotted'):
        assert words not in caption
    figure, _ = draw_regimes(regimes([row for row in SCORES if row.score == 'gl']))
    assert sum(axes.get_legend() is not None for axes in figure.axes) == 1


def test_curves_may_have_gaps_as_an_unfinished_experiment_has():
    rows = [row for row in SCORES if row.size != 16 or row.models != ('8',)]
    figure, _ = draw_regimes(regimes(rows))
    assert list(lines(figure.axes[1])['UNet-8'].get_xdata()) == [n for n in SIZES if n != 16]
    assert figure.axes[0].patches  # the regimes from the sizes of both


def test_tables_that_make_no_figure_are_refused_in_one_line(table, tmp_path):
    options = ('regimes', '--out', tmp_path / 'new' / 'out.png', '--table', table)
    refuse(plot.main, *options, status=1, says=('--table', '0.97, 0.95', '--threshold'))
    refuse(plot.main, *options, '--threshold', '0.9', status=1, says=('--threshold 0.9', '0.97, 0.95'))
    refuse(plot.main, 'denoisers', '--table', tmp_path / 'no', '--out', tmp_path / 'x.png', status=1,
           says=('--table', 'no such file'))
    add_rows(table, curve('gl', ('8',), GL['8'], threshold=0.5, descriptor='sscd'))
    refuse(plot.main, *options, '--threshold', '0.97', status=1, says=('--table', 'pixel, sscd'))
    table.unlink()
    add_rows(table, [Row(1, 2, score='rp', models=('A', 'B'), size=4, threshold=0.6)])
    refuse(plot.main, *options, status=1, says=('--table', '--size and --width'))
    table.write_text('{}')
    refuse(plot.main, *options, status=1, says=('--table', 'scores.csv', 'expected the columns'))
    assert sorted(path.name for path in tmp_path.iterdir()) == ['scores.csv']


def test_files_that_can_not_be_written_are_named(table, tmp_path):
    options = ('regimes', '--table', table, '--threshold', '0.97')
    for name in ('out.jpg', 'out'):
        refuse(plot.main, *options, '--out', tmp_path / name, status=1, says=('--out', '.png or .pdf'))
    refuse(plot.main, *options, status=2, says=('--out',))
    refuse(plot.main, *options, '--out', tmp_path / 'o.png', '--width', 1, status=2, says=('--width', '2'))
    (tmp_path / 'notes.txt').write_text('my own')
    refuse(plot.main, *options, '--out', tmp_path / 'notes.png', status=1, says=('--out', 'notes.txt'))
    assert sorted(path.name for path in tmp_path.iterdir()) == ['notes.txt', 'scores.csv']


def test_the_denoisers_figure_has_a_curve_per_width_and_denoiser():
    figure, caption = draw_denoisers(regimes())
    optimal, gaussian = figure.axes
    assert lines(optimal)['UNet-16 vs theory'].get_ydata().tolist() == counted(
        [0.9, 0.8, 0.6, 0.5, 0.3, 0.1, 0.02, 0])
    assert lines(gaussian)['UNet-8 vs Gaussian'].get_ydata()[-1] == counted([0.4])[0]
    assert optimal.get_xscale() == 'log'
    assert '0.97' in caption


def test_tables_without_the_denoisers_are_refused_for_their_figure(table, tmp_path):
    table.unlink()
    add_rows(table, [row for row in SCORES if row.score in ('rp', 'gl')])
    refuse(plot.main, 'denoisers', '--table', table, '--threshold', '.97', '--out', tmp_path / 'x.png',
           status=1, says=('--table', 'optimal', '--reference'))
