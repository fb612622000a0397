"""plot.py: the regimes figure shows the numbers of its file, and files that are no such file are refused."""

import json

import numpy as np
import pytest
from PIL import Image

import plot
from figures.denoisers_figure import draw_denoisers
from figures.regimes_figure import draw_regimes
from figures.regimes_results import generalization_start, load_results, memorization_end
from helpers import refuse, run
from scores.copy_scores import Share

SIZES = [2, 4, 8, 16, 32, 64, 256, 1536]
RP = [0.86, 0.72, 0.60, 0.52, 0.48, 0.57, 0.76, 0.84]
GL = {'16': [0, 0, 0, 0.1, 0.5, 0.92, 0.99, 1], '8': [0, 0, 0.02, 0.25, 0.7, 0.97, 1, 1]}


def curve(values, total=256):
    return [{'size': size, **Share(round(value * total), total).as_dict()}
            for size, value in zip(SIZES, values, strict=True)]


def scores(shift=0.0):
    return {'rp': {'16-8': curve(np.array(RP) + shift)},
            'gl': {key: curve(values) for key, values in GL.items()},
            'chance_rp': {'16-8': curve([0.4, 0.2, 0.1, 0.05, 0.02, 0.02, 0.01, 0.01])},
            'heldout_gl': curve([1, 1, 1, 1, 0.99, 0.98, 0.96, 0.94]),
            'optimal_rp': {'16': curve([0.9, 0.8, 0.6, 0.5, 0.3, 0.1, 0.02, 0]),
                           '8': curve([0.8] + [0.2] * 7)},
            'gaussian_rp': {'16': curve([0.1] * 7 + [0.3]), '8': curve([0.1] * 7 + [0.4])}}


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """A folder with results.json and the images that it names."""
    path = tmp_path_factory.mktemp('results')
    (path / 'images').mkdir()
    for i in range(3):
        Image.fromarray(np.full((8, 8), 80 * i, np.uint8)).save(path / 'images' / f'{i}.png')
    names = [f'images/{i}.png' for i in range(3)]
    columns = [{'size': size, 'samples': names, 'nearest': names[::-1], 'similarity': [0.99, 0.5, -0.25]}
               for size in SIZES]
    content = {
        'data': 'digits_$8x8', 'kimg': 20, 'descriptor': 'pixel', 'num_samples': 256, 'threshold': 0.97,
        'thresholds': [0.97, 0.95], 'sizes': SIZES, 'widths': [16, 8],
        'scores': {'0.97': scores(), '0.95': scores(0.04)}, 'examples': {'width': 16, 'columns': columns},
        'record': {'command': 'reproduce.py'}}
    (path / 'results.json').write_text(json.dumps(content))
    return path


@pytest.fixture
def content(folder):
    return json.loads((folder / 'results.json').read_text())


def lines(axes):
    return {line.get_label(): line for line in axes.lines}


def write(folder, content):
    (folder / 'other.json').write_text(content if isinstance(content, str) else json.dumps(content))
    return folder / 'other.json'


def counted(values):
    return [round(value * 256) / 256 for value in values]


def test_the_picture_is_ready_for_print(folder, tmp_path):
    for name in ('new/regimes.png', 'new/regimes.pdf'):
        run(plot.main, 'regimes', '--results', folder / 'results.json', '--out', tmp_path / name)
    with Image.open(tmp_path / 'new' / 'regimes.png') as image:
        assert image.size[0] == 2100  # 7 inches
        assert image.info['dpi'] == pytest.approx((300, 300), abs=0.01)
        assert 'threshold 0.95' in image.info['Description']
        colors = image.convert('RGB').getcolors(1 << 16)
        assert len(colors) > 100
        assert max(colors)[1] == (255, 255, 255)
    assert (tmp_path / 'new' / 'regimes.pdf').read_bytes().startswith(b'%PDF')
    assert sorted(path.name for path in (tmp_path / 'new').iterdir()) == ['regimes.pdf', 'regimes.png']


def test_the_panels_show_the_numbers_of_the_file(folder):
    figure, _ = draw_regimes(load_results(folder / 'results.json'))
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


def test_bands_are_the_intervals_of_the_main_threshold(folder, content):
    figure, _ = draw_regimes(load_results(folder / 'results.json'))
    band, = figure.axes[0].collections
    corners = band.get_paths()[0].vertices
    for point in content['scores']['0.97']['rp']['16-8']:
        heights = corners[corners[:, 0] == point['size'], 1]
        assert (heights.min(), heights.max()) == (point['low'], point['high'])


def test_the_axes_are_powers_of_two_and_shares(folder):
    figure, _ = draw_regimes(load_results(folder / 'results.json'))
    for axes in figure.axes[:2]:
        assert (axes.get_xscale(), axes.get_ylim()) == ('log', (0, 1))
        assert list(axes.get_xticks()) == [2 ** k for k in range(1, 11)]
        assert axes.xaxis.get_major_formatter()(8) == '$2^{3}$'


def test_the_regimes_follow_from_the_gl_scores(folder, content):
    figure, _ = draw_regimes(load_results(folder / 'results.json'))
    spans = {patch.get_label(): patch for patch in figure.axes[0].patches}
    end = spans['_memorization'].get_x() + spans['_memorization'].get_width()
    curves = [np.array(counted(values)) for values in GL.values()]
    assert end == pytest.approx(memorization_end(SIZES, curves))
    assert 8 < end < 16
    assert 32 < spans['_generalization'].get_x() < 64
    for point in content['scores']['0.97']['gl']['8']:
        point.update(value=0.5, low=0.4, high=0.6)
    figure, _ = draw_regimes(load_results(write(folder, content)))
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


