"""Compare images: descriptors, RP and GL scores, MAE scores, matrices of all pairs of models."""

import functools
import shlex
from pathlib import Path

import click

from scores import results
from scores import score_options as options
from scores.descriptors import DESCRIPTORS
from scores.quality_commands import COMMANDS
from scores.score_table import REFERENCES, SCORES, Row, Score
from torch_utils import cli
from torch_utils.errors import UserError


@click.group(cls=cli.Group, context_settings={'show_default': True, 'max_content_width': 100})
def main() -> None:
    """Reproducibility (RP), generalization (GL) and quality of samples.

    \b
    Example: are the samples of two models alike, and are they new?
      python edm/sscd.py feature --images=evaluation/a --features=evaluation/a.npz
      python edm/sscd.py feature --images=evaluation/b --features=evaluation/b.npz
      python edm/sscd.py feature --images=datasets/train.zip --features=evaluation/train.npz
      python edm/sscd.py rpscore --source=evaluation/a.npz --target=evaluation/b.npz
      python edm/sscd.py mscore --source=evaluation/a.npz --target=evaluation/train.npz
    """


@main.command(cls=cli.ListCommand)
@cli.options('Main options',
    click.option('--images', metavar='ZIP|DIR|NPZ ...', required=True, multiple=True,
                 help='Images; rows follow the order of their names.'))
@cli.options('Output',
    click.option('--features', metavar='NPZ ...', required=True, multiple=True, callback=options.npz_name,
                 help='File to write; one per --images.'))
@cli.options('Descriptor',
    click.option('--descriptor', type=click.Choice(list(DESCRIPTORS)), default='sscd',
                 help='sscd: the network of --model, on images resized to 320x320. pixel: similarity is the '
                      'Pearson correlation of two images of one size; needs higher thresholds. l2: pixels '
                      'as they are, for distances. inception: the 2048 features of FID. torchscript: any '
                      'network of --model, for distances.'),
    click.option('--model', metavar='PATH|URL',
                 help='TorchScript file of the sscd, inception or torchscript descriptor; it runs code of '
                      'its own, which can write any file.  [default for sscd and inception: the published '
                      'sscd_disc_large.torchscript.pt or inception-2015-12-05.pt, downloaded once to '
                      '$SSCD_CACHE or pretrainedmodels/]'),
    click.option('--resolution', metavar='INT', type=click.IntRange(min=1),
                 help='For torchscript: height and width to which images are resized, bilinear and '
                      'antialiased.  [default: their own]'),
    click.option('--mean', metavar='FLOAT|R,G,B', callback=options.per_channel,
                 help='For torchscript: the network sees (pixels / 255 - mean) / std.  [default: 0]'),
    click.option('--std', metavar='FLOAT|R,G,B', callback=options.per_channel,
                 help='For torchscript: see --mean.  [default: 1]'),
    click.option('--unit-length', is_flag=True,
                 help='For torchscript: scale descriptors to length 1, for rpscore and mscore at a '
                      'threshold.'))
@cli.options('Performance',
    click.option('--batch', metavar='INT', type=click.IntRange(min=1), default=64,
                 help='Batch size per process.'),
    options.workers_option,
    cli.device_option)
@cli.writes(['images', 'model'], features='features')
def feature(images: tuple[str, ...], features: tuple[str, ...], descriptor: str, batch: int,
            workers: int | None, device: str, **own) -> None:
    """Compute one descriptor per image.

    The .npz file has an array `features`, float32 [N, D], and says in `length` whether its rows have unit
    length or are raw. Under torchrun, processes share the images, and the file stays the same.

    \b
    Example:
      torchrun --standalone --nproc_per_node=4 edm/sscd.py feature --images=datasets/train.zip \\
          --features=evaluation/train.npz
    """
    own = {name: value for name, value in own.items() if value not in (None, False)}
    for name in own.keys() - {*DESCRIPTORS[descriptor].takes}:
        of = ' or '.join(kind for kind, each in DESCRIPTORS.items() if name in each.takes)
        raise click.UsageError(f'--{name.replace("_", "-")} is for --descriptor {of}, got {descriptor}')
    if len(features) != len(images):
        raise click.UsageError(f'--features: {len(features)} for {len(images)} --images, expected one each')

    from data.image_stream import open_images
    from scores.extraction import extract
    from torch_utils import distributed
    from torch_utils.files import make_output_dir
    from torch_utils.processes import default_workers

    device = distributed.pick_device(device)
    distributed.init(device)
    with distributed.shared_errors():
        streams = [open_images(path, '--images') for path in images]
        for path in features:
            make_output_dir(Path(path).parent, '--features')
        compute = DESCRIPTORS[descriptor].make(device, **own)
    for source, stream, path in zip(images, streams, features, strict=True):
        verb = 'replaced' if Path(path).exists() else 'wrote'
        values = extract(stream, compute, path, batch=batch, workers=workers or default_workers(),
                         provenance=_feature_card(source, device))
        if values is not None:
            print(f'{verb} {path}: {len(values)} descriptors of {values.shape[1]} numbers')
    distributed.shutdown()


