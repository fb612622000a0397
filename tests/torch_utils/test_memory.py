import platform
import subprocess
import sys

import pytest

from helpers import ROOT

CODE = """
import resource, sys
sys.path.insert(0, sys.argv[1])
import torch
from torch_utils.distributed import pick_device
if sys.argv[2] == 'keep':
    pick_device('cpu')

def work():
    torch.ones(12, 1 << 20)  # 48 MiB: of its own accord the C library keeps no block of more than 32

for _ in range(10):
    work()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    work()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != 'glibc', reason='other C libraries have no such setting')
def test_a_process_that_computes_on_the_cpu_keeps_freed_memory():
    def page_faults(how):
        return int(subprocess.run([sys.executable, '-c', CODE, ROOT / 'edm', how], check=True,
                                  capture_output=True, text=True).stdout)
    assert page_faults('keep') < 100 < page_faults('leave')
