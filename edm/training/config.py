"""Settings of a training run: the contents of training_options.json. Imports no torch."""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

AUTO = 'auto'  # of --resume: resume the run in the folder if it is the same

# What `--arch` stands for: arguments of the preconditioned networks in training/networks.py, or a network
# that needs no preconditioning. Those without model_channels have the width that an option gives.
_SONG = {'model_type': 'SongUNet', 'channel_mult': [2, 2, 2], 'decoder_type': 'standard'}
ARCHITECTURES = {
    'ddpmpp': _SONG | {'embedding_type': 'positional', 'encoder_type': 'standard', 'channel_mult_noise': 1,
                       'resample_filter': [1, 1]},
    'ncsnpp': _SONG | {'embedding_type': 'fourier', 'encoder_type': 'residual', 'channel_mult_noise': 2,
                       'resample_filter': [1, 3, 3, 1]},
    'adm': {'model_type': 'DhariwalUNet', 'model_channels': 192, 'channel_mult': [1, 2, 3, 4]},
    'mlp': {'model_type': 'MLP'},
    'param-mlp': {'class_name': 'training.low_rank.LowRankDenoiser'},
}
IMAGE_ARCHITECTURES = [name for name, kwargs in ARCHITECTURES.items() if 'channel_mult' in kwargs]


class Preconditioning(NamedTuple):
    """A preconditioner and its loss, by the names that files carry; without a loss it is only sampled."""

    network: str
    loss: str | None


# What `--precond` stands for; a new one needs its two classes and a line here.
PRECONDITIONINGS = {
    'vp': Preconditioning('training.networks.VPPrecond', 'training.loss.VPLoss'),
    've': Preconditioning('training.networks.VEPrecond', 'training.loss.VELoss'),
    'iddpm': Preconditioning('training.networks.iDDPMPrecond', None),
    'edm': Preconditioning('training.networks.EDMPrecond', 'training.loss.EDMLoss'),
}

TRAINABLE = [name for name, choice in PRECONDITIONINGS.items() if choice.loss]

# What `--optimizer` stands for: its class and arguments but the learning rate.
OPTIMIZERS = {'adam': {'class_name': 'torch.optim.Adam', 'betas': [0.9, 0.999], 'eps': 1e-8},
              'sgd': {'class_name': 'torch.optim.SGD'}}

# What `--augment` p stands for, besides p; it gives `AUGMENT_DIM` label columns.
AUGMENTATION = {'class_name': 'training.augment.AugmentPipe', 'xflip': 1e8, 'yflip': 1, 'scale': 1,
                'rotate_frac': 1, 'aniso': 1, 'translate_frac': 1}
AUGMENT_DIM = 9

# What `--precision` stands for: whether to round float32 products to ten bits, and the features' half type.
PRECISIONS = {'fp32': (False, None), 'tf32': (True, None), 'fp16': (False, 'float16'),
              'bf16': (False, 'bfloat16')}

# What `--compile` stands for: arguments of torch's compiler, None for none.
COMPILERS = {'0': None, '1': {}, 'graphs': {'mode': 'reduce-overhead'}}

# What `--lr_decay` stands for: a factor on the learning rate where a fraction of all images was seen.
LR_DECAYS = {'none': lambda seen: 1, 'cosine': lambda seen: 0.5 + 0.5 * math.cos(math.pi * seen)}


def network_kwargs(opts: Mapping, resolution: int | None = None) -> dict:
    """The class name and arguments of the network that the options of a training script describe.

    opts: `arch` and `precond`, and optionally model_channels, cbase, cres, num_blocks, attn_resolutions,
    augment, dropout and fp16. resolution: of images that may be too small for all levels of an --arch.
    """
    architecture = ARCHITECTURES[opts['arch']]
    if 'class_name' in architecture:
        return dict(architecture)
    network = {'class_name': PRECONDITIONINGS[opts['precond']].network,
               'model_channels': opts.get('model_channels') or 128} | architecture
    if resolution is not None and 'channel_mult' in network:
        halvings = (resolution & -resolution).bit_length() - 1  # how often 2 divides it
        network['channel_mult'] = network['channel_mult'][:halvings + 1]
    given = {'model_channels': opts.get('cbase'), 'channel_mult': opts.get('cres'),
             'num_blocks': opts.get('num_blocks'), 'attn_resolutions': opts.get('attn_resolutions'),
             'augment_dim': AUGMENT_DIM if opts.get('augment') else None}
    network |= {key: value for key, value in given.items() if value is not None}
    return network | {'dropout': opts.get('dropout', 0.13), 'use_fp16': opts.get('fp16', False)}


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """All settings of a run, under the keys that training_options.json has in NVlabs/edm, and a few more.

    The dicts `*_kwargs` hold a `class_name` (see `training.build`) and that class's arguments.

    ema_halflife_kimg: at most ema_rampup_ratio (None: no such bound) times the images seen so far.
    lr_rampup_kimg: linear warm-up. lr_decay: a key of LR_DECAYS.
    batch_size: of all processes together. batch_gpu: largest micro-batch per process, None for no limit.
    loss_scaling: factor on the loss during the backward pass, taken out of the gradients again.
    snapshot_ticks, state_dump_ticks: ticks between snapshots and between states; None for only a snapshot at
        the end, or for no state at all. states_kept: the newest ones, None for all.
    max_nan_steps: the run stops once that many steps had losses that were NaN or infinite.
    resume_pkl: the snapshot to start from, or the one beside resume_state_dump, the state resumed after
        resume_kimg.
    precision: of the network on CUDA, a key of PRECISIONS. compile: a key of COMPILERS.
    """

    run_dir: str
    dataset_kwargs: dict
    network_kwargs: dict
    loss_kwargs: dict
    optimizer_kwargs: dict
    augment_kwargs: dict | None = None
    data_loader_kwargs: dict = dataclasses.field(default_factory=dict)
    total_kimg: int
    ema_halflife_kimg: float = 500
    ema_rampup_ratio: float | None = 0.05
    lr_rampup_kimg: float = 10000
    lr_decay: str = 'none'
    batch_size: int = 512
    batch_gpu: int | None = None
    loss_scaling: float = 1
    cudnn_benchmark: bool = True
    kimg_per_tick: int = 50
    snapshot_ticks: int | None = 50
    state_dump_ticks: int | None = 500
    states_kept: int | None = None
    max_nan_steps: int = 100
    seed: int = 0
    resume_pkl: str | None = None
    resume_kimg: int | None = None
    resume_state_dump: str | None = None
    preview: bool = False
    device: str = 'auto'
    precision: str = 'fp32'
    compile: str = '0'

    def as_json(self) -> dict:
        """The settings as JSON takes them; what is not used is left out."""
        unused = {'augment_kwargs', 'resume_pkl', 'resume_kimg', 'resume_state_dump'}
        return {key: value for key, value in dataclasses.asdict(self).items()
                if value is not None or key not in unused}
