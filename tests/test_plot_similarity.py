"""plot.py similarity and neighbors: the pictures show the numbers and images of their files."""

import shutil

import matplotlib
import numpy as np
import pytest
from PIL import Image

import plot
import sscd
from figures.neighbors_figure import choose, draw_neighbors
from figures.similarity_figure import Matrix, collect_matrices, draw_similarity, load_samples
from helpers import assert_fits, refuse, run
from image_sets import write
from scores.neighbors import load_neighbors, read_shown
from scores.score_table import Row, add_rows, read_table

NAMES = ('DDPM', 'a $name$', 'U-ViT')
COUNTS = {(0, 0): 100, (0, 1): 25, (0, 2): 90, (1, 1): 100, (1, 2): 60, (2, 2): 100}
VALUES = [[1, 0.25, 0.9], [0.25, 1, 0.6], [0.9, 0.6, 1]]


def rows(score='rp', **more):
    more = {'threshold': 0.6, 'descriptor': 'sscd'} | more
    return [Row(count, 100, score=score, models=(NAMES[i], NAMES[j]), size=None, **more)
            for (i, j), count in COUNTS.items()]


MAE = rows('mae', threshold=15.0, descriptor='')


def test_heat_maps_show_names_and_values():
    names, matrices = collect_matrices([*rows(), *MAE], '')
    figure, caption = draw_similarity(names, matrices)
    rp, mae, bar = figure.axes
    assert (rp.get_title(), mae.get_title()) == ('RP score', 'MAE score')
    for axes in (rp, mae):
        image, = axes.images
        np.testing.assert_array_equal(image.get_array(), VALUES)
        assert (image.get_cmap().name, image.get_clim()) == ('Oranges', (0, 1))
        assert [text.get_text() for text in axes.texts] == [f'{value:.2f}' for row in VALUES for value in row]
        assert tuple(label.get_text() for label in axes.get_xticklabels()) == NAMES
        assert not any(label.get_parse_math() for label in axes.get_xticklabels())
    assert tuple(label.get_text() for label in rp.get_yticklabels()) == NAMES
    assert bar.get_ylim() == (0, 1)
    for words in ('100 noises', '> 0.6', '100 pairs', '15 of 255', 'SSCD', 'Wilson'):
        assert words in caption


def test_distances_have_colours_of_their_own_and_samples_stand_in_the_rows_of_their_models(tmp_path):
    pfd = [Row(score='pfd', models=(NAMES[i], NAMES[j]), size=None, value=0.4 * (j - i), low=0.1, high=0.3,
               descriptor='pixel') for i, j in COUNTS]
    add_rows(tmp_path / 'm.csv', [*rows(), *MAE, *pfd])
    shown = {}
    for i, name in enumerate(NAMES[:2]):
        pixels = np.full((4, 5, 5, 3), 50 * i, np.uint8)
        write(tmp_path / f'{i}', {f'{j}.png': image for j, image in enumerate(pixels)})
        shown[f'{tmp_path / str(i)}'] = name
    names, matrices = collect_matrices(read_table(tmp_path / 'm.csv'), '')
    samples = load_samples([(name, path) for path, name in shown.items()], names)
    figure, caption = draw_similarity(names, matrices, samples=samples)
    assert_fits(figure)
    distances, sheet, *bars = figure.axes[2:]
    assert distances.get_title() == 'PFD'
    image, = distances.images
    np.testing.assert_array_equal(image.get_array()[0], [0, 0.4, 0.8])
    assert (image.get_cmap().name, image.get_clim()) == ('Oranges_r', (0, 0.8))
    assert len(bars) == 2
    assert [(round(image.get_extent()[2]), image.get_array().max()) for image in sheet.images] == [
        *[(0, 0)] * 3, *[(1, 50)] * 3]
    for words in ('root mean square distance', 'at most 0.2 wide', 'made from one noise'):
        assert words in caption
    assert 'control' not in caption
    with_control = [*names[:2], 'held-out images']
    assert 'come from none of these noises' in draw_similarity(with_control, matrices, samples=samples)[1]
    args = 'similarity', '--table', tmp_path / 'm.csv', '--out', tmp_path / 'm.png', '--samples'
    run(plot.main, *args, *(f'{path}={name}' for path, name in shown.items()))
    refuse(plot.main, *args, f'{tmp_path / "0"}=x', status=1, says=('--samples', 'U-ViT'))


