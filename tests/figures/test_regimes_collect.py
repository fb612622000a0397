"""Single scores that people collected by hand make the same figure as the orchestrator's file."""

import json

import numpy as np
import pytest

import plot
import sscd
from figures.regimes_collect import collect_scores
from figures.regimes_figure import draw_regimes
from helpers import refuse, run
from scores.copy_scores import Share
from torch_utils.errors import UserError

SIZES, WIDTHS = (4, 64, 1024), (8, 16)
GL = {(4, 8): 0, (64, 8): 60, (1024, 8): 100, (4, 16): 0, (64, 16): 40, (1024, 16): 98}
RP = {4: 80, 64: 30, 1024: 90}


def write(folder, name, key, count, **more):
    share = Share(count, 100).as_dict()
    share[key] = share.pop('value')
    (folder / name).write_text(json.dumps({'threshold': 0.6, 'descriptor': 'sscd', **share, **more}))
    return str(folder / name)


def gl(folder, name, **more):
    return write(folder, name, 'generalization_score', 50, **({'size': 4, 'widths': [8]} | more))


@pytest.fixture
def files(tmp_path):
    paths = [write(tmp_path, f'{size}-{width}.json', 'generalization_score', count, size=size, widths=[width])
             for (size, width), count in GL.items()]
    return paths + [write(tmp_path, f'rp-n{size:05d}-w{WIDTHS[0]}-w{WIDTHS[1]}.json', 'rp_score', count)
                    for size, count in RP.items()]


def test_curves_are_the_files_numbers_in_order_of_size(files):
    results = collect_scores(files[::-1], data='CIFAR-10', kimg=None, threshold=None)
    assert (results.sizes, results.widths, results.num_samples) == (list(SIZES), [16, 8], 100)
    assert (results.threshold, results.thresholds, results.descriptor) == (0.6, [0.6], 'sscd')
    scores = results.scores[0.6]
    np.testing.assert_array_equal(scores.rp[16, 8].value, [0.8, 0.3, 0.9])
    np.testing.assert_array_equal(scores.gl[16].value, [0, 0.4, 0.98])
    assert scores.gl[8].low[1] == Share(60, 100).low


def test_the_figure_shows_them(files, tmp_path):
    results = collect_scores(files, data='CIFAR-10', kimg=50, threshold=None)
    figure, caption = draw_regimes(results)
    drawn = {line.get_label(): line for axes in figure.axes for line in axes.lines}
    np.testing.assert_array_equal(drawn['UNet-8 vs UNet-16'].get_ydata(), [0.8, 0.3, 0.9])
    assert '50 kimg' in caption
    out = tmp_path / 'out.png'
    run(plot.main, 'regimes', '--scores', *files, '--data', 'CIFAR-10', '--out', out)
    assert out.stat().st_size > 10000


def test_gl_scores_alone_are_drawn_without_a_warning(files):
    alone = [path for path in files if 'rp-' not in path]
    figure, _ = draw_regimes(collect_scores(alone, data='CIFAR-10', kimg=None, threshold=None))
    assert sum(axes.get_legend() is not None for axes in figure.axes) == 1


def test_what_sscd_py_writes_is_taken(tmp_path):
    angles = np.radians([[0, 10], [0, 80], [0, 40]])
    for name, row in zip('abt', angles, strict=True):
        np.savez(tmp_path / f'{name}.npz', features=np.float32([np.cos(row), np.sin(row)]).T)
    npz, out = ({name: tmp_path / f'{name}{suffix}' for name in ('a', 'b', 't', 'ab')}
                for suffix in ('.npz', '.json'))
    for name, width in (('a', 8), ('b', 16)):
        run(sscd.main, 'mscore', '--source', npz[name], '--target', npz['t'], '--t', '0.9', '--width', width,
            '--json', out[name])
    run(sscd.main, 'rpscore', '--source', npz['a'], '--target', npz['b'], '--t', '0.9', '--size', 2,
        '--width', 8, 16, '--json', out['ab'])
    results = collect_scores([str(out[name]) for name in ('a', 'b', 'ab')], data='x', kimg=1, threshold=0.9)
    assert results.sizes == [2]  # mscore's is the number of training images
    scores = results.scores[0.9]
    assert (scores.rp[16, 8].value, scores.gl[8].value, scores.gl[16].value) == ([0.5], [0], [0.5])


def test_one_of_several_thresholds_must_be_named(files, tmp_path):
    more = [gl(tmp_path, f'x{size}-{width}.json', size=size, widths=[width], threshold=0.5)
            for size, width in GL]
    more += [write(tmp_path, f'y{size}.json', 'rp_score', count, size=size, widths=[8, 16], threshold=0.5)
             for size, count in RP.items()]
    with pytest.raises(UserError, match=r'thresholds 0\.5, 0\.6'):
        collect_scores(files + more, data='x', kimg=None, threshold=None)
    with pytest.raises(UserError, match=r'--threshold 0\.7: the scores are at 0\.5, 0\.6'):
        collect_scores(files + more, data='x', kimg=None, threshold=0.7)
    results = collect_scores(files + more, data='x', kimg=None, threshold=0.5)
    assert results.thresholds == [0.5, 0.6]


BAD = {
    'a missing size': (lambda files, tmp: files[1:], 'width 8 at the threshold 0.6 is missing for N = 4'),
    'a missing width': (lambda files, tmp: [f for f in files if '16.json' not in f or 'rp' in f], 'width 16'),
    'the same twice': (lambda files, tmp: [*files, gl(tmp, 'again.json')], 'again.json are the same score'),
    'another kind': (lambda files, tmp: [*files, gl(tmp, 'x.json', descriptor='pixel')], '`descriptor`'),
    'other samples': (lambda files, tmp: [*files, gl(tmp, 'x.json', total=7)], '`total`'),
    'no size': (lambda files, tmp: [gl(tmp, 'new-scores.json', size=None)], 'found [] and [8]'),
    'no width': (lambda files, tmp: [gl(tmp, 'n4.json', widths=None)], 'gl-n1024-w64.json'),
    'two widths': (lambda files, tmp: [gl(tmp, 'x.json', widths=[8, 16])], 'one width'),
    'equal widths': (lambda files, tmp: [write(tmp, 'n4-w8-w8.json', 'rp_score', 1)], 'two different widths'),
    'no score': (lambda files, tmp: [write(tmp, 'x.json', 'mae_score', 1)], 'neither rp_score nor'),
}


@pytest.mark.parametrize('kind', BAD)
def test_files_that_make_no_figure_are_refused(files, tmp_path, kind):
    make, says = BAD[kind]
    refuse(plot.main, 'regimes', '--out', tmp_path / 'o.png', '--scores', *make(files, tmp_path), status=1,
           says=('--scores', says))
    assert not (tmp_path / 'o.png').exists()


def test_either_results_or_scores_are_needed(files, tmp_path):
    for options in ((), ('--results', files[0], '--scores', files[0])):
        refuse(plot.main, 'regimes', '--out', tmp_path / 'o.png', *options, status=2,
               says=('--results or --scores',))
