"""Compare images: descriptors, RP and GL scores, MAE scores, matrices of all pairs of models."""

import functools
import itertools
import os
import shlex
from collections.abc import Callable
from pathlib import Path

import click

from descriptors import DESCRIPTORS
from scores import results
from scores import score_options as options
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
    name = click.get_current_context().invoked_subcommand
    if int(os.environ.get('WORLD_SIZE', 1)) > 1 and name not in ('feature', 'mscore'):
        raise click.UsageError(f'{name} runs in one process; only feature and mscore share their work under '
                               'torchrun')


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
    from descriptors.extraction import extract
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
                         provenance=_feature_record(source, device))
        if values is not None:
            print(f'{verb} {path}: {len(values)} descriptors of {values.shape[1]} numbers')
    distributed.shutdown()


def _feature_record(images: str, device) -> dict:
    """Provenance without what differs between calls that make the same features, such as the time."""
    from torch_utils import provenance

    record = provenance.record(images=images)
    del record['time_utc'], record['inputs']
    options = {name: value for name, value in sorted((record['options'] | {'images': images}).items())
               if name not in ('device', 'features', 'overwrite', 'workers') and value not in (None, False)}
    options['device'] = device.type
    words = ['sscd.py', 'feature', *(f'--{name}={value}' for name, value in options.items())]
    return record | {'command': shlex.join(words), 'options': options}


def _pair_command(name: str, kind: Score) -> click.Command:
    """The sub-command of a score of two models."""
    called = [f'{each}_{name}' for each in REFERENCES if f'{each}_{name}' in SCORES]
    reference = [click.option(
        '--reference', type=click.Choice(list(REFERENCES)),
        help='--target is samples of this closed-form denoiser, or of a model of the same width trained on '
             f'N other images (disjoint), so the score in --table is {", ".join(called)}.')]

    @main.command(kind.command, cls=cli.ListCommand, help=kind.help)
    @cli.options('Main options',
        *options.input_options('Features of the other model\'s samples from the same noises'),
        *([options.thresholds_option] if kind.thresholded else []), options.ignore_names_option,
        *(reference if called else []),
        *([cli.device_option] if kind.thresholded else []))
    @cli.options('Output', *options.label_options('the model; of both'))
    @cli.writes(['sources', 'targets'], json_path='scores', table=None)
    def command(ignore_names, widths, names, reference=None, thresholds=(), device=None, **more) -> None:
        from scores.comparison import PAIR_SCORES
        from scores.pairing import pair_features

        called = f'{reference}_{name}' if reference else name
        labels = options.model_labels(SCORES[called].models, widths, names, more['table'])

        def rows(first, second, size, place):
            second = pair_features(first, second, force=ignore_names)
            return PAIR_SCORES[name](first, second, thresholds, called, models=labels, size=size,
                                     descriptor=first.descriptor or second.descriptor or ''), None
        _score(SCORES[called] if SCORES[called].printed else kind, rows, labels, thresholds, **more,
               keeps_controls=bool(SCORES[called].control))
    return command


for _name, _kind in SCORES.items():
    if _kind.command:
        _pair_command(_name, _kind)
for _command in COMMANDS:
    main.add_command(_command)


