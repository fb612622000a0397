"""How soon training finds the subspaces of a MoLRG, and how long the experiment takes from data to pictures.

"low-rank model": processes of `trainMoLRG.py --arch=param-mlp --duration=0.5 --batch=128`, nothing else set,
for two classes of dimension 6 in 48, on one thread; each seed draws data, weights and noise. The time is the
slowest one's, the error (see `scores.recovery.recovery_errors`) the worst of all seeds and classes.
"MoLRG experiment": `reproduce.py molrg --preset=quickstart` in an empty folder, the U-Net included.
"""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from measure import Row

from data.molrg_data import MoLRG, MoLRGShape
from helpers import ROOT
from scores.recovery import recovery_errors
from training.snapshot import load_network

SHAPE = MoLRGShape(resolution=4, class_num=2, per_class_dim=6, sample_per_class=350)
SEEDS = 5


def rows():
    """The rows of the table."""
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        runs = [_low_rank(folder / f'{seed}', seed) for seed in range(SEEDS)]
        seconds, errors = zip(*runs, strict=True)
        note = f'{SEEDS} seeds; process start and files included'
        yield Row(what='low-rank model, slowest training', ours=max(seconds), unit='s', ratio=max(seconds),
                  must='< 60', reached=max(seconds) < 60, note=note)
        yield Row(what='low-rank model, worst recovery error', ours=max(errors), unit='', ratio=max(errors),
                  must='< 0.001', reached=max(errors) < 1e-3, note=note)
        start = time.perf_counter()
        _run('reproduce.py', 'molrg', '--preset=quickstart', folder=folder)
        minutes = (time.perf_counter() - start) / 60
        yield Row(what='MoLRG experiment', ours=minutes, unit='min', ratio=minutes, must='< 10',
                  reached=minutes < 10, note=f'{os.cpu_count()} CPU cores')


def _low_rank(folder: Path, seed: int) -> tuple[float, float]:
    """Seconds of one training, and the larger recovery error of its classes."""
    folder.mkdir()
    start = time.perf_counter()
    _run('trainMoLRG.py', '--path=data', '--outdir=runs', '--nosubdir', '--img_res=4', '--class_num=2',
         '--per_class_dim=6', '--sample_per_class=350', f'--data_seed={seed}', f'--seed={seed}',
         '--device=cpu', '--arch=param-mlp', '--duration=0.5', '--batch=128', folder=folder, threads=1)
    seconds = time.perf_counter() - start
    net = load_network(str(folder / 'runs' / SHAPE.name / 'network-snapshot-000500.pkl'), torch.device('cpu'))
    truth = MoLRG(folder / 'data', SHAPE).bases()
    return seconds, float(recovery_errors(net.orthonormal_bases(), truth).max())


def _run(script: str, *args: str, folder: Path, threads: int | None = None) -> None:
    environment = os.environ | ({'OMP_NUM_THREADS': str(threads)} if threads else {})
    subprocess.run([sys.executable, ROOT / 'edm' / script, *args], cwd=folder, env=environment, check=True,
                   capture_output=True)
