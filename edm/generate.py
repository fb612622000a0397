"""Generate images with a trained network."""

import os
from pathlib import Path

import click

from torch_utils import cli


@cli.command()
@cli.options('Main options',
    click.option('--network', metavar='PATH|URL',
                 help='Snapshot; its averaged network is sampled. A denoiser of a data set takes only noise '
                      'levels and classes from it.  [required without such a denoiser]'),
    click.option('--outdir', metavar='DIR', required=True, help='Where to save the images.'),
    click.option('--seeds', metavar='LIST', type=cli.IntList(), default='0-63', help='One image per seed.'),
    click.option('--class', 'class_idx', metavar='INT', type=click.IntRange(min=0),
                 help='Class of all images.  [default: drawn by each seed]'),
    click.option('--batch', metavar='INT|auto', type=cli.IntOrAuto(), default=64,
                 help='Largest batch; auto: what fits the memory of a GPU, what is fast on a CPU.'),
    click.option('--precision', type=click.Choice(['fp32', 'fp16', 'bf16']),
                 help='Of the features in the network, where the device has it.  [default: as in the '
                      'snapshot]'),
    cli.device_option)
@cli.options('A denoiser that a data set has in closed form, in place of a network',
    click.option('--optimal_denoiser', is_flag=True, help='Sample the optimal denoiser of the data set.'),
    click.option('--gaussian_denoiser', is_flag=True,
                 help='Sample that of the Gaussian with the mean and covariance of the data set.'),
    click.option('--dataset', metavar='ZIP|DIR|NPZ', help='The data set.'),
    click.option('--cache_gb', metavar='GB', type=cli.FiniteRange(min=0),
                 help='Keep a data set up to this size in memory, else in a temporary file.  [default: a '
                      'quarter of the memory]'),
    click.option('--shard_dataset', is_flag=True,
                 help='Split the data set over the processes instead of the seeds.'))
@cli.options('Sampler',
    click.option('--steps', metavar='INT', type=click.IntRange(min=2), default=18, help='Number of steps.'),
    click.option('--sigma_min', metavar='FLOAT', type=cli.FiniteRange(min=0, min_open=True),
                 help='Lowest noise level, if the network goes so low.  [default: 0.002, or by --disc]'),
    click.option('--sigma_max', metavar='FLOAT', type=cli.FiniteRange(min=0, min_open=True),
                 help='Highest noise level, likewise.  [default: 80, or by --disc]'),
    cli.churn_options,
    click.option('--solver', type=click.Choice(['euler', 'heun']),
                 help='ODE solver.  [default: heun; with a denoiser of a data set: euler]'),
    click.option('--disc', type=click.Choice(['vp', 've', 'iddpm', 'edm']),
                 help='Noise levels to step through.  [default: edm]'),
    click.option('--schedule', type=click.Choice(['vp', 've', 'linear']),
                 help='Noise level over time.  [default: linear]'),
    click.option('--scaling', type=click.Choice(['vp', 'none']), help='Scale over time.  [default: none]'))
@cli.options('Output',
    click.option('--subdirs', is_flag=True, help='Make a folder for each thousand seeds.'),
    click.option('--grid', metavar='PNG', help='Also save one sheet with all images.'),
    click.option('--trajectory', metavar='NPZ',
                 help='Also save the state and the denoised image at every step.'),
    click.option('--resume', is_flag=True,
                 help='Keep the images that are there, if they were made the same way.'),
    click.option('--overwrite', is_flag=True,
                 help='With --resume: replace those that were made in another way, instead of refusing.'))
@cli.writes(['network', 'dataset'], adds_overwrite=False, outdir=None, grid='grid', trajectory='trajectory')
def main(**opts):
    """Generate images with a trained network, or with a denoiser that a data set has in closed form.

    Each image depends on its seed and the denoiser alone; a CUDA generator gives other noise than a CPU one.
    The folder also gets generation.json, which says what made the images.

    \b
    Examples:
      python edm/generate.py --network=network-snapshot-002000.pkl --outdir=evaluation/samples
      torchrun --standalone --nproc_per_node=2 edm/generate.py --network=network-snapshot-002000.pkl \\
          --outdir=evaluation/samples --seeds=100000-109999 --batch=256
      python edm/generate.py --optimal_denoiser --dataset=datasets/digits-8x8.zip --outdir=evaluation/optimal
    """
    _check(opts)

    from sampling import generation, pace
    from torch_utils import distributed
    from torch_utils.files import make_output_dir

    device = distributed.pick_device(opts['device'])
    distributed.init(device)
    net, settings = _denoiser(opts, device)
    sampler = _sampler(opts, net)
    settings |= {'class': opts['class_idx'], 'device': device.type, **sampler}

    inputs = [path for path in (opts['network'], opts['dataset']) if path]
    outdir, seeds = make_output_dir(opts['outdir']), opts['seeds']
    for option in ('grid', 'trajectory'):
        if opts[option]:
            make_output_dir(Path(opts[option]).parent, f'--{option}')
    todo = distributed.from_rank0(generation.begin_folder(
        outdir, settings, seeds, subdirs=opts['subdirs'], resume=opts['resume'],
        overwrite=opts['overwrite'], inputs=inputs) if distributed.rank() == 0 else None)
    threads, batch = 1, pace.DEFAULT_BATCH if opts['batch'] == 'auto' else opts['batch']
    if not _data_denoiser(opts):
        threads = pace.batch_threads(device)
        if opts['batch'] == 'auto':
            batch = pace.auto_batch(net, device, len(todo))
    batches = generation.own_batches(todo, batch, shared=opts['shard_dataset'],
                                     threads=threads) if todo else []

    def make(batch):
        return generation.sample(net, batch, device, class_idx=opts['class_idx'],
                                 trajectory=bool(opts['trajectory']), **sampler)

    parts = []
    if opts['shard_dataset'] and distributed.rank() > 0:
        for batch in batches:  # rank 0 writes what all make together
            make(batch)
        batches = []
    for samples in generation.write_samples(batches, make, outdir, subdirs=opts['subdirs'], threads=threads):
        if opts['trajectory']:
            parts.append(samples)
    distributed.barrier()
    if opts['trajectory']:
        generation.write_trajectory(Path(opts['trajectory']), parts, todo, settings, inputs=inputs)
    if opts['grid'] and distributed.rank() == 0:
        generation.write_sheet(Path(opts['grid']), outdir, seeds, subdirs=opts['subdirs'])
    distributed.print0(f'{len(todo)} images: {outdir}')
    distributed.shutdown()


