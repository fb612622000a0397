"""Compare images: descriptors and the scores of their files, pixel errors, all pairs of models."""

import os
import shlex
import sys
from pathlib import Path

import click

from torch_utils import cli
from torch_utils.errors import UserError


@click.group(cls=cli.Group, context_settings={'show_default': True, 'max_content_width': 100})
def main() -> None:
    """Reproducibility (RP) and generalization (GL) scores of samples.

    \b
    Example: are the samples of two models alike, and are they new?
      python edm/sscd.py feature --images=evaluation/a --features=evaluation/a.npz
      python edm/sscd.py feature --images=evaluation/b --features=evaluation/b.npz
      python edm/sscd.py feature --images=datasets/train.zip --features=evaluation/train.npz
      python edm/sscd.py rpscore --source=evaluation/a.npz --target=evaluation/b.npz
      python edm/sscd.py mscore --source=evaluation/a.npz --target=evaluation/train.npz
    """


def _npz_name(ctx, param, value: str | None) -> str | None:
    if value is not None and (not value.lower().endswith('.npz') or os.path.isdir(value)):
        raise click.BadParameter(f'{value} must name a file that ends with .npz')
    return value


def _score_options(function):
    main_options = cli.options(
        'Main options',
        click.option('--source', metavar='NPZ', required=True, help='Features of samples.'),
        click.option('--target', metavar='NPZ', required=True,
                     help='rpscore: features of the other model\'s samples from the same noises, in the same '
                          'order. mscore: features of the training images.'),
        click.option('--t', 'threshold', metavar='FLOAT', type=cli.FiniteRange(), default=0.6,
                     help='Images are the same if their similarity is above this. 0.6 suits SSCD '
                          'descriptors; pixel descriptors need more, such as 0.97.'),
        cli.device_option)
    output_options = cli.options(
        'Output',
        click.option('--json', 'json_path', metavar='FILE', help='Write the numbers there as well.'),
        click.option('--size', metavar='N', type=click.IntRange(min=1),
                     help='For plot.py regimes: how many images the models were trained on, kept in --json. '
                          'mscore takes the number of rows of --target if this is not given.'),
        click.option('--width', 'widths', metavar='INT', type=click.IntRange(min=1), multiple=True,
                     help='For plot.py regimes: width of the model, kept in --json; rpscore: of both.'))
    return main_options(output_options(function))


_workers_option = click.option('--workers', metavar='INT', type=click.IntRange(min=1),
                               help='Threads that decode images, per process.  [default: cores, at most 8]')
_ignore_names_option = click.option('--ignore-names', is_flag=True,
                                    help='Compare row i with row i whatever their files are called.')


@main.command()
@cli.options('Main options',
    click.option('--images', metavar='ZIP|DIR|NPZ', required=True,
                 help='Images; they are taken in the order of their names.'))
@cli.options('Output',
    click.option('--features', metavar='NPZ', required=True, callback=_npz_name, help='File to write.'))
@cli.options('Descriptor',
    click.option('--descriptor', type=click.Choice(['sscd', 'pixel']), default='sscd',
                 help='sscd: the network of --model, on images resized to 320x320. pixel: the pixels without '
                      'their mean, at length 1, so that a similarity is the Pearson correlation of two '
                      'images; all must be of one size, and its thresholds are not those of SSCD.'),
    click.option('--model', metavar='PATH|URL',
                 help='TorchScript file of the sscd descriptor.  [default: the published '
                      'sscd_disc_large.torchscript.pt, downloaded once to $SSCD_CACHE or pretrainedmodels/]'))
@cli.options('Performance',
    click.option('--batch', metavar='INT', type=click.IntRange(min=1), default=64,
                 help='Images at a time, per process.'),
    _workers_option,
    cli.device_option)