def _score(kind: Score, rows_of: Callable, labels: tuple[str, ...], thresholds: tuple[float, ...], *,
           sources, targets, sizes, json_path, table, nested=False, neighbors=(), heldout=None,
           keeps_controls=True, writes=True) -> None:
    """Print and keep the scores of all files at all thresholds; without `writes`, leave files alone.

    rows_of: from features of source and target, the size and the number of the source to, per threshold, a
    score with its controls, and to the number of training images.
    """
    from descriptors.features import load_features

    several = len(sources) > 1 or len(thresholds) > 1
    options.check_options(table, json_path, labels, nested, several, len(sources), targets=targets,
                          sizes=sizes, neighbors=neighbors)
    for path in neighbors or (None,):
        results.prepare(json=json_path, table=table, neighbors=path)
    if not writes:
        table, json_path = None, None
    load, kept = functools.lru_cache(maxsize=2)(load_features), []
    files = {'heldout': heldout} if heldout else {}
    for i, (source, target) in enumerate(zip(sources, targets * (len(sources) // len(targets)), strict=True)):
        first, second = load(source, '--source'), load(target, '--target')
        results.mention(thresholds, first, second)
        found, num_training = rows_of(first, second, sizes[i] if sizes else None, i)
        for row, *controls in found:
            if several:
                results.print_line(kind, row, source, target)
            else:
                results.print_score(kind, row, controls, num_training)
            kept += [row, *controls] if keeps_controls else [row]
    results.add_to_table(table, kept)
    results.write_score(json_path, kind, found[0], source=sources[0], target=targets[0], **files)


@main.command(cls=cli.ListCommand)
@cli.options('Main options',
    *options.input_options('Features of the training images'), options.thresholds_option,
    click.option('--criterion', type=click.Choice(['similarity', 'ratio']), default='similarity',
                 help='similarity: copies are above --t in similarity to a training image. ratio: they are '
                      'nearer than --ratio of the distance to the second nearest; needs raw descriptors, '
                      'such as l2.'),
    click.option('--ratio', metavar='FLOAT', callback=options.fraction, default='1/3',
                 help='Ratio of distances below which a sample is a copy.'),
    cli.device_option)
@cli.options('Held-out images',
    click.option('--heldout', metavar='NPZ',
                 help='Features of real images that no model was trained on, the control of the score.'),
    click.option('--nested', is_flag=True,
                 help='Compare with the first --size rows of --target only; without --heldout, rows after '
                      'the largest size are held-out images.'),
    click.option('--false-positives', metavar='FLOAT', type=cli.FiniteRange(min=0, max=1, max_open=True),
                 default=0.01, help='Share of held-out images that may lie above the calibrated threshold.'),
    click.option('--drop-equal', is_flag=True, help='Leave out held-out images that equal a training image.'))
@cli.options('Output', *options.label_options('the model', '  [default: rows of --target]'),
    click.option('--neighbors', metavar='NPZ ...', callback=options.npz_name, multiple=True,
                 help='Write nearest training images and similarities, for plot.py; one file per --source.'))
@cli.writes(['sources', 'targets', 'heldout'], json_path='scores', table=None, neighbors='neighbors')
def mscore(criterion, ratio, heldout, false_positives, drop_equal, widths, names, thresholds, neighbors,
           device, **more) -> None:
    """Generalization (GL) score of samples.

    The share of samples that copy no training image, 1 - memorized fraction; the papers' software prints it
    as the M score, and so does this command. With held-out images, it prints beside it their score and the
    difference, the score at the threshold that they calibrate, and the C_T statistic. Under torchrun,
    processes share the samples.

    \b
    Example:
      python edm/sscd.py mscore --source=a.npz --target=train.npz --heldout=heldout.npz --width=64 \\
          --table=scores.csv --neighbors=evaluation/neighbors.npz
    """
    from descriptors.features import load_features
    from scores.memorization import CRITERIA, measure_memorization
    from scores.neighbors import save_neighbors
    from torch_utils import distributed, provenance

    if criterion == 'ratio':
        if cli.given('thresholds') or neighbors:
            raise click.UsageError(f'{"--neighbors" if neighbors else "--t"}: for --criterion similarity')
        thresholds = (ratio,)
    elif cli.given('ratio'):
        raise click.UsageError('--ratio: for --criterion ratio')
    for option in ('drop_equal', 'false_positives'):
        if cli.given(option) and not (heldout or more['nested']):
            raise click.UsageError(f'--{option.replace("_", "-")} needs --heldout, or --nested')
    labels = options.model_labels(1, widths, names, more['table'])
    nested, sizes, device = more['nested'], more['sizes'], distributed.pick_device(device)
    distributed.init(device)
    first = distributed.rank() == 0
    with distributed.shared_errors():
        real = load_features(heldout, '--heldout') if heldout else None
    controls = []

    def rows(samples, training, size, place):
        total = len(training.values)
        if nested and size > total:
            raise UserError(f'--size {size}: {training.where} has {total} rows')
        control = real
        if control is None and nested and max(sizes) < total:
            control = training.part(slice(max(sizes), None))
        controls.append(control)
        measured = measure_memorization(
            samples, training.part(slice(size)) if nested else training, control, criterion=criterion,
            device=device, drop_equal=drop_equal)
        if neighbors:
            inputs = [more['sources'][place], (more['targets'] * (place + 1))[place]]
            with distributed.shared_errors():
                if first:
                    save_neighbors(neighbors[place], measured.samples.values, measured.samples.nearest,
                                   thresholds[0], samples, training, provenance.record(inputs=inputs),
                                   size or total)
            print(f'wrote {neighbors[place]}: the nearest training images')
        found = measured.rows(thresholds, false_positives, models=labels, size=size or total,
                              descriptor=samples.descriptor or training.descriptor or '')
        return list(found), measured.num_training
    with distributed.shared_errors(), distributed.only_rank0_prints():
        _score(SCORES[CRITERIA[criterion].gl], rows, labels, thresholds, neighbors=neighbors,
               heldout=heldout, writes=first, **more)
        if controls == [None] * len(controls):
            print('The threshold is not calibrated: --heldout shows how many real images that no model has '
                  'seen count as copies at it')
    distributed.shutdown()


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
    results.print_score(SCORES['mae'], row, [])
    results.add_to_table(table, [row])
    results.write_score(json_path, SCORES['mae'], [row], source=source, target=target)


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
    click.option('--scores', type=click.Choice([name for name, kind in SCORES.items() if kind.command]),
                 default=['rp'], multiple=True, help='Scores of --features.'),
    options.ignore_names_option)
@cli.options('Output',
    click.option('--table', metavar='CSV', required=True,
                 help='Add the scores to this table for plot.py; the same score again replaces its row.'),
    click.option('--size', metavar='N', type=click.IntRange(min=1), help='Size of the training set.'))
@cli.options('Performance', options.workers_option)
@cli.writes(['features', 'images'], adds_overwrite=False, table=None)
def matrix(features: tuple[str, ...], images: tuple[str, ...], names: tuple[str, ...], threshold: float,
           mae_threshold: float, scores: tuple[str, ...], table: str, size: int | None, ignore_names: bool,
           workers: int | None) -> None:
    """RP, MAE and further scores of all pairs of models, whose samples are from the same noises.

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
    from descriptors.features import load_features
    from scores.comparison import PAIR_SCORES, rp_shares
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
        for score in scores:
            found = rp_shares(aligned, threshold) if score == 'rp' else {
                (i, j): PAIR_SCORES[score](aligned[i], aligned[j], (), score, models=(names[i], names[j]),
                                           size=size)[0][0]
                for i, j in itertools.combinations_with_replacement(range(len(names)), 2)}
            rows += _matrix_rows(score, names, found, size=size, descriptor=kind,
                                 threshold=threshold if score == 'rp' else None)
    if streams:
        shares = mae_shares(streams, mae_threshold, workers or default_workers())
        rows += _matrix_rows('mae', names, shares, threshold=mae_threshold, size=size)
    results.add_to_table(table, rows)


def _matrix_rows(score: str, names: tuple[str, ...], found: dict, **more) -> list[Row]:
    """Print the matrix; returns its rows for the table, with the diagonal."""
    total = found[0, 0].total
    print(f'{SCORES[score].label} scores, of {total} pairs of images each' if total else SCORES[score].label)
    for i, name in enumerate(names):
        values = [found[min(i, j), max(i, j)].value for j in range(len(names))]
        print(' '.join(f'{value:.4f}' for value in values), name)
    columns = ('count', 'total') if SCORES[score].is_share else ('value', 'low', 'high')
    return [Row(**{name: getattr(each, name) for name in columns}, score=score,
                models=(names[i], names[j]), **more) for (i, j), each in found.items()]


if __name__ == '__main__':
    main()
