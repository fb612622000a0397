"""plot.py: the figures over training-set size show the numbers of the table, and other tables are refused."""

import math

import numpy as np
import pytest
from PIL import Image

import plot
from figures.denoisers_figure import draw_denoisers
from figures.denoising_figure import Errors
from figures.image_columns import Column
from figures.regimes_curves import OverGaussian, collect_curves, generalization_start, memorization_end
from figures.regimes_figure import draw_regimes, load_examples, load_same_noises
from helpers import assert_fits, refuse, run
from image_sets import write
from scores import denoising_table
from scores.score_table import Row, add_rows

SIZES = [2, 4, 8, 16, 32, 64, 256, 1536]
RP = [0.86, 0.72, 0.60, 0.52, 0.48, 0.57, 0.76, 0.84]
DISJOINT = [0, 0, 0, 0, 0.02, 0.2, 0.6, 0]  # the last is not in the table
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
    *curve('heldout_gl', (), [0.9] * 8, threshold=0.95),
    *curve('disjoint_rp', ('16',), DISJOINT)[:-1], *curve('chance_disjoint_rp', ('16',), [0] * 8)[:-1],
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


def grey(*values):
    return [Image.fromarray(np.full((8, 8), value, np.uint8)) for value in values]


EXAMPLES = [Column(size=size, rows=[grey(0, 80, 160), grey(160, 80, 0)],
                   notes=[('0.99', True), ('0.50', False), ('-0.25', False)]) for size in SIZES]
SAME_NOISES = [Column(size=size, rows=[grey(*[40] * 8), grey(*[90] * 8), grey(*[10] * 8)])
               for size in (2, 32, 1536)], ['UNet-16', 'UNet-8', 'disjoint']


ERRORS = Errors([denoising_table.Row(
    denoiser='UNet-16', target='images', images=kind, size=size, sigma=sigma, mse=mse, stderr=0.01 * mse,
    variance=1.0, share=mse, count=64) for size in SIZES for sigma in (0.1, 0.3, 1.0)
    for kind, mse in (('train', sigma / 10), ('heldout', sigma / 10 * (1 + 8 / size)))], None, '')
DISTANCES = [Row(score=score, models=models, size=size, descriptor='pixel', value=1 / size, low=0.9 / size,
                 high=1.2 / size) for size in SIZES for score, models in (
    ('pfd', ('16', '8')), ('disjoint_pfd', ('16',)), ('optimal_pfd', ('16',)), ('chance_pfd', ('16', '8')))]


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
    for figure, _ in (draw_regimes(regimes(SCORES + DISTANCES), EXAMPLES, SAME_NOISES, ERRORS, width),
                      draw_denoisers(regimes(), width)):
        assert_fits(figure)


def test_the_panels_show_the_numbers_of_the_table():
    figure, _ = draw_regimes(regimes())
    rp, gl = figure.axes[:2]
    drawn = {**lines(rp), **lines(gl)}
    for label, values in {
            'UNet-8 vs UNet-16': RP, '_UNet-8 vs UNet-16, 0.95': np.array(RP) + 0.04, 'UNet-8': GL['8'],
            'UNet-16': GL['16'], 'different noises': [0.4, 0.2, 0.1, 0.05, 0.02, 0.02, 0.01, 0.01],
            'held-out images': [1, 1, 1, 1, 0.99, 0.98, 0.96, 0.94],
            '_held-out images, 0.95': [0.9] * 8}.items():
        assert list(drawn[label].get_xdata()) == SIZES
        np.testing.assert_array_equal(drawn[label].get_ydata(), counted(values))
    assert list(drawn['UNet-16, disjoint sets'].get_ydata()) == counted(DISJOINT[:-1])
    legend = [text.get_text() for text in gl.get_legend().get_texts()]
    assert legend == ['UNet-8', 'UNet-16', 'held-out images']


def test_further_panels_show_distances_and_denoising_errors():
    rows = SCORES + DISTANCES + curve('calibrated_gl', ('16',), GL['8'], threshold=0.9)
    figure, caption = draw_regimes(regimes(rows), EXAMPLES, errors=ERRORS)
    _, gl, pfd, gap = figure.axes[:4]
    for name in 'UNet-8 vs UNet-16', 'UNet-16, disjoint sets', 'UNet-16 vs optimal denoiser':
        assert lines(pfd)[name].get_ydata().tolist() == [1 / size for size in SIZES]
    assert len(pfd.lines) == 4  # not again at the other threshold
    assert lines(gl)['_calibrated'].get_ydata().tolist() == counted(GL['8'])
    np.testing.assert_allclose(lines(gap)[r'$\sigma$ = 0.1'].get_ydata(),
                               10 * np.log10(1 + 8 / np.array(SIZES)), atol=1e-9)
    for axes in (pfd, gap):
        assert axes.get_xlim() == gl.get_xlim()
        assert len(axes.patches) == 2  # the same regimes
    for words in '(c) Probability flow distance', '(d) Mean squared denoising error', '(e) Samples', '1 % of':
        assert words in caption


