"""The costs of the experiments of reproduce.py, counted from their settings; see `experiments.estimates`.

Of floating-point operations a training image costs three forward passes (forward and both gradients), a
sampled image 2 * steps - 1, a row of a Jacobian one backward pass to the image and a share of a forward one.
"""

import math

import torch

from data.dataset import ImageDataset
from experiments.estimates import BYTES_PER_PARAMETER, Estimate, Line, Network, NetworkCost, network_cost
from experiments.jacobian_experiment import RELEASED, JacobianExperiment
from experiments.molrg_experiment import MoLRGExperiment
from experiments.regimes import REFERENCES, Regimes
from experiments.stages import option_values
from jacobians.products import exact_bytes
from jacobians.randomized import MOST_GROWTH
from torch_utils.cli import parse_int_list
from torch_utils.downloads import is_url
from torch_utils.errors import UserError
from training.config import ARCHITECTURES, PRECONDITIONINGS, network_kwargs, possible_levels
from training.snapshot import load_network

SAMPLING_PASSES = 35  # 18 steps of Heun's method
SSCD_FLOP = 2 * 16.4e9  # ResNeXt-101 32x4d on 320x320: 8.0e9 multiplications at 224x224, times (320/224)^2
PNG_BYTES_PER_VALUE = 1.05  # photographs hardly compress
ROW_PASSES = 1 + 1 / 8  # eight rows of a Jacobian share one forward pass
ROWS_AT_ONCE = 64
# It is not multiplications that take the low-rank model's time. Measured on a CPU, beside a U-Net: a step of
# its training, and, in operations of the U-Net, each number in a step of many trainings at once.
LOW_RANK_STEP_SECONDS = 0.0025
LOW_RANK_FLOP_PER_NUMBER = 1300
# What a training script's options may be, of those that an estimate reads.
_COUNTS = ('--tick', '--snap', '--dump', '--keep', '--batch', '--batch-gpu', '--model_channels', '--cbase',
           '--num_blocks')
_PROBABILITIES = ('--augment', '--dropout')
_CHOICES = {'--arch': ARCHITECTURES, '--precond': PRECONDITIONINGS}


def check_training(args: tuple[str, ...], option: str) -> None:
    """Raise UserError naming `option`, which gave these arguments of train.py, if one can't be estimated."""
    for name, text in option_values(args).items():
        try:
            if name in _COUNTS and int(text) < 1:
                raise ValueError('it must be at least 1')
            if name in _PROBABILITIES and not 0 <= float(text) <= 1:
                raise ValueError('it must lie within 0 and 1')
            if name == '--duration' and not 0 < float(text) < math.inf:
                raise ValueError('it must be above 0 and finite')
            if name in ('--cres', '--attn_resolutions'):
                parse_int_list(text)
            if name in _CHOICES and text not in _CHOICES[name]:
                raise ValueError(f'it must be one of {", ".join(_CHOICES[name])}')
        except ValueError as err:
            raise UserError(f'{option}: {name} {text}: {err}') from err


def _check_network(network: Network, option: str) -> None:
    try:
        _ = network.cost  # builds it
    except ValueError as err:
        raise UserError(f'{option}: no network for these images: {err}') from err


