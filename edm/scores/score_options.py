"""Options that sub-commands of sscd.py share, and what they must agree on."""

import os
import re
from fractions import Fraction

import click

from torch_utils.cli import FiniteRange


def npz_name(ctx, param, value: str | tuple[str, ...]) -> str | tuple[str, ...]:
    """Callback: files to write must be named NAME.npz."""
    for path in [value] if isinstance(value, str) else value or ():
        if not path.lower().endswith('.npz') or os.path.isdir(path):
            raise click.BadParameter(f'{path} must name a file that ends with .npz')
    return value


def per_channel(ctx, param, value: str | None) -> tuple[float, ...] | None:
    """Callback: one number, or three for R, G and B; those of --std above 0."""
    if value is None:
        return None
    number = FiniteRange(min=0, min_open=True) if param.name == 'std' else FiniteRange()
    numbers = tuple(number.convert(item, param, ctx) for item in value.split(','))
    if len(numbers) not in (1, 3):
        raise click.BadParameter(f'{value}: expected one number, or three as R,G,B')
    return numbers


def fraction(ctx, param, value: str) -> float:
    """Callback: a number above 0 and below 1, such as 0.25 or 1/3."""
    try:
        number = Fraction(value)
    except (ValueError, ZeroDivisionError):
        number = Fraction(0)
    if not 0 < number < 1:
        raise click.BadParameter(f'{value}: expected a number above 0 and below 1, such as 1/3')
    return float(number)


def names_of_models(ctx, param, values: tuple[str, ...]) -> tuple[str, ...]:
    """Callback: names of models differ, and the score table can tell them from widths."""
    for value in values:
        if not value.isprintable() or value != value.strip() or ' vs ' in value or re.fullmatch(
                r'\d*(-\d+)*', value):
            raise click.BadParameter(f'{value!r}: expected a name that is no number and has no " vs " in it')
    if len(set(values)) < len(values):
        raise click.BadParameter(f'{", ".join(values)}: two models have one name')
    return values


def model_labels(wanted: int, widths, names, table: str | None) -> tuple[str, ...]:
    """Labels of the models in the table, the wider first, from --width or --names."""
    of = {1: 'one, of --source', 2: 'two that differ, of --source and --target'}[wanted]
    for option, given in (('--width', widths), ('--names', names)):
        if given and (len(given) != wanted or len(set(given)) != wanted or (widths and names)):
            raise click.UsageError(f'{option} {", ".join(map(str, given))}: expected ' + (
                'either --width or --names' if widths and names else of))
    if table is not None and not (widths or names):
        raise click.UsageError(f'--table needs --width or --names: {of}')
    return tuple(map(str, sorted(widths, reverse=True))) or names


def check_options(table, json_path, labels, nested: bool, several: bool, total: int, *, targets, sizes,
                  neighbors) -> None:
    """Refuse options of several --source that don't fit together."""
    for option, given, least in ('--target', targets, 1), ('--size', sizes, 0), ('--neighbors', neighbors, 0):
        if len(given) not in (least, total):
            raise click.UsageError(f'{option}: {len(given)} for {total} --source, expected one each')
    if nested and not sizes:
        raise click.UsageError('--nested needs --size, the size of the training set')
    if (labels or sizes) and not (table or json_path or nested):
        raise click.UsageError('--size, --width and --names are kept in --table or --json; neither is given')
    if json_path and several:
        raise click.UsageError('--json: holds one score; for several at a time give --table')


THRESHOLD_HELP = ('Similarity above which images are the same. 0.6 suits SSCD descriptors; pixel '
                  'descriptors need more, such as 0.97.')

workers_option = click.option('--workers', metavar='INT', type=click.IntRange(min=1),
                              help='Threads that decode images, per process.  [default: cores, at most 8]')
ignore_names_option = click.option('--ignore-names', is_flag=True,
                                   help='Pair rows whatever their file names: in the order of the numbers '
                                        'in the names, else row by row.')
json_option = click.option('--json', 'json_path', metavar='FILE',
                           help='Write the score to this file, with its inputs and provenance.')
table_option = click.option('--table', metavar='CSV',
                            help='Add the scores to this table for plot.py; the same score again replaces '
                                 'its row.')
names_option = click.option('--names', metavar='STR ...', multiple=True, callback=names_of_models,
                            help='For --table: names of the models.')
thresholds_option = click.option(
    '--t', 'thresholds', metavar='FLOAT ...', type=FiniteRange(min=-1, max=1), default=[0.6],
    multiple=True, help=THRESHOLD_HELP)


def input_options(target: str) -> tuple:
    """--source and --target of several scores; target: what that is."""
    return (click.option('--source', 'sources', metavar='NPZ ...', required=True, multiple=True,
                         help='Features of samples; one score per file.'),
            click.option('--target', 'targets', metavar='NPZ ...', required=True, multiple=True,
                         help=f'{target}; one file, or one per --source.'))


def label_options(of: str, size: str = '') -> tuple:
    """Options of what is kept; of: whose width, size: the default of --size."""
    return (json_option, table_option,
            click.option('--size', 'sizes', metavar='N ...', type=click.IntRange(min=1), multiple=True,
                         help=f'For --table: size of the training set, one per --source.{size}'),
            click.option('--width', 'widths', metavar='INT ...', type=click.IntRange(min=1), multiple=True,
                         help=f'For --table: width of {of}.'),
            names_option)
