"""Checkpoints of guided-diffusion and improved-diffusion as networks of ours: ADM U-Nets that predict noise.

Such a file (Dhariwal & Nichol 2021; Nichol & Dhariwal 2021) is a dict of tensors. Most of the network's form
follows from their names and shapes; what does not is given as those programs' options, by the same names.
"""

import os
import pickle
import re
import zipfile
from collections.abc import Iterator

import torch

from torch_utils import downloads
from torch_utils.errors import UserError, shown
from torch_utils.safe_archive import safe_load_archive
from torch_utils.sketch import sketch
from training.networks import Conv2d, iDDPMPrecond
from training.snapshot import form

# Our module -> theirs, in a residual block and in an attention block.
BLOCK = {'norm0': 'in_layers.0', 'conv0': 'in_layers.2', 'affine': 'emb_layers.1', 'norm1': 'out_layers.0',
         'conv1': 'out_layers.3', 'skip': 'skip_connection'}
ATTENTION = {'norm2': 'norm', 'qkv': 'qkv', 'proj': 'proj_out'}
OTHERS = {'map_layer0': 'time_embed.0', 'map_layer1': 'time_embed.2', 'map_label': 'label_emb',
          'out_norm': 'out.0', 'out_conv': 'out.2'}
# The option that decides the shape of a module's tensors; else channel_mult.
DECIDED_BY = {'affine': 'use_scale_shift_norm', 'map_label': 'num_classes', 'out_conv': 'learn_sigma',
              **dict.fromkeys(('map_layer0', 'map_layer1'), 'num_channels'),
              **dict.fromkeys(ATTENTION, 'attention_resolutions')}


def read_checkpoint(path_or_url: str, option: str = '--source') -> dict[str, torch.Tensor]:
    """The tensors of a file of `torch.save`, on the CPU; no code in it is run.

    Raises UserError, which names `option`, if it is no dict of tensors or damaged.
    """
    where = f'{option} {path_or_url}'
    path = downloads.local_path(path_or_url, option)
    if not zipfile.is_zipfile(path):
        raise UserError(f'{where}: no checkpoint as torch.save writes it since PyTorch 1.6')
    try:
        tensors = safe_load_archive(path)
    except pickle.UnpicklingError as err:
        raise UserError(f'{where}: no checkpoint that can be read: {err}') from err
    if type(tensors) is not dict or not tensors or not all(
            type(name) is str and isinstance(value, torch.Tensor) for name, value in tensors.items()):
        raise UserError(f'{where}: no checkpoint of ADM, which is a dict of nothing but tensors')
    if sum(tensor.nbytes for tensor in tensors.values()) > os.path.getsize(path):
        raise UserError(f'{where}: has fewer numbers than its tensors claim')
    return tensors


def convert(tensors: dict[str, torch.Tensor], options: dict, where: str = '--source') -> iDDPMPrecond:
    """The denoiser of an ADM checkpoint, on the CPU, in evaluation mode.

    options: by guided-diffusion's names, None for those not given. What a file does not say must be there:
        image_size, noise_schedule ('linear' or 'cosine'), num_head_channels or, without it, num_heads; by
        default diffusion_steps is 1000, dropout 0, and rescale_timesteps, use_new_attention_order and
        use_fp16 are False. The others are compared with the file: those that `_form` returns.
    Raises UserError, led by `where` or an option, for another kind of network, and where a tensor and an
    option, or two tensors, contradict each other.
    """
    _check_kind(tensors, where)
    try:
        found, shown_by = _form(tensors)
    except (LookupError, ZeroDivisionError) as err:
        raise UserError(f'{where}: no ADM network; the names of its tensors don\'t make one ({shown(err)})'
                        ) from err
    options = {name: value for name, value in options.items() if value is not None}
    if 'attention_resolutions' in options:
        options['attention_resolutions'] = tuple(sorted(options['attention_resolutions'], reverse=True))
    found |= {'attention_resolutions': _resolutions(found, options, where)}
    for name in found:
        if options.get(name, found[name]) != found[name]:
            raise UserError(f'--{name} {_text(options[name])}: the file has {_text(found[name])}; its tensor '
                            f'{shown_by[name]} is {form(tensors.get(shown_by[name]))}')
    _check_heads(tensors, options)
    net = _network(found | options, len(tensors), where)
    return _fill(net, tensors, found | options, where)


