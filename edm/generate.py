"""Generate images with a trained network."""

import contextlib
import hashlib
import os
from pathlib import Path

import click

import denoisers
from denoisers import DENOISERS
from sampling import PRECISIONS, sampler_options
from sampling.schedules import DISCRETIZATIONS, SCALINGS, SCHEDULES
from sampling.solvers import SOLVERS
from torch_utils import cli
from torch_utils.errors import UserError

INPUTS = ('network', 'scheduler', 'dataset', 'heldout', 'latents', 'invert')  # options that name files


@cli.command()
@cli.options('Main options',
    click.option('--network', metavar='PATH|URL|DIR|hf://', callback=denoisers.take_network,
                 help='Snapshot to sample, a run folder for its newest, a diffusers folder, file of weights '
                      'or hf://OWNER/NAME; with --denoiser only its noise levels and classes count.  '
                      '[required without --denoiser]'),
    click.option('--outdir', metavar='DIR', help='Folder for the images.  [required without --noise]'),
    click.option('--seeds', metavar='LIST', type=cli.IntList(), default='0-63',
                 help='One image per seed; with --latents, all of its seeds by default.'),
    click.option('--class', 'class_idx', metavar='INT', type=click.IntRange(min=0),
                 help='Class of all images.  [default: drawn by each seed]'),
    click.option('--batch', metavar='INT|auto', type=cli.IntOrAuto(), default=64,
                 help='Largest batch per process; auto: what fits the memory of a GPU, or is fast on a CPU.'),
    click.option('--precision', type=click.Choice(list(PRECISIONS)),
                 help='Precision of the features in the network.  [default: as in the snapshot]'),
    cli.device_option)
@cli.options('Closed-form denoiser of a data set instead of a network',
    denoisers.choice,
    click.option('--optimal_denoiser', is_flag=True, help='The same as --denoiser=optimal.'),
    click.option('--gaussian_denoiser', is_flag=True, help='The same as --denoiser=gaussian.'),
    click.option('--dataset', metavar='ZIP|DIR|NPZ', help='The data set.'),
    *denoisers.options,
    click.option('--heldout', metavar='ZIP|DIR|NPZ',
                 help='Images to choose the windows of --patch=auto by.  [default: those of --dataset, each '
                      'left out for itself]'),
    click.option('--cache_gb', metavar='GB', type=cli.FiniteRange(min=0),
                 help='Largest data set to keep in memory rather than in a temporary file.  [default: a '
                      'quarter of the memory]'),
    click.option('--shard_dataset', is_flag=True, help='Split the data set, not the seeds, over processes.'))
@cli.options('Network of diffusers', *denoisers.network_options)
@cli.options('Noise shared with other software',
    click.option('--noise', metavar='NPZ',
                 help='Save the latents, unit noise of the seeds; without --outdir nothing else.'),
    click.option('--latents', metavar='NPZ',
                 help='Start from the latents of such a file, wherever it comes from.  [default: drawn by '
                      'each seed]'),
    click.option('--invert', metavar='ZIP|DIR|NPZ',
                 help='Follow the ODE from these images back to latents instead, for --noise.'))
@cli.options('Sampler',
    *sampler_options.OPTIONS,
    click.option('--solver', type=click.Choice(list(SOLVERS)),
                 help='ODE solver.  [default: heun; with --denoiser: euler]'),
    click.option('--disc', type=click.Choice(list(DISCRETIZATIONS)), default='edm', help='Noise levels.'),
    click.option('--schedule', type=click.Choice(list(SCHEDULES)), default='linear', help='sigma over time.'),
    click.option('--scaling', type=click.Choice(list(SCALINGS)), default='none', help='Scale over time.'))
@cli.options('Output',
    click.option('--subdirs', is_flag=True, help='Make a folder for each thousand seeds.'),
    click.option('--grid', metavar='PNG', help='Also save one sheet with all images, outside --outdir.'),
    click.option('--trajectory', metavar='NPZ',
                 help='Also save the state and the denoised image at every step.'),
    click.option('--resume', is_flag=True, help='Keep existing images of the same settings.'),
    click.option('--overwrite', is_flag=True,
                 help='Remove existing images of other settings from --outdir instead of refusing.'))
