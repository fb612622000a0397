"""The score table: rows come back, equal keys replace, other files are refused by line, and writers wait."""

import csv
import subprocess
import sys

import pytest

from helpers import ROOT
from scores.copy_scores import Share
from scores.score_table import (
    COLUMNS,
    REFERENCES,
    SCORES,
    Row,
    Score,
    add_rows,
    format_table,
    read_table,
)
from torch_utils.errors import UserError


def row(count=3, total=10, **changes):
    more = {'threshold': 0.97, 'score': 'rp', 'models': ('16', '8'), 'size': 64, 'descriptor': 'pixel'}
    return Row(count, total, **more | changes)


ROWS = [row(), row(size=4), row(threshold=0.95), row(score='gl', models=('8',)),
        row(score='gl', models=('16',)), row(score='heldout_gl', models=()),
        row(score='optimal_rp', models=('16',)), row(descriptor='sscd'),
        row(models=('DDPM', 'U-ViT'), size=None),
        row(score='mae', threshold=15.0, models=('DDPM', 'U-ViT'), size=None, descriptor='')]


def test_rows_come_back(tmp_path):
    add_rows(tmp_path / 't.csv', ROWS)
    assert {r.key: r for r in read_table(tmp_path / 't.csv')} == {r.key: r for r in ROWS}
    assert [path.name for path in tmp_path.iterdir()] == ['t.csv']


def test_the_columns_are_plain_numbers_and_text(tmp_path):
    add_rows(tmp_path / 't.csv', [row()])
    with open(tmp_path / 't.csv') as file:
        (line,) = csv.DictReader(file)
    share = Share(3, 10)
    assert line == {'threshold': '0.97', 'score': 'rp', 'models': '16-8', 'size': '64', 'value': '0.3',
                    'low': repr(share.low), 'high': repr(share.high), 'count': '3', 'total': '10',
                    'descriptor': 'pixel'}


NO_SHARE = {'score': 'distance', 'models': ('16',), 'size': 64, 'descriptor': 'pixel'}


@pytest.fixture
def distance(monkeypatch):
    monkeypatch.setitem(SCORES, 'distance', Score(label='D', models=1, is_share=False, thresholded=False))


@pytest.mark.usefixtures('distance')
def test_a_score_that_is_no_share_has_a_value_and_its_interval_alone(tmp_path):
    one = Row(value=12.5, low=-1, high=14, **NO_SHARE)
    add_rows(tmp_path / 't.csv', [one, row(), Row(value=3.5, **NO_SHARE | {'size': None})])
    assert (tmp_path / 't.csv').read_text().splitlines()[2:] == [
        ',distance,16,,3.5,,,,,pixel', ',distance,16,64,12.5,-1,14,,,pixel']
    assert read_table(tmp_path / 't.csv')[2] == one
    for wrong in ('distance,16,64,12.5,-1,14,3,10,pixel', 'distance,16,64,12.5,14,-1,,,pixel',
                  'distance,16,64,nan,,,,,pixel', 'distance,16,64,1,inf,inf,,,pixel'):
        (tmp_path / 't.csv').write_text(f'{GOOD}\n,{wrong}\n')
        with pytest.raises(UserError, match='line 2'):
            read_table(tmp_path / 't.csv')


@pytest.mark.usefixtures('distance')
def test_a_threshold_of_its_own_does_not_make_another_score(tmp_path):
    for threshold in (0.5, 0.7):
        add_rows(tmp_path / 't.csv', [Row(value=threshold, threshold=threshold, **NO_SHARE)])
    assert [each.threshold for each in read_table(tmp_path / 't.csv')] == [0.7]


def test_the_same_score_again_replaces_its_row(tmp_path):
    add_rows(tmp_path / 't.csv', ROWS)
    add_rows(tmp_path / 't.csv', [row(count=9)])
    found = {r.key: r for r in read_table(tmp_path / 't.csv')}
    assert found[ROWS[0].key].count == 9
    assert len(found) == len(ROWS)


def test_equal_scores_are_equal_files_in_whatever_order_they_come(tmp_path):
    add_rows(tmp_path / 'a.csv', ROWS)
    for one in ROWS[::-1]:
        add_rows(tmp_path / 'b.csv', [one])
    assert (tmp_path / 'a.csv').read_bytes() == (tmp_path / 'b.csv').read_bytes()
    assert [r.models for r in read_table(tmp_path / 'a.csv') if r.score == 'gl'] == [('16',), ('8',)]


