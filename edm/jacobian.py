"""The numerical rank of a denoiser's Jacobian over noise levels."""

import os
from pathlib import Path

import click

from denoisers import network_options, split_word, take_network
from jacobians import CLOSED_JACOBIANS, METHODS
from sampling import sampler_options
from torch_utils import cli
from torch_utils.errors import UserError, note

_CHURN = ('S_churn', 'S_min', 'S_max', 'S_noise')


@cli.command()
@cli.options('Main options',
    click.option('--network_pkl', metavar='PATH|URL|DIR|hf://|KIND:DATASET', required=True,
                 callback=take_network,
                 help='Snapshot to study, a run folder for its newest, a diffusers folder, file of weights '
                      'or hf://OWNER/NAME; or a closed form: optimal:DATASET, gaussian:DATASET, or molrg:PT, '
                      'the true denoiser of a MoLRG data set.'),
    click.option('--seeds', metavar='LIST', type=cli.IntList(), default='0-9',
                 help='One noisy image per seed.'),
    click.option('--class', 'class_idx', metavar='INT', type=click.IntRange(min=0),
                 help='Class of all images.  [default: drawn by each seed, or that of the real image]'),
    click.option('--cond', metavar='BOOL', type=bool, default=True,
                 help='For a closed form: the images of a class denoise samples of this class; 0: all images '
                      'denoise all, as of an unconditional network.'),
    click.option('--data', metavar='ZIP|DIR|NPZ|PT',
                 help='Real images to add noise to; PT: a MoLRG data set.  [default: states along the '
                      'sampling trajectory]'))
@cli.options('Network of diffusers', *network_options)
@cli.options('Performance',
    click.option('--batch', metavar='INT', type=click.IntRange(min=1),
                 help='Rows of a Jacobian at once, which bounds the memory.  [default: by a short '
                      'measurement]'),
    cli.device_option)
@cli.options('Sampler',
    click.option('--sigmas', metavar='LIST', type=cli.FloatList(),
                 help='Noise levels, such as 0.1,1,10, which the sampler steps through besides its own.  '
                      '[default: the sampler\'s]'),
    *sampler_options.OPTIONS)
@cli.options('Rank',
    click.option('--eta', metavar='FLOAT', type=cli.FiniteRange(0, 1, min_open=True, max_open=True),
                 default=0.99, help='Share of the norm of all singular values that those counted must '
                                    'exceed; 0.99 of the norm is 0.98 of the energy.'),
    click.option('--method', type=click.Choice(METHODS), default='auto',
                 help='exact: all rows of the Jacobian. randomized: bounds of the rank, at a cost '
                      'proportional to it. auto: randomized while that is faster.'),
    click.option('--tolerance', metavar='FLOAT', type=cli.FiniteRange(min=0, max=1), default=0.02,
                 help='Largest distance between the rank and those bounds, as a share of the dimension.'))
@cli.options('Output',
    click.option('--out', metavar='NPZ', help='File for the ranks; an interrupted run resumes from it.'),
    click.option('--overwrite', is_flag=True,
                 help='Start from scratch where --out has other settings or is another file, and replace '
                      'any file at --figure, instead of refusing.'),
    click.option('--save_spectrum', is_flag=True, help='Also save the singular values.'),
    click.option('--save_vectors', metavar='K', type=click.IntRange(min=1),
                 help='Also save the K leading right singular vectors, of the first seed, and its denoised '
                      'images; plot.py jacobian-vectors shows them.'),
    click.option('--figure', metavar='PNG|PDF', help='Figure of rank/dim over 1/sigma.'))
