"""From the files of a diffusers network to its denoiser. Nothing in them is run."""

import inspect
import os
import pickle
import zipfile
from collections.abc import Callable

import torch

from adapters import discrete_denoiser, safetensors_file, unet2d
from adapters.diffusers_files import NetworkFiles, read_json
from adapters.discrete_denoiser import DiscreteDenoiser
from adapters.unet2d import UNet2D
from torch_utils import downloads
from torch_utils.errors import UserError, note, shown
from torch_utils.safe_archive import safe_load_archive
from torch_utils.sketch import sketch
from training.snapshot import form

# What config.json and scheduler_config.json may say, of what is chosen by name.
NETWORK_CHOICES = {
    'down_block_types': unet2d.DOWN_BLOCKS, 'up_block_types': unet2d.UP_BLOCKS,
    'mid_block_type': ('UNetMidBlock2D', None), 'time_embedding_type': unet2d.TIME_EMBEDDINGS,
    'resnet_time_scale_shift': unet2d.TIME_SHIFTS, 'act_fn': unet2d.ACTIVATIONS,
    'downsample_type': (*unet2d.SAMPLINGS, None), 'upsample_type': (*unet2d.SAMPLINGS, None),
    'class_embed_type': (None,)}
# Numbers of config.json that no shape of a tensor shows: types, least and most.
NUMBERS = {
    'attention_head_dim': ((int, type(None)), 1, 100_000), 'norm_num_groups': ((int,), 1, 100_000),
    'attn_norm_num_groups': ((int, type(None)), 1, 100_000), 'downsample_padding': ((int,), 0, 1),
    'freq_shift': ((int, float), 0, 100), 'mid_block_scale_factor': ((int, float), 1e-3, 1000),
    'norm_eps': ((int, float), 0, 1), 'dropout': ((int, float), 0, 1)}
SCHEDULERS = tuple(f'{name}Scheduler' for name in (
    'DDPM DDIM PNDM DDPMParallel DDIMParallel DDIMInverse EulerDiscrete EulerAncestralDiscrete LMSDiscrete '
    'DPMSolverMultistep DPMSolverSinglestep DEISMultistep UniPCMultistep').split())
# Names of attention's tensors before diffusers 0.15.
OLD_NAMES = {'query': 'to_q', 'key': 'to_k', 'value': 'to_v', 'proj_attn': 'to_out.0'}
# What stands in config.json and is of no consequence here, from training an average of the weights, too.
PASSED_OVER = {'sample_size', 'class_embed_type', 'decay', 'inv_gamma', 'min_decay', 'optimization_step',
               'power', 'update_after_step', 'use_ema_warmup'}
MAX_STEPS = 100_000
NO_WEIGHTS = {  # what files are that begin like this
    b'version https://git-lfs.': 'it is a pointer of Git LFS; `git lfs pull` in its folder gets the weights',
    b'\x80\x02\x8a\n': 'it was written by torch.save before PyTorch 1.6; torch.save of today writes it anew'}


def open_diffusers(files: NetworkFiles, where: str, option: str, *, clip_sample: bool = False,
                   ) -> DiscreteDenoiser:
    """The denoiser of a network, on the CPU, in evaluation mode, float32, without gradients.

    where: leads the messages. clip_sample: clip denoised images to the range that the scheduler's
    configuration names.
    Raises UserError in one line for a network or scheduler of another kind, and where files contradict each
    other.
    """
    config = read_json(files.config, where, option)
    schedule = read_json(files.scheduler, f'--scheduler {files.scheduler}', '--scheduler')
    settings = _scheduler(schedule, f'{where}: its scheduler', clip_sample)
    resolution, channels, classes = _image_form(config, f'{where}: config.json')
    tensors = read_weights(files.weights, where, option)
    net = _network(config, tensors, where)
    try:
        net = DiscreteDenoiser(net, img_resolution=resolution, img_channels=channels, label_dim=classes,
                               **settings)
    except ValueError as err:
        raise UserError(f'{where}: its scheduler: {err}') from err
    return net.eval().requires_grad_(False)


