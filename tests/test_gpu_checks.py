"""The checks that `make gpu` makes hold on the CPU: they run through, and each is near the reference."""

import sys

import pytest
import torch

from helpers import ROOT

sys.path.append(str(ROOT / 'tests' / 'benchmarks'))
import gpu_checks
from measure import Row
from table import summary


@pytest.mark.parametrize('checks', [gpu_checks.samplers, gpu_checks.closed_forms, gpu_checks.losses])
def test_every_check_holds_on_the_cpu(checks):
    rows = list(checks(torch.device('cpu')))
    assert rows
    assert all(row.reached for row in rows), rows


def test_training_on_the_cpu_is_that_on_the_cpu():
    assert gpu_checks.training(torch.device('cpu'), 'fp32', steps=2).ours == 0


def test_the_table_says_which_targets_are_missed():
    rows = [Row(what=what, ours=1.5, unit='s', must='< 1', reached=reached)
            for what, reached in (('a', True), ('long', False), ('c', None))]
    assert summary({'x': rows}).splitlines() == [
        'x  a     1.5 s    < 1  met', 'x  long  1.5 s    < 1  MISSED', 'x  c     1.5 s    < 1',
        '1 targets met, 1 missed, 1 rows without one']
