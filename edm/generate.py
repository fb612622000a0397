"""Generate images with a trained network."""

import hashlib
import os
from pathlib import Path

import click

from denoisers import DENOISERS
from sampling.pace import PRECISIONS
from sampling.schedules import DISCRETIZATIONS, SCALINGS, SCHEDULES
from sampling.solvers import SOLVERS
from torch_utils import cli
from torch_utils.run_dir import take_newest


@cli.command()
@cli.options('Main options',
    click.option('--network', metavar='PATH|URL|DIR', callback=take_newest,
                 help='Snapshot, or a run\'s folder for its newest; its averaged network is sampled. A '
                      'denoiser of a data set takes only noise levels and classes from it.  [required '
                      'without such a denoiser]'),
    click.option('--outdir', metavar='DIR', required=True, help='Where to save the images.'),
    click.option('--seeds', metavar='LIST', type=cli.IntList(), default='0-63', help='One image per seed.'),
    click.option('--class', 'class_idx', metavar='INT', type=click.IntRange(min=0),
                 help='Class of all images.  [default: drawn by each seed]'),
    click.option('--batch', metavar='INT|auto', type=cli.IntOrAuto(), default=64,
                 help='Largest batch; auto: what fits the memory of a GPU, what is fast on a CPU.'),
    click.option('--precision', type=click.Choice(list(PRECISIONS)),
                 help='Of the features in the network, where the device has it.  [default: as in the '
                      'snapshot]'),
    cli.device_option)
@cli.options('A denoiser that a data set has in closed form, in place of a network',
    click.option('--denoiser', type=click.Choice(list(DENOISERS)),
                 help='Which one to sample. optimal: the posterior mean if each image of the data set is '
                      'equally likely; gaussian: that of the Gaussian with its mean and covariance.'),
    click.option('--optimal_denoiser', is_flag=True, help='The same as --denoiser=optimal.'),
    click.option('--gaussian_denoiser', is_flag=True, help='The same as --denoiser=gaussian.'),
    click.option('--dataset', metavar='ZIP|DIR|NPZ', help='The data set.'),
    click.option('--cache_gb', metavar='GB', type=cli.FiniteRange(min=0),
                 help='Keep a data set up to this size in memory, else in a temporary file.  [default: a '
                      'quarter of the memory]'),
    click.option('--shard_dataset', is_flag=True,
                 help='Split the data set over the processes instead of the seeds.'))
@cli.options('Sampler',
    cli.sampler_options,
    click.option('--solver', type=click.Choice(list(SOLVERS)),
                 help='ODE solver.  [default: heun; with a denoiser of a data set: euler]'),
    click.option('--disc', type=click.Choice(list(DISCRETIZATIONS)),
                 help='Noise levels to step through.  [default: edm]'),
    click.option('--schedule', type=click.Choice(list(SCHEDULES)),
                 help='Noise level over time.  [default: linear]'),
    click.option('--scaling', type=click.Choice(list(SCALINGS)), help='Scale over time.  [default: none]'))
@cli.options('Output',
    click.option('--subdirs', is_flag=True, help='Make a folder for each thousand seeds.'),
    click.option('--grid', metavar='PNG', help='Also save one sheet with all images, outside --outdir.'),
    click.option('--trajectory', metavar='NPZ',
                 help='Also save the state and the denoised image at every step.'),
    click.option('--resume', is_flag=True,
                 help='Keep the images that are there, if they were made the same way.'),
    click.option('--overwrite', is_flag=True,
                 help='Remove images in --outdir that were made in another way, instead of refusing.'))
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

    import contextlib

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

    outdir = make_output_dir(opts['outdir'])
    for option in ('grid', 'trajectory'):
        if opts[option]:
            make_output_dir(Path(opts[option]).parent, f'--{option}')
    with contextlib.ExitStack() as stack:
        todo = distributed.from_rank0(stack.enter_context(generation.sample_folder(
            outdir, settings, opts['seeds'], subdirs=opts['subdirs'], resume=opts['resume'],
            overwrite=opts['overwrite'], inputs=_inputs(opts))) if distributed.rank() == 0 else None)
        _make(opts, net, device, draw, todo, settings)
        distributed.barrier()
    distributed.print0(f'{len(todo)} images: {outdir}')
    distributed.shutdown()


def _make(opts: dict, net, device, draw: dict, todo: list[int], settings: dict) -> None:
    """Make the images of the seeds `todo`, and what else is asked for. draw: arguments of each `sample`."""
    from sampling import generation, pace
    from torch_utils import distributed

    outdir, subdirs, trajectory = Path(opts['outdir']), opts['subdirs'], opts['trajectory']
    threads, batch = 1, pace.DEFAULT_BATCH if opts['batch'] == 'auto' else opts['batch']
    if not opts['denoiser']:
        threads = pace.batch_threads(device)
        if opts['batch'] == 'auto':
            batch = pace.auto_batch(net, device, len(todo))
    batches = generation.own_batches(todo, batch, shared=opts['shard_dataset'],
                                     threads=threads) if todo else []

    def make(batch):
        return generation.sample(net, batch, device, trajectory=bool(trajectory), **draw)

    parts = []
    if opts['shard_dataset'] and distributed.rank() > 0:
        for batch in batches:  # rank 0 writes what all make together
            make(batch)
        batches = []
    for samples in generation.write_samples(batches, make, outdir, subdirs=subdirs, threads=threads):
        if trajectory:
            parts.append(samples)
    distributed.barrier()
    if trajectory:
        generation.write_trajectory(Path(trajectory), parts, todo, settings, inputs=_inputs(opts))
    if opts['grid'] and distributed.rank() == 0:
        generation.write_sheet(Path(opts['grid']), outdir, opts['seeds'], subdirs=subdirs)