def test_bands_are_the_intervals_of_the_main_threshold():
    figure, _ = draw_regimes(regimes())
    band = figure.axes[0].collections[0]
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


def test_the_regimes_follow_from_gl_and_rp_and_their_controls():
    def spans(rows):
        figure, _ = draw_regimes(regimes(rows))
        return {patch.get_label(): patch for patch in figure.axes[0].patches}

    found = spans(SCORES)
    end = found['_memorization'].get_x() + found['_memorization'].get_width()
    curves = [np.array(counted(values)) for values in GL.values()]
    assert end == pytest.approx(memorization_end(SIZES, curves))
    assert 8 < end < 16
    start = found['_generalization'].get_x()
    assert 32 < start < 64  # of width 16, GL is near that of held-out images there
    late = [row for row in SCORES if (row.score, row.size) != ('disjoint_rp', 64)]
    late += [row for row in curve('disjoint_rp', ('16',), [0.01] * 8) if row.size == 64]
    assert 64 < spans(late)['_generalization'].get_x() < 256  # where disjoint RP is above chance
    noise = [row for row in SCORES if row.score not in ('rp', 'disjoint_rp')]
    noise += curve('rp', ('16', '8'), [0.01] * 8)
    assert list(spans(noise)) == ['_memorization']  # new images that are not reproduced are no regime
    flat = [row for row in SCORES if row.models != ('8',)] + curve('gl', ('8',), [0.5] * 8)
    assert not spans(flat)


def test_models_that_denoise_worse_than_the_best_affine_denoiser_do_not_generalize():
    ratio = dict(zip(SIZES, [9, 9, 8, 6, 3, 1, -1, -2], strict=True))  # in dB

    def start(ratio):
        errors = OverGaussian('UNet-16', [0.1, 1], ratio)
        figure, caption = draw_regimes(regimes(errors=errors))
        assert 'errors of UNet-16 on held-out images at sigma = 0.1, 1 at most' in caption
        found = {patch.get_label(): patch for patch in figure.axes[1].patches}
        return found['_generalization'].get_x() if '_generalization' in found else None

    assert start(ratio) == pytest.approx(math.sqrt(SIZES[5] * SIZES[6]))  # half of the way in log2
    assert start(dict.fromkeys(SIZES, 0.1)) is None
    assert start({size: -1 for size in SIZES[:-1]}) is None  # nobody knows it of the largest
    assert 32 < start(dict.fromkeys(SIZES, -1)) < 64  # as without it


def test_the_errors_compared_with_the_gaussian_denoiser_are_the_largest_of_three_levels():
    assert ERRORS.over_gaussian() is None

    def row(name, size, sigma, mse):
        return denoising_table.Row(denoiser=name, target='images', images='heldout', size=size, sigma=sigma,
                                   mse=mse, stderr=0, variance=1.0, share=mse, count=64)

    rows = [row('gaussian', 64, sigma, sigma) for sigma in (0.1, 0.3, 1.0, 5.0)]
    rows += [row('UNet-16', size, sigma, sigma * factor) for size, factors in (
        (8, (0.5, 10, 2, 100)), (64, (0.1, 0.1, 0.01, 100))) for sigma, factor in zip(
            (0.1, 0.3, 1.0, 5.0), factors, strict=True)]
    found = Errors(rows, None, '').over_gaussian()
    assert (found.name, found.sigmas) == ('UNet-16', [0.1, 0.3, 1.0])
    assert found.ratio == pytest.approx({8: 10, 64: -10})


def test_regimes_end_where_the_first_curve_leaves_them():
    sizes = [4, 16, 64]
    low, high = np.array([0, 0.1, 1.0]), np.array([0, 0.05, 0.8])
    assert memorization_end(sizes, [low]) == pytest.approx(8)  # half of the way in log2
    assert memorization_end(sizes, [low, high]) == pytest.approx(8)
    assert memorization_end(sizes, [high]) == pytest.approx(16)
    assert memorization_end(sizes, [0 * low]) == 64
    assert memorization_end(sizes, [low + 0.06]) is None
    assert generalization_start(sizes, [low - 0.9]) == pytest.approx(2 ** (4 + 2 * 0.8 / 0.9))
    assert generalization_start(sizes, [low - 0.9, high - 0.9]) is None
    assert generalization_start(sizes, [0.1 + 0 * low]) == 4
    assert generalization_start(sizes, [np.array([0.1, -0.1, 0.1])]) == pytest.approx(32)  # the last time
    assert generalization_start(sizes, [low - 0.9, np.array([-np.inf, 0.3, 0.3])]) == pytest.approx(
        2 ** (4 + 2 * 0.8 / 0.9))