def read_weights(path_or_url: str, where: str, option: str) -> dict[str, torch.Tensor]:
    """The tensors of a safetensors file or one of torch.save, by name; no code in it is run.

    Raises UserError that begins with `where`, and forgets the download, if it is neither, or damaged.
    """
    path = downloads.local_path(path_or_url, option)
    try:
        if not zipfile.is_zipfile(path):
            with open(path, 'rb') as file:
                start = file.read(32)
            for begins, what in NO_WEIGHTS.items():
                if start.startswith(begins):
                    raise safetensors_file.Malformed(what)
            return safetensors_file.read_safetensors(path)
        tensors = safe_load_archive(path)
        if type(tensors) is not dict or not all(
                type(name) is str and isinstance(value, torch.Tensor) for name, value in tensors.items()):
            raise pickle.UnpicklingError('it holds more than tensors')
        if sum(tensor.nbytes for tensor in tensors.values()) > os.path.getsize(path):
            raise pickle.UnpicklingError('it has fewer numbers than its tensors claim')
        return tensors
    except (safetensors_file.Malformed, pickle.UnpicklingError) as err:
        if downloads.is_url(path_or_url):
            downloads.forget(path_or_url, option)
        raise UserError(f'{where}: no weights that can be read: {err}') from err


def _scheduler(config: dict, where: str, clip_sample: bool) -> dict:
    """The arguments of DiscreteDenoiser that a scheduler's configuration decides."""
    kind = config.get('_class_name', 'DDPMScheduler')
    if kind not in SCHEDULERS:
        raise UserError(f'{where} is {shown(kind)}, which is not read; expected one of '
                        f'{", ".join(SCHEDULERS)}')
    if config.get('rescale_betas_zero_snr'):
        raise UserError(f'{where} has a zero terminal SNR (rescale_betas_zero_snr): no finite noise level '
                        'belongs to its last step')
    clip = _number(config, 'clip_sample_range', 1.0, where) if clip_sample else None
    if not clip_sample and (config.get('clip_sample') or config.get('thresholding')):
        note('note: the scheduler\'s configuration clips denoised images; only --clip_sample does so here')
    by_flag = 'epsilon' if config.get('predict_epsilon', True) else 'sample'  # before diffusers 0.10
    prediction = _choice(config, 'prediction_type', by_flag, discrete_denoiser.PREDICTIONS, where)
    betas = config.get('trained_betas')
    if betas is None:
        schedule = _choice(config, 'beta_schedule', 'linear', discrete_denoiser.BETAS, where)
        count = config.get('num_train_timesteps', 1000)
        if type(count) is not int or not 2 <= count <= MAX_STEPS:
            raise UserError(f'{where} has num_train_timesteps {shown(count)}, expected 2 to {MAX_STEPS}')
        start, end = (_number(config, name, default, where)
                      for name, default in (('beta_start', 0.0001), ('beta_end', 0.02)))
        betas = discrete_denoiser.BETAS[schedule](start, end, count)
    elif not (type(betas) is list and 2 <= len(betas) <= MAX_STEPS
              and all(type(beta) is float and 0 < beta < 1 for beta in betas)):
        raise UserError(f'{where} has trained_betas that are no list of numbers between 0 and 1')
    return {'betas': betas, 'prediction': prediction, 'clip': clip}


def _number(config: dict, name: str, default: float, where: str) -> float:
    value = config.get(name, default)
    if type(value) not in (int, float) or not 0 < value < 1000:
        raise UserError(f'{where} has {name} {shown(value)}, expected a number between 0 and 1000')
    return float(value)


def _choice(config: dict, name: str, default: str, choices: tuple | dict, where: str) -> str:
    value = config.get(name, default)
    if type(value) is not str or value not in choices:
        raise UserError(f'{where} has {name} {shown(value)}, which is not read; expected '
                        f'{" or ".join(choices)}')
    return value