def _check(opts: dict) -> None:
    """Refuse options that are wrong whatever the network."""
    _check_denoiser(opts)
    if len(set(opts['seeds'])) < len(opts['seeds']):
        raise click.UsageError('--seeds: a seed stands twice in the list, and its images would be one file')
    for option, suffix in (('grid', '.png'), ('trajectory', '.npz')):
        path = opts[option]
        if path and (not path.lower().endswith(suffix) or os.path.isdir(path)):
            raise click.UsageError(f'--{option} {path}: expected the name of a file that ends with {suffix}')
    if opts['overwrite'] and not opts['resume']:
        raise click.UsageError('--overwrite is for --resume; without it all images are replaced')
    if opts['trajectory'] and opts['resume']:
        raise click.UsageError('--trajectory and --resume can\'t be given together: images that are kept '
                               'have no trajectory')
    if opts['disc'] not in (None, 'edm') and _given('rho'):
        raise click.UsageError(f'--rho is for --disc edm, got {opts["disc"]}')


def _given(param: str) -> bool:
    return click.get_current_context().get_parameter_source(param) is not click.core.ParameterSource.DEFAULT


def _check_denoiser(opts: dict) -> None:
    if opts['optimal_denoiser'] and opts['gaussian_denoiser']:
        raise click.UsageError('--optimal_denoiser and --gaussian_denoiser can\'t be given together')
    if _data_denoiser(opts):
        if not opts['dataset']:
            raise click.UsageError(f'--{_data_denoiser(opts)}_denoiser needs --dataset, its images')
        if opts['precision']:
            raise click.UsageError('--precision is for networks; the denoisers of a data set have their own')
        return
    for option in ('dataset', 'cache_gb', 'shard_dataset'):
        if _given(option):
            raise click.UsageError(f'--{option} is for --optimal_denoiser and --gaussian_denoiser')
    if not opts['network']:
        raise click.UsageError('--network is missing; only --optimal_denoiser and --gaussian_denoiser, with '
                               '--dataset, do without')


def _data_denoiser(opts: dict) -> str | None:
    return next((kind for kind in ('optimal', 'gaussian') if opts[f'{kind}_denoiser']), None)


def _denoiser(opts: dict, device) -> tuple:
    """What is sampled, on the device, and what identifies it in generation.json."""
    from torch_utils.downloads import local_path
    from torch_utils.files import sha256_file
    from training.snapshot import load_network

    net, identity = None, {}
    if opts['network']:
        net = load_network(opts['network'], device)
        identity['network_sha256'] = sha256_file(local_path(opts['network'], '--network'))
    kind = _data_denoiser(opts)
    if kind is None or (net is not None and net.label_dim):
        cli.check_class(opts['class_idx'], net.label_dim)
    if kind is None:
        from sampling.pace import prepare

        prepare(net, device, opts['precision'])
        return net, identity | ({'precision': opts['precision']} if opts['precision'] else {})

    from denoisers.open_denoiser import open_denoiser
    from torch_utils.provenance import fingerprint

    net = open_denoiser(kind, opts['dataset'], device, net=net, class_idx=opts['class_idx'],
                        cache_gb=opts['cache_gb'], sharded=opts['shard_dataset'])
    return net, {'denoiser': kind, 'dataset_sha256': fingerprint(opts['dataset']), **identity}


def _sampler(opts: dict, net) -> dict:
    """The sampler's options, checked against the denoiser; says where the noise levels were clipped."""
    from sampling.sampler import clip_range, plan_steps
    from training.snapshot import note

    disc = opts['disc'] or 'edm'
    options = {'solver': opts['solver'] or ('euler' if _data_denoiser(opts) else 'heun'), 'disc': disc,
               'schedule': opts['schedule'] or 'linear', 'scaling': opts['scaling'] or 'none',
               'num_steps': opts['steps'],
               **{name: opts[name] for name in ('rho', 'S_churn', 'S_min', 'S_max', 'S_noise')}}
    asked = {name: opts[name] for name in ('sigma_min', 'sigma_max')}
    try:
        sigma_min, sigma_max = clip_range(net, **asked, disc=disc)
        options |= {'sigma_min': sigma_min, 'sigma_max': sigma_max}
        plan_steps(net, **{name: value for name, value in options.items() if name != 'solver'})
    except ValueError as err:
        raise click.UsageError(f'--sigma_min, --sigma_max: {err}') from err
    for name, value in asked.items():
        if value is not None and options[name] != value:
            note(f'--{name} {value:g} is beyond what the network supports; {options[name]:g} is used')
    return options


if __name__ == '__main__':
    main()