def test_bars_span_all_trainings(table, tmp_path):
    again = regimes(repeats=[curve('gl', ('16',), [0.5] * 8), curve('gl', ('16',), [0.25] * 8)])
    figure, caption = draw_regimes(again)
    (bars,) = [lines for lines in figure.axes[1].collections if hasattr(lines, 'get_segments')
               and len(lines.get_segments())]
    spans = {tuple(segment[0]): segment[1][1] for segment in bars.get_segments()}
    for size, value in zip(SIZES, counted(GL['16']), strict=True):
        assert spans[size, min(value, 0.25)] == max(value, 0.5)
    assert '3 trainings' in caption
    add_rows(tmp_path / 'again.csv', SCORES)
    run(plot.main, 'regimes', '--table', table, '--threshold', '.97', '--repeats', tmp_path / 'again.csv',
        '--out', tmp_path / 'o.png')
    assert '2 trainings' in (tmp_path / 'o.txt').read_text().replace('\n', ' ')


def test_models_stand_below_each_other_with_samples_of_the_same_seeds(table, tmp_path):
    for i, name in enumerate(('a', 'b')):
        write(tmp_path / name, {f'{k}.png': np.full((4, 4), 10 * i + k, np.uint8) for k in range(3)})
    options = ('regimes', '--table', table, '--threshold', '.97', '--out', tmp_path / 'o.png', '--samples')
    both = (f'{tmp_path / "a"}=8:Wide', f'{tmp_path / "b"}=8:Narrow')
    columns, names = load_same_noises([('8:Wide', tmp_path / 'a'), ('8:Narrow', tmp_path / 'b')])
    assert names == ['Wide', 'Narrow']
    assert [[image.getpixel((0, 0)) for image in row] for row in columns[0].rows] == [[0, 1, 2], [10, 11, 12]]
    run(plot.main, *options, *both)
    assert 'from the same noise' in (tmp_path / 'o.txt').read_text().replace('\n', ' ')
    refuse(plot.main, *options, tmp_path / 'a', status=1, says=('--samples', '=N:NAME'))
    refuse(plot.main, *options, *both, f'{tmp_path / "a"}=9:Other', status=1, says=('N = 9', 'Wide, Narrow'))
    (tmp_path / 'b' / '0.png').rename(tmp_path / 'b' / '7.png')
    refuse(plot.main, *options, *both, status=1, says=('--samples', 'same seeds'))


def test_examples_stand_above_their_nearest_images():
    figure, caption = draw_regimes(regimes(), EXAMPLES)
    axes = figure.axes[2]
    shades = [image.get_array()[0, 0, 0] for image in axes.images]
    count = len(shades) // len(SIZES) // 2  # all above, then all below
    assert shades == [*(0, 80, 160)[:count], *(160, 80, 0)[:count]] * len(SIZES)
    assert count >= 2
    assert axes.images[0].get_extent()[2] > axes.images[count].get_extent()[3]
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
    assert (column.size, column.notes) == (64, [('0.50', False), ('0.25', False)])
    assert [[image.getpixel((0, 0)) for image in row] for row in column.rows] == [[10, 20], [40, 30]]
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
    for words in ('dashed', 'samples from different noises', '(c)', 'Dotted'):
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
    assert lines(optimal)['UNet-16 vs optimal'].get_ydata().tolist() == counted(
        [0.9, 0.8, 0.6, 0.5, 0.3, 0.1, 0.02, 0])
    assert lines(gaussian)['UNet-8 vs Gaussian'].get_ydata()[-1] == counted([0.4])[0]
    assert optimal.get_xscale() == 'log'
    assert '0.97' in caption


def test_tables_without_the_denoisers_are_refused_for_their_figure(table, tmp_path):
    table.unlink()
    add_rows(table, [row for row in SCORES if row.score in ('rp', 'gl')])
    refuse(plot.main, 'denoisers', '--table', table, '--threshold', '.97', '--out', tmp_path / 'x.png',
           status=1, says=('--table', 'optimal', '--reference'))
