"""The parity report runs through: each group of golden cases gives rows of small differences."""

import sys

import pytest

from helpers import ROOT

sys.path.append(str(ROOT / 'tests' / 'benchmarks'))
import parity


@pytest.mark.parametrize('group', parity.GROUPS, ids=lambda group: group.__name__)
def test_every_group_is_near_the_reference(group, monkeypatch):
    # What the report puts in the way of the loop is taken back after the test.
    for module, name in ((parity.loop, 'build'), (parity.saving, 'save_snapshot')):
        monkeypatch.setattr(module, name, getattr(module, name))
    rows = list(group())
    assert rows
    for what, how, value in rows:
        assert value == 0 if how == 'bits' else value < 1e-4, (what, value)
