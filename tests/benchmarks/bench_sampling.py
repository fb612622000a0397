"""generate.py on the CPU.

- `256 samples ...`, `64 samples ...`: whole process beside whole process, from start to exit, with all of
  PyTorch's threads, as by default, then with one, as beside other processes.
  The baseline is tests/benchmarks/plain_sampling.py, the reference's loop with its batches of 64; ours has
  `--batch=auto`. Their pixels must agree to a grey level. The note gives the processor time of both. On a
  busy machine look at one thread: there the threads of the baseline, which share each operation, lose their
  time waiting.
- `network beside its bare kernels`: the network's time in the sampler's batch over that of its convolutions
  and matrix products alone, on the same shapes in the same memory format; one thread.
- `pixel difference of bf16`: between images of `--precision bf16` and fp32, of one network of random weights
  (all of them: the weights that usually begin near zero, too), and how much faster it is.
- `start and end of a process`: the time that is left if there is a single sample, beside `import torch`.
"""

import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median

import numpy as np
import torch
from measure import Row, side_by_side
from PIL import Image
from torch.nn.functional import conv2d, conv_transpose2d, linear
from torch.overrides import TorchFunctionMode

from sampling import pace
from torch_utils.distributed import pick_device
from training.networks import EDMPrecond
from training.snapshot import save_snapshot

HERE = Path(__file__).parent
GENERATE = HERE.parents[1] / 'edm' / 'generate.py'
QUICKSTART = {'channel_mult': [1, 2], 'num_blocks': 1, 'attn_resolutions': []}
COLOUR = {'model_channels': 32, 'channel_mult': [2, 2, 2], 'num_blocks': 1, 'attn_resolutions': [16]}


def rows() -> Iterator[Row]:
    """See above."""
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        networks = {f'quickstart\'s network, width {width}': random_network(
            8, 1, model_channels=width, **QUICKSTART) for width in (16, 8)}
        networks['32x32x3 network of 32 channels'] = random_network(32, 3, **COLOUR)
        for i, (name, net) in enumerate(networks.items()):
            save_snapshot(folder / f'{i}.pkl', ema=net)
            few = net.img_resolution == 32
            for threads in (torch.get_num_threads(), 1):
                yield whole_process(folder, folder / f'{i}.pkl', name, number=64 if few else 256,
                                    must=1.2 if few else 1.5, repeats=1 if few else 5, threads=threads)
            yield share_of_kernels(net, name)
        yield from half_precision(folder, folder / '2.pkl')
        yield start_and_end(folder, folder / '1.pkl')


def random_network(resolution: int, channels: int, **kwargs) -> EDMPrecond:
    """A DDPM++ network with no weight near zero, so that each layer tells in the images."""
    torch.manual_seed(0)
    net = EDMPrecond(resolution, channels, model_type='SongUNet', **kwargs).eval().requires_grad_(False)
    for parameter in net.parameters():
        if parameter.ndim == 4 and parameter.abs().max() < 1e-3:
            parameter.mul_(1e5 / 4)
    return net


def run(*command, **env: str) -> tuple[float, float]:
    """Seconds from start to exit, and of processor time."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run([sys.executable, *map(str, command)], check=True, capture_output=True,
                   env=os.environ | {'PYTHONDONTWRITEBYTECODE': ''} | env)  # empty: as for most users
    taken, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    return taken, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def generate(network: Path, outdir: Path, number: int, *args: str, **env: str) -> tuple[float, float]:
    return run(GENERATE, f'--network={network}', f'--outdir={outdir}', f'--seeds=0-{number - 1}',
               '--device=cpu', '--batch=auto', *args, **env)


def read(folder: Path) -> np.ndarray:
    return np.stack([np.asarray(Image.open(path)) for path in sorted(folder.glob('*.png'))]).astype(int)


def whole_process(folder: Path, network: Path, name: str, *, number: int, must: float, repeats: int,
                  threads: int) -> Row:
    ours, plain, env = [], [], {'OMP_NUM_THREADS': str(threads)}
    folders = [folder / f'{kind}-{network.stem}' for kind in ('ours', 'plain')]
    for _ in range(repeats):
        for path in folders:
            shutil.rmtree(path, ignore_errors=True)
        ours.append(generate(network, folders[0], number, **env))
        plain.append(run(HERE / 'plain_sampling.py', network, folders[1], number, **env))
    difference = np.abs(read(folders[0]) - read(folders[1])).max()
    assert difference <= 1, difference
    (our_time, our_cpu), (plain_time, plain_cpu) = (map(median, zip(*times, strict=True))
                                                    for times in (ours, plain))
    ratio = plain_time / our_time
    return Row(what=f'{number} samples of a {name}, threads: {threads}', ours=our_time, baseline=plain_time,
               unit='s', ratio=ratio, must=f'>= {must} times the baseline', reached=ratio >= must,
               note=f'whole process; processor time {our_cpu:.2f} s and {plain_cpu:.2f} s')


class Recorder(TorchFunctionMode):
    """Keeps each call of a convolution or matrix product, with its arguments."""

    KERNELS = (conv2d, conv_transpose2d, linear, torch.Tensor.matmul, torch.Tensor.__matmul__)

    def __init__(self):
        super().__init__()
        self.calls = []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func in self.KERNELS:
            self.calls.append((func, args, kwargs or {}))
        return func(*args, **(kwargs or {}))


@torch.inference_mode()
def share_of_kernels(net: EDMPrecond, name: str) -> Row:
    device, threads = pick_device('cpu'), torch.get_num_threads()  # which keeps freed memory
    torch.set_num_threads(1)
    pace.prepare(net, device, None)
    batch = pace.auto_batch(net, device, 256)
    x = torch.randn(batch, net.img_channels, net.img_resolution, net.img_resolution, dtype=torch.float64)
    sigma = torch.ones([], dtype=torch.float64)
    with Recorder() as recorder:
        net(x, sigma)

    def kernels():
        for func, args, kwargs in recorder.calls:
            func(*args, **kwargs)

    ours, bare = side_by_side([lambda: net(x, sigma), kernels], repeats=11)
    torch.set_num_threads(threads)
    few = net.img_resolution < 32  # of so little work that what lies between the kernels weighs more
    return Row(what=f'network beside its bare kernels, {name}', ours=1000 * ours, baseline=1000 * bare,
               unit='ms', ratio=ours / bare, must='' if few else '<= 1.25',
               reached=None if few else ours <= 1.25 * bare,
               note=f'{len(recorder.calls)} convolutions and products, batch of {batch}')


def half_precision(folder: Path, network: Path) -> Iterator[Row]:
    if not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return
    seconds = {precision: generate(network, folder / precision, 16, f'--precision={precision}')[0]
               for precision in ('fp32', 'bf16')}
    difference = np.abs(read(folder / 'fp32') - read(folder / 'bf16'))
    yield Row(what='pixel difference of bf16, mean', ours=difference.mean(), unit='grey levels of 255',
              note=f'largest {difference.max()}; of 32x32x3 images of a network of random weights')
    yield Row(what='16 samples in bf16', ours=seconds['bf16'], baseline=seconds['fp32'], unit='s',
              ratio=seconds['fp32'] / seconds['bf16'], note='whole process; baseline: fp32')


def start_and_end(folder: Path, network: Path) -> Row:
    times = [(generate(network, folder / 'one', 1)[0], run('-c', 'import torch')[0]) for _ in range(5)]
    ours, bare = map(median, zip(*times, strict=True))
    return Row(what='start and end of a process', ours=ours, baseline=bare, unit='s', ratio=bare / ours,
               note='one sample; baseline: `import torch` alone')
