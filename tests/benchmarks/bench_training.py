"""Training: one step beside the plain formulation, and beside its convolutions and matrix products alone.

* "step of the quickstart's network": widths 16 and 8 on 8x8 digits, batch 64. The baseline is
  plain_training.py, in a process of its own. Eager, and compiled in steady state.
* "start with compilation": seconds until the first step is done in a fresh process whose compilation another
  process has left in the cache, as between students of equal shape. No limit is set.
* "step of a 32x32x3 network of 32 channels": the baseline are the convolutions and matrix products of the
  same step, forward and both gradients, called bare with the same tensors. The ratio is the step's time over
  theirs.
* "attention": of 64 channels at 16x16, 16 images, forward and backward, beside PyTorch's
  `scaled_dot_product_attention`.
* "golden run, compiled": the largest difference of the averaged weights from training.npz, relative to the
  weights, tensor by tensor, without the keys' biases, whose gradients are rounding noise.

Steps are called in turns, so that other load slows all of them; ratios are of medians.
"""

import json
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import torch
from measure import Row, elsewhere, run_python, side_by_side
from torch.nn.functional import scaled_dot_product_attention
from torch.utils._python_dispatch import TorchDispatchMode

from data.dataset import ImageDataset
from helpers import DATA, ROOT, golden
from torch_utils.distributed import pick_device
from training import loop, saving
from training.build import build_network
from training.config import ARCHITECTURES, TrainingConfig
from training.networks import attention_weights

CPU = pick_device('cpu')
PATHS = [str(Path(__file__).parent), str(ROOT / 'tests'), str(ROOT / 'edm')]
DIGITS = ROOT / 'datasets' / 'digits-8x8.zip'
PLAIN = """import json, sys
sys.path[:0] = sys.argv[1:4]
from plain_training import plain_step
from training.build import build, build_network
from data.dataset import ImageDataset
images, (network, loss) = ImageDataset(sys.argv[4]), map(json.loads, sys.argv[5:])
step = plain_step(build_network(network, images), build(loss), images, batch=64)"""
QUICKSTART_LOSS = {'class_name': 'training.loss.EDMLoss', 'P_mean': -0.8, 'P_std': 1.2}


class Noise:
    """Random images to train on."""

    label_dim = 0

    def __init__(self, n: int, resolution: int):
        self.resolution, self.num_channels = resolution, 3
        shape = (n, 3, resolution, resolution)
        self.pixels = np.random.RandomState(0).randint(256, size=shape, dtype=np.uint8)

    def __len__(self):
        return len(self.pixels)

    def images(self, indices):
        return self.pixels[indices]

    def labels(self, indices):
        return np.zeros((len(indices), 0), np.float32)


def config(batch: int, width: int, channel_mult: list[int], **more) -> TrainingConfig:
    """Settings of a run that never ends."""
    network = ARCHITECTURES['ddpmpp'] | {'model_channels': width, 'channel_mult': channel_mult}
    return TrainingConfig(**{
        'run_dir': '', 'dataset_kwargs': {'cache': True}, 'loss_kwargs': QUICKSTART_LOSS,
        'network_kwargs': {'class_name': 'training.networks.EDMPrecond', 'dropout': 0,
                           'num_blocks': 1} | network,
        'optimizer_kwargs': {'class_name': 'torch.optim.Adam', 'lr': 1e-3, 'betas': [0.9, 0.999],
                             'eps': 1e-8},
        'total_kimg': 10**6, 'batch_size': batch, 'device': 'cpu'} | more)


def our_step(settings: TrainingConfig, dataset, device: torch.device = CPU) -> Callable[[], None]:
    """A function that makes one step."""
    return our_run(settings, dataset, device)[1]


def our_run(settings: TrainingConfig, dataset, device: torch.device = CPU) -> tuple[loop.Run, Callable]:
    """A run, and a function that makes one step of it."""
    make_net = partial(build_network, settings.network_kwargs, dataset)
    run = loop.prepare(settings, dataset, make_net, device=device)

    def step():
        loop.train_step(run)
        loop.update_ema(run)
        run.cur_nimg += settings.batch_size

    return run, step


class Recorder(TorchDispatchMode):
    """Keeps the calls of convolutions and matrix products inside."""

    KERNELS = ('convolution', 'convolution_backward', 'mm', 'addmm', 'bmm', 'baddbmm')

    def __init__(self):
        super().__init__()
        self.calls = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.overloadpacket.__name__ in self.KERNELS:
            args_kept = [arg.detach() if isinstance(arg, torch.Tensor) else arg for arg in args]
            self.calls.append((func, args_kept, kwargs or {}))
        return func(*args, **(kwargs or {}))


def bare_kernels(step: Callable[[], None]) -> Callable[[], None]:
    """A function that makes the calls of convolutions and matrix products of a step and nothing else."""
    with Recorder() as recorder:
        step()

    def kernels():
        with torch.no_grad():
            for func, args, kwargs in recorder.calls:
                func(*args, **kwargs)

    return kernels


