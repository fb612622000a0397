"""Processes that share out work: order, errors, and that none of them is left behind."""

import multiprocessing
import os
import subprocess
import sys
import time

import psutil
import pytest

from helpers import ROOT
from torch_utils.errors import UserError
from torch_utils.processes import map_in_processes, usable_cores

PARENT = """
from test_processes import sleepy
from torch_utils.processes import map_in_processes
if __name__ == '__main__':
    for item, pid in map_in_processes(sleepy, range(1000), 2):
        print(pid, flush=True)
"""


def sleepy(item):
    """The number of the process; a later item is done sooner."""
    time.sleep(0.02 * (3 - item % 4))
    return os.getpid()


def wait_for_three(folder):
    """Ends once three processes are in here."""
    (folder / str(os.getpid())).touch()
    for _ in range(3000):
        if len(list(folder.iterdir())) == 3:
            return os.getpid()
        time.sleep(0.01)


def fail_at_5(item):
    if item == 5:
        raise UserError('item 5')
    if item == 7:
        os._exit(1)
    return item * item


def test_results_come_in_the_items_order_from_other_processes():
    taken = []

    def items():
        for item in range(12):
            taken.append(item)
            yield item

    results = map_in_processes(sleepy, items(), 3)
    first = next(results)
    assert len(taken) <= 6  # no more than two for each process are ahead
    pairs = [first, *results]
    assert [item for item, _ in pairs] == list(range(12))
    assert os.getpid() not in {pid for _, pid in pairs}
    assert multiprocessing.active_children() == []


def test_all_processes_work_at_once(tmp_path):
    assert len({pid for _, pid in map_in_processes(wait_for_three, [tmp_path] * 3, 3)}) == 3


def test_errors_and_deaths_are_raised_here_and_leave_no_process():
    with pytest.raises(UserError, match='item 5'):
        list(map_in_processes(fail_at_5, range(10), 2))
    with pytest.raises(UserError, match='a worker process died'):
        list(map_in_processes(fail_at_5, [1, 7, 2], 1))
    assert multiprocessing.active_children() == []


def test_closing_early_ends_the_processes():
    results = map_in_processes(sleepy, iter(int, 1), 2)  # endless zeros
    next(results)
    results.close()
    assert multiprocessing.active_children() == []


def test_no_process_outlives_a_killed_parent(tmp_path):
    script = tmp_path / 'parent.py'
    script.write_text(PARENT)
    paths = os.pathsep.join([str(ROOT / 'edm'), str(ROOT / 'tests'), str(ROOT / 'tests' / 'torch_utils')])
    with subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True,
                          env=os.environ | {'PYTHONPATH': paths}) as parent:
        pids = {int(parent.stdout.readline()) for _ in range(4)}
        parent.kill()
    assert len(pids) == 2
    left = [psutil.Process(pid) for pid in pids if psutil.pid_exists(pid)]
    assert psutil.wait_procs(left, timeout=20)[1] == []


def test_at_least_one_core_can_be_used():
    assert 1 <= usable_cores() <= os.cpu_count()
