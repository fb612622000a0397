"""sscd.py fd, kid, prdc: what they print, keep and refuse."""

import json

import numpy as np
import pytest

import sscd
from helpers import refuse, run
from scores.frechet import frechet_distance, moments
from scores.kernel_distance import kernel_distance
from scores.manifold_scores import manifold_scores
from scores.score_table import read_table


@pytest.fixture
def sets(tmp_path):
    """Two files of raw features, and their arrays."""
    rng = np.random.default_rng(0)
    values = [(rng.standard_normal((40, 4)) + shift).astype(np.float32) for shift in (0, .5)]
    for name, rows in zip('ab', values, strict=True):
        np.savez(tmp_path / f'{name}.npz', features=rows)
    return (tmp_path / 'a.npz', tmp_path / 'b.npz'), values


def inputs(paths):
    return '--source', paths[0], '--target', paths[1]


def test_scores_are_printed_and_kept(sets, tmp_path):
    paths, (a, b) = sets
    own = manifold_scores(a, b, 3)
    expected = {'fd': frechet_distance(moments(a), moments(b)), 'kid': kernel_distance(a, b).value,
                'precision': own.precision.value, 'recall': own.recall.value, 'density': own.density.value,
                'coverage': own.coverage.value}
    table, printed, kept = tmp_path / 'scores.csv', '', {}
    for command, *more in (('fd',), ('kid', '--device=cpu'), ('prdc', '--device=cpu', '--k=3')):
        more += ['--json', tmp_path / 'score.json', '--table', table, '--names', 'EDM', '--size', 100]
        printed += run(sscd.main, command, *inputs(paths), *more).stdout
        kept |= json.loads((tmp_path / 'score.json').read_text())
    rows = {row.score: row for row in read_table(table)}
    assert rows.keys() == expected.keys()
    for name, value in expected.items():
        assert rows[name].value == kept[name]['value'] == value
        assert (rows[name].models, rows[name].size) == (('EDM',), 100)
    assert (kept['names'], kept['size'], kept['source']['path']) == (['EDM'], 100, str(paths[0]))
    assert f'FD =  {expected["fd"]}\n' in printed
    assert f'{own.recall.count} of 40 real images lie in the ball of a sample; 95 % interval' in printed
    assert rows['kid'].low < expected['kid'] < rows['kid'].high
    assert rows['fd'].low is None


def test_fd_from_published_statistics_is_that_of_the_features(sets, tmp_path):
    paths, (_, b) = sets
    np.savez(tmp_path / 'ref.npz', mu=b.mean(axis=0, dtype=float), sigma=np.cov(b.astype(float).T))
    found, expected = (float(run(sscd.main, 'fd', '--source', paths[0], '--target', target).stdout.split()[2])
                       for target in (tmp_path / 'ref.npz', paths[1]))
    assert found == pytest.approx(expected, rel=1e-12)


def test_features_of_unit_length_are_refused(sets, tmp_path):
    (path, _), (a, _) = sets
    np.savez(tmp_path / 'unit.npz', features=a, length='unit', descriptor='sscd')
    for command in ('fd', 'kid', 'prdc'):
        refuse(sscd.main, command, '--source', path, '--target', tmp_path / 'unit.npz', status=1,
               says=('unit.npz: descriptors of unit length (sscd)', 'raw descriptors, such as l2'))


def test_what_does_not_fit_is_refused(sets, tmp_path):
    (a, b), (values, _) = sets
    np.savez(tmp_path / 'few.npz', features=values[:3])
    np.savez(tmp_path / 'wide.npz', features=np.zeros((50, 5), np.float32))
    np.savez(tmp_path / 'nan.npz', features=np.full((50, 4), np.nan, np.float32))
    np.savez(tmp_path / 'ref.npz', mu=np.zeros(5), sigma=np.eye(5))
    for target, says in (('few', '3 rows of 4 numbers'), ('wide', 'rows of 4 and of 5'),
                         ('ref', 'rows of 4 and of 5'), ('nan', 'not finite')):
        refuse(sscd.main, 'fd', '--source', a, '--target', tmp_path / f'{target}.npz', status=1, says=(says,))
    refuse(sscd.main, 'prdc', *inputs((a, b)), '--k', 40, '--device=cpu', status=1, says=('--k 40',))
    refuse(sscd.main, 'kid', *inputs((a, b)), '--size', 3, status=2, says=('--size, --width and --names',))
    refuse(sscd.main, 'fd', *inputs((a, b)), '--table', tmp_path / 't.csv', status=2,
           says=('--table needs --width or --names',))
