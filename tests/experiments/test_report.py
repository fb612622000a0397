"""The report page: everything in one file, and honest about what is not there yet."""

import base64
import io
import json
import re
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import reproduce
from experiments import report, report_tables
from experiments.phase_transition import Transition
from experiments.stages import Stage
from helpers import refuse, run
from jacobians.rank_file import new_ranks, save_ranks
from scores.recovery import Point, save_points
from torch_utils.files import locked

SCORE = {'size': 2, 'value': 0.5, 'low': 0.4, 'high': 0.6}


@dataclass(frozen=True)
class Settings:
    name: str = 'mini'
    note: str = '<b>&'


FIGURE = Path('figures', 'mini', 'regimes.png')
STAGES = [Stage(name=name, command=(f'{name}.py',), outputs=outputs) for name, outputs in (
    ('train', ()), ('generate', ()), ('sscd', ()), ('figure-regimes-png', (FIGURE,)))]


@pytest.fixture
def experiment(tmp_path):
    """An experiment of four stages: finished, running, failed, waiting."""
    folder = tmp_path / 'evaluation' / 'mini'
    report.write_plan(folder, Settings(), STAGES)
    (folder / 'stages').mkdir()
    record(folder, 'train', state='finished', seconds=12.5)
    record(folder, 'generate', state='running', seconds=30, begun=time.time() - 3570)
    record(folder, 'sscd', state='failed', seconds=0.5)
    (folder / 'stages' / 'sscd.log').write_text('begun\nno <network>\n')
    figure = tmp_path / FIGURE
    figure.parent.mkdir(parents=True)
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(figure)  # of an earlier run
    return folder


def record(folder, name, **values):
    values = {'command': f'OMP_NUM_THREADS=9 python ../{name}.py', 'outputs': {}} | values
    (folder / 'stages' / f'{name}.json').write_text(json.dumps(values))


def page_of(folder):
    run(reproduce.main, 'report', folder)
    return (folder.parents[1] / 'figures' / 'mini' / 'report.html').read_text()


def test_a_page_of_an_experiment_under_way_tells_how_far_it_is(experiment):
    with locked(experiment, 'running stages of'):
        page = page_of(experiment)
    assert '1 of 4 stages are finished; 60 min were spent' in page
    assert 'Under way: generate (60 min)' in page
    assert 'sscd failed: no &lt;network&gt;' in page
    rows = re.findall(r'<tr><td>([\w-]+)</td><td>(\w*)</td><td>([\w. ]*)</td></tr>', page)
    assert rows[-5:] == [('train', 'finished', '12.5 s'), ('generate', 'running', '60 min'),
                         ('sscd', 'failed', '0.5 s'), ('figure-regimes-png', 'waiting', ''),
                         ('together', '', '60 min')]
    assert '&lt;b&gt;&amp;' in page
    assert '<b>' not in page
    assert 'data:image' not in page  # the figure that is there is of an earlier run


def test_before_scores_are_collected_the_first_samples_of_finished_stages_are_shown(experiment):
    samples = [Path('evaluation', 'mini', 'samples', name) for name in ('n00002-w8', 'n00002-w4')]
    report.write_plan(experiment, Settings(), [
        Stage(name=stage.name, command=stage.command, outputs=(folder,))
        for stage, folder in zip(STAGES[:2], samples, strict=True)])
    for folder in samples:
        (experiment.parents[1] / folder).mkdir(parents=True)
        for i in range(10):
            Image.fromarray(np.full((2, 2), i, np.uint8)).save(experiment.parents[1] / folder / f'{i}.png')
    page = page_of(experiment)
    assert '<td>n00002-w8</td>' in page
    assert 'n00002-w4</td>' not in page  # whose stage is not finished
    shown = [np.asarray(Image.open(io.BytesIO(base64.b64decode(data))))[0, 0]
             for data in re.findall(r'src="data:image/png;base64,([^"]*)"', page)]
    assert shown == list(range(8))


def test_a_stage_whose_runner_was_killed_is_not_under_way(experiment):
    page = page_of(experiment)
    assert '<td>generate</td><td>stopped</td><td>30.0 s</td>' in page
    assert 'Under way' not in page


