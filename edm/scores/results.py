"""What sscd.py keeps of scores, in --table and --json, and what it says about them.

Imports no torch, so that --help answers at once.
"""

import os
from pathlib import Path

import click

from scores.copy_scores import Share
from scores.score_table import SCORES, Row, Score, add_rows, read_table
from torch_utils.errors import note


def prepare(**outputs: str | None) -> None:
    """Refuse files of options such as `--json` that can't be written, before any work."""
    from torch_utils.files import make_output_dir

    for option, path in outputs.items():
        if path is not None:
            if os.path.isdir(path):
                raise click.UsageError(f'--{option} {path}: is a folder, expected the name of a file')
            if option == 'table' and os.path.exists(path):
                read_table(path)
            make_output_dir(Path(path).parent, f'--{option}')


def mention(thresholds, *features) -> None:
    """Note what is doubtful of features, and a threshold for SSCD that is left for pixels."""
    for doubt in (doubt for each in features for doubt in each.doubts()):
        note(doubt)
    source = click.get_current_context().get_parameter_source
    is_default = click.core.ParameterSource.DEFAULT in (source('threshold'), source('thresholds'))
    if is_default and any(each.descriptor == 'pixel' for each in features):
        note(f'--t is left at {thresholds[0]:g}, which suits SSCD; these are pixel descriptors, whose '
             'similarities are higher')


def interval_words(row) -> str:
    """The 95 % interval of a share."""
    return f'95 % interval {row.low:.4f} .. {row.high:.4f} (Wilson)'


def print_line(kind: Score, row: Row, source: str, target: str) -> None:
    """A score among several."""
    print(f'{kind.printed} of {source} and {target} at {row.threshold:g}: {row.value} ({row.count} of '
          f'{row.total}; {interval_words(row)})')


def print_score(kind: Score, row: Row, controls: list[Row], num_training: int) -> None:
    """A score by itself, as the papers' software prints it, its counts and its control."""
    rest = Share(row.count, row.total).rest()
    print(f'{kind.printed} = ', row.value if kind.paired else 1 - rest.value)
    says = kind.says.format(t=f'{row.threshold:g}')
    print(f'{row.count} of {row.total} {says}; {interval_words(row)}' + (
        '' if kind.paired else f'. Memorized fraction: {rest.value} ({rest.count} of {rest.total}, '
                               f'{num_training} training images)'))
    for each in controls:
        print(f'{SCORES[each.score].label}: {each.value} ({each.count} of {each.total}; '
              f'{interval_words(each)})')


def add_to_table(table: str | None, rows: list[Row]) -> None:
    """Add the scores to `--table`, if it is given."""
    if table is None:
        return
    if len({row.key for row in rows}) < len({(row.key, row.value, row.count) for row in rows}):
        raise click.UsageError('--table: several of these scores have one row; give each --source its --size')
    add_rows(table, rows)
    print(f'wrote {table}: {len(rows)} scores')


def write_score(json_path: str | None, kind: Score, row: Row, **files: str) -> None:
    """Write a score to `--json`, if it is given, with its provenance.

    files: the inputs by name, such as source.
    """
    from torch_utils import provenance
    from torch_utils.files import write_json

    if json_path is None:
        return
    record = provenance.record(inputs=files.values())
    numbers = {kind.key: row.value}
    if not kind.paired:
        rest = (row.total - row.count) / row.total
        numbers = {kind.key: 1 - rest, 'memorized_fraction': rest}
    write_json(json_path, {
        **numbers, **{name: getattr(row, name) for name in ('low', 'high', 'count', 'total', 'threshold')},
        **_about(row), **_files(files, record), 'record': record})


def _about(row: Row) -> dict:
    """What a row is the score of."""
    more = {'size': row.size, 'widths': row.widths, 'names': None if row.widths else row.models}
    return {'descriptor': row.descriptor or None, **{name: value for name, value in more.items() if value}}


def _files(files: dict[str, str], record: dict) -> dict:
    return {name: {'path': path, 'sha256': record['inputs'][path]} for name, path in files.items()}


def write_scores(json_path: str | None, rows: list[Row], **files: str) -> None:
    """Write several scores of one pair of files to `--json`, if it is given, each by its name in SCORES."""
    from torch_utils import provenance
    from torch_utils.files import write_json

    if json_path is None:
        return
    record = provenance.record(inputs=files.values())
    numbers = ('value', 'low', 'high', 'count', 'total', 'threshold')
    write_json(json_path, {
        **{row.score: {name: getattr(row, name) for name in numbers} for row in rows},
        **_about(rows[0]), **_files(files, record), 'record': record})
