"""How a network's step is computed: rounding, memory format, compilation, the exchange of gradients."""

import warnings

import torch
from torch.nn.parallel import DistributedDataParallel

from data.batches import Dataset
from torch_utils import distributed
from torch_utils.errors import UserError
from training.config import COMPILERS, PRECISIONS, TrainingConfig
from training.run import Run


def set_precision(config: TrainingConfig) -> None:
    """Set CUDA's rounding by `precision`, and whether cuDNN benchmarks."""
    torch.backends.cudnn.benchmark = config.cudnn_benchmark
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = PRECISIONS[config.precision][0]
    torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction = False


def memory_format(config: TrainingConfig, device: torch.device) -> torch.memory_format:
    """channels_last in fp16 or bf16 on CUDA, whose kernels take it, else contiguous."""
    in_half = device.type == 'cuda' and PRECISIONS[config.precision][1]
    return torch.channels_last if in_half else torch.contiguous_format


def compile_network(net: torch.nn.Module, choice: str, device: torch.device, *, rounds: int) -> None:
    """Compile `net` at its first call, as `choice`, a key of COMPILERS, says.

    rounds: of forward and backward passes in a step. Raises UserError where that can't be.
    """
    if COMPILERS[choice] is None:
        return
    with distributed.shared_errors():
        if choice == 'graphs' and device.type != 'cuda':
            raise UserError(f'--compile graphs: CUDA graphs are for CUDA, and the device is {device}')
        if choice == 'graphs' and rounds > 1:  # a graph's gradients lie where the next round's would
            raise UserError(f'--compile graphs: expected one round per step, got {rounds}; a larger '
                            '--batch-gpu or a smaller --batch makes it one')
        try:
            torch.compile(torch.sin)(torch.ones(2, device=device))
        except Exception as err:  # whatever the compiler, or its absence, comes up with
            why = (str(err).strip().splitlines() or [type(err).__name__])[0]
            raise UserError(f'--compile {choice}: PyTorch can\'t compile for {device} here: {why}') from err
    net.compile(dynamic=False, **COMPILERS[choice])


def share_gradients(net: torch.nn.Module) -> torch.nn.Module:
    """`net`, or with several processes DDP around it, whose backward passes average their gradients."""
    if distributed.world_size() == 1:
        return net
    warnings.filterwarnings('ignore', 'Grad strides do not match bucket view strides')  # of 1x1 convolutions
    warnings.filterwarnings('ignore', '`broadcast_buffers` is deprecated')  # its successor is too new
    return DistributedDataParallel(net, broadcast_buffers=False, gradient_as_bucket_view=True)


def settle_gradients(run: Run, dataset: Dataset) -> None:
    """Run one backward pass and drop its gradients, after which DDP has rebuilt its buckets.

    Their order decides in which order three or more processes add gradients up, so that without this a
    resumed run would differ from one that never stopped.
    """
    indices = [0] * run.split.micro_batch
    images, labels = (torch.from_numpy(values).to(run.device, torch.float32)
                      for values in (dataset.images(indices), dataset.labels(indices)))
    with torch.random.fork_rng(devices=[run.device] if run.device.type == 'cuda' else []):
        run.loss_fn(run.shared_net, images, labels, run.augment_pipe).sum().backward()
    run.optimizer.zero_grad(set_to_none=True)