def _feature_card(images: str, device) -> dict:
    """Provenance without what differs between calls that make the same features, such as the time."""
    from torch_utils import provenance

    card = provenance.record(images=images)
    del card['time_utc'], card['inputs']
    options = {name: value for name, value in sorted((card['options'] | {'images': images}).items())
               if name not in ('device', 'features', 'overwrite', 'workers') and value not in (None, False)}
    options['device'] = device.type
    words = ['sscd.py', 'feature', *(f'--{name}={value}' for name, value in options.items())]
    return card | {'command': shlex.join(words), 'options': options}


def _score_command(name: str, kind: Score) -> click.Command:
    """The sub-command of a kind of score."""
    own = [options.ignore_names_option,
           click.option('--reference', type=click.Choice(list(REFERENCES)),
                        help='--target is samples of this closed-form denoiser, or of a model of the same '
                             'width trained on as many other images (disjoint), so the score in --table is '
                             f'{", ".join(REFERENCES.values())}.')]
    if not kind.paired:
        own = [click.option('--nested', is_flag=True,
                            help='Compare with the first --size rows of --target only; rows after the '
                                 'largest size are held-out images, whose score is the control.')]
    output = [options.json_option, options.table_option,
              click.option('--size', 'sizes', metavar='N ...', type=click.IntRange(min=1), multiple=True,
                           help='For --table: size of the training set, one per --source.' + (
                               '' if kind.paired else '  [default: rows of --target]')),
              click.option('--width', 'widths', metavar='INT ...', type=click.IntRange(min=1), multiple=True,
                           help='For --table: width of the model' + ('; of both.' if kind.paired else '.')),
              options.names_option]
    if not kind.paired:
        output.append(click.option(
            '--neighbors', metavar='NPZ ...', callback=options.npz_name, multiple=True,
            help='Write nearest training images and similarities, for plot.py; one file per --source.'))
    target = ('Features of the other model\'s samples from the same noises' if kind.paired else
              'Features of the training images')

    @main.command(kind.command, cls=cli.ListCommand, help=kind.help)
    @cli.options('Main options',
        click.option('--source', 'sources', metavar='NPZ ...', required=True, multiple=True,
                     help='Features of samples; one score per file.'),
        click.option('--target', 'targets', metavar='NPZ ...', required=True, multiple=True,
                     help=f'{target}; one file, or one per --source.'),
        click.option('--t', 'thresholds', metavar='FLOAT ...', type=cli.FiniteRange(min=-1, max=1),
                     default=[0.6], multiple=True,
                     help=options.THRESHOLD_HELP),
        *own, cli.device_option)
    @cli.options('Output', *output)
    @cli.writes(['sources', 'targets'], json_path='scores', table=None, **(
        {} if kind.paired else {'neighbors': 'neighbors'}))
    def command(**given) -> None:
        _score(name, **given)
    return command