def rows() -> Iterator[Row]:
    """All rows; about ten minutes, most of it compilation."""
    digits = ImageDataset(DIGITS)
    for width in (16, 8):
        yield from quickstart_rows(digits, width)
    yield start_row()
    yield share_row()
    yield attention_row()
    yield golden_row()


def quickstart_rows(digits, width: int) -> Iterator[Row]:
    settings = {compiled: config(64, width, [1, 2], compile=compiled) for compiled in ('0', '1')}
    ours = [our_step(settings[compiled], digits) for compiled in '01']
    given = settings['0'].network_kwargs, settings['0'].loss_kwargs
    with elsewhere(PLAIN, *PATHS, str(DIGITS), *map(json.dumps, given)) as plain_step:
        plain, eager, compiled = side_by_side([plain_step, *ours], repeats=60, warmup=5)
    for name, ours, must in (('eager', eager, 1.15), ('compiled', compiled, 1.5)):
        yield Row(what=f'step of the quickstart\'s network of width {width}, {name}', ours=64 / ours,
                  unit='images/s', baseline=64 / plain, ratio=plain / ours, must=f'>= {must}',
                  reached=plain / ours >= must, note='baseline: the plain formulation')


def start_row() -> Row:
    code = ('import sys, time; start = time.perf_counter(); sys.path[:0] = sys.argv[1:4]\n'
            'import bench_training as bench\n'
            'settings = bench.config(64, 16, [1, 2], compile=sys.argv[4])\n'
            'bench.our_step(settings, bench.ImageDataset(bench.DIGITS))()\n'
            'print(time.perf_counter() - start)')
    eager, compiled = (float(run_python(code, *PATHS, mode)) for mode in '01')
    return Row(what='start with compilation of before, until the first step is done', ours=compiled, unit='s',
               baseline=eager, note='baseline: without compilation')


def share_row() -> Row:
    settings = config(16, 32, [2, 2, 2])
    step = our_step(settings, Noise(64, 32))
    ours, bare = side_by_side([step, bare_kernels(step)], repeats=8, warmup=1)
    return Row(what='step of a 32x32x3 network of 32 channels', ours=1000 * ours, unit='ms',
               baseline=1000 * bare, ratio=ours / bare, must='<= 1.25', reached=ours / bare <= 1.25,
               note='baseline: its convolutions and matrix products alone')


def attention_row() -> Row:
    q, k, v = torch.randn(3, 16, 64, 256).requires_grad_().unbind()

    def ours():
        return attention_weights(q, k) @ v.transpose(1, 2)

    def fused():
        return scaled_dot_product_attention(*(x.transpose(1, 2)[:, None] for x in (q, k, v)))

    times = side_by_side([lambda: torch.autograd.grad(ours().sum(), (q, k, v)),
                          lambda: torch.autograd.grad(fused().sum(), (q, k, v))], repeats=40, warmup=5)
    return Row(what='attention', ours=1000 * times[0], baseline=1000 * times[1], unit='ms',
               ratio=times[1] / times[0], note='baseline: scaled_dot_product_attention')


def golden_row() -> Row:
    facts = json.loads((DATA / 'training.json').read_text())['edm-noaug']
    pixels = golden('training')['images_nhwc_uint8'].transpose(0, 3, 1, 2)
    dataset = Noise(len(pixels), pixels.shape[2])
    dataset.pixels = pixels
    averaged = []
    save, saving.save_snapshot = saving.save_snapshot, lambda path, *, ema, **rest: averaged.append(ema)
    try:
        with tempfile.TemporaryDirectory() as folder:
            settings = TrainingConfig(**facts['loop'] | {
                'run_dir': folder, 'dataset_kwargs': {'cache': True}, 'compile': '1',
                'network_kwargs': {'class_name': f'training.networks.{facts["precond"]}'}
                | facts['network_kwargs'], 'loss_kwargs': {'class_name': f'training.loss.{facts["loss"]}'},
                'optimizer_kwargs': {'class_name': 'torch.optim.Adam', 'lr': facts['lr'],
                                     'betas': facts['adam_betas'], 'eps': facts['adam_eps']}})
            make_net = partial(build_network, settings.network_kwargs, dataset)
            loop.train(settings, dataset, make_net, device=CPU)
    finally:
        saving.save_snapshot = save
    worst = 0.0
    for name, ours in averaged[-1].state_dict().items():
        want = torch.from_numpy(golden('training')[f'edm-noaug/ema/{name}'])
        if not name.endswith('qkv.bias'):
            worst = max(worst, ((ours - want).norm() / want.norm().clamp_min(1e-12)).item())
    return Row(what='golden run, compiled: difference from training.npz', ours=worst, unit='of the weights',
               ratio=worst, must='<= 5e-5', reached=worst <= 5e-5)