def regimes_estimate(job: Regimes) -> Estimate:
    """Training sets, students, their samples and features; the widest student is the reference.

    Raises UserError naming --train or --teacher-training if their arguments are none of train.py.
    """
    for args, option in ((job.train, '--train'), (job.teacher_training, '--teacher-training')):
        if args:
            check_training(args, option)
    students = {width: Network(name=f'UNet-{width}', kwargs=_network_of(job.train, model_channels=width),
                               resolution=job.resolution, channels=job.channels) for width in job.widths}
    for student in students.values():
        _check_network(student, '--train, --widths')
    widest = students[max(job.widths)]
    values = job.resolution**2 * job.channels
    png = values * PNG_BYTES_PER_VALUE + 200
    sizes = len(job.sizes)
    pool = max(job.sizes) + job.num_heldout if job.teacher or job.teacher_training else 0
    lines = []
    if job.teacher_training:
        teacher = Network(name='', kwargs=_network_of(job.teacher_training), resolution=job.resolution,
                          channels=job.channels)
        _check_network(teacher, '--teacher-training')
        lines.append(_training('train the teacher', 1, job.teacher_training, teacher))
    lines.append(Line(what='teacher\'s images', stages=int(pool > 0), disk_bytes=pool * png,
                      flop=pool * SAMPLING_PASSES * widest.cost.flop))
    for student in students.values():
        samples = sizes * job.num_samples
        lines += [_training(f'train {student.name}', sizes, (*job.duration, *job.train), student),
                  Line(what=f'sample {student.name}', stages=sizes, disk_bytes=samples * png,
                       flop=samples * SAMPLING_PASSES * student.cost.flop)]
    references = sizes * len(REFERENCES)
    sources = 1 + sizes * len(job.widths) + references
    images = (pool or max(job.sizes)) + (sources - 1) * job.num_samples
    lines += [
        Line(what='sample closed forms', stages=references, disk_bytes=references * job.num_samples * png,
             flop=SAMPLING_PASSES * 4 * values * sum(job.sizes) * job.num_samples),  # two matrix products
        Line(what='training sets', stages=sizes, flop=0, disk_bytes=sum(job.sizes) * (values + 300)),
        Line(what='features', stages=sources, flop=images * SSCD_FLOP if job.descriptor == 'sscd' else 0,
             disk_bytes=images * 4 * (1024 if job.descriptor == 'sscd' else values)),
        Line(what='figures', stages=len(job.pictures), flop=0, disk_bytes=0)]
    return Estimate(reference=widest, lines=lines, notes=[
        _memory_note(student, (*job.duration, *job.train)) for student in students.values()])


def molrg_estimate(job: MoLRGExperiment) -> Estimate:
    """Training of the U-Net, which is the reference, and of low-rank models, and ranks of both."""
    shape, options = job.shape, option_values(job.unet)
    unet = Network(name='U-Net', resolution=shape.resolution, channels=3, kwargs=_network_of(
        job.unet, model_channels=int(options.get('--embed_channels', 1024)),
        channel_mult=lambda levels: possible_levels(levels, shape.resolution)))
    low_rank = option_values(job.low_rank)
    low_rank_parameters = shape.class_num * shape.per_class_dim * shape.dim
    transition = job.transition
    numbers = (transition.trials * transition.restarts * transition.steps * transition.batch
               * 3 * transition.img_res**2 * len(transition.shapes()))
    lines = [
        _training('train U-Net', 1, job.unet, unet, snap=10),
        Line(what='train low-rank model', stages=1, flop=0,
             disk_bytes=4 * shape.num_samples * shape.dim + 24 * low_rank_parameters,
             seconds=LOW_RANK_STEP_SECONDS * 1e6 * float(low_rank['--duration']) / int(low_rank['--batch'])),
        _jacobians('ranks of U-Net', unet.cost, shape.dim, job.jacobian),
        Line(what='ranks of low-rank model', stages=1, flop=0, disk_bytes=0),
        Line(what='phase transition', stages=len(transition.dims), disk_bytes=0,
             flop=numbers * LOW_RANK_FLOP_PER_NUMBER,
             memory_bytes=10 * 4 * numbers / transition.steps / len(transition.shapes())),
        Line(what='figures', stages=len(job.pictures), flop=0, disk_bytes=0)]
    return Estimate(reference=unet, lines=lines, notes=[_memory_note(unet, job.unet)])


def jacobian_estimate(job: JacobianExperiment) -> Estimate:
    """Ranks of networks that are trained, released, or lie here; the first of these is the reference.

    What a snapshot at another address holds is not known before it is downloaded, and so not counted.
    """
    lines, notes, known = [], [], []
    if job.training is not None:
        label, data, train = job.training
        channels, resolution, _ = ImageDataset(data, cache=False).image_shape
        known.append(Network(name=label, kwargs=_network_of(train), resolution=resolution, channels=channels))
        lines += [_training(f'train {label}', 1, train, known[0]),
                  _jacobians(f'ranks of {label}', known[0].cost, resolution**2 * channels, job.jacobian)]
        notes.append(_memory_note(known[0], train))
    for label, path in job.networks:
        if path in RELEASED:
            options, resolution = RELEASED[path]
            known.append(Network(name=label, kwargs=network_kwargs(options), resolution=resolution,
                                 channels=3))
            cost, dim = known[-1].cost, 3 * resolution**2
        elif is_url(path):
            notes.append(f'{label}: not counted, as the network is not known before its download')
            continue
        else:
            net = load_network(path, torch.device('meta'), option='--networks')
            cost, dim = network_cost(net), net.img_channels * net.img_resolution**2
        download = cost.parameters * BYTES_PER_PARAMETER['snapshot'] if is_url(path) else 0
        lines.append(_jacobians(f'ranks of {label}', cost, dim, job.jacobian, download))
    lines.append(Line(what='figure', stages=1, flop=0, disk_bytes=0))
    if option_values(job.jacobian).get('--method', 'auto') == 'auto':
        notes.append('ranks: at most; less where they are low (jacobian.py --method auto)')
    return Estimate(reference=known[0], lines=lines, notes=notes)