def _score(name: str, *, sources, targets, thresholds, device, json_path, table, sizes, widths, names,
           ignore_names=False, reference=None, nested=False, neighbors=()) -> None:
    """Print and keep the scores of all files at all thresholds."""
    from scores.comparison import compare, score_row
    from scores.features import load_features
    from scores.neighbors import save_neighbors
    from scores.pairing import pair_features
    from torch_utils import provenance
    from torch_utils.distributed import pick_device

    kind, called = SCORES[name], REFERENCES.get(reference, name)
    labels = options.model_labels(SCORES[called].models, widths, names, table)
    several = len(sources) * len(thresholds) > 1
    _check_options(table, json_path, labels, nested, several, len(sources), targets=targets, sizes=sizes,
                   neighbors=neighbors)
    for path in neighbors or (None,):
        results.prepare(json=json_path, table=table, neighbors=path)
    device = None if kind.paired else pick_device(device)
    load, rows = functools.lru_cache(maxsize=2)(load_features), []
    for i, (source, target) in enumerate(zip(sources, targets * (len(sources) // len(targets)), strict=True)):
        first, second = load(source, '--source'), load(target, '--target')
        results.mention(thresholds, first, second)
        if kind.paired:
            second = pair_features(first, second, force=ignore_names)
        size = sizes[i] if sizes else None if kind.paired else len(second.values)
        if nested and size > len(second.values):
            raise UserError(f'--size {size}: {second.where} has {len(second.values)} rows')
        num_training = size if nested else len(second.values)
        similarity, nearest, control = compare(name, first, second, device, num_training=num_training,
                                               heldout_from=max(sizes) if nested else None)
        kept = {'models': labels, 'size': size, 'descriptor': first.descriptor or second.descriptor or ''}
        for threshold in thresholds:
            rows.append(score_row(name, called, similarity, threshold, **kept))
            controls = [] if control is None else [
                score_row(name, SCORES[called].control or kind.control, control, threshold, **kept)]
            if several:
                results.print_line(kind, rows[-1], source, target)
            else:
                results.print_score(kind, rows[-1], controls, num_training)
            rows += controls if SCORES[called].control else []
        if neighbors:
            save_neighbors(neighbors[i], similarity, nearest, thresholds[0], first, second,
                           provenance.record(inputs=[source, target]), size)
            print(f'wrote {neighbors[i]}: the nearest training images')
    results.add_to_table(table, rows)
    results.write_score(json_path, kind, rows[0], source=sources[0], target=targets[0])


def _check_options(table, json_path, labels, nested: bool, several: bool, total: int, *, targets, sizes,
                   neighbors) -> None:
    for option, given, least in ('--target', targets, 1), ('--size', sizes, 0), ('--neighbors', neighbors, 0):
        if len(given) not in (least, total):
            raise click.UsageError(f'{option}: {len(given)} for {total} --source, expected one each')
    if nested and not sizes:
        raise click.UsageError('--nested needs --size, the size of the training set')
    if (labels or sizes) and not (table or json_path or nested):
        raise click.UsageError('--size, --width and --names are kept in --table or --json; neither is given')
    if json_path and several:
        raise click.UsageError('--json: holds one score; for several at a time give --table')


for _name, _kind in SCORES.items():
    if _kind.command:
        _score_command(_name, _kind)
for _command in COMMANDS:
    main.add_command(_command)


@main.command(cls=cli.ListCommand)
@cli.options('Main options',
    click.option('--source', metavar='DIR|ZIP|NPZ', required=True, help='Samples of one model.'),
    click.option('--target', metavar='DIR|ZIP|NPZ', required=True,
                 help='Samples of the other model from the same noises, of the same names.'),
    click.option('--t', 'threshold', metavar='FLOAT', type=cli.FiniteRange(min=0, max=255), default=15,
                 help='Mean difference of pixels, of 255, below which images are the same.'),
    options.workers_option)
@cli.options('Output', options.json_option, options.table_option, options.names_option)
@cli.writes(['source', 'target'], json_path='scores', table=None)
def maescore(source: str, target: str, threshold: float, json_path: str | None, table: str | None,
             names: tuple[str, ...], workers: int | None) -> None:
    """MAE score of two models: RP score by pixels.

    The share of same-named images (folder and extension apart) whose mean absolute difference in RGB is
    below a threshold. Without common names, the numbers in the names pair images.

    Example: python edm/sscd.py maescore --source=evaluation/a --target=evaluation/b
    """
    from data.image_stream import open_images
    from scores.pixel_errors import mae_shares
    from torch_utils.processes import default_workers

    labels = options.model_labels(2, (), names, table)
    streams = [open_images(source, '--source'), open_images(target, '--target')]
    results.prepare(json=json_path, table=table)
    share = mae_shares(streams, threshold, workers or default_workers())[0, 1]
    row = Row(share.count, share.total, threshold=threshold, score='mae', models=labels, size=None)
    print('MAE score = ', row.value)
    print(f'{row.count} of {row.total} pairs differ by less than {threshold:g} of 255 on average; '
          f'{results.interval_words(row)}')
    results.add_to_table(table, [row])
    results.write_score(json_path, SCORES['mae'], row, source=source, target=target)


@main.command(cls=cli.ListCommand)
@cli.options('Main options',
    click.option('--features', metavar='NPZ ...', multiple=True, help='Features of each model\'s samples.'),
    click.option('--images', metavar='DIR|ZIP|NPZ ...', multiple=True,
                 help='Samples of each model, for MAE scores.'),
    click.option('--names', metavar='STR ...', required=True, multiple=True, callback=options.names_of_models,
                 help='Names of the models, in this order.'),
    click.option('--t', 'threshold', metavar='FLOAT', type=cli.FiniteRange(min=-1, max=1), default=0.6,
                 help=options.THRESHOLD_HELP),
    click.option('--mae-t', 'mae_threshold', metavar='FLOAT', type=cli.FiniteRange(min=0, max=255),
                 default=15, help='Mean difference of pixels, of 255, below which images are the same.'),
    options.ignore_names_option)
@cli.options('Output',
    click.option('--table', metavar='CSV', required=True,
                 help='Add the scores to this table for plot.py; the same score again replaces its row.'))
@cli.options('Performance', options.workers_option)
@cli.writes(['features', 'images'], adds_overwrite=False, table=None)
def matrix(features: tuple[str, ...], images: tuple[str, ...], names: tuple[str, ...], threshold: float,
           mae_threshold: float, table: str, ignore_names: bool, workers: int | None) -> None:
    """RP and MAE scores of all pairs of models, whose samples are from the same noises.

    Samples are paired by the images' names.

    \b
    Example:
      python edm/sscd.py matrix --features a.npz b.npz c.npz --images a b c \\
          --names DDPM EDM "U-ViT" --table similarity.csv
    """
    for option, given in (('--features', features), ('--images', images)):
        if given and len(given) != len(names):
            raise click.UsageError(f'{option}: {len(given)} for {len(names)} --names, expected one each')
    if not (features or images) or len(names) < 2:
        raise click.UsageError('expected --features or --images (or both) of at least two models')
    from data.image_stream import open_images
    from scores.comparison import rp_shares
    from scores.features import load_features
    from scores.pairing import pair_features
    from scores.pixel_errors import mae_shares
    from torch_utils.processes import default_workers

    loaded = [load_features(path, '--features') for path in features]
    streams = [open_images(path, '--images') for path in images]
    results.prepare(table=table)
    rows = []
    if loaded:
        results.mention([threshold], *loaded)
        aligned = [pair_features(loaded[0], each, force=ignore_names) for each in loaded]
        kind = next((each.descriptor for each in loaded if each.descriptor), '')
        rows += _matrix_rows('rp', names, rp_shares(aligned, threshold), threshold=threshold, descriptor=kind)
    if streams:
        shares = mae_shares(streams, mae_threshold, workers or default_workers())
        rows += _matrix_rows('mae', names, shares, threshold=mae_threshold)
    results.add_to_table(table, rows)


def _matrix_rows(score: str, names: tuple[str, ...], shares: dict, **more) -> list[Row]:
    """Print the matrix; returns its rows for the table, with the diagonal."""
    print(f'{SCORES[score].label} scores, of {shares[0, 0].total} pairs of images each')
    for i, name in enumerate(names):
        values = [shares[min(i, j), max(i, j)].value for j in range(len(names))]
        print(' '.join(f'{value:.4f}' for value in values), name)
    return [Row(share.count, share.total, score=score, models=(names[i], names[j]), size=None, **more)
            for (i, j), share in shares.items()]


if __name__ == '__main__':
    main()