def _text(value) -> str:
    return ','.join(map(str, value)) if isinstance(value, tuple) else str(value)


def _check_kind(tensors: dict, where: str) -> None:
    """Refuse networks of the same software that are no denoisers of images alone."""
    for name in ('time_embed.0.weight', 'input_blocks.0.0.weight'):
        if name not in tensors or tensors[name].ndim < 2:
            raise UserError(f'{where}: no ADM network; its tensor {name} is {form(tensors.get(name))}')
    if 'out.2.weight' not in tensors or not any(name.startswith('output_blocks.') for name in tensors):
        raise UserError(f'{where}: has no output_blocks and denoises nothing; it may be a classifier')
    first = tensors['input_blocks.0.0.weight']
    if first.shape[1] not in (1, 3):
        raise UserError(f'{where}: its tensor input_blocks.0.0.weight is {form(first)}, expected 1 or 3 '
                        'channels; upsamplers, which also get a small image and so have 6, are not read')


def _form(tensors: dict) -> tuple[dict, dict[str, str]]:
    """The value of each option that the tensors determine, and the name of the tensor that shows it.

    With guided-diffusion's options stand img_channels, emb_mult (width of the embedding by that of the
    network), attends (whether each level does), and resampling: 'blocks', 'convolutions' or 'pooling'.
    Raises LookupError or ZeroDivisionError if the tensors are of no such network.
    """
    def numbers(pattern: str) -> list[int]:
        return sorted({int(match[1]) for name in tensors if (match := re.match(pattern, name))})

    def side(name: str, axis: int = 0) -> int:
        return tensors[name].shape[axis]

    inputs, outputs = numbers(r'input_blocks\.(\d{1,4})\.'), numbers(r'output_blocks\.(\d{1,4})\.')
    resampling = {'convolutions': numbers(r'output_blocks\.(\d{1,4})\.[12]\.conv\.'),
                  'blocks': numbers(r'output_blocks\.(\d{1,4})\.[12]\.in_layers\.'),
                  'pooling': sorted(set(range(inputs[-1])) - set(inputs))}  # which has no tensors
    how = next((how for how, places in resampling.items() if places), 'blocks')
    levels = len(resampling[how]) + 1
    num_blocks = len(outputs) // levels - 1
    if not inputs[-1] + 1 == len(outputs) == levels * (num_blocks + 1):
        raise IndexError(f'{inputs[-1] + 1} input_blocks, {len(outputs)} output_blocks, {levels} levels')
    first = [f'input_blocks.{1 + level * (num_blocks + 1)}' for level in range(levels)]  # block of each level
    channels = side('time_embed.0.weight', 1)
    widths = [side(f'{block}.0.out_layers.3.weight') for block in first]
    shown_by = {
        'num_channels': 'time_embed.0.weight',
        'num_res_blocks': f'output_blocks.{outputs[-1]}.0.in_layers.0.weight',
        'channel_mult': f'{first[-1]}.0.out_layers.3.weight',
        'attention_resolutions': f'{first[-1]}.1.qkv.weight',
        'num_classes': 'label_emb.weight', 'class_cond': 'label_emb.weight',
        'learn_sigma': 'out.2.weight',
        'resblock_updown': f'output_blocks.{num_blocks}.1.in_layers.0.weight',
        'use_scale_shift_norm': f'{first[0]}.0.emb_layers.1.weight'}
    classes = side('label_emb.weight') if 'label_emb.weight' in tensors else 0
    image = side('input_blocks.0.0.weight', 1)
    return {
        'num_channels': channels, 'num_res_blocks': num_blocks,
        'channel_mult': tuple(width // channels if width % channels == 0 else width / channels
                              for width in widths),
        'attends': [f'{block}.1.qkv.weight' in tensors for block in first],
        'num_classes': classes, 'class_cond': classes > 0,
        'learn_sigma': side('out.2.weight') == 2 * image, 'img_channels': image,
        'resblock_updown': how == 'blocks', 'resampling': how,
        'use_scale_shift_norm': side(shown_by['use_scale_shift_norm']) == 2 * widths[0],
        'emb_mult': side('time_embed.0.weight') // channels,
    }, shown_by