def test_processes_that_add_at_the_same_time_lose_nothing(tmp_path):
    code = ('import sys; sys.path.insert(0, sys.argv[1])\n'
            'from scores.score_table import Row, add_rows\n'
            'for size in range(1, 9):\n'
            '    add_rows(sys.argv[2], [Row(1, 2, threshold=0.5, score="gl", size=size,\n'
            '                                  models=(sys.argv[3],), descriptor="")])\n')
    calls = [subprocess.Popen([sys.executable, '-c', code, ROOT / 'edm', tmp_path / 't.csv', f'{width}'],
                              stderr=subprocess.PIPE) for width in (1, 2)]
    for call in calls:
        assert call.wait() == 0, call.communicate()
        call.stderr.close()
    assert len(read_table(tmp_path / 't.csv')) == 16


def line(**changes):
    cells = dict(zip(COLUMNS, map(str, row().cells()), strict=True)) | changes
    return ','.join(cells.values())


GOOD = ','.join(COLUMNS)
BAD = {
    'another file': ('a,b\n1,2', 'expected the columns threshold,score'),
    'nothing': ('', 'expected the columns'),
    'no rows': (GOOD, 'holds no scores'),
    'too few cells': (f'{GOOD}\n0.9,rp', 'line 2: 2 cells, expected 10'),
    'an unknown score': (f'{GOOD}\n{line(score="fid")}', "line 2: score is 'fid', expected a kind"),
    'one model': (f'{GOOD}\n{line(models="16")}', "models is '16', expected 2"),
    'three models': (f'{GOOD}\n{line(models="16-8-4")}', "models is '16-8-4'"),
    'no threshold': (f'{GOOD}\n{line(threshold="nan")}', "threshold is 'nan', expected a number from -1"),
    'a huge size': (f'{GOOD}\n{line(size="9" * 5000)}', 'line 2: size is'),
    'a huge count': (f'{GOOD}\n{line(count="9" * 30)}', 'count is'),
    'a fraction': (f'{GOOD}\n{line(size="6.5")}', "size is '6.5', expected an integer from 1"),
    'above 1': (f'{GOOD}\n{line(value="1.5")}', "value is '1.5'"),
    'more than all': (f'{GOOD}\n{line(count="11")}', "count is '11', expected an integer from 0 to 10"),
    'an edited value': (f'{GOOD}\n{line(value="0.31")}', 'value is 0.31, expected 0.3 for 3 of 10'),
    'an edited interval': (f'{GOOD}\n{line(low="0.29")}', 'Wilson'),
    'one score twice': (f'{GOOD}\n{line()}\n{line()}', 'two rows have'),
    'bytes': ('\xff\x00'.encode('latin-1'), 'not a CSV file'),
    'NUL': (f'{GOOD}\n{line(models="a vs b" + chr(0))}', 'line 2'),
}


@pytest.mark.parametrize('kind', BAD)
def test_other_files_are_refused_by_line_and_left_alone(tmp_path, kind):
    content, says = BAD[kind]
    content = content if isinstance(content, bytes) else content.encode()
    (tmp_path / 't.csv').write_bytes(content)
    for call in (lambda: read_table(tmp_path / 't.csv'), lambda: add_rows(tmp_path / 't.csv', [row()])):
        with pytest.raises(UserError) as err:
            call()
        assert str(err.value).startswith(f'--table {tmp_path / "t.csv"}: ')
        assert says in str(err.value)
        assert '\n' not in str(err.value)
    assert (tmp_path / 't.csv').read_bytes() == content


def test_the_text_shows_rp_and_gl_over_n():
    lines = format_table([*ROWS, row(score='gl', models=('16',), size=4, count=5)]).splitlines()
    assert lines[0].split('  ') == [' N', 'RP 16-8 >0.97', 'GL 16 >0.97', 'GL 8 >0.97', 'RP 16-8 >0.95']
    assert [text.split()[0] for text in lines] == ['N', '4', '64']
    assert '0.50' in lines[1]


def test_every_kind_says_what_figures_and_commands_need():
    for name, kind in SCORES.items():
        assert kind.label
        assert bool(kind.command) == bool(kind.help)
        assert bool(kind.printed) == bool(kind.key)
        assert kind.printed or not kind.command
        assert kind.says or not kind.printed
        assert kind.control in {*SCORES, ''}, name
        if kind.command:
            references = {f'{reference}_{name}' for reference in REFERENCES}
            assert references & {*SCORES} in (references, set())