@cli.writes(['images', 'model'], features='features')
def feature(images: str, features: str, descriptor: str, model: str | None, batch: int, workers: int | None,
            device: str) -> None:
    """Compute one descriptor per image.

    They become the array `features`, float32 [N, D], of an .npz file; other software reads and writes such
    files, too. Started by torchrun, the processes share the images; the file is the same.

    \b
    Example:
      torchrun --standalone --nproc_per_node=4 edm/sscd.py feature --images=datasets/train.zip \\
          --features=evaluation/train.npz
    """
    if model is not None and descriptor == 'pixel':
        raise click.UsageError('--model is for --descriptor sscd, got pixel')

    from data.image_stream import open_images
    from scores.extraction import extract
    from torch_utils import distributed
    from torch_utils.files import make_output_dir
    from torch_utils.processes import default_workers

    device = distributed.pick_device(device)
    distributed.init(device)
    with distributed.shared_errors():
        stream = open_images(images, '--images')
        make_output_dir(Path(features).parent, '--features')
        compute = _descriptor(descriptor, model, device)
    verb = 'replaced' if Path(features).exists() else 'wrote'
    summary = extract(stream, compute, features, batch=batch, workers=workers or default_workers(),
                      provenance=_feature_card(images, device))
    if summary is not None:
        if summary.num_zero:
            print(f'{summary.num_zero} of {summary.num_images} images are one grey value: they are similar '
                  'to none, not even to themselves', file=sys.stderr)
        print(f'{verb} {features}: {summary.num_images} descriptors of {summary.dim} numbers')
    distributed.shutdown()


def _descriptor(kind: str, model: str | None, device):
    from scores.descriptors import PixelDescriptor
    from scores.sscd_model import SscdDescriptor, find_model

    if kind == 'pixel':
        return PixelDescriptor()  # computed on the CPU whatever the device
    return SscdDescriptor(find_model(model), device)


def _feature_card(images: str, device) -> dict:
    """The model card without what differs between calls that make the same features, such as the time."""
    from torch_utils import provenance

    card = provenance.record(images=images)
    del card['time_utc'], card['inputs']
    options = {name: value for name, value in sorted(card['options'].items())
               if name not in ('device', 'features', 'overwrite', 'workers') and value is not None}
    options['device'] = device.type
    words = ['sscd.py', 'feature', *(f'--{name}={value}' for name, value in options.items())]
    return card | {'command': shlex.join(words), 'options': options}


@main.command(cls=cli.ListCommand)
@_score_options
@cli.options('Main options', _ignore_names_option)
@cli.writes(['source', 'target'], json_path='scores')
def rpscore(source: str, target: str, threshold: float, json_path: str | None, size: int | None,
            widths: tuple[int, ...], device: str, ignore_names: bool) -> None:
    """Reproducibility (RP) score of two models.

    The share of rows i in which source and target show the same image.

    \b
    Example:
      python edm/sscd.py rpscore --source=a.npz --target=b.npz --size=1024 --width 64 128 \\
          --json=evaluation/rp-n1024-w64-w128.json
    """
    if widths and len(set(widths)) != 2:
        raise click.UsageError(f'--width {", ".join(map(str, widths))}: expected two different widths, of '
                               'source and target')
    from scores.copy_scores import Share, pair_similarities
    from scores.features import load_pair

    first, second = load_pair(source, target, rows_match=True)
    _prepare(device, json=json_path)
    _mention(threshold, source=first, target=second)
    _check_names({f'--source {source}': first, f'--target {target}': second}, ignore_names)
    share = Share.above(pair_similarities(first.values, second.values), threshold)
    print('RP score = ', share.value)
    print(f'{share.count} of {share.total} pairs have a similarity above {threshold:g}; {_interval(share)}')
    _write(json_path, source, target, threshold, first.descriptor or second.descriptor, share, size, widths,
           rp_score=share.value)


@main.command(cls=cli.ListCommand)
@_score_options
@cli.options('Output',
    click.option('--neighbors', metavar='NPZ', callback=_npz_name,
                 help='Also keep each sample\'s nearest training image and similarity, for plot.py '
                      'neighbors.'))
@cli.writes(['source', 'target'], json_path='scores', neighbors='neighbors')
def mscore(source: str, target: str, threshold: float, json_path: str | None, size: int | None,
           widths: tuple[int, ...], device: str, neighbors: str | None) -> None:
    """Generalization (GL) score of samples.

    The share of source rows that no target row resembles. It is 1 - memorized fraction, and printed as the
    M score, as in the papers' software.

    \b
    Example:
      python edm/sscd.py mscore --source=a.npz --target=train.npz --width=64 \\
          --neighbors=evaluation/neighbors.npz --json=evaluation/gl-n1024-w64.json
    """
    if len(widths) > 1:
        raise click.UsageError(f'--width {", ".join(map(str, widths))}: expected one width, of source')
    from scores.copy_scores import Share, nearest_neighbors
    from scores.features import load_pair
    from scores.neighbors import save_neighbors
    from torch_utils import provenance

    first, second = load_pair(source, target, rows_match=False)
    device = _prepare(device, json=json_path, neighbors=neighbors)
    _mention(threshold, source=first, target=second)
    similarity, nearest = nearest_neighbors(first.values, second.values, device)
    memorized = Share.above(similarity, threshold)
    new, score = memorized.rest(), 1 - memorized.value
    print('M score = ', score)
    print(f'This is the generalization score: {new.count} of {new.total} samples have no training image of '
          f'similarity above {threshold:g}; {_interval(new)}. Memorized fraction: {memorized.value} '
          f'({memorized.count} of {memorized.total}, {len(second.values)} training images)')
    _write(json_path, source, target, threshold, first.descriptor or second.descriptor, new,
           size or len(second.values), widths, generalization_score=score, memorized_fraction=memorized.value)
    if neighbors is not None:
        save_neighbors(neighbors, similarity, nearest, threshold, first, second,
                       provenance.record(inputs=[source, target]))
        print(f'wrote {neighbors}: the nearest training images')


