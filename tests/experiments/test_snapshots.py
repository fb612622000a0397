"""reproduce.py regimes --snapshots: which snapshots are scored, with what, and their figure."""

from dataclasses import replace

import numpy as np
import pytest

import plot
import reproduce
from experiments import snapshots
from figures.snapshots_figure import draw_snapshots
from helpers import assert_fits, refuse, run
from scores import denoising_table
from scores.score_table import Row, add_rows

TIMES = [2.048, 4.096, 8.192]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_snapshots_that_training_leaves_are_scored_up_to_its_end():
    settings = {'batch_size': 64, 'kimg_per_tick': 2, 'total_kimg': 20, 'snapshot_ticks': 1}
    assert snapshots.snapshot_times(settings) == [2048, 4096, 6144, 8192, 12288, 16384, 20032]
    settings |= {'snapshot_ticks': 3, 'batch_size': 50}
    assert snapshots.snapshot_times(settings) == [6000, 12000, 18000, 20000]
    assert snapshots.snapshot_times(settings | {'snapshot_ticks': 1000}) == [20000]


def test_each_snapshot_is_sampled_and_scored_at_all_sizes(folder):
    job = replace(snapshots.QUICKSTART, sizes=(4, 8), kimg=5)
    stages = {stage.name: stage for stage in snapshots.plan(job, job.data)}
    trained = [name for name in stages if name.startswith('train-')]
    assert trained == [f'train-n0000{size}-{kind}' for size in (4, 8) for kind in ('w16', 'disjoint')]
    assert '--snap' in stages[trained[0]].command
    for name in 'generate-n00008-w16-k000002', 'generate-n00008-disjoint-k000005':
        *_, kind, time = name.split('-')
        command = stages[name].command
        network = command[command.index('--network') + 1]
        assert network == f'training/snapshots/n00008-{kind}/network-snapshot-{time[1:]}.pkl'
        assert stages[name].needs == (f'train-n00008-{kind}',)
    assert [name for name in stages if name.startswith('gl-')] == ['gl-000002', 'gl-000004', 'gl-000005']
    command = stages['rp-000005'].command
    assert command[command.index('--names') + 1] == '5.056 kimg'
    assert command[command.index('--reference') + 1] == 'disjoint'
    command = stages['denoising'].command
    assert 'training/snapshots/n00004-w16/network-snapshot-000004.pkl=4.096 kimg' in command
    assert command.count('datasets/snapshots/n00008.zip') == 3
    assert [*stages][-2:] == ['figure-png', 'figure-pdf']


def tables():
    share = {'descriptor': 'pixel', 'threshold': 0.97}
    rows = [Row(count, 64, score=score, models=(f'{time:g} kimg',), size=size, **share)
            for size, score, counts in ((8, 'gl', (64, 40, 0)), (16, 'gl', (64, 60, 20)),
                                        (64, 'gl', (64, 64, 64)), (16, 'disjoint_rp', (2, 30, 5)))
            for time, count in zip(TIMES, counts, strict=True)]
    errors = [denoising_table.Row(
        denoiser=f'{time:g} kimg', target='images', images=images, size=size, sigma=0.3, mse=mse / time,
        stderr=0.001, variance=1.0, share=0.1, count=64)
        for size in (8, 16, 64) for time in TIMES for images, mse in (('train', 0.1), ('heldout', 0.2))]
    return rows, errors


@pytest.mark.parametrize('width', [3.25, 6.75])
def test_the_figure_shows_the_courses_and_the_fit(width):
    figure, caption = draw_snapshots(*tables(), 'digits', width)
    assert_fits(figure)
    gl, rp, errors, times = figure.axes
    drawn = {line.get_label(): line for line in gl.lines}
    assert drawn['16'].get_xdata().tolist() == TIMES
    assert drawn['16'].get_ydata().tolist() == [1, 60 / 64, 20 / 64]
    assert len(rp.lines) == 1
    np.testing.assert_allclose(errors.lines[0].get_ydata(), 10 * np.log10(0.2 / np.array(TIMES)))
    assert 'mem' in times.get_legend().get_texts()[0].get_text()
    for words in 'digits', '64 noises', 'similarity > 0.97', 'sigma = 0.3', 'tau_mem = ':
        assert words in caption


def test_plot_draws_them_from_the_tables_and_refuses_others(folder):
    rows, errors = tables()
    add_rows('snapshots.csv', rows)
    denoising_table.write_rows(folder / 'denoising.csv', errors, {})
    args = ('snapshots', '--denoising', 'denoising.csv', '--table')
    run(plot.main, *args, 'snapshots.csv', '--out', 'o.png')
    assert (folder / 'o.png').is_file()
    add_rows('other.csv', [Row(1, 2, score='gl', models=('16',), size=4, threshold=0.6)])
    refuse(plot.main, *args, 'other.csv', '--out', 'x.png', status=1, says=('--table', 'along training'))


@pytest.mark.parametrize(('args', 'says'), [
    (('--preset=paper',), ('--snapshots and --preset=paper',)), (('--repeats=2',), ('--repeats',)),
    (('--thresholds=0.9,0.8',), ('--snapshots takes one of --thresholds',))])
def test_what_does_not_go_with_snapshots_is_refused(folder, args, says):
    refuse(reproduce.main, 'regimes', '--snapshots', *args, status=2, says=says)
    assert not list(folder.iterdir())
