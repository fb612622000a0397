"""The parity report runs through: each group of golden cases gives rows of small differences.

All but the training runs, which tests/training/test_loop.py repeats, more strictly.
"""

import sys

import pytest

from helpers import ROOT

sys.path.append(str(ROOT / 'tests' / 'benchmarks'))
import parity


@pytest.mark.parametrize('group', parity.GROUPS[:-1], ids=lambda group: group.__name__)
def test_every_group_is_near_the_reference(group):
    rows = list(group())
    assert rows
    for what, how, value in rows:
        assert value == 0 if how == 'bits' else value < 1e-4, (what, value)