@cli.writes(['network_pkl', 'scheduler', 'data'], adds_overwrite=False, out=None, figure='figure')
def main(**opts):
    """Numerical rank of a denoiser's Jacobian over noise levels.

    The Jacobian dD(x; sigma)/dx is taken at states x of the EDM sampler's trajectory from each seed's noise,
    or at real images with noise added. Under torchrun the processes share the seeds.

    \b
    Examples:
      python edm/jacobian.py --network_pkl=network-snapshot-002000.pkl --seeds=0-9 \\
          --out=evaluation/ranks.npz --figure=figures/ranks.png
      python edm/jacobian.py --network_pkl=network-snapshot-002000.pkl --data=datasets/digits-8x8.zip \\
          --sigmas=0.1,0.3,1,3,10 --method=exact
    """
    _check(opts)

    from figures.style import check_out
    from jacobians import rank_file, study
    from torch_utils import distributed, provenance
    from torch_utils.files import make_output_dir

    device = distributed.pick_device(opts['device'])
    distributed.init(device)
    net, labels, files = _network(opts, device)
    dim = net.img_channels * net.img_resolution**2
    count = opts['save_vectors']
    if count and count > dim:
        raise click.UsageError(f'--save_vectors {count}: the images have {dim} dimensions')
    method = study.check_memory(dim, device, vectors=bool(count), method=study.Method(
        name=opts['method'], eta=opts['eta'], tolerance=opts['tolerance']))
    source = _source(opts, net, labels)
    if opts['figure']:
        check_out(opts['figure'], '--figure')
    record = provenance.record(inputs=[*files, opts['data']])
    ranks = rank_file.new_ranks(opts['seeds'], source.sigmas, dim=dim, eta=opts['eta'],
                                settings=_settings(opts, source, device, record['inputs']),
                                spectrum=opts['save_spectrum'], vectors=count and (
                                    count, net.img_channels, net.img_resolution, net.img_resolution))
    if opts['out']:
        make_output_dir(Path(opts['out']).parent, '--out')
        with distributed.shared_errors():
            try:
                ranks = rank_file.resume_ranks(opts['out'], ranks) if distributed.rank() == 0 else ranks
            except UserError as err:
                if not opts['overwrite']:
                    raise
                note(f'starts from scratch: {err}')
        ranks = distributed.from_rank0(ranks)

    def save():
        if opts['out']:
            rank_file.save_ranks(opts['out'], ranks, record)

    for filled in study.fill(ranks, net, lambda seeds: source.points(net, seeds, device), method=method,
                             batch=opts['batch'], save=save):
        for row, column in filled:
            print(_status(ranks, row, column), flush=True)
    if distributed.rank() == 0:
        _finish(opts, ranks)
    distributed.shutdown()


def _check(opts: dict) -> None:
    """Refuse options that are wrong whatever the network."""
    if len(set(opts['seeds'])) < len(opts['seeds']):
        raise click.UsageError('--seeds: lists a seed twice')
    for option, suffixes in (('out', ('.npz',)), ('figure', ('.png', '.pdf'))):
        path = opts[option]
        if path and (not path.lower().endswith(suffixes) or os.path.isdir(path)):
            raise click.UsageError(f'--{option} {path}: expected a file name in {" or ".join(suffixes)}')
    if opts['overwrite'] and not (opts['out'] or opts['figure']):
        raise click.UsageError('--overwrite is for --out and --figure')
    if opts['method'] == 'exact' and cli.given('tolerance'):
        raise click.UsageError('--tolerance is for --method randomized and auto; exact ranks have no bounds')
    sampler_options.check_churn(opts)
    for name in ('save_spectrum', 'save_vectors'):
        if opts[name] and not opts['out']:
            raise click.UsageError(f'--{name} needs --out')
    if opts['save_vectors'] and opts['method'] == 'randomized':
        raise click.UsageError('--save_vectors takes whole Jacobians, of which --method randomized has none; '
                               'give exact or auto')
    if opts['data']:
        unused = _CHURN + (('steps', 'sigma_min', 'sigma_max', 'rho') if opts['sigmas'] else ())
        for name in filter(cli.given, unused):
            why = '--data' if name in _CHURN else '--data and --sigmas'
            raise click.UsageError(f'--{name} has no use: with {why} no sampler runs')