@cli.writes(INPUTS, adds_overwrite=False, outdir=None, grid='grid', trajectory='trajectory', noise='noise')
def main(**opts):
    """Generate images with a trained network, or with a closed-form denoiser of a data set.

    Each image depends on its seed and the denoiser alone; a CUDA generator gives other noise than a CPU one.
    --outdir also gets generation.json, the record of what made the images.

    \b
    Examples:
      python edm/generate.py --network=network-snapshot-002000.pkl --outdir=evaluation/samples
      torchrun --standalone --nproc_per_node=2 edm/generate.py --network=network-snapshot-002000.pkl \\
          --outdir=evaluation/samples --seeds=100000-109999 --batch=256
      python edm/generate.py --optimal_denoiser --dataset=datasets/digits-8x8.zip --outdir=evaluation/optimal
      python edm/generate.py --network=a.pkl --invert=evaluation/a --steps=50 --noise=evaluation/a-latents.npz
      python edm/generate.py --network=b.pkl --latents=evaluation/a-latents.npz --outdir=evaluation/a-by-b
    """
    _check(opts)

    from sampling import generation
    from torch_utils import distributed
    from torch_utils.files import make_output_dir

    device = distributed.pick_device(opts['device'])
    distributed.init(device)
    net, labels, settings, files = _denoiser(opts, device)
    inputs = [*files, *(opts[name] for name in INPUTS[2:])]
    sampler = _sampler(opts, net)
    noise = _latents(opts, net, settings)
    settings |= {'class': opts['class_idx'], 'device': device.type, **sampler}
    draw = {'class_idx': opts['class_idx'], 'vectors': labels, 'noise': noise, **sampler}
    if not opts['denoiser']:  # a network that fails does so before anything is written
        with distributed.shared_errors():
            generation.sample(net, opts['seeds'][:1], device, **draw | {'num_steps': 2, 'S_churn': 0})

    for option in ('grid', 'trajectory', 'noise'):
        if opts[option]:
            make_output_dir(Path(opts[option]).parent, f'--{option}')
    if opts['noise']:
        _save_noise(opts, net, device, draw, settings, inputs)
    if not opts['outdir']:
        distributed.shutdown()
        return
    outdir, rank = make_output_dir(opts['outdir']), distributed.rank()
    with contextlib.ExitStack() as stack:
        todo = distributed.from_rank0(stack.enter_context(generation.sample_folder(
            outdir, settings, opts['seeds'], subdirs=opts['subdirs'], resume=opts['resume'],
            overwrite=opts['overwrite'], inputs=inputs)) if rank == 0 else None)
        _make(opts, net, device, draw, todo, settings, inputs)
        distributed.barrier()
        if opts['grid'] and rank == 0:
            generation.write_sheet(Path(opts['grid']), outdir, opts['seeds'], subdirs=opts['subdirs'])
    distributed.print0(f'{len(todo)} images: {outdir}')
    distributed.shutdown()


def _pace(opts: dict, net, device, count: int) -> tuple[int, int]:
    """The batch for `count` images, and how many batches to compute side by side."""
    from sampling import pace

    if opts['batch'] != 'auto':
        batch = opts['batch']
    else:
        batch = pace.DEFAULT_BATCH if opts['denoiser'] else pace.auto_batch(net, device, count)
    return batch, 1 if opts['denoiser'] else pace.batch_threads(device)


def _make(opts: dict, net, device, draw: dict, todo: list[int], settings: dict, inputs: list) -> None:
    """Make the images of the seeds `todo`, and the trajectory. draw: arguments of each `sample`."""
    from sampling import generation
    from torch_utils import distributed

    trajectory = opts['trajectory']
    batch, threads = _pace(opts, net, device, len(todo))
    batches = generation.own_batches(todo, batch, shared=opts['shard_dataset'], threads=threads)

    def make(batch):
        return generation.sample(net, batch, device, trajectory=bool(trajectory), **draw)

    helps = opts['shard_dataset'] and distributed.rank() > 0  # rank 0 writes what all make together
    made = map(make, batches) if helps else generation.write_samples(
        batches, make, Path(opts['outdir']), subdirs=opts['subdirs'], threads=threads)
    parts = [samples for samples in made if trajectory and not helps]
    if trajectory:
        generation.write_trajectory(Path(trajectory), parts, todo, settings, inputs=inputs)


