"""Files of numbers that anybody may have edited: figures are drawn, or one line names the file."""

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from figures.training_curves import load_curves
from scores.recovery import load_points
from scores.score_table import COLUMNS, Row, add_rows, read_table
from torch_utils.errors import UserError

VALUES = ['0', '-1', '1e999', '-1e999', 'NaN', 'Infinity', '1' * 400, '1' * 5000, '1.5', 'true', '2e300',
          'null', '""', '"\\u001b[31m"', '"\\ud800"', '[]', '{}', '[' * 900 + ']' * 900,
          '[' * 100_000, '', '"\xff',
          f'"{"x" * 9999}"']
SETTINGS = {'img_res': 2, 'class_num': 1, 'trials': 1, 'restarts': 1, 'steps': 1, 'batch': 1}
POINTS = {'settings': SETTINGS, 'points': [{'per_class_dim': 1, 'samples': 1, 'errors': [[0.5]]}]}
TICK = {name: {'mean': 1} for name in ('Progress/kimg', 'Loss/loss', 'Progress/lr', 'Timing/sec_per_kimg')}


def places(value, path=()):
    """The paths to everything in a JSON value."""
    yield path
    for key in value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
        yield from places(value[key], (*path, key))


def edited(content, path, text):
    """The JSON text of `content` with `text` in place of what `path` leads to."""
    def put(value, path):
        if not path:
            return '@'
        copy = dict(value) if isinstance(value, dict) else list(value)
        copy[path[0]] = put(value[path[0]], path[1:])
        return copy
    return json.dumps(put(content, path)).replace('"@"', text)


def check(read, path, text):
    path.write_text(text, encoding='utf-8', errors='surrogatepass')
    said = ''
    try:
        read()
    except UserError as err:
        said = str(err)
    assert not said or str(path.parent) in said
    assert said.isprintable()
    assert len(said) < 500


@pytest.mark.parametrize(('content', 'name', 'read'), [
    (POINTS, 'points.json', lambda path: load_points([path])),
    (TICK, 'stats.jsonl', lambda path: load_curves(path.parent))])
def test_any_json_value_is_read_or_refused_in_one_line(content, name, read, tmp_path):
    @settings(max_examples=150, derandomize=True, deadline=None, database=None,
              suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(st.sampled_from(list(places(content))), st.sampled_from(VALUES))
    def each(place, value):
        check(lambda: read(tmp_path / name), tmp_path / name, edited(content, place, value) + '\n')
    each()


def test_any_cell_is_read_or_refused_in_one_line(tmp_path):
    row = Row(3, 10, threshold=0.97, score='rp', models=('16', '8'), size=64, descriptor='pixel')
    cells = [str(cell) for cell in row.cells()]

    @settings(max_examples=150, derandomize=True, deadline=None, database=None,
              suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(st.integers(0, len(cells) - 1), st.sampled_from([*VALUES, 'a,b', '"', '\x00', '\x1b[31m', '1_0']))
    def each(i, value):
        text = ','.join([*cells[:i], value, *cells[i + 1:]])
        check(lambda: read_table(tmp_path / 't.csv'), tmp_path / 't.csv', f'{",".join(COLUMNS)}\n{text}\n')
    each()
    (tmp_path / 't.csv').unlink()
    add_rows(tmp_path / 't.csv', [row])
    assert read_table(tmp_path / 't.csv') == [row]