def _image_form(config: dict, where: str) -> tuple[int, int, int]:
    """Resolution, channels and number of classes of a network; refuses those that denoise no images alone."""
    kind = config.get('_class_name')
    if kind != 'UNet2DModel':
        why = ('is conditioned on text or the like, by cross attention' if kind == 'UNet2DConditionModel'
               else 'is not read')
        raise UserError(f'{where}: {shown(kind)} {why}; expected UNet2DModel')
    for name, choices in NETWORK_CHOICES.items():
        given = config.get(name, choices if type(choices) is tuple else next(iter(choices)))
        for value in given if isinstance(given, (list, tuple)) else [given]:
            if not isinstance(value, str | None) or value not in choices:
                raise UserError(f'{where}: {name} {shown(value)} is not read; expected '
                                f'{" or ".join(map(str, choices))}')
    for name, (types, least, most) in NUMBERS.items():
        value = config.get(name, least)
        if type(value) not in types or (value is not None and not least <= value <= most):
            kind = 'a number' if float in types else 'a whole number'
            raise UserError(f'{where}: {name} {shown(value)}, expected {kind} from {least} to {most}')
    channels, out = (config.get(name, 3) for name in ('in_channels', 'out_channels'))
    if channels not in (1, 3) or out not in (channels, 2 * channels):
        raise UserError(f'{where}: makes {shown(out)} channels of {shown(channels)}, expected 1 or 3 and as '
                        'many, or twice as many with a learned variance; others denoise latents, or are '
                        'conditioned on an image')
    size, levels = config.get('sample_size'), len(config.get('down_block_types', ()))
    size = size[0] if type(size) is list and len(size) == 2 and size[0] == size[1] else size
    if type(size) is not int or not 1 <= size <= 1 << 14:
        raise UserError(f'{where}: sample_size {shown(size)}, expected one resolution, for images are square')
    if levels and size % 2 ** (levels - 1):
        raise UserError(f'{where}: sample_size {size}, expected a multiple of {2 ** (levels - 1)} for '
                        f'{levels} levels')
    classes = config.get('num_class_embeds') or 0
    if type(classes) is not int or not 0 <= classes <= 100_000:
        raise UserError(f'{where}: num_class_embeds {shown(classes)}, expected a number of classes')
    return size, channels, classes


def _network(config: dict, tensors: dict[str, torch.Tensor], where: str) -> UNet2D:
    """The network that config.json describes, with these tensors."""
    known = inspect.signature(UNet2D).parameters.keys()
    unknown = [name for name in config if name not in known | PASSED_OVER and name[:1] != '_']
    if unknown:
        note(f'note: {where}: config.json says {shown(", ".join(unknown))}, which is ignored')
    renamed = {_new_name(name): tensor for name, tensor in tensors.items()}
    if len(renamed) < len(tensors):
        raise UserError(f'{where}: has a tensor of attention under its old and its new name')
    tensors = renamed
    try:
        net = sketch(_sized(UNet2D), (), {name: config[name] for name in config.keys() & known},
                     modules=3 * len(tensors) + 100)
    except ValueError as err:
        raise UserError(f'{where}: no network can be built as config.json says ({err})') from err
    expected = net.state_dict()
    for name in [*expected, *tensors]:
        theirs, ours = tensors.get(name), expected.get(name)
        if theirs is None or ours is None or theirs.shape != ours.shape or not theirs.is_floating_point():
            raise UserError(f'{where}: its tensor {shown(name)} is {form(theirs)}, and config.json asks for '
                            f'{form(ours)}')
    net.load_state_dict({name: tensor.to(torch.float32).contiguous() for name, tensor in tensors.items()},
                        assign=True)
    return net


def _sized(cls: Callable) -> Callable:
    """`cls`, of whose arguments the lists of levels have one length."""
    def build(**kwargs):
        lists = {'block_out_channels', 'down_block_types', 'up_block_types'}
        lengths = {name: len(kwargs[name]) for name in sorted(lists & kwargs.keys())}
        if len(set(lengths.values())) > 1 or 0 in lengths.values():
            raise ValueError(f'numbers of levels differ: {lengths}')
        return cls(**kwargs)
    return build


def _new_name(name: str) -> str:
    """A tensor's name as diffusers has written it since 0.15."""
    parts = name.split('.')
    if 'attentions' in parts:
        parts[-2:-1] = [OLD_NAMES.get(parts[-2], parts[-2])]
    return '.'.join(parts)
