"""Generate images with a trained network."""

import contextlib
import hashlib
import os
from pathlib import Path

import click

import denoisers
from denoisers import DENOISERS
from sampling import PRECISIONS
from sampling.schedules import DISCRETIZATIONS, SCALINGS, SCHEDULES
from sampling.solvers import SOLVERS
from torch_utils import cli
from torch_utils.run_dir import take_newest


@cli.command()
@cli.options('Main options',
    click.option('--network', metavar='PATH|URL|DIR', callback=take_newest,
                 help='Snapshot to sample, or a run folder for its newest; with --denoiser only its noise '
                      'levels and classes count.  [required without --denoiser]'),
    click.option('--outdir', metavar='DIR', required=True, help='Folder for the images.'),
    click.option('--seeds', metavar='LIST', type=cli.IntList(), default='0-63', help='One image per seed.'),
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
    click.option('--cache_gb', metavar='GB', type=cli.FiniteRange(min=0),
                 help='Largest data set to keep in memory rather than in a temporary file.  [default: a '
                      'quarter of the memory]'),
    click.option('--shard_dataset', is_flag=True, help='Split the data set, not the seeds, over processes.'))
@cli.options('Sampler',
    *cli.sampler_options,
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
@cli.writes(['network', 'dataset'], adds_overwrite=False, outdir=None, grid='grid', trajectory='trajectory')
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
    """
    _check(opts)

    from sampling import generation
    from torch_utils import distributed
    from torch_utils.files import make_output_dir

    device = distributed.pick_device(opts['device'])
    distributed.init(device)
    net, labels, settings = _denoiser(opts, device)
    sampler = _sampler(opts, net)
    settings |= {'class': opts['class_idx'], 'device': device.type, **sampler}
    draw = {'class_idx': opts['class_idx'], 'vectors': labels, **sampler}
    if not opts['denoiser']:  # a network that fails does so before anything is written
        with distributed.shared_errors():
            generation.sample(net, opts['seeds'][:1], device, **draw | {'num_steps': 2, 'S_churn': 0})

    outdir, rank = make_output_dir(opts['outdir']), distributed.rank()
    for option in ('grid', 'trajectory'):
        if opts[option]:
            make_output_dir(Path(opts[option]).parent, f'--{option}')
    with contextlib.ExitStack() as stack:
        todo = distributed.from_rank0(stack.enter_context(generation.sample_folder(
            outdir, settings, opts['seeds'], subdirs=opts['subdirs'], resume=opts['resume'],
            overwrite=opts['overwrite'], inputs=[opts['network'], opts['dataset']])) if rank == 0 else None)
        _make(opts, net, device, draw, todo, settings)
        distributed.barrier()
        if opts['grid'] and rank == 0:
            generation.write_sheet(Path(opts['grid']), outdir, opts['seeds'], subdirs=opts['subdirs'])
    distributed.print0(f'{len(todo)} images: {outdir}')
    distributed.shutdown()


def _make(opts: dict, net, device, draw: dict, todo: list[int], settings: dict) -> None:
    """Make the images of the seeds `todo`, and the trajectory. draw: arguments of each `sample`."""
    from sampling import generation, pace
    from torch_utils import distributed

    threads = 1 if opts['denoiser'] else pace.batch_threads(device)
    batch, trajectory = opts['batch'], opts['trajectory']
    if batch == 'auto':
        batch = pace.DEFAULT_BATCH if opts['denoiser'] else pace.auto_batch(net, device, len(todo))
    batches = generation.own_batches(todo, batch, shared=opts['shard_dataset'], threads=threads)

    def make(batch):
        return generation.sample(net, batch, device, trajectory=bool(trajectory), **draw)

    helps = opts['shard_dataset'] and distributed.rank() > 0  # rank 0 writes what all make together
    made = map(make, batches) if helps else generation.write_samples(
        batches, make, Path(opts['outdir']), subdirs=opts['subdirs'], threads=threads)
    parts = [samples for samples in made if trajectory and not helps]
    if trajectory:
        generation.write_trajectory(Path(trajectory), parts, todo, settings,
                                    inputs=[opts['network'], opts['dataset']])


def _check(opts: dict) -> None:
    """Refuse options that are wrong whatever the network."""
    _check_denoiser(opts)
    if len(set(opts['seeds'])) < len(opts['seeds']):
        raise click.UsageError('--seeds: lists a seed twice')
    for option, suffix in (('grid', '.png'), ('trajectory', '.npz')):
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
    cli.check_churn(opts)


def _check_denoiser(opts: dict) -> None:
    """Refuse contradictions about what is sampled; sets opts['denoiser']."""
    given = {f'--{kind}_denoiser': kind for kind in DENOISERS if opts.get(f'{kind}_denoiser')}
    if opts['denoiser']:
        given[f'--denoiser {opts["denoiser"]}'] = opts['denoiser']
    if len(set(given.values())) > 1:
        raise click.UsageError(f'{" and ".join(given)} can\'t be given together')
    opts['denoiser'] = next(iter(given.values()), None)
    if opts['denoiser']:
        if not opts['dataset']:
            raise click.UsageError(f'{next(iter(given))} needs --dataset')
        if opts['precision']:
            raise click.UsageError('--precision is for networks, not for --denoiser')
        denoisers.own_options(opts['denoiser'], opts)
        return
    for option in ('dataset', 'cache_gb', 'shard_dataset'):
        if cli.given(option):
            raise click.UsageError(f'--{option} is for --denoiser, such as --optimal_denoiser')
    denoisers.own_options(None, opts)
    if not opts['network']:
        raise click.UsageError('--network is missing; only --denoiser with --dataset does without')


def _denoiser(opts: dict, device) -> tuple:
    """The denoiser, on the device; its label vectors, if its labels are such; the settings that name both."""
    from data.training_labels import label_vectors
    from sampling.pace import prepare
    from torch_utils.provenance import fingerprint
    from training.snapshot import load_with_settings

    net, identity = None, {}
    if opts['network']:
        net, recorded = load_with_settings(opts['network'], device)
        identity['network_sha256'] = fingerprint(opts['network'])
    if opts['denoiser']:
        from denoisers.open_denoiser import open_denoiser
        if net is not None and net.label_dim:
            cli.check_class(opts['class_idx'], net.label_dim)
        own = denoisers.own_options(opts['denoiser'], opts)
        net = open_denoiser(opts['denoiser'], opts['dataset'], device, net=net, class_idx=opts['class_idx'],
                            cache_gb=opts['cache_gb'], sharded=opts['shard_dataset'], **own)
        identity |= {'denoiser': opts['denoiser'], 'dataset_sha256': fingerprint(opts['dataset']), **own}
        return net, None, identity
    vectors = label_vectors(recorded, net.label_dim, f'--network {opts["network"]}')
    cli.check_class(opts['class_idx'], net.label_dim, vectors=vectors is not None)
    prepare(net, device, opts['precision'])
    identity['precision'] = opts['precision']
    if vectors is not None:
        identity['labels_sha256'] = hashlib.sha256(vectors.tobytes()).hexdigest()
    return net, vectors, identity


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
