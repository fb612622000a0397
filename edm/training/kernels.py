"""How a network's step is computed: precision, memory format, compilation; measured rather than guessed."""

import math
import time
from dataclasses import asdict, dataclass

import torch

from torch_utils import distributed
from torch_utils.errors import UserError
from training.config import TrainingConfig

MIN_STEPS = 1000  # of a run in which measuring memory formats pays: it takes as long as about eight of them
MIN_GAIN = 1.05  # how much faster something must be before it is preferred, lest noise decides
MIN_COMPILED_SEC = 900  # of a run that may be compiled: the first time it takes minutes, from a cache seconds
COMPILED_ON = ('cpu', 'cuda')
REPEATS = 3


@dataclass(frozen=True, kw_only=True)
class Kernels:
    """The choice; a run that is resumed keeps it, as it changes rounding."""

    channels_last: bool = False
    compiled: bool = False
    graphs: bool = False  # compiled, and launched as CUDA graphs

    def as_dict(self) -> dict:
        return asdict(self)


def set_precision(config: TrainingConfig) -> None:
    """Let CUDA round as `precision` says, and choose among its convolutions as `cudnn_benchmark` says."""
    torch.backends.cudnn.benchmark = config.cudnn_benchmark
    torch.backends.cudnn.allow_tf32 = config.precision == 'tf32'
    torch.backends.cuda.matmul.allow_tf32 = config.precision == 'tf32'
    torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction = False


def choose_kernels(config: TrainingConfig, net: torch.nn.Module, *, micro_batch: int, steps: int,
                   earlier: dict | None = None) -> Kernels:
    """What the options say or, where they say auto, what is faster here; the same on all processes.

    net: on its device; keeps its weights and has no gradients afterwards. micro_batch: images at once.
    steps: how many the run has left, each of all its micro-batches. earlier: `as_dict` of the choice of the
        run that this one continues, which stands for auto.
    """
    choice, rounds = None, config.batch_size // (micro_batch * distributed.world_size())
    if distributed.rank() == 0:
        given = {'channels_last': {'contiguous': False, 'channels_last': True}.get(config.memory_format),
                 'compiled': {'0': False, '1': True, 'graphs': True}.get(config.compile),
                 'graphs': None if config.compile == 'auto' else config.compile == 'graphs'}
        fixed = (earlier or {}) | {key: value for key, value in given.items() if value is not None}
        choice = _choose(net, fixed, micro_batch, steps, rounds)
    choice = distributed.from_rank0(choice)
    with distributed.shared_errors():
        if choice.graphs:
            check_graphs(next(net.parameters()).device, rounds)
        if config.compile in ('1', 'graphs'):
            _check_compiler(config.compile, next(net.parameters()).device)
    return choice


def compile_network(net: torch.nn.Module, kernels: Kernels) -> None:
    """Let calls of `net` run compiled, if that is the choice; it compiles in the first one."""
    if kernels.compiled:
        net.compile(dynamic=False, mode='reduce-overhead' if kernels.graphs else None)


def _check_compiler(choice: str, device: torch.device) -> None:
    """Raise UserError if PyTorch can't compile for the device."""
    try:
        torch.compile(torch.sin)(torch.ones(2, device=device))
    except Exception as err:  # whatever the compiler, or its absence, comes up with
        reason = (str(err).strip().splitlines() or [type(err).__name__])[0]
        raise UserError(f'--compile {choice}: PyTorch can\'t compile for {device} here: {reason}') from err


def check_graphs(device: torch.device, rounds: int) -> None:
    """Raise UserError if a step of so many rounds of forward and backward passes can't be CUDA graphs."""
    if device.type != 'cuda':
        raise UserError(f'--compile graphs: CUDA graphs are for CUDA, and the device is {device}')
    if rounds > 1:  # a graph's gradients lie where the next round's would
        raise UserError(f'--compile graphs: expected all images of a step at once, got {rounds} rounds; a '
                        'larger --batch-gpu or a smaller --batch makes it one')


def _choose(net, fixed: dict, micro_batch: int, steps: int, rounds: int) -> Kernels:
    if not {'channels_last', 'compiled'} <= fixed.keys() and steps >= MIN_STEPS:
        fixed = _measure(net, fixed, micro_batch, steps * rounds)
    return Kernels(**fixed)


def _measure(net, fixed: dict, micro_batch: int, passes: int) -> dict:
    """The fields of `Kernels` that are not fixed by what is faster; passes: how many the run has left."""
    probe = _Probe(net, micro_batch)
    formats = [fixed['channels_last']] if 'channels_last' in fixed else [False, True]
    seconds = {last: probe.in_format(last).seconds() for last in formats}
    if len(formats) == 2:
        fixed = fixed | {'channels_last': seconds[False] > MIN_GAIN * seconds[True]}
    best = seconds[fixed['channels_last']]
    long = probe.device.type in COMPILED_ON and best * passes > MIN_COMPILED_SEC
    if 'compiled' not in fixed and long:
        compiled = probe.in_format(fixed['channels_last']).compiled_seconds()
        fixed = fixed | {'compiled': best > MIN_GAIN * compiled}
    return fixed


class _Probe:
    """Times forward and backward passes without touching weights or random numbers."""

    def __init__(self, net, micro_batch: int):
        self.net, self.device = net, next(net.parameters()).device
        shape = (micro_batch, net.img_channels, net.img_resolution, net.img_resolution)
        self.images = torch.linspace(-1, 1, math.prod(shape), device=self.device).view(shape)
        self.sigma = torch.ones(micro_batch, 1, 1, 1, device=self.device)
        self.labels = torch.zeros(micro_batch, net.label_dim, device=self.device) if net.label_dim else None
        augmenting = getattr(getattr(net, 'model', None), 'map_augment', None)
        self.more = {} if augmenting is None else {  # as in the run, or another network is compiled
            'augment_labels': torch.zeros(micro_batch, augmenting.in_features, device=self.device)}

    def in_format(self, channels_last: bool) -> '_Probe':
        self.net.to(memory_format=torch.channels_last if channels_last else torch.contiguous_format)
        return self

    def seconds(self) -> float:
        """The shortest of a few passes, after one to warm up."""
        devices = [self.device] if self.device.type == 'cuda' else []
        times = []
        with torch.random.fork_rng(devices=devices):  # for dropout
            for _ in range(1 + REPEATS):
                start = time.perf_counter()
                self.net(self.images, self.sigma, self.labels, **self.more).square().mean().backward()
                if self.device.type == 'cuda':
                    torch.cuda.synchronize(self.device)
                times.append(time.perf_counter() - start)
                for parameter in self.net.parameters():
                    parameter.grad = None
        return min(times[1:])

    def compiled_seconds(self) -> float:
        """As `seconds`, compiled; infinite where there is no compiler."""
        try:
            self.net.compile(dynamic=False)
            return self.seconds()
        except Exception:  # whatever the compiler, or its absence, comes up with: the run can do without
            return math.inf
        finally:
            self.net._compiled_call_impl = None
