"""Compare denoisers noise level by noise level: their error on clean images, or their distance."""

import os
from pathlib import Path

import click

from denoisers import DENOISERS, WINDOWED, network_options, options, options_by_kind, split_word
from sampling import sampler_options
from torch_utils import cli

_WORDS = f'KIND:DATASET, KIND being {" or ".join(DENOISERS)}, or a network'


@click.group(cls=cli.Group, context_settings={'show_default': True, 'max_content_width': 100})
def main():
    """Compare denoisers noise level by noise level.

    A denoiser is one word: a network (snapshot, its URL, run folder for its newest; diffusers folder, or its
    hf:// address), or KIND:DATASET, such as optimal:datasets/train.zip, for a closed form of the images of a
    data set.
    """


def _csv_name(ctx, param, value: str) -> str:
    if not value.lower().endswith('.csv') or os.path.isdir(value):
        raise click.BadParameter(f'{value}: expected a file name in .csv')
    return value


_sigmas_option = click.option(
    '--sigmas', metavar='LIST', type=cli.FloatList(),
    help='Noise levels, such as 0.1,1,10.  [default: the 18 of the EDM sampler that all denoisers support]')
_seeds_option = click.option('--seeds', metavar='LIST', type=cli.IntList(), default='0-255',
                             help='One noisy image per seed; the same noise at all noise levels.')
_class_option = click.option('--class', 'class_idx', metavar='INT', type=click.IntRange(min=0),
                             help='Class of all images, for a conditional network.  [default: their own]')
_closed_forms = cli.options('Closed-form denoisers', *options,
    click.option('--cache_gb', metavar='GB', type=cli.FiniteRange(min=0),
                 help='Largest data set to keep in memory rather than in a temporary file.  [default: a '
                      'quarter of the memory]'))
_networks = cli.options('Networks of diffusers', *network_options)
_performance = cli.options('Performance',
    click.option('--batch', metavar='INT', type=click.IntRange(min=1), default=64,
                 help='Seeds at a time per process.'),
    cli.device_option)
_output = cli.options('Output', click.option(
    '--out', metavar='CSV', required=True, callback=_csv_name,
    help='Table to write, with its record in a .json beside it.'))


@main.command(cls=cli.ListCommand)
@cli.options('Main options',
    click.option('--network', '--denoiser', 'words', metavar='WORD[=NAME] ...', required=True, multiple=True,
                 help=f'Denoisers: {_WORDS}; NAME is that in the table.'),
    click.option('--data', metavar='ZIP|DIR|NPZ|PT ...', required=True, multiple=True,
                 help='Training images; one path, or one per --network.'),
    click.option('--heldout', metavar='ZIP|DIR|NPZ|PT',
                 help='Held-out images, which get the same noise.'),
    click.option('--drop-equal', is_flag=True,
                 help='Leave out held-out images that are in some --data, pixel by pixel.'),
    click.option('--size', 'sizes', metavar='N ...', type=click.IntRange(min=1), multiple=True,
                 help='Sizes of the training sets, for the table.  [default: images in --data]'))
@cli.options('Noisy images', _sigmas_option, _seeds_option, _class_option)
@_networks
@_closed_forms
@_performance
@_output
@cli.writes(['words', 'data', 'heldout'], out='denoising')
def error(**opts):
    """Mean squared denoising error on training and held-out images.

    A denoiser that memorizes has a lower error on training images than on held-out ones. The lowest that is
    possible on training images is that of their optimal denoiser. Each seed draws a noise and an image of
    each set. Errors are means over pixels of images in [-1, 1]. Under torchrun, processes share the seeds.

    \b
    Example:
      python edm/denoise.py error --network training/n64=net optimal:n64.zip gaussian:n64.zip \\
          --data n64.zip --heldout heldout.zip --sigmas 0.1,0.2,0.5,1 --out evaluation/errors.csv
    """
    for option, given in (('--data', opts['data']), ('--size', opts['sizes'])):
        if len(given) not in (1, len(opts['words'])) and (given or option == '--data'):
            raise click.UsageError(f'{option}: {len(given)} for {len(opts["words"])} --network, expected one '
                                   'each')
    if opts['drop_equal'] and not opts['heldout']:
        raise click.UsageError('--drop-equal needs --heldout')
    names = _names(opts['words'], opts['seeds'])
    _start(opts, lambda device: _errors(opts, names, device))


@main.command()
@cli.options('Main options',
    click.argument('words', metavar='A[=NAME] B[=NAME]...', nargs=-1, required=True),
    click.option('--data', metavar='ZIP|DIR|NPZ|PT',
                 help='Real images to add noise to.'),
    click.option('--trajectory', is_flag=True,
                 help='Compare at states of A along its sampling trajectory; the default without --data.'),
    click.option('--size', metavar='N', type=click.IntRange(min=1),
                 help='Size of the training set, for the table.'))