def test_a_page_of_a_finished_experiment_holds_scores_and_images_and_no_links(experiment):
    figures = experiment.parents[1] / 'figures' / 'mini'
    (figures / 'examples').mkdir(parents=True)
    for name in ('examples/a.png', 'examples/b.png'):
        Image.fromarray(np.zeros((8, 8), np.uint8)).save(figures / name)
    for stage in STAGES:
        record(experiment, stage.name, state='finished', seconds=1)
    (figures / 'regimes.json').write_text(json.dumps({
        'sizes': [2], 'scores': {'0.97': {'rp': {'16-8': [SCORE]}, 'heldout_gl': [SCORE]}},
        'examples': {'columns': [{'size': 2, 'samples': ['examples/a.png'], 'nearest': ['examples/b.png']}]},
        'record': {'torch': '2.13.0'}}))
    run(reproduce.main, 'report', experiment, '--out', experiment / 'page.html')
    page = (experiment / 'page.html').read_text()
    assert page.count('data:image/png;base64,') == 3
    assert '0.500 (0.400 to 0.600)' in page
    assert '2.13.0' in page
    assert not re.search(r'(src|href)="(?!data:)', page)


def test_the_folder_may_be_named_from_anywhere(experiment, monkeypatch):
    for stage in STAGES:
        record(experiment, stage.name, state='finished', seconds=1)
    page = experiment.parents[1] / 'figures' / 'mini' / 'report.html'
    for place, name in ((experiment.parent, 'mini'), (experiment, '.'), (experiment / 'stages', '..')):
        monkeypatch.chdir(place)
        run(reproduce.main, 'report', name)
        text = page.read_text()
        page.unlink()
        assert text.count('data:image/png;base64,') == 1
        assert '<h1>Experiment mini</h1>' in text


@pytest.mark.parametrize('damage', ['', '{"command": ', '[]'])
def test_a_damaged_plan_is_written_anew(damage, experiment):
    whole = (experiment / 'experiment.json').read_text()
    (experiment / 'experiment.json').write_text(damage)
    refuse(reproduce.main, 'report', experiment, status=1, says=('experiment.json',))
    report.write_plan(experiment, Settings(), STAGES)
    assert (experiment / 'experiment.json').read_text() == whole


def test_ranks_and_the_phase_transition_become_tables(tmp_path):
    ranks = new_ranks(range(4), [10, 0.5], dim=8, eta=0.99, settings={}, spectrum=False)
    ranks.rank = np.array([[8, 2], [8, 4], [8, 2], [8, -1]])
    save_ranks(tmp_path / 'ranks-0.npz', ranks, {})
    job = Transition(dims=(2,), ratios=(1, 2), trials=2, restarts=1, steps=1)
    save_points(tmp_path / 'transition-d2.json', asdict(job), [
        Point(per_class_dim=2, samples=4, errors=np.array([[0.05, 0.05], [0.3, 0.4]]))])
    by_rank, transition = report_tables.result_tables(
        sorted(tmp_path.iterdir()), ['plot.py', '--ranks', f'{tmp_path}/ranks-0.npz=Digits, 8x8'])
    assert 'Digits, 8x8, 4 noises' in by_rank.title
    assert by_rank.rows[0] == ['0.1', '1.000 (1.000 to 1.000)', '1.000 to 1.000']
    # Mean 1/3, standard deviation sqrt(3)/12 of 3: t(0.975, 2) = 4.303 times 1/12 on either side, in 0..1.
    assert by_rank.rows[1] == ['2', '0.333 (0.000 to 0.692)', '0.250 to 0.500']
    assert transition.rows == [['2', '4', '2.00', '0.500 (0.095 to 0.905)', '0.202']]


def test_a_damaged_file_of_ranks_leaves_a_line_in_its_table_s_place(tmp_path):
    (tmp_path / 'ranks-0.npz').write_text('cut')
    (table,) = report_tables.result_tables([tmp_path / 'ranks-0.npz'], ['"'])
    assert 'ranks-0.npz' in table.title
    assert not table.rows


def test_what_another_command_left_is_not_shown_as_this_plan_s(experiment):
    record(experiment, 'train', state='finished', seconds=12.5, command='python train.py --lr=1')
    record(experiment, 'sscd', state='finished', seconds=0.5)
    assert '1 of 4 stages are finished' in page_of(experiment)
    plan = json.loads((experiment / 'experiment.json').read_text())
    plan['stages']['sscd']['needs'] = ['train']
    (experiment / 'experiment.json').write_text(json.dumps(plan))
    assert '0 of 4 stages are finished' in page_of(experiment)


def test_damaged_scores_are_left_out(experiment):
    for name in ('train', 'generate', 'sscd'):
        record(experiment, name, state='finished', seconds=1)
    (experiment.parents[1] / 'figures' / 'mini' / 'regimes.json').write_text('{cut')
    assert 'Similarity' not in page_of(experiment)


def test_a_folder_that_is_no_experiment_is_refused(tmp_path):
    refuse(reproduce.main, 'report', tmp_path, status=1, says=(str(tmp_path), 'experiment.json'))
    refuse(reproduce.main, 'report', tmp_path / 'missing', status=2, says=('missing',))