def _training(what: str, stages: int, args: tuple[str, ...], network: Network, snap: int = 50) -> Line:
    """Of equal calls of a training script with these arguments. snap: its default."""
    options, cost = option_values(args), network.cost
    kimg = 1000 * float(options['--duration'])
    ticks = kimg / int(options.get('--tick', 50))
    snapshots = 2 + ticks // int(options.get('--snap', snap))
    states = min(1 + ticks // int(options.get('--dump', 500)), int(options.get('--keep', 10**9)))
    return Line(
        what=what, stages=stages, flop=stages * 3 * 1000 * kimg * cost.flop,
        disk_bytes=stages * cost.parameters * (snapshots * BYTES_PER_PARAMETER['snapshot']
                                               + states * BYTES_PER_PARAMETER['state']),
        memory_bytes=cost.training_bytes(_images_at_once(options)))


def _images_at_once(options: dict[str, str]) -> int:
    return int(options.get('--batch-gpu', options.get('--batch', 512)))


def _memory_note(network: Network, args: tuple[str, ...]) -> str:
    return (f'{network.name}: {network.cost.parameters / 1e6:.1f} M parameters; memory to train '
            f'{network.cost.training_bytes(0) / 1e6:.0f} MB + {network.cost.activation_bytes / 1e6:.1f} MB '
            f'for each of the {_images_at_once(option_values(args))} images at once (--batch-gpu)')


def _jacobians(what: str, cost: NetworkCost, dim: int, args: tuple[str, ...], download: float = 0) -> Line:
    """Of a call of jacobian.py with these arguments; at most, where ranks decide what it does."""
    options = option_values(args)
    seeds = len(parse_int_list(options.get('--seeds', '0-9')))
    levels = len(options['--sigmas'].split(',')) if '--sigmas' in options else int(options.get('--steps', 18))
    passes = dim * ROW_PASSES
    if options.get('--method', 'auto') == 'auto' and dim > ROWS_AT_ONCE:
        passes += MOST_GROWTH * dim * (ROW_PASSES + 1)  # the randomized method, given up as late as possible
    points = seeds * levels
    return Line(what=what, stages=1, flop=(points * passes + seeds * SAMPLING_PASSES) * cost.flop,
                disk_bytes=download + points * (24 + 4 * dim * ('--save_spectrum' in options)),
                memory_bytes=4 * cost.parameters + ROWS_AT_ONCE * cost.activation_bytes + exact_bytes(dim))


def _network_of(args: tuple[str, ...], channel_mult=None, **more) -> dict:
    """Class name and arguments of the network that a training script makes with these arguments.

    channel_mult: a function of the widths that --arch stands for. more: entries for `network_kwargs`.
    """
    options = option_values(args)
    given = {'arch': options.get('--arch', 'ddpmpp'), 'precond': options.get('--precond', 'edm'),
             'augment': float(options.get('--augment', 0.12 if channel_mult is None else 0)),
             'dropout': float(options.get('--dropout', 0.13)), **more}
    for name in ('model_channels', 'cbase', 'num_blocks'):
        if f'--{name}' in options:
            given[name] = int(options[f'--{name}'])
    for name in ('cres', 'attn_resolutions'):
        if f'--{name}' in options:
            given[name] = parse_int_list(options[f'--{name}'])
    kwargs = network_kwargs(given)
    if channel_mult is not None and 'cres' not in given:
        kwargs['channel_mult'] = channel_mult(kwargs['channel_mult'])
    return kwargs


ESTIMATES = {'regimes': regimes_estimate, 'molrg': molrg_estimate, 'jacobian': jacobian_estimate}
