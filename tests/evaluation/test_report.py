"""The report page: everything in one file, and honest about what is not there yet."""

import json
import re

import numpy as np
import pytest
from PIL import Image

import reproduce
from evaluation import report
from helpers import refuse, run

SCORE = {'size': 2, 'value': 0.5, 'low': 0.4, 'high': 0.6}


@pytest.fixture
def experiment(tmp_path):
    """An experiment of three stages: finished, begun, waiting."""
    folder = tmp_path / 'evaluation' / 'mini'
    report.write_plan(folder, {'name': 'mini', 'sizes': [2], 'note': '<b>&'},
                      {name: f'python edm/{name}.py' for name in ('train', 'generate', 'plot')})
    (folder / 'stages').mkdir()
    (folder / 'stages' / 'train.json').write_text(json.dumps({'key': 'x', 'seconds': 12.5}))
    (folder / 'stages' / 'train.log').touch()
    (folder / 'stages' / 'generate.log').touch()
    return folder


def test_a_page_of_an_experiment_under_way_tells_how_far_it_is(experiment):
    printed = run(reproduce.main, 'report', experiment).stdout
    page = (experiment.parents[1] / 'figures' / 'mini' / 'report.html').read_text()
    assert 'report.html' in printed
    assert '1 of 3 stages are finished' in page
    rows = re.findall(r'<tr><td>(\w+)</td><td>(\w*)</td><td>([\d.]*)</td></tr>', page)
    assert rows[-4:] == [('train', 'finished', '12.5'), ('generate', 'begun', ''), ('plot', 'waiting', ''),
                         ('together', '', '12.5')]
    assert '&lt;b&gt;&amp;' in page
    assert '<b>' not in page


def test_a_page_of_a_finished_experiment_holds_scores_and_images_and_no_links(experiment):
    figures = experiment.parents[1] / 'figures' / 'mini'
    (figures / 'examples').mkdir(parents=True)
    for name in ('regimes.png', 'examples/a.png', 'examples/b.png'):
        Image.fromarray(np.zeros((8, 8), np.uint8)).save(figures / name)
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


def test_a_folder_that_is_no_experiment_is_refused(tmp_path):
    refuse(reproduce.main, 'report', tmp_path, status=1, says=(str(tmp_path), 'experiment.json'))
    refuse(reproduce.main, 'report', tmp_path / 'missing', status=2, says=('missing',))