def _resolutions(found: dict, options: dict, where: str) -> tuple[int, ...]:
    """Side lengths of the feature maps with attention; given ones that no level has stay, without effect."""
    size, levels = options['image_size'], len(found['attends'])
    if size % 2 ** (levels - 1):
        raise UserError(f'--image_size {size}: the network of {where} has {levels} levels, so expected a '
                        f'multiple of {2 ** (levels - 1)}')
    sides = [size >> level for level in range(levels)]
    attending = {side for side, attends in zip(sides, found['attends'], strict=True) if attends}
    without = set(options.get('attention_resolutions', ())) - set(sides)
    return tuple(sorted(attending | without, reverse=True))


def _check_heads(tensors: dict, options: dict) -> None:
    """Refuse heads that the channels can't be shared by."""
    option = 'num_head_channels' if 'num_head_channels' in options else 'num_heads'
    for name, tensor in tensors.items():
        width = len(tensor) // 3 if name.endswith('.qkv.weight') and tensor.ndim else 0
        if width % options[option]:
            raise UserError(f'--{option} {options[option]}: does not divide the {width} channels of the '
                            f'tensor {shown(name)}, {form(tensor)}')


def _heads(width: int, options: dict) -> int:
    """Attention heads of `width` channels; as in guided-diffusion, num_head_channels goes first."""
    return width // options['num_head_channels'] if 'num_head_channels' in options else options['num_heads']


def _network(options: dict, num_tensors: int, where: str) -> iDDPMPrecond:
    """The network of these options, its weights shapes alone."""
    by_width = 'num_head_channels' in options
    heads = {'channels_per_head': options['num_head_channels']} if by_width else {
        'num_heads': options['num_heads']}
    kwargs = {
        'img_resolution': options['image_size'], 'img_channels': options['img_channels'],
        'label_dim': options['num_classes'], 'use_fp16': options.get('use_fp16', False),
        'M': options.get('diffusion_steps', 1000), 'noise_schedule': options['noise_schedule'],
        'rescale_timesteps': options.get('rescale_timesteps', False),
        'model_channels': options['num_channels'], 'channel_mult': list(options['channel_mult']),
        'channel_mult_emb': options['emb_mult'], 'num_blocks': options['num_res_blocks'],
        'attn_resolutions': list(options['attention_resolutions']), 'dropout': options.get('dropout', 0),
        'resblock_updown': options['resampling'] != 'convolutions',
        'adaptive_scale': options['use_scale_shift_norm'], 'min_channels_per_group': 1, **heads}
    try:
        net = sketch(iDDPMPrecond, (), kwargs, modules=num_tensors + 100)
    except ValueError as err:
        raise UserError(f'{where}: no DhariwalUNet is as the tensors and options say ({err})') from err
    net.u = net.noise_levels()
    if not (net.u.isfinite().all() and (net.u.diff() < 0).all() and net.M > 1):
        raise UserError(f'--diffusion_steps {net.M}: no noise levels of --noise_schedule '
                        f'{options["noise_schedule"]} that rise to a finite one')
    return net.eval().requires_grad_(False)


