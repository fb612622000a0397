"""plot.py training: the curves are those of stats.jsonl, and folders without reports are refused."""

import json

import numpy as np
import pytest
from PIL import Image

import plot
from figures.training_curves import load_curves
from figures.training_figure import draw_training
from helpers import assert_fits, refuse, run


def write_run(folder, loss=(1.5, 0.5, None, 0.25), lr=(0, 1e-3, 2e-3, 2e-3)):
    """A run of four ticks; the last line is half written."""
    folder.mkdir(exist_ok=True)
    lines = []
    for tick, value in enumerate(loss):
        line = {'Progress/tick': {'mean': tick}, 'Progress/kimg': {'num': 1, 'mean': 2.5 * tick, 'std': 0},
                'Loss/loss': {'mean': value}, 'Timing/sec_per_kimg': {'mean': 0.5 * (tick + 1)}}
        lines.append(json.dumps(line | ({'Progress/lr': {'mean': lr[tick]}} if lr else {})))
    (folder / 'stats.jsonl').write_text('\n'.join(lines) + '\n{"Progress/ti')
    return folder


def test_curves_are_those_of_the_reports(tmp_path):
    curves = load_curves(write_run(tmp_path / '00003-faces'))
    assert curves.name == '00003-faces'
    np.testing.assert_array_equal(curves.kimg, [0, 2.5, 5, 7.5])
    np.testing.assert_array_equal(curves.loss, [1.5, 0.5, np.nan, 0.25])
    np.testing.assert_array_equal(curves.learning_rate, [0, 1e-3, 2e-3, 2e-3])
    np.testing.assert_array_equal(curves.images_per_sec, [np.nan, 1000, 1000 / 1.5, 500])


def test_the_figure_has_a_line_per_run_and_quantity(tmp_path):
    runs = [load_curves(write_run(tmp_path / 'one')), load_curves(write_run(tmp_path / 'two', lr=None))]
    figure, caption = draw_training(runs)
    loss, rate, speed = figure.axes
    assert [line.get_label() for line in loss.lines] == ['one', 'two']
    assert loss.lines[0].get_xdata().tolist() == [0, 2.5, 7.5]  # NaN is left out
    assert speed.lines[1].get_ydata().tolist() == [1000, 1000 / 1.5, 500]
    assert rate.lines[1].get_ydata().size == 0
    assert 'not recorded by two' in caption
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ['one', 'two']
    assert loss.get_yscale() == 'linear'
    wide = load_curves(write_run(tmp_path / 'wide', loss=(50, 1, 1, 1)))
    assert draw_training([wide])[0].axes[0].get_yscale() == 'log'


def test_the_command_writes_the_picture(tmp_path):
    folders = write_run(tmp_path / 'a'), write_run(tmp_path / 'b')
    run(plot.main, 'training', *folders, '--out', tmp_path / 'x.png')
    with Image.open(tmp_path / 'x.png') as image:
        assert image.size[0] == 2025
        assert '2 runs' in image.info['Description']
    run(plot.main, 'training', tmp_path / 'a', '--out', tmp_path / 'x.pdf')


@pytest.mark.parametrize(('content', 'says'), [
    (None, 'stats.jsonl'), ('', 'no tick'), ('{\n', 'line 1: not a JSON text'), ('[]\n', 'line 1'),
    (f'{{"Progress/kimg": {{"mean": {"9" * 400}}}}}\n', 'Progress/kimg'), ('[' * 10000 + '\n', 'line 1'),
    ('{"Progress/kimg": {"mean": 1}}\n', 'Loss/loss must have'),
    ('{"Progress/kimg": {"mean": "x"}, "Loss/loss": {"mean": 1}}\n', 'Progress/kimg must have a number'),
])
def test_folders_without_reports_are_refused(content, says, tmp_path):
    folder = tmp_path / 'run'
    folder.mkdir()
    if content is not None:
        (folder / 'stats.jsonl').write_text(content)
    refuse(plot.main, 'training', folder, '--out', tmp_path / 'x.png', status=1, says=(str(folder), says))
    refuse(plot.main, 'training', '--out', tmp_path / 'x.png', status=2, says=('RUN_DIR',))
    assert not (tmp_path / 'x.png').exists()


@pytest.mark.parametrize('width', [3.25, 6.75])
def test_long_names_fit_the_page_and_stand_in_the_caption(tmp_path, width):
    names = [f'0000{i}-cifar10-32x32-uncond-ddpmpp-edm-gpus1-batch512-fp32-{"x" * 60}' for i in range(3)]
    figure, caption = draw_training([load_curves(write_run(tmp_path / name)) for name in names], width)
    assert_fits(figure)
    assert all(name in caption for name in names)