def _latents(opts: dict, net, settings: dict):
    """The noise of --latents, or None; sets opts['seeds'] to its seeds, and names the file in `settings`."""
    from sampling.noise import read_noise
    from torch_utils.provenance import fingerprint

    if not opts['latents']:
        return None
    noise = read_noise(opts['latents'], net)
    opts['seeds'] = opts['seeds'] if cli.given('seeds') else noise.seeds
    settings['latents_sha256'] = fingerprint(opts['latents'])
    return noise.some(opts['seeds'])


def _save_noise(opts: dict, net, device, draw: dict, settings: dict, inputs: list) -> None:
    """Write --noise: the latents of --invert, of --latents, or of the seeds. draw: as in `_make`."""
    from sampling import generation, inversion, noise
    from torch_utils import distributed

    found, draw = draw['noise'], {name: value for name, value in draw.items() if name != 'noise'}
    if opts['invert']:
        images = _open_images(opts['invert'], net)
        batch, threads = _pace(opts, net, device, len(images))
        found = inversion.invert_images(
            net, images.images, noise.seeds_in_names(images.file_names), device, batch=batch, threads=threads,
            classes=images.classes if draw['vectors'] is None else None, **draw)
    elif found is None:
        found = generation.draw_noise(net, opts['seeds'], device, draw['class_idx'], draw['vectors'])
    if distributed.rank() == 0:
        noise.write_noise(opts['noise'], found, settings=settings, inputs=inputs)
    distributed.print0(f'{len(found.seeds)} latents: {opts["noise"]}')


def _open_images(path: str, net):
    """The images of --invert, whose size and classes must be the network's."""
    from data.dataset import ImageDataset
    from data.image_files import describe_shape

    images = ImageDataset(path, use_labels=None if net.label_dim else False, cache=False, option='--invert')
    shape = (net.img_channels, net.img_resolution, net.img_resolution)
    if images.image_shape != shape:
        raise UserError(f'--invert {path}: images are {describe_shape(images.image_shape)}, and those of the '
                        f'denoiser are {describe_shape(shape)}')
    if images.classes is not None and images.label_dim > net.label_dim:
        raise UserError(f'--invert {path}: has the class {images.label_dim - 1}, and the network the classes '
                        f'0 to {net.label_dim - 1}; --class gives all images one')
    return images


def _check(opts: dict) -> None:
    """Refuse options that are wrong whatever the network."""
    _check_denoiser(opts)
    _check_noise(opts)
    if len(set(opts['seeds'])) < len(opts['seeds']):
        raise click.UsageError('--seeds: lists a seed twice')
    for option, suffix in (('grid', '.png'), ('trajectory', '.npz'), ('noise', '.npz')):
        path = opts[option]
        if path and (not path.lower().endswith(suffix) or os.path.isdir(path)):
            raise click.UsageError(f'--{option} {path}: expected a file name in {suffix}')
    if opts['grid'] and Path(opts['outdir']).resolve() in Path(opts['grid']).resolve().parents:
        raise click.UsageError(f'--grid {opts["grid"]}: lies in --outdir, where it would count as a sample')
    if opts['trajectory'] and opts['resume']:
        raise click.UsageError('--trajectory and --resume can\'t be given together: existing images have no '
                               'trajectory')
    if not DISCRETIZATIONS[opts['disc']].has_rho and cli.given('rho'):
        raise click.UsageError(f'--rho has no use with --disc {opts["disc"]}')
    sampler_options.check_churn(opts)


def _check_noise(opts: dict) -> None:
    """Refuse contradictions about noise and images."""
    if opts['invert'] and not opts['noise']:
        raise click.UsageError('--invert needs --noise, a file for the latents')
    if not opts['outdir'] and not opts['noise']:
        raise click.UsageError('--outdir is missing; only --noise does without')
    for option in ('outdir', 'seeds', 'latents', 'S_churn', 'shard_dataset'):
        if opts['invert'] and cli.given(option):
            raise click.UsageError(f'--{option} can\'t be given with --invert, which only finds latents')
    for option in ('grid', 'trajectory', 'resume'):
        if opts[option] and not opts['outdir']:
            raise click.UsageError(f'--{option} needs --outdir')


