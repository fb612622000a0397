"""Training by two processes on two cores, beside one process of two threads, of a network for 32x32x3 images.

Its width is 32, and a step takes 32 images. The share of a step spent waiting is what the exchange of
gradients adds to it: the time of a step beside that of one which exchanges nothing, in two processes, too.
Steps are called in turns.
"""

import os
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

from bench_training import PATHS
from measure import Row, elsewhere, side_by_side

CODE = """import os, sys
sys.path[:0] = sys.argv[1:4]
world, rank, port, sharing = map(int, sys.argv[4:])
os.environ |= {'OMP_NUM_THREADS': str(2 // world)}
if world > 1:
    os.environ |= {'RANK': str(rank), 'WORLD_SIZE': str(world), 'MASTER_ADDR': '127.0.0.1',
                   'MASTER_PORT': str(port)}
import torch
torch.set_num_threads(2 // world)
import bench_training as bench
from torch_utils import distributed
distributed.init(torch.device('cpu'))
run, step = bench.our_run(bench.config(32, 32, [2, 2, 2]), bench.Noise(64, 32))
if not sharing:
    run.shared_net, distributed.world_size = run.net, lambda: 1"""


def rows() -> Iterator[Row]:
    """See above."""
    with ExitStack() as stack:
        pool = stack.enter_context(ThreadPoolExecutor(2))

        def together(world: int, sharing: int):
            """A function that makes a step in each of `world` processes at once."""
            with socket.socket() as free:
                free.bind(('127.0.0.1', 0))
                port = free.getsockname()[1]
            calls = [stack.enter_context(elsewhere(CODE, *PATHS, *map(str, (world, rank, port, sharing))))
                     for rank in range(world)]
            return lambda: [*pool.map(lambda call: call(), calls)]

        one, two, alone = side_by_side([together(1, 1), together(2, 1), together(2, 0)], repeats=8, warmup=2)
    yield Row(what='two processes, 32x32x3 network of 32 channels', ours=32 / two, unit='images/s',
              baseline=32 / one, ratio=one / two, note=f'baseline: one process; {os.cpu_count()} cores')
    yield Row(what='share of a step spent waiting', ours=100 * (1 - alone / two), unit='%')
