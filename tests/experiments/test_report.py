"""The report page: everything in one file, and honest about what is not there yet."""

import base64
import io
import json
import os
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import reproduce
from experiments import report
from experiments.stages import Stage, done_markers
from helpers import refuse, run
from torch_utils.files import locked


@dataclass(frozen=True)
class Settings:
    name: str = 'mini'
    note: str = '<b>&'


FIGURES = Path('figures', 'mini')
STAGES = [Stage(name=name, command=(f'{name}.py',), outputs=outputs) for name, outputs in (
    ('train', ()), ('generate', (Path('evaluation', 'mini', 'samples'),)), ('sscd', ()),
    ('figure', (FIGURES / 'regimes.png',)))]


@pytest.fixture
def experiment(tmp_path, monkeypatch):
    """An experiment of four stages: finished, begun, begun, waiting."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / 'evaluation' / 'mini'
    (folder / 'stages').mkdir(parents=True)
    report.write_plan(folder, Settings(), STAGES)
    mark(folder, 'train', 'begun', 'done')
    mark(folder, 'generate', 'begun')
    mark(folder, 'sscd', 'begun')
    (folder / 'stages' / 'sscd.log').write_text('begun\nno <network>\n')
    (folder / 'samples').mkdir()
    for i in range(10):
        Image.fromarray(np.full((2, 2), i, np.uint8)).save(folder / 'samples' / f'{i}.png')
    FIGURES.mkdir(parents=True)
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(FIGURES / 'regimes.png')  # of an earlier run
    (FIGURES / 'regimes.csv').write_text('score,value\nrp,0.25\n')
    return folder


def mark(folder, name, *kinds):
    done = done_markers(STAGES, folder / 'stages')[name]
    for i, kind in enumerate(kinds):
        done.with_suffix(f'.{kind}').touch()
        os.utime(done.with_suffix(f'.{kind}'), (1000 + 12.5 * i, 1000 + 12.5 * i))


def page_of(folder):
    run(reproduce.main, 'report', folder)
    return (folder.parents[1] / FIGURES / 'report.html').read_text()


def pixels(page):
    return [np.asarray(Image.open(io.BytesIO(base64.b64decode(data))))[0, 0]
            for data in re.findall(r'src="data:image/png;base64,([^"]*)"', page)]


def test_a_page_of_an_experiment_under_way_tells_how_far_it_is(experiment):
    page = page_of(experiment)
    assert '1 of 4 stages are finished. Page' in page
    with locked(experiment, 'running stages of'):
        assert '1 of 4 stages are finished; the others are being run' in page_of(experiment)
    rows = re.findall(r'<tr><td>([\w-]+)</td><td>(finished|begun|waiting)</td>(.*?)</tr>', page)
    start, log = '<td>1970-01-01 00:16:40 UTC</td>', experiment / 'stages' / 'sscd.log'
    assert rows == [('train', 'finished', f'{start}<td>12.5 s</td><td></td>'),
                    ('generate', 'begun', f'{start}<td></td><td></td>'),
                    ('sscd', 'begun', f'{start}<td></td><td>{log}</td>'),
                    ('figure', 'waiting', '<td></td><td></td><td></td>')]
    assert '&lt;b&gt;&amp;' in page
    assert '<b>' not in page
    assert 'First samples' not in page
    assert not pixels(page)  # the figure and the samples that are there are of an earlier run
    assert '0.25' not in page


def test_a_page_of_a_finished_experiment_holds_pictures_tables_and_samples_and_no_links(experiment):
    for stage in STAGES:
        mark(experiment, stage.name, 'begun', 'done')
    run(reproduce.main, 'report', experiment, '--out', experiment / 'page.html')
    page = (experiment / 'page.html').read_text()
    assert pixels(page) == [0, *range(8)]
    assert '<tr><th>score</th><th>value</th></tr>\n<tr><td>rp</td><td>0.25</td></tr>' in page
    assert not re.search(r'(src|href)="(?!data:)', page)


def test_the_folder_may_be_named_from_anywhere(experiment, monkeypatch):
    mark(experiment, 'figure', 'begun', 'done')
    page = experiment.parents[1] / FIGURES / 'report.html'
    for place, name in ((experiment.parent, 'mini'), (experiment, '.'), (experiment / 'stages', '..')):
        monkeypatch.chdir(place)
        run(reproduce.main, 'report', name)
        text = page.read_text()
        page.unlink()
        assert len(pixels(text)) == 1
        assert '<h1>Experiment mini</h1>' in text


@pytest.mark.parametrize('damage', ['', '{"command": ', '[]', '{"stages": ' + 3000 * '['])
def test_a_damaged_plan_is_refused_and_replaced(damage, experiment):
    whole = (experiment / 'experiment.json').read_text()
    (experiment / 'experiment.json').write_text(damage)
    refuse(reproduce.main, 'report', experiment, status=1, says=('experiment.json',))
    report.write_plan(experiment, Settings(), STAGES)
    assert (experiment / 'experiment.json').read_text() == whole


@pytest.mark.parametrize(('key', 'value'), [
    ('outputs', 5), ('outputs', [5]), ('outputs', None), ('command', 5), ('command', []), ('done', 5),
    ('done', '../../x.done'), ('done', ''), ('stages', []), ('stages', {'../x': {}}),
    ('stages', {'a': 5}), ('settings', []), ('settings', None)])
def test_an_edited_plan_is_refused_in_one_line(key, value, experiment):
    plan = json.loads((experiment / 'experiment.json').read_text())
    for place in [plan] if key in ('stages', 'settings') else plan['stages'].values():
        place[key] = value
    (experiment / 'experiment.json').write_text(json.dumps(plan))
    refuse(reproduce.main, 'report', experiment, status=1, says=('experiment.json',))
    assert not (FIGURES / 'report.html').exists()


@pytest.mark.parametrize('path', [
    '/etc/passwd', '../../../../../../etc/passwd', 'figures/mini/../../secret.csv', 'secret.csv',
    'secret.png', 'figures/mini/link.csv', 'figures/mini/loop.png', 'figures/other/secret.csv',
    'figures/mini/\0.csv', 'figures/mini/' + 5000 * 'a' + '.csv'])
def test_nothing_from_outside_the_experiment_comes_into_the_page(path, experiment):
    base = experiment.parents[1]
    (base / 'figures' / 'other').mkdir()
    for name in 'secret.csv', 'secret.png', 'figures/other/secret.csv':
        (base / name).write_text('root:x,0')
    os.symlink(base / 'secret.csv', FIGURES / 'link.csv')
    os.symlink('loop.png', FIGURES / 'loop.png')
    plan = json.loads((experiment / 'experiment.json').read_text())
    for stage in plan['stages'].values():
        stage['outputs'] = [path]
    (experiment / 'experiment.json').write_text(json.dumps(plan))
    page = page_of(experiment)
    assert 'root:x' not in page
    assert base64.b64encode(b'root:x')[:8].decode() not in page


def test_damaged_files_leave_a_line_in_their_place(experiment):
    for stage in STAGES:
        mark(experiment, stage.name, 'begun', 'done')
    assert '<td>0.25</td>' in page_of(experiment)
    for damage in b'', b'\xff\xfe', b'a,' + 200_000 * b'b', b'a\0b\n"':
        (FIGURES / 'regimes.csv').write_bytes(damage)
        (FIGURES / 'regimes.png').write_bytes(damage)
        page = page_of(experiment)
        assert f'No picture: {experiment.parents[1] / FIGURES}/regimes.png' in page
        assert 'No table: ' in page or b'\0' in damage


def test_settings_of_any_kind_are_shown(experiment):
    plan = json.loads((experiment / 'experiment.json').read_text())
    plan['settings'] = {'a': 1e400, 'b': '\ud800', 'c': {'d': [None]}, '<e>': [1, '<f>']}
    (experiment / 'experiment.json').write_text(json.dumps(plan))
    assert '<td>&lt;e&gt;</td><td>1 &lt;f&gt;</td>' in page_of(experiment)


def test_a_folder_that_is_no_experiment_is_refused(tmp_path):
    refuse(reproduce.main, 'report', tmp_path, status=1, says=(str(tmp_path), 'experiment.json'))
    refuse(reproduce.main, 'report', tmp_path / 'missing', status=2, says=('missing',))
