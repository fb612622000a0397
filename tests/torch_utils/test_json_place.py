"""Values of JSON files that anybody may have edited: as expected, or one line that names the place."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from torch_utils.errors import UserError
from torch_utils.json_place import parse_json

NUMBERS = st.sampled_from([b'0', b'-1', b'1e999', b'-1e999', b'NaN', b'Infinity', b'1' * 400, b'1' * 5000,
                           b'1.5', b'true', b'9223372036854775808'])
OTHERS = st.sampled_from([b'null', b'""', b'"\\u001b[31m"', b'"\\ud800"', b'[]', b'{}', b'{"a": 1, "a": 2}',
                          b'[' * 900 + b']' * 900, b'[' * 100_000, b'', b'\xff', b'"' + b'x' * 9999 + b'"'])
METHODS = {'mapping': dict, 'items': list, 'text': str, 'number': (int, float), 'integer': int}


@pytest.mark.parametrize('method', METHODS)
def test_any_value_is_of_the_kind_asked_for_or_refused_in_one_line(method):
    @settings(max_examples=100, derandomize=True, deadline=None, database=None)
    @given(st.one_of(NUMBERS, OTHERS))
    def check(text):
        arguments = (-10,) if method == 'number' else ()
        try:
            place = parse_json(b'{"key": ' + text + b'}', '--results x.json').get('key')
            found = getattr(place, method)(*arguments)
        except UserError as err:
            found = None
            said = str(err)
        if found is None:
            assert said.startswith('--results x.json: ')
            assert '\n' not in said
            assert len(said) < 200
        else:
            assert isinstance(found, METHODS[method])
            assert method != 'number' or math.isfinite(float(found))

    check()


def test_a_key_that_is_missing_and_a_value_of_another_kind_are_named_by_their_path():
    place = parse_json(b'{"scores": {"0.97": [1, "x"]}}', '--results x.json')
    with pytest.raises(UserError, match=r'x\.json: scores/gl is missing'):
        place.get('scores').get('gl')
    with pytest.raises(UserError, match=r'scores/0\.97\[1\] must be a number from 0 to 1, found "x"'):
        place.get('scores').get('0.97').items()[1].number(0, 1)
