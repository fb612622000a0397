"""Before the work begins.

- `X.py --help`: the whole command, with imports; the median of five.
- `snapshot of 223 MB`: the first `load_network` of a process, of CIFAR-10's DDPM++ network, beside the first
  `torch.load` (weights only) of another process, of a file with the same tensors and nothing else; in turns.
  Imports are done before, and both files are in the page cache.
"""

import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch
from measure import Row, run_python, seconds

from training import networks, snapshot

EDM = Path(__file__).resolve().parents[2] / 'edm'
REPEATS = 9
_OURS = "snapshot.load_network({0!r}, torch.device('cpu'))"
_PLAIN = 'torch.load({0!r}, weights_only=True)'
_TIMED = '''
import sys, time
sys.path.insert(0, sys.argv[1])
import torch
from training import snapshot
start = time.perf_counter()
{}
print(time.perf_counter() - start)
'''


def rows() -> Iterator[Row]:
    """The rows of the table."""
    for script in sorted(EDM.glob('*.py')):
        ours = seconds(lambda script=script: subprocess.run(
            [sys.executable, script, '--help'], check=True, stdout=subprocess.DEVNULL))
        yield Row(what=f'{script.name} --help', ours=ours, unit='s', must='< 0.5 s', reached=ours < 0.5,
                  note=f'load {os.getloadavg()[0]:.1f}')
    yield _load()


def _load() -> Row:
    with tempfile.TemporaryDirectory() as folder:
        net = networks.EDMPrecond(32, 3, model_type='SongUNet', model_channels=128, channel_mult=[2, 2, 2])
        path, plain = Path(folder) / 'network-snapshot-000000.pkl', Path(folder) / 'tensors.pt'
        snapshot.save_snapshot(path, ema=net)
        torch.save(dict(net.state_dict()), plain)
        size, times = path.stat().st_size / 1e6, ([], [])
        for _ in range(REPEATS):
            for statement, file, taken in zip((_OURS, _PLAIN), (path, plain), times, strict=True):
                taken.append(float(run_python(_TIMED.format(statement.format(str(file))), str(EDM))))
    ours, baseline = map(statistics.median, times)
    return Row(what=f'snapshot of {size:.0f} MB', ours=ours, unit='s', baseline=baseline,
               ratio=ours / baseline, must='< 1.5 times torch.load', reached=ours < 1.5 * baseline,
               note=f'load_network in a fresh process; load {os.getloadavg()[0]:.1f}')