def _inputs(opts: dict) -> list[str]:
    return [path for path in (opts['network'], opts['dataset']) if path]


def _check(opts: dict) -> None:
    """Refuse options that are wrong whatever the network."""
    _check_denoiser(opts)
    if len(set(opts['seeds'])) < len(opts['seeds']):
        raise click.UsageError('--seeds: a seed stands twice in the list, and its images would be one file')
    for option, suffix in (('grid', '.png'), ('trajectory', '.npz')):
        path = opts[option]
        if path and (not path.lower().endswith(suffix) or os.path.isdir(path)):
            raise click.UsageError(f'--{option} {path}: expected the name of a file that ends with {suffix}')
    if opts['grid'] and Path(opts['outdir']).resolve() in Path(opts['grid']).resolve().parents:
        raise click.UsageError(f'--grid {opts["grid"]}: lies in --outdir, where it would count as a sample')
    if opts['trajectory'] and opts['resume']:
        raise click.UsageError('--trajectory and --resume can\'t be given together: images that are kept '
                               'have no trajectory')
    if opts['disc'] and not DISCRETIZATIONS[opts['disc']].has_rho and cli.given('rho'):
        raise click.UsageError(f'--rho has no use with --disc {opts["disc"]}')
    cli.check_churn(opts)


def _check_denoiser(opts: dict) -> None:
    """Refuse contradictions about what is sampled; sets opts['denoiser']."""
    short = [kind for kind in DENOISERS if opts.get(f'{kind}_denoiser')]
    if len({opts['denoiser'], *short} - {None}) > 1:
        given = [f'--{kind}_denoiser' for kind in short]
        given += [f'--denoiser {opts["denoiser"]}'] if opts['denoiser'] else []
        raise click.UsageError(f'{" and ".join(given)} can\'t be given together')
    opts['denoiser'] = opts['denoiser'] or (short[0] if short else None)
    if opts['denoiser']:
        if not opts['dataset']:
            raise click.UsageError(f'--denoiser {opts["denoiser"]} (--{opts["denoiser"]}_denoiser) needs '
                                   '--dataset, its images')
        if opts['precision']:
            raise click.UsageError('--precision is for networks; the denoisers of a data set have their own')
        return
    for option in ('dataset', 'cache_gb', 'shard_dataset'):
        if cli.given(option):
            raise click.UsageError(f'--{option} is for --denoiser ({", ".join(DENOISERS)}), such as '
                                   '--optimal_denoiser')
    if not opts['network']:
        raise click.UsageError(f'--network is missing; only --denoiser ({", ".join(DENOISERS)}), with '
                               '--dataset, does without')


def _denoiser(opts: dict, device) -> tuple:
    """What is sampled, on the device; its label vectors, if its labels are such; what identifies both."""
    import torch

    from data.training_labels import label_vectors
    from sampling.pace import prepare
    from torch_utils.downloads import local_path
    from torch_utils.files import sha256_file
    from training.snapshot import load_with_settings

    net, labels, identity = None, None, {}
    if opts['network']:
        net, recorded = load_with_settings(opts['network'], device)
        identity['network_sha256'] = sha256_file(local_path(opts['network'], '--network'))
    if opts['denoiser']:
        from denoisers.open_denoiser import open_denoiser
        from torch_utils.provenance import fingerprint

        if net is not None and net.label_dim:
            cli.check_class(opts['class_idx'], net.label_dim)
        net = open_denoiser(opts['denoiser'], opts['dataset'], device, net=net, class_idx=opts['class_idx'],
                            cache_gb=opts['cache_gb'], sharded=opts['shard_dataset'])
        return net, None, {'denoiser': opts['denoiser'], 'dataset_sha256': fingerprint(opts['dataset']),
                           **identity}
    vectors = label_vectors(recorded, net.label_dim, f'--network {opts["network"]}')
    cli.check_class(opts['class_idx'], net.label_dim, vectors=vectors is not None)
    if vectors is not None:
        labels = torch.from_numpy(vectors)
        identity['labels_sha256'] = hashlib.sha256(vectors.tobytes()).hexdigest()
    prepare(net, device, opts['precision'])
    return net, labels, identity | ({'precision': opts['precision']} if opts['precision'] else {})


def _sampler(opts: dict, net) -> dict:
    """The sampler's options, checked against the denoiser; says where the noise levels were clipped."""
    from sampling.plan import clip_range, plan_steps
    from torch_utils.errors import note

    options = {'solver': opts['solver'] or ('euler' if opts['denoiser'] else 'heun'),
               'disc': opts['disc'] or 'edm', 'schedule': opts['schedule'] or 'linear',
               'scaling': opts['scaling'] or 'none', 'num_steps': opts['steps'],
               **{name: opts[name] for name in ('rho', 'S_churn', 'S_min', 'S_max', 'S_noise')}}
    asked = {name: opts[name] for name in ('sigma_min', 'sigma_max')}
    with cli.usage_errors():
        sigma_min, sigma_max = clip_range(net, **asked, disc=options['disc'])
        options |= {'sigma_min': sigma_min, 'sigma_max': sigma_max}
        plan_steps(net, **{name: value for name, value in options.items() if name != 'solver'})
    for name, value in asked.items():
        if value is not None and options[name] != value:
            note(f'--{name} {value:g} is beyond what the network supports; {options[name]:g} is used')
    return options


if __name__ == '__main__':
    main()
