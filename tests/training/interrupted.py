"""Run train.py, interrupted: MOMENT NUMBER and train.py's arguments.

MOMENT: `kill` ends every process by SIGKILL in step NUMBER; `kill-write` while the NUMBERth state is written;
`term` sends SIGTERM to the process of the highest rank in step NUMBER; `none`.
"""

import io
import os
import signal
import sys

import torch

import train
from torch_utils import distributed
from training import loop


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


interrupt(sys.argv[1], int(sys.argv[2]))
train.main(sys.argv[3:])
