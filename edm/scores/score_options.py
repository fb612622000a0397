"""Options that sub-commands of sscd.py share, and what they must agree on."""

import os
import re

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