def _check_denoiser(opts: dict) -> None:
    """Refuse contradictions about what is sampled; sets opts['denoiser']."""
    given = {f'--{kind}_denoiser': kind for kind in DENOISERS if opts.get(f'{kind}_denoiser')}
    if opts['denoiser']:
        given[f'--denoiser {opts["denoiser"]}'] = opts['denoiser']
    if len(set(given.values())) > 1:
        raise click.UsageError(f'{" and ".join(given)} can\'t be given together')
    opts['denoiser'] = next(iter(given.values()), None)
    for option in ('scheduler', 'clip_sample'):
        if opts[option] and not opts['network']:
            raise click.UsageError(f'--{option} is for --network')
    if opts['denoiser']:
        if not opts['dataset']:
            raise click.UsageError(f'{next(iter(given))} needs --dataset')
        if opts['precision']:
            raise click.UsageError('--precision is for networks, not for --denoiser')
        denoisers.own_options(opts['denoiser'], opts)
        if opts['heldout'] and opts['patch'] != 'auto':
            raise click.UsageError('--heldout is for --patch auto')
        return
    for option in ('dataset', 'cache_gb', 'shard_dataset', 'heldout'):
        if cli.given(option):
            raise click.UsageError(f'--{option} is for --denoiser, such as --optimal_denoiser')
    denoisers.own_options(None, opts)
    if not opts['network']:
        raise click.UsageError('--network is missing; only --denoiser with --dataset does without')


def _denoiser(opts: dict, device) -> tuple:
    """The denoiser, on the device; label vectors, if its labels are such; settings that name both; files."""
    from data.training_labels import label_vectors
    from denoisers.open_network import open_network
    from sampling.pace import prepare
    from torch_utils.provenance import fingerprint

    net, identity, files = None, {}, ()
    if opts['network']:
        network = open_network(opts['network'], device, scheduler=opts['scheduler'],
                               clip_sample=opts['clip_sample'])
        net, recorded, files = network
        identity['network_sha256'] = network.sha256()
        if opts['clip_sample']:
            identity['clip_sample'] = True
    if opts['denoiser']:
        from denoisers.open_denoiser import open_denoiser
        if net is not None and net.label_dim:
            sampler_options.check_class(opts['class_idx'], net.label_dim)
        own = denoisers.own_options(opts['denoiser'], opts)
        net = open_denoiser(opts['denoiser'], opts['dataset'], device, net=net, class_idx=opts['class_idx'],
                            cache_gb=opts['cache_gb'], sharded=opts['shard_dataset'],
                            heldout=opts['heldout'], **own)
        identity |= {'denoiser': opts['denoiser'], 'dataset_sha256': fingerprint(opts['dataset']), **own}
        if own.get('patch') == 'auto':
            identity['patch_by_sigma'] = [list(pair) for pair in net.sizes.items()]
        return net, None, identity, files
    vectors = label_vectors(recorded, net.label_dim, f'--network {opts["network"]}')
    sampler_options.check_class(opts['class_idx'], net.label_dim, vectors=vectors is not None)
    prepare(net, device, opts['precision'])
    identity['precision'] = opts['precision']
    if vectors is not None:
        identity['labels_sha256'] = hashlib.sha256(vectors.tobytes()).hexdigest()
    return net, vectors, identity, files


def _sampler(opts: dict, net) -> dict:
    """The sampler's options, checked against the denoiser; tells where the noise levels were clipped."""
    from sampling.plan import clip_range, plan_steps
    from torch_utils.errors import note

    options = {'num_steps': opts['steps'], **{name: opts[name] for name in (
        'disc', 'schedule', 'scaling', 'rho', 'S_churn', 'S_min', 'S_max', 'S_noise')}}
    with cli.usage_errors():
        options['sigma_min'], options['sigma_max'] = clip_range(
            net, opts['sigma_min'], opts['sigma_max'], opts['disc'])
        plan_steps(net, **options)
    for name in ('sigma_min', 'sigma_max'):
        if opts[name] not in (None, options[name]):
            note(f'--{name} {opts[name]:g} is beyond what the network supports; {options[name]:g} is used')
    return {'solver': opts['solver'] or ('euler' if opts['denoiser'] else 'heun'), **options}


if __name__ == '__main__':
    main()