@main.command()
@click.option('--source', metavar='DIR|ZIP|NPZ', required=True, help='Samples of one model.')
@click.option('--target', metavar='DIR|ZIP|NPZ', required=True,
              help='Samples of the other model from the same noises, with the same names.')
@click.option('--t', 'threshold', metavar='FLOAT', type=cli.FiniteRange(min=0, max=255), default=15,
              help='Images are the same if their pixels differ by less than this of 255 on average.')
@click.option('--json', 'json_path', metavar='FILE', help='Write the numbers there as well.')
@_workers_option
@cli.writes(['source', 'target'], json_path='scores')
def maescore(source: str, target: str, threshold: float, json_path: str | None, workers: int | None) -> None:
    """MAE score of two models: RP score by pixels.

    The share of same-named images (folder and extension apart) whose mean absolute difference in RGB, on
    the scale 0..255, is below a threshold.

    Example: python edm/sscd.py maescore --source=evaluation/a --target=evaluation/b
    """
    from data.image_stream import open_images
    from scores.copy_scores import Share
    from scores.pixel_errors import match_names, pairwise_errors
    from torch_utils.processes import default_workers

    streams = [open_images(source, '--source'), open_images(target, '--target')]
    _prepare('cpu', json=json_path)
    matches = match_names(streams)
    if not matches:
        raise UserError(f'--source {source} and --target {target}: no file name is common to both')
    _mention_unmatched(matches, streams)
    share = Share.below(pairwise_errors(streams, matches, workers or default_workers())[0], threshold)
    print('MAE score = ', share.value)
    print(f'{share.count} of {share.total} pairs differ by less than {threshold:g} of 255 on average; '
          f'{_interval(share)}')
    _write(json_path, source, target, threshold, None, share, None, (), mae_score=share.value)


@main.command(cls=cli.ListCommand)
@cli.options('Main options',
    click.option('--features', metavar='NPZ ...', multiple=True, help='Features of each model\'s samples.'),
    click.option('--images', metavar='DIR|ZIP|NPZ ...', multiple=True,
                 help='Samples of each model, for the matrix of MAE scores.'),
    click.option('--names', metavar='STR ...', required=True, multiple=True,
                 help='Names of the models, in this order.'),
    click.option('--t', 'threshold', metavar='FLOAT', type=cli.FiniteRange(), default=0.6,
                 help='RP scores: similarity above which images are the same. 0.6 suits SSCD descriptors; '
                      'pixel descriptors need more, such as 0.97.'),
    click.option('--mae-t', 'mae_threshold', metavar='FLOAT', type=cli.FiniteRange(min=0, max=255),
                 default=15, help='MAE scores: mean difference of 255 below which images are the same.'),
    _ignore_names_option)
@cli.options('Output',
    click.option('--out', metavar='JSON', required=True, help='File to write, for plot.py similarity.'))