def _network(opts: dict, device) -> tuple:
    """The network on the device, its label vectors if its labels are such, and its files."""
    from data.training_labels import label_vectors
    from denoisers.open_denoiser import open_denoiser
    from denoisers.open_network import open_network

    kind, path = split_word(opts['network_pkl'])
    if cli.given('cond') and kind not in CLOSED_JACOBIANS:
        raise click.UsageError(f'--cond is for {" and ".join(CLOSED_JACOBIANS)}, not for networks')
    if opts['class_idx'] is not None and not opts['cond']:
        raise click.UsageError('--class and --cond 0 can\'t be given together')
    for option in ('scheduler', 'clip_sample'):
        if kind and opts[option]:
            raise click.UsageError(f'--{option} is for networks of diffusers')
    if kind == 'molrg' and path.lower().endswith('.pt'):
        return open_denoiser(kind, path, device), None, [path]
    if kind and kind not in CLOSED_JACOBIANS:
        raise click.UsageError(f'--network_pkl {opts["network_pkl"]}: of the closed forms, only '
                               f'{", ".join(CLOSED_JACOBIANS)} and molrg:FILE.pt have a Jacobian here')
    if kind:
        if opts['method'] == 'randomized':
            raise click.UsageError(f'--method randomized: the Jacobian of {kind} is known in closed form')
        net = open_denoiser(kind, path, device, class_idx=opts['class_idx'], cond=opts['cond'])
        return net, None, [path]
    net, recorded, files = open_network(opts['network_pkl'], device, '--network_pkl',
                                        scheduler=opts['scheduler'], clip_sample=opts['clip_sample'])
    net.use_fp16 = False  # in half precision a Jacobian is mostly rounding error
    vectors = None
    if not opts['data'] or opts['class_idx'] is not None:  # else real images have their labels
        vectors = label_vectors(recorded, net.label_dim, f'--network_pkl {opts["network_pkl"]}')
    sampler_options.check_class(opts['class_idx'], net.label_dim, vectors=vectors is not None)
    return net, vectors, files


def _source(opts: dict, net, labels):
    """The source of the noisy images, checked against the network."""
    from data.real_images import RealImages
    from sampling.plan import plan_steps
    from sampling.points import NoisyImages, Trajectories, noise_levels

    low, high = float(net.sigma_min), float(net.sigma_max)
    for name in ('sigmas', 'sigma_min', 'sigma_max'):
        for sigma in opts[name] if name == 'sigmas' and opts[name] else [opts[name]]:
            if sigma is not None and not low <= sigma <= high:
                raise click.UsageError(f'--{name} {sigma:g}: the network supports {low:g} to {high:g}')
    churn = {name: opts[name] for name in _CHURN}
    with cli.usage_errors():
        sigmas, levels = noise_levels(net, opts['sigmas'], num_steps=opts['steps'], rho=opts['rho'],
                                      sigma_min=opts['sigma_min'], sigma_max=opts['sigma_max'])
        plan_steps(net, levels=levels, num_steps=len(levels), **churn)
    if opts['data']:
        shape = (net.img_channels, net.img_resolution, net.img_resolution)
        images = RealImages(opts['data'], shape, label_dim=net.label_dim if opts['class_idx'] is None else 0)
        return NoisyImages(images=images, class_idx=opts['class_idx'], sigmas=sigmas)
    return Trajectories(class_idx=opts['class_idx'], vectors=labels, sigmas=sigmas, levels=levels,
                        options=churn)


def _settings(opts: dict, source, device, inputs: dict[str, str]) -> dict:
    """All that decides the ranks; a file is only resumed with the same."""
    chosen = {name: opts[name] for name in ('eta', 'method', 'tolerance', 'save_spectrum')}
    if opts['clip_sample']:
        chosen['clip_sample'] = True
    if not opts['cond']:
        chosen['cond'] = False
    if opts['save_vectors']:
        chosen |= {'save_vectors': opts['save_vectors'], 'vectors of seed': opts['seeds'][0]}
    sampler = {} if opts['data'] else {
        'levels': source.levels, **{name: str(value) for name, value in source.options.items()}}
    kind = split_word(opts['network_pkl'])[0]
    return {'inputs': sorted(inputs.values()), 'class': opts['class_idx'], 'sigma': source.sigmas,
            'device': device.type, **chosen, **sampler, **({'denoiser': kind} if kind else {})}


def _status(ranks, row: int, column: int) -> str:
    rank, low, high = (table[row, column] for table in (ranks.rank, ranks.rank_low, ranks.rank_high))
    bounds = '' if low == high else f' (between {low} and {high})'
    seed = '' if len(ranks.seed) == 1 else f', seed: {ranks.seed[row]}'
    return f'SNR 1/sigma_t: {1 / ranks.sigma[column]:.3f}, rank: {rank}{bounds}{seed}'


def _finish(opts: dict, ranks) -> None:
    from figures import jacobian_figure, style

    if opts['out']:
        print(f'{len(ranks.seed)} seeds, {len(ranks.sigma)} noise levels, dim {ranks.dim}: {opts["out"]}')
    if opts['figure']:
        figure, caption = jacobian_figure.draw_ranks({Path(opts['network_pkl'].rstrip('/')).stem: ranks})
        style.save_figure(figure, opts['figure'], title=jacobian_figure.TITLE, caption=caption)
        print(f'wrote {opts["figure"]}')


if __name__ == '__main__':
    main()