def test_a_pair_without_score_stays_empty():
    names, matrices = collect_matrices(rows()[:-2], '')
    figure, _ = draw_similarity(names, matrices, width=3.25)
    assert np.isnan(matrices['rp'].value[1, 2])
    assert len(figure.axes[0].texts) == 6


def test_values_are_legible_on_their_colours():
    values = np.linspace(0, 1, 49).reshape(7, 7)
    matrix = Matrix(threshold=0.6, descriptor='', total='9', value=values, widest=0.1)
    figure, _ = draw_similarity(list('abcdefg'), {'rp': matrix})
    for text, value in zip(figure.axes[0].texts, values.ravel(), strict=True):
        background = matplotlib.colormaps['Oranges'](value)[:3]
        letters = matplotlib.colors.to_rgb(text.get_color())
        assert contrast(background, letters) > 4  # WCAG 2 asks for 4.5 in small text, 3 in large


def contrast(a, b):
    def luminance(rgb):
        rgb = np.array(rgb)
        linear = np.where(rgb <= 0.03928, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
        return linear @ [0.2126, 0.7152, 0.0722]
    light, dark = sorted((luminance(a), luminance(b)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def test_one_kind_of_score_is_one_map(tmp_path):
    add_rows(tmp_path / 'm.csv', MAE)
    figure, caption = draw_similarity(*collect_matrices(read_table(tmp_path / 'm.csv'), ''))
    assert [axes.get_title() for axes in figure.axes] == ['MAE score', '']
    assert 'RP' not in caption
    run(plot.main, 'similarity', '--table', tmp_path / 'm.csv', '--out', tmp_path / 'm.pdf')
    assert (tmp_path / 'm.pdf').read_bytes().startswith(b'%PDF')


def test_tables_that_make_no_matrix_are_refused(tmp_path):
    one = Row(1, 2, score='rp', models=('16', '8'), size=4, threshold=0.6)
    for case, says in (([one], 'sscd.py matrix'), ([*rows(), *rows(threshold=0.5)], 'thresholds 0.5, 0.6')):
        (tmp_path / 'm.csv').unlink(missing_ok=True)
        add_rows(tmp_path / 'm.csv', case)
        refuse(plot.main, 'similarity', '--table', tmp_path / 'm.csv', '--out', tmp_path / 'm.png', status=1,
               says=('--table', 'm.csv', says))


@pytest.fixture
def neighbors_file(tmp_path):
    """neighbors.npz of eight samples, the even ones copies of training images, made by the scripts."""
    rng = np.random.RandomState(0)
    training, new = (rng.randint(256, size=(8, 6, 6, 3), dtype=np.uint8) for _ in range(2))
    samples = np.where(np.arange(8)[:, None, None, None] % 2 == 0, training[::-1], new)
    for name, images in (('samples', samples), ('training', training)):
        write(tmp_path / name, {f'{i}.png': image for i, image in enumerate(images)})
        run(sscd.main, 'feature', '--images', tmp_path / name, '--features', tmp_path / f'{name}.npz',
            '--descriptor', 'pixel')
    run(sscd.main, 'mscore', '--source', tmp_path / 'samples.npz', '--target', tmp_path / 'training.npz',
        '--t', '0.97', '--neighbors', tmp_path / 'neighbors.npz')
    return tmp_path / 'neighbors.npz'


def test_samples_stand_above_their_nearest_images_sorted(neighbors_file):
    numbers = load_neighbors(neighbors_file)
    chosen = choose(numbers.similarity, 6)
    figure, caption = draw_neighbors(numbers, chosen, *read_shown(numbers, chosen), columns=4)
    axes, = figure.axes
    similarity = [float(text.get_text()) for text in axes.texts if text.get_text()[-1].isdigit()]
    assert similarity == sorted(similarity, reverse=True)
    bold = [text.get_text() for text in axes.texts if text.get_fontweight() == 'bold']
    assert bold == ['1.00'] * sum(value > 0.97 for value in similarity)
    for above, below, value in zip(axes.images[::2], axes.images[1::2], similarity, strict=True):
        assert above.get_extent()[2] > below.get_extent()[3]
        assert above.get_extent()[:2] == below.get_extent()[:2]
        assert np.array_equal(above.get_array(), below.get_array()) == (value == 1)
    for words in ('6 of 8 samples', 'Pearson', 'above 0.97', '4 of 8 samples (50.0%)'):
        assert words in caption


def test_samples_are_taken_evenly_from_all_ranks_or_from_the_top():
    similarity = np.linspace(0, 1, 101)[np.random.RandomState(0).permutation(101)]
    np.testing.assert_allclose(similarity[choose(similarity, 5)], [1, 0.75, 0.5, 0.25, 0])
    np.testing.assert_allclose(similarity[choose(similarity, 3, most_similar=True)], [1, 0.99, 0.98])
    assert len(choose(similarity, 1000)) == 101


def test_the_sheet_finds_images_that_have_moved(neighbors_file, tmp_path):
    options = ('neighbors', '--neighbors', neighbors_file, '--out', tmp_path / 'sheet.png')
    run(plot.main, *options)
    shutil.move(tmp_path / 'samples', tmp_path / 'elsewhere')
    refuse(plot.main, *options, status=1, says=('--samples', 'no such file or folder'))
    run(plot.main, *options, '--samples', tmp_path / 'elsewhere', '--top', '--count', 3)
    with Image.open(tmp_path / 'sheet.png') as image:
        assert image.size[0] == 2025


def test_other_images_and_other_files_are_refused(neighbors_file, tmp_path):
    options = ('neighbors', '--out', tmp_path / 'sheet.png', '--neighbors')
    (tmp_path / 'training' / '3.png').rename(tmp_path / 'training' / '3a.png')
    refuse(plot.main, *options, neighbors_file, status=1, says=('--training', 'is 3a.png, and was 3.png'))
    refuse(plot.main, *options, tmp_path / 'samples.npz', status=1, says=('--neighbors', 'is missing'))
    with np.load(neighbors_file) as file:
        arrays = dict(file)
    for change in ({'nearest': np.arange(3)}, {'nearest': np.full(8, 8)}, {'similarity': np.full(8, np.nan)},
                   {'sample_names': np.array(['a'])}, {'threshold': np.zeros(2)}):
        np.savez(tmp_path / 'n.npz', **arrays | change)
        refuse(plot.main, *options, tmp_path / 'n.npz', status=1, says=('--neighbors', 'fit together'))
    del arrays['sample_images']
    np.savez(tmp_path / 'n.npz', **arrays)
    refuse(plot.main, *options, tmp_path / 'n.npz', status=1, says=('--samples is needed',))
    assert not (tmp_path / 'sheet.png').exists()


@pytest.mark.parametrize('width', [3.25, 6.75])
@pytest.mark.parametrize('models', [2, 18])
def test_heat_maps_of_few_and_many_models_fit_the_page(width, models):
    names = [f'Model number {i}' for i in range(models)]
    values = np.linspace(0, 1, models**2).reshape(models, models)
    matrix = Matrix(threshold=0.6, descriptor='', total='9', value=values, widest=0.1)
    figure, _ = draw_similarity(names, {'rp': matrix, 'mae': matrix}, width)
    assert_fits(figure)


@pytest.mark.parametrize('width', [3.25, 6.75])
def test_the_sheet_fits_the_page(neighbors_file, width):
    numbers = load_neighbors(neighbors_file)
    chosen = choose(numbers.similarity, 8)
    figure, _ = draw_neighbors(numbers, chosen, *read_shown(numbers, chosen), width=width)
    assert_fits(figure)