@cli.options('Performance', _workers_option)
@cli.writes(['features', 'images'], out='matrix of scores')
def matrix(features: tuple[str, ...], images: tuple[str, ...], names: tuple[str, ...], threshold: float,
           mae_threshold: float, out: str, ignore_names: bool, workers: int | None) -> None:
    """RP and MAE scores of all pairs of models.

    All samples must be from the same noises, in the same order.

    \b
    Example:
      python edm/sscd.py matrix --features a.npz b.npz c.npz --images a b c \\
          --names DDPM EDM "U-ViT" --out similarity.json
    """
    for option, given in (('features', features), ('images', images)):
        if given and len(given) != len(names):
            raise click.UsageError(f'--{option}: {len(given)} for {len(names)} --names, expected one each')
    if not (features or images) or len(names) < 2:
        raise click.UsageError('expected --features or --images (or both) of at least two models')
    from data.image_stream import open_images
    from scores import similarity
    from scores.features import load_features
    from torch_utils import provenance
    from torch_utils.files import write_json
    from torch_utils.processes import default_workers

    loaded = [load_features(path, '--features') for path in features]
    streams = [open_images(path, '--images') for path in images]
    _prepare('cpu', out=out)
    kinds = [each.descriptor for each in loaded if each.descriptor]
    result = {'names': names, 'descriptor': kinds[0] if kinds else None}
    if loaded:
        _mention(threshold, **dict(zip(features, loaded, strict=True)))
        result['rp'] = similarity.rp_matrix(loaded, names, threshold).as_dict()
        _check_names({f'--features {path}': each for path, each in zip(features, loaded, strict=True)},
                     ignore_names)
    if streams:
        result['mae'] = similarity.mae_matrix(streams, mae_threshold,
                                              workers or default_workers()).as_dict()
    for key in ('rp', 'mae'):
        if key in result:
            print(f'{key.upper()} scores, of {result[key]["total"]} pairs of images each')
            for name, row in zip(names, result[key]['value'], strict=True):
                print(' '.join(f'{value:.4f}' for value in row), name)
    write_json(out, result | {'images': images, 'record': provenance.record(inputs=[*features, *images])})
    print(f'wrote {out}')


def _prepare(device: str, **outputs: str | None):
    """The device; whether the files of options such as `--json` can be written is known before the work."""
    from torch_utils.distributed import pick_device
    from torch_utils.files import make_output_dir

    for option, path in outputs.items():
        if path is not None:
            if os.path.isdir(path):
                raise click.UsageError(f'--{option} {path}: is a folder, expected the name of a file')
            make_output_dir(Path(path).parent, f'--{option}')
    return pick_device(device)


def _mention(threshold: float, **features) -> None:
    """Say what is doubtful: rows of another length than 1, SSCD's threshold for pixels if none was given."""
    for name, each in features.items():
        if each.rescaled:
            print(f'{name}: {each.rescaled} of {len(each.values)} features are not of length 1; they are '
                  'scaled to it', file=sys.stderr)
    given = click.get_current_context().get_parameter_source('threshold')
    is_pixel = any(each.descriptor == 'pixel' for each in features.values())
    if is_pixel and given == click.core.ParameterSource.DEFAULT:
        print(f'--t is left at {threshold:g}, which suits SSCD; these are pixel descriptors, whose '
              'similarities are higher', file=sys.stderr)


def _check_names(features: dict, ignore: bool) -> None:
    """Refuse rows whose files have different names, so perhaps different seeds."""
    from scores.similarity import first_difference

    if ignore:
        return
    (first, a), *others = features.items()
    unnamed = [where for where, each in features.items() if each.file_names is None]
    if unnamed:
        print(f'{unnamed[0]} has no file names: that row i belongs to row i is not checked', file=sys.stderr)
        return
    for other, b in others:
        row = first_difference(a.file_names, b.file_names)
        if row is not None:
            raise UserError(
                f'{first} and {other}: row {row} is {a.file_names[row]} in one and {b.file_names[row]} in '
                'the other; make both from samples of the same seeds, or give --ignore-names')


def _mention_unmatched(matches, streams) -> None:
    for option, stream in zip(('--source', '--target'), streams, strict=True):
        if len(stream.names) > len(matches):
            print(f'{option}: {len(stream.names) - len(matches)} of {len(stream.names)} images have no '
                  'partner of the same name and do not count', file=sys.stderr)


def _interval(share) -> str:
    return f'95 % interval {share.low:.4f} .. {share.high:.4f} (Wilson)'


def _write(json_path: str | None, source: str, target: str, threshold: float, descriptor: str | None, share,
           size: int | None, widths: tuple[int, ...], **numbers) -> None:
    """`--json`: the numbers, what they were computed from, and what computed them."""
    from torch_utils import provenance
    from torch_utils.files import write_json

    if json_path is None:
        return
    record = provenance.record(inputs=[source, target])
    files = {name: {'path': path, 'sha256': record['inputs'][path]}
             for name, path in (('source', source), ('target', target))}
    models = {'size': size, 'widths': list(widths)} if widths else {'size': size} if size else {}
    write_json(json_path, {**numbers, 'low': share.low, 'high': share.high, 'count': share.count,
                           'total': share.total, 'threshold': threshold, 'descriptor': descriptor, **models,
                           **files, 'record': record})


if __name__ == '__main__':
    main()
