"""Generate images with a trained network."""

import os
from pathlib import Path

import click

from torch_utils import cli


@cli.command()
@cli.options('Main options',
    click.option('--network', metavar='PATH|URL', required=True,
                 help='Snapshot; its averaged network is sampled.'),
    click.option('--outdir', metavar='DIR', required=True, help='Where to save the images.'),
    click.option('--seeds', metavar='LIST', type=cli.IntList(), default='0-63', help='One image per seed.'),
    click.option('--class', 'class_idx', metavar='INT', type=click.IntRange(min=0),
                 help='Class of all images.  [default: drawn by each seed]'),
    click.option('--batch', metavar='INT', type=click.IntRange(min=1), default=64,
                 help='Largest batch per process.'),
    cli.device_option)
@cli.options('Sampler',
    click.option('--steps', metavar='INT', type=click.IntRange(min=2), default=18, help='Number of steps.'),
    click.option('--sigma_min', metavar='FLOAT', type=cli.FiniteRange(min=0, min_open=True),
                 help='Lowest noise level, if the network goes so low.  [default: 0.002, or by --disc]'),
    click.option('--sigma_max', metavar='FLOAT', type=cli.FiniteRange(min=0, min_open=True),
                 help='Highest noise level, likewise.  [default: 80, or by --disc]'),
    cli.churn_options,
    click.option('--solver', type=click.Choice(['euler', 'heun']), help='ODE solver.  [default: heun]'),
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
                 help='Keep the images that are there, if they were made the same way.'))
def main(**opts):
    """Generate images with a trained network.

    Each image depends on its seed and the network alone; a CUDA generator gives other noise than a CPU one.
    The folder also gets generation.json, which says what made the images.

    \b
    Examples:
      python edm/generate.py --network=network-snapshot-002000.pkl --outdir=evaluation/samples
      torchrun --standalone --nproc_per_node=2 edm/generate.py --network=network-snapshot-002000.pkl \\
          --outdir=evaluation/samples --seeds=100000-109999 --batch=256
    """
    _check(opts)

    from evaluation import generation
    from torch_utils import distributed
    from torch_utils.files import make_output_dir

    device = distributed.pick_device(opts['device'])
    distributed.init(device)
    net, settings = _denoiser(opts, device)
    cli.check_class(opts['class_idx'], net.label_dim)
    sampler = _sampler(opts, net)
    settings |= {'class': opts['class_idx'], 'device': device.type, **sampler}

    outdir, seeds = make_output_dir(opts['outdir']), opts['seeds']
    for option in ('grid', 'trajectory'):
        if opts[option]:
            make_output_dir(Path(opts[option]).parent, f'--{option}')
    todo = distributed.from_rank0(generation.begin_folder(
        outdir, settings, seeds, subdirs=opts['subdirs'], resume=opts['resume'])
        if distributed.rank() == 0 else None)
    batches = generation.own_batches(todo, opts['batch']) if todo else []

    def make(batch):
        return generation.sample(net, batch, device, class_idx=opts['class_idx'],
                                 trajectory=bool(opts['trajectory']), **sampler)

    parts = []
    for samples in generation.write_samples(batches, make, outdir, subdirs=opts['subdirs']):
        if opts['trajectory']:
            parts.append(samples)
    distributed.barrier()
    if opts['trajectory']:
        generation.write_trajectory(Path(opts['trajectory']), parts, todo, settings)
    if opts['grid'] and distributed.rank() == 0:
        generation.write_sheet(Path(opts['grid']), outdir, seeds, subdirs=opts['subdirs'])
    distributed.print0(f'{len(todo)} images: {outdir}')
    distributed.shutdown()


def _check(opts: dict) -> None:
    """Refuse options that are wrong whatever the network."""
    if len(set(opts['seeds'])) < len(opts['seeds']):
        raise click.UsageError('--seeds: a seed stands twice in the list, and its images would be one file')
    for option, suffix in (('grid', '.png'), ('trajectory', '.npz')):
        path = opts[option]
        if path and (not path.lower().endswith(suffix) or os.path.isdir(path)):
            raise click.UsageError(f'--{option} {path}: expected the name of a file that ends with {suffix}')
    if opts['trajectory'] and opts['resume']:
        raise click.UsageError('--trajectory and --resume can\'t be given together: images that are kept '
                               'have no trajectory')
    if opts['disc'] not in (None, 'edm') and _given('rho'):
        raise click.UsageError(f'--rho is for --disc edm, got {opts["disc"]}')


def _given(param: str) -> bool:
    return click.get_current_context().get_parameter_source(param) is not click.core.ParameterSource.DEFAULT


def _denoiser(opts: dict, device) -> tuple:
    """What is sampled, on the device, and what identifies it in generation.json."""
    from torch_utils.files import local_path, sha256_file
    from training.snapshot import load_network

    net = load_network(opts['network'], device)
    return net, {'network_sha256': sha256_file(local_path(opts['network'], '--network'))}


def _sampler(opts: dict, net) -> dict:
    """The sampler's options, checked against the denoiser; says where the noise levels were clipped."""
    from evaluation.sampler import clip_range, plan_steps
    from training.snapshot import note

    disc = opts['disc'] or 'edm'
    options = {'solver': opts['solver'] or 'heun', 'disc': disc, 'schedule': opts['schedule'] or 'linear',
               'scaling': opts['scaling'] or 'none', 'num_steps': opts['steps'],
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