@cli.options('Noisy images',
    _sigmas_option, _seeds_option, _class_option,
    click.option('--steps', metavar='INT', type=click.IntRange(2, sampler_options.MAX_STEPS), default=18,
                 help='Steps of the sampling trajectory.'))
@_networks
@_closed_forms
@cli.options('Closed-form denoisers', click.option(
    '--heldout', metavar='ZIP|DIR|NPZ',
    help='Images to choose the windows of --patch=auto by.  [default: those of the data set, each left out '
         'for itself]'))
@_performance
@_output
@cli.writes(['words', 'data', 'heldout'], out='denoising')
def distance(**opts):
    """Mean squared difference between the outputs of A and those of each B.

    Also as a share of the variance of A's output over the seeds: 0 for equal denoisers, 1 for a B that always
    returns the mean of A's outputs. Under torchrun, processes share the seeds.

    \b
    Example:
      python edm/denoise.py distance training/n1536-w16 gaussian:n1536.zip optimal:n1536.zip \\
          --data heldout.zip --out evaluation/distance.csv
    """
    if len(opts['words']) < 2:
        raise click.UsageError('A B...: expected at least two denoisers')
    opts['trajectory'] |= not opts['data']
    if cli.given('steps') and not opts['trajectory']:
        raise click.UsageError('--steps has no use: with --data and no --trajectory no sampler runs')
    if opts['heldout'] and opts['patch'] != 'auto':
        raise click.UsageError('--heldout is for --patch auto')
    names = _names(opts['words'], opts['seeds'])
    _check_different(names[1:])
    _start(opts, lambda device: _distances(opts, names, device))


def _names(words, seeds) -> list[str]:
    """The denoisers' names for the table; refuses what is wrong whatever the denoisers."""
    if len(set(seeds)) < max(len(seeds), 2):
        raise click.UsageError(f'--seeds {cli.shorten(seeds)}: expected at least two, none of them twice')
    names = []
    for word in words:
        label, path = cli.split_label(word)
        names.append(label if path != word else split_word(word)[0] or Path(word.rstrip('/')).stem)
        if not names[-1].isprintable():
            raise click.UsageError(f'{word!r}: expected a printable name')
    return names


def _check_different(called: list) -> None:
    """Refuse names, or pairs of name and size, that can't be told apart in the table."""
    for each in called:
        if called.count(each) > 1:
            name, of = each if isinstance(each, tuple) else (each, None)
            raise click.UsageError(f'two denoisers are called {name}' + (f' at N = {of}' if of else '')
                                   + '; =NAME behind a denoiser gives it another name')


def _start(opts: dict, find) -> None:
    """Find the rows on all processes, write them on the first."""
    from scores.denoising_table import format_rows, record_path, write_rows
    from torch_utils import distributed, provenance
    from torch_utils.files import check_outputs, make_output_dir

    out = Path(opts['out'])
    check_outputs({}, {'--out': (str(record_path(out)), 'record')},
                  overwrite=click.get_current_context().params['overwrite'])
    device = distributed.pick_device(opts['device'])
    distributed.init(device)
    make_output_dir(out.parent, '--out')
    rows, opened, images = find(device)
    if distributed.rank() == 0:
        chosen = {word: each.denoiser.sizes for word, each in zip(opts['words'], opened, strict=True)
                  if opts['patch'] == 'auto' and hasattr(each.denoiser, 'sizes')}
        files = [path for each in opened for path in each.files]
        write_rows(out, rows, provenance.record(inputs=[*files, *images], patch_by_sigma=chosen))
        print(format_rows(rows))
        print(f'wrote {out}: {len(rows)} rows')
    distributed.shutdown()


def _open(opts: dict, device, choose_by: str | None = None) -> tuple:
    """The denoisers, noise levels to study, those of the sampler, label_dim; checks options against them.

    choose_by: images to choose the windows of --patch auto by.
    """
    from denoisers.open_words import open_words
    from sampling.points import noise_levels

    paths = [cli.split_label(word)[1] for word in opts['words']]
    own = options_by_kind(paths, opts)
    for kind in WINDOWED:
        if kind in own and choose_by:
            own[kind]['heldout'] = choose_by
    opened = open_words(paths, device, class_idx=opts['class_idx'], cache_gb=opts['cache_gb'],
                        own=own, scheduler=opts['scheduler'],
                        clip_sample=opts['clip_sample'])
    nets = [each.denoiser for each in opened]
    label_dims = {net.label_dim for net in nets} - {0}
    if len(label_dims) > 1:
        raise click.UsageError(f'the denoisers have different numbers of classes: '
                               f'{", ".join(map(str, sorted(label_dims)))}')
    label_dim = max(label_dims, default=0)
    if opts['class_idx'] is not None and all(each.recorded for each in opened):
        sampler_options.check_class(opts['class_idx'], label_dim)
    low, high = (f(float(getattr(net, name)) for net in nets) for f, name in (
        (max, 'sigma_min'), (min, 'sigma_max')))
    for sigma in opts['sigmas'] or ():
        if not low <= sigma <= high:
            raise click.UsageError(f'--sigmas {sigma:g}: the denoisers support {low:g} to {high:g}')
    with cli.usage_errors():
        sigmas, levels = noise_levels(nets[0], opts['sigmas'], num_steps=opts.get('steps', 18),
                                      sigma_min=max(low, 0.002), sigma_max=min(high, 80))
    return opened, sigmas, levels, label_dim


