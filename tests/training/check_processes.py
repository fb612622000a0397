"""Run train.py under torchrun and check, from inside, what the processes do together."""

import sys
from pathlib import Path

import torch
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[2] / 'edm'))

import train
from fixed_noise import FixedNoiseLoss
from torch_utils import distributed
from training import build, loop, saving

runs, num_averages = [], 0
prepare, shutdown = loop.prepare, distributed.shutdown


def prepare_and_keep(*args, **kwargs):
    runs.append(prepare(*args, **kwargs))  # with a backward pass that this hook does not see
    runs[0].shared_net.register_comm_hook(None, check_average)
    return runs[0]


def check_average(state, bucket):
    """The mean of the processes' gradients, which differ, once per step."""
    global num_averages
    num_averages += 1
    own = distributed.gather(bucket.buffer().clone())
    average = allreduce_hook(None, bucket).wait()
    assert not torch.equal(*own)
    torch.testing.assert_close(average, (own[0] + own[1]) / 2)
    future = torch.futures.Future()
    future.set_result(average)
    return future


def check_end():
    """The same weights everywhere."""
    run = runs[0]
    assert num_averages == run.cur_nimg / run.config.batch_size == 3
    weights = [p for net in (run.net, run.ema) for p in net.parameters()]
    own = distributed.gather(torch.cat([p.detach().flatten() for p in weights]))
    assert torch.equal(*own)
    assert distributed.gather(run.config.run_dir) == [run.config.run_dir] * 2
    sys.stdout.write(f'rank {distributed.rank()}: all checks passed\n')
    shutdown()


build._CLASSES['training.loss.EDMLoss'] = FixedNoiseLoss
saving.save_snapshot = lambda *args, **kwargs: None
loop.prepare = prepare_and_keep
distributed.shutdown = check_end
train.main()