def _places(model: torch.nn.Module) -> Iterator[tuple[str, str]]:
    """The path of each of our modules with weights, and its path in a checkpoint."""
    yield from OTHERS.items()
    blocks = [(f'enc.{name}', layer, f'input_blocks.{i}', 0)
              for i, (name, layer) in enumerate(model.enc.items())]
    i, last = -1, 0  # the newest output block, and the place of its last module
    for name, layer in model.dec.items():
        kind = name.split('_')[1]
        if kind in ('in0', 'in1'):
            blocks.append((f'dec.{name}', layer, 'middle_block', 0 if kind == 'in0' else 2))
        elif kind == 'up':
            blocks.append((f'dec.{name}', layer, f'output_blocks.{i}', last + 1))
        else:
            i, last = i + 1, 1 if layer.num_heads else 0
            blocks.append((f'dec.{name}', layer, f'output_blocks.{i}', 0))
    for ours, layer, theirs, place in blocks:
        if isinstance(layer, Conv2d):
            yield ours, f'{theirs}.{place}' + ('.op' if layer.down else '.conv' if layer.up else '')
            continue
        yield from ((f'{ours}.{part}', f'{theirs}.{place}.{name}') for part, name in BLOCK.items())
        yield from ((f'{ours}.{part}', f'{theirs}.{place + 1}.{name}') for part, name in ATTENTION.items())


def _fill(net: iDDPMPrecond, tensors: dict, options: dict, where: str) -> iDDPMPrecond:
    """Give `net` the checkpoint's tensors; returns it."""
    places, state, unused = dict(_places(net.model)), net.state_dict(), dict(tensors)
    for key, ours in state.items():
        path, _, kind = key.removeprefix('model.').rpartition('.')
        layer = path.rpartition('.')[2]
        if kind not in ('weight', 'bias'):  # noise levels and filters
            continue
        if options['resampling'] == 'pooling' and re.search(r'_(down|up)\.', path):
            state[key] = torch.zeros(ours.shape)  # only the other branch is left, which averages or repeats
            continue
        name = f'{places[path]}.{kind}'
        tensor, expected = unused.pop(name, None), _their_shape(layer, kind, list(ours.shape), options)
        if tensor is None or list(tensor.shape) != expected or not tensor.is_floating_point():
            raise UserError(f'{where}: its tensor {shown(name)} is {form(tensor)}, expected float32 '
                            f'{expected} by --{DECIDED_BY.get(layer, "channel_mult")}')
        state[key] = _as_ours(layer, tensor.to(torch.float32), ours.shape, options)
    if unused:
        raise UserError(f'{where}: has a tensor {shown(min(unused))}, for which DhariwalUNet has no place')
    net.load_state_dict(state, assign=True)
    return net


def _their_shape(layer: str, kind: str, shape: list[int], options: dict) -> list[int]:
    """The shape of a tensor of our module `layer` in a checkpoint."""
    if layer == 'map_label':
        return shape[::-1]
    if layer in ('qkv', 'proj') and kind == 'weight':
        return shape[:3]  # of a convolution over one axis
    if layer == 'out_conv' and not options['learn_sigma']:
        return [shape[0] // 2, *shape[1:]]
    return shape


def _as_ours(layer: str, tensor: torch.Tensor, shape: torch.Size, options: dict) -> torch.Tensor:
    """A tensor of a checkpoint in the layout of ours.

    Their 3 C channels of queries, keys and values are [head, 3, C / head], in the new order [3, head,
    C / head]; ours are [head, C / head, 3]. A variance that was not learned is 0; the denoiser leaves it out.
    """
    if layer == 'map_label':
        tensor = tensor.T
    elif layer == 'qkv':
        heads = _heads(len(tensor) // 3, options)
        if options.get('use_new_attention_order', False):
            tensor = tensor.reshape(3, heads, len(tensor) // 3 // heads, -1).movedim(0, 2)
        else:
            tensor = tensor.reshape(heads, 3, len(tensor) // 3 // heads, -1).movedim(1, 2)
    elif layer == 'out_conv' and not options['learn_sigma']:
        tensor = torch.cat([tensor, torch.zeros_like(tensor)])
    return tensor.reshape(shape).contiguous()
