"""Run train.py again and again, each time interrupted at a chosen moment.

Each line on stdin is JSON {"moment": ..., "number": N, "args": [...], "processes": n}; the answer on stdout
is JSON, the exit statuses. Every run is forked off from here, which saves it the time of importing PyTorch.

moment: `kill` ends every process by SIGKILL in step N; `kill-write` while the N-th state is written; `term`
sends SIGTERM to the process of the highest rank in step N; `none`.
"""

import io
import json
import os
import signal
import socket
import sys
from pathlib import Path

import torch
import torch._dynamo  # the optimizer would, in every run

sys.path.insert(0, str(Path(__file__).parents[2] / 'edm'))

import train
from torch_utils import distributed
from training import launch, loop  # noqa: F401, imported once for all runs


def interrupt(moment: str, number: int) -> None:
    """Have this process interrupted."""
    update_ema, save, steps, states = loop.update_ema, torch.save, [], []

    def update_and_interrupt(run):
        steps.append(1)
        update_ema(run)
        if len(steps) == number:
            if moment == 'kill':
                os.kill(os.getpid(), signal.SIGKILL)
            if moment == 'term' and distributed.rank() == distributed.world_size() - 1:
                os.kill(os.getpid(), signal.SIGTERM)

    def save_half_and_die(state, file):
        states.append(1)
        if len(states) < number:
            save(state, file)
            return
        whole = io.BytesIO()
        save(state, whole)
        file.write(whole.getvalue()[:len(whole.getvalue()) // 2])
        file.flush()
        os.kill(os.getpid(), signal.SIGKILL)

    loop.update_ema = update_and_interrupt
    if moment == 'kill-write':
        torch.save = save_half_and_die


def start(job: dict, rank: int, port: int) -> int:
    """Fork a process that trains; returns its id."""
    sys.stdout.flush()
    pid = os.fork()
    if pid:
        return pid
    status = 70
    try:
        os.dup2(2, 1)  # answers go to stdout
        if job['processes'] > 1:
            os.environ |= {'RANK': str(rank), 'LOCAL_RANK': str(rank), 'WORLD_SIZE': str(job['processes']),
                           'MASTER_ADDR': '127.0.0.1', 'MASTER_PORT': str(port)}
        torch.set_num_threads(1)
        interrupt(job['moment'], job['number'])
        train.main(job['args'])
    except SystemExit as end:
        status = end.code or 0
    finally:
        sys.stdout.flush()
        os._exit(status)


for line in sys.stdin:
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = free.getsockname()[1]
    job = json.loads(line)
    pids = [start(job, rank, port) for rank in range(job['processes'])]
    statuses = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]
    sys.stdout.write(json.dumps(statuses) + '\n')
    sys.stdout.flush()