def _images(path: str, opened: list, label_dim: int, opts: dict, option: str):
    """The images of a path, checked against the denoisers."""
    from data.real_images import RealImages

    net = opened[0].denoiser
    return RealImages(path, (net.img_channels, net.img_resolution, net.img_resolution), option=option,
                      label_dim=label_dim if opts['class_idx'] is None else 0)


def _conditional(opened: list):
    """The denoiser that says which labels the noisy images need."""
    return max((each.denoiser for each in opened), key=lambda net: net.label_dim)


def _errors(opts: dict, names: list[str], device) -> tuple:
    """The rows of `error`, the denoisers, and the images that they depend on."""
    from sampling.points import NoisyImages
    from scores.denoising import measure
    from scores.denoising_table import rows_of
    from torch_utils import distributed
    from torch_utils.errors import note

    opened, sigmas, _, label_dim = _open(opts, device)
    data = {path: _images(path, opened, label_dim, opts, '--data') for path in opts['data']}
    paths = opts['data'] * (len(names) // len(opts['data']))
    sizes = (opts['sizes'] or [len(data[path]) for path in opts['data']]) * len(names)
    sizes = sizes[:len(names)]
    _check_different(list(zip(names, sizes, strict=True)))
    heldout = opts['heldout'] and _images(opts['heldout'], opened, label_dim, opts, '--heldout')
    if heldout:
        equal = heldout.equal_to(data.values(), show_progress=distributed.rank() == 0)
        if equal.any() and opts['drop_equal']:
            heldout.drop(equal)
        if equal.any():
            note(f'--heldout {opts["heldout"]}: {equal.sum():,} of {len(equal):,} images are training images'
                 + (', and left out' if opts['drop_equal'] else '; --drop-equal leaves them out'))
    rows = []
    for name, size, path, each in zip(names, sizes, paths, opened, strict=True):
        for kind, images in (('train', data[path]), ('heldout', heldout)):
            if images is None:
                continue
            source = NoisyImages(images=images, class_idx=opts['class_idx'], sigmas=sigmas)
            found = measure({name: each.denoiser}, lambda seeds, source=source: source.points(
                _conditional(opened), seeds, device), sigmas, opts['seeds'], device, batch=opts['batch'])
            rows += rows_of(found, [name], sigmas, images=kind, size=size)
    return rows, opened, [*opts['data'], opts['heldout']]


def _distances(opts: dict, names: list[str], device) -> tuple:
    """The rows of `distance`, the denoisers, and the images that they depend on."""
    from data.training_labels import label_vectors
    from sampling.points import NoisyImages, Trajectories
    from scores.denoising import measure
    from scores.denoising_table import rows_of

    opened, sigmas, levels, label_dim = _open(opts, device, opts['heldout'])
    reference, others = opened[0].denoiser, dict(zip(names[1:], (each.denoiser for each in opened[1:]),
                                                     strict=True))
    sources, rows = {}, []
    if opts['data']:
        images = _images(opts['data'], opened, label_dim, opts, '--data')
        sources['data'] = NoisyImages(images=images, class_idx=opts['class_idx'], sigmas=sigmas)
    if opts['trajectory']:
        vectors = label_vectors(opened[0].recorded or {}, reference.label_dim, f'A {opened[0].path}')
        sources['trajectory'] = Trajectories(class_idx=opts['class_idx'], vectors=vectors, sigmas=sigmas,
                                             levels=levels, options={})
    for kind, source in sources.items():
        net = _conditional(opened) if kind == 'data' else reference
        found = measure(others, lambda seeds, source=source, net=net: source.points(net, seeds, device),
                        sigmas, opts['seeds'], device, reference=reference, batch=opts['batch'])
        rows += rows_of(found, names[1:], sigmas, images=kind, size=opts['size'], target=names[0])
    return rows, opened, [opts['data'], opts['heldout']]


if __name__ == '__main__':
    main()