def test_examples_stand_above_their_nearest_images(folder):
    figure, caption = draw_regimes(load_results(folder / 'results.json'))
    axes = figure.axes[2]
    first, below = axes.images[:2]
    grey = [image.get_array()[0, 0, 0] for image in axes.images]
    count = len(grey) // len(SIZES)  # above and below in turn: images/0.png over 2.png, 1.png over 1.png, ..
    assert grey == [0, 160, 80, 80, 160, 0][:count] * len(SIZES)
    assert count >= 4
    assert first.get_extent()[2] > below.get_extent()[3]
    bold = {text.get_text() for text in axes.texts if text.get_fontweight() == 'bold'}
    assert bold == {'c', '0.99'}
    heads = [text.get_text() for text in axes.texts if text.get_text().startswith('N')]
    assert heads == [f'N = {n}' for n in SIZES]
    assert 'Samples of UNet-16' in caption


def test_the_caption_tells_what_was_measured(folder):
    _, caption = draw_regimes(load_results(folder / 'results.json'))
    for words in ('digits_$8x8', '20 kimg', '256 noises', '> 0.97', 'threshold 0.95', 'Pearson', 'Wilson'):
        assert words in caption


def test_controls_examples_and_further_thresholds_may_be_missing(folder, content):
    del content['examples'], content['scores']['0.97']['chance_rp'], content['record']
    content['scores']['0.97']['heldout_gl'] = {'value': 0.9, 'low': 0.8, 'high': 0.95}
    content['thresholds'] = [0.97]
    figure, caption = draw_regimes(load_results(write(folder, content)))
    assert len(figure.axes) == 2
    assert set(lines(figure.axes[1])['held-out images'].get_ydata()) == {0.9}
    for words in ('dashed', 'different noises', '(c)'):
        assert words not in caption


def at(content, *keys):
    for key in keys:
        content = content[key]
    return content


BAD = {  # what is wrong: where it is set, to which value, what the message says
    'an unknown pair': (('scores', '0.97', 'rp'), {'16-4': []}, '16-4'),
    'a share above 1': (('scores', '0.97', 'gl', '8', 2, 'high'), 1.5, 'scores/0.97/gl/8[2]/high'),
    'not a number': (('scores', '0.95', 'gl', '8', 0, 'value'), 'NaN', 'scores/0.95/gl/8[0]/value'),
    'outside its interval': (('scores', '0.95', 'gl', '8', 3, 'low'), 0.9, 'between low and high'),
    'other sizes': (('scores', '0.95', 'gl', '8', 3, 'size'), 17, 'sizes'),
    'a width without curve': (('widths',), [16, 8, 4], 'scores/0.97/gl'),
    'a threshold without scores': (('thresholds',), [0.97, 0.5], 'scores/0.5 is missing'),
    'no main threshold': (('threshold',), 0.6, 'thresholds'),
    'falling sizes': (('sizes',), SIZES[::-1], 'rising'),
    'no image': (('examples', 'columns', 1, 'nearest', 0), 'images/9.png', 'columns[1]/nearest[0]'),
    'too few images': (('examples', 'columns', 1, 'nearest'), ['images/0.png'], 'columns[1]'),
    'a list': (('scores',), [1], 'scores must be an object'),
    'no name': (('data',), 3, 'data must be text'),
    'no samples': (('num_samples',), True, 'num_samples'),
}


@pytest.mark.parametrize('kind', BAD)
def test_bad_results_are_refused_in_one_line(folder, tmp_path, content, kind):
    (*keys, last), value, says = BAD[kind]
    at(content, *keys)[last] = value
    out = tmp_path / 'out.png'
    refuse(plot.main, 'regimes', '--results', write(folder, content), '--out', out, status=1,
           says=('--results', 'other.json', says))
    assert not out.exists()


def test_files_that_can_not_be_read_or_written_are_named(folder, tmp_path):
    out = ('--out', tmp_path / 'out.png')
    refuse(plot.main, 'regimes', '--results', tmp_path / 'no', *out, status=1, says=('--results', 'no such'))
    for text in ('{', '[' * 100000, '[]', '{}', '\x00'):
        refuse(plot.main, 'regimes', '--results', write(folder, text), '--out', tmp_path / 'new' / 'out.png',
               status=1, says=('--results', 'other.json'))
    for name in ('out.jpg', 'out'):
        refuse(plot.main, 'regimes', '--results', folder / 'results.json', '--out', tmp_path / name, status=1,
               says=('--out', '.png or .pdf'))
    refuse(plot.main, 'regimes', *out, status=2, says=('--results',))
    assert not list(tmp_path.iterdir())


def test_the_denoisers_figure_has_a_curve_per_width_and_denoiser(folder):
    figure, caption = draw_denoisers(load_results(folder / 'results.json'))
    optimal, gaussian = figure.axes
    assert lines(optimal)['UNet-16 vs theory'].get_ydata().tolist() == counted(
        [0.9, 0.8, 0.6, 0.5, 0.3, 0.1, 0.02, 0])
    assert lines(gaussian)['UNet-8 vs Gaussian'].get_ydata()[-1] == counted([0.4])[0]
    assert optimal.get_xscale() == 'log'
    assert '0.97' in caption


def test_results_without_the_denoisers_are_refused_for_their_figure(folder, content, tmp_path):
    for scores_at in content['scores'].values():
        del scores_at['optimal_rp'], scores_at['gaussian_rp']
    refuse(plot.main, 'denoisers', '--results', write(folder, content), '--out', tmp_path / 'x.png', status=2,
           says=('--results', 'optimal denoiser'))
    run(plot.main, 'regimes', '--results', write(folder, content), '--out', tmp_path / 'y.png')
