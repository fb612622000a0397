"""What sscd.py prints of scores, and keeps in --table and --json.

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
    """Note doubts about features, and a default threshold for SSCD that is used for pixels."""
    for doubt in (doubt for each in features for doubt in each.doubts()):
        note(doubt)
    source = click.get_current_context().get_parameter_source
    is_default = click.core.ParameterSource.DEFAULT in (source('threshold'), source('thresholds'))
    if is_default and any(each.descriptor == 'pixel' for each in features):
        note(f'--t is left at {thresholds[0]:g}, which suits SSCD; these are pixel descriptors, whose '
             'similarities are higher')


def row_words(row: Row) -> str:
    """Count and total of a share, and the 95 % interval of any score, with its method."""
    share = f'{row.count} of {row.total}; ' if row.count is not None else ''
    return share + ('no interval' if row.low is None else interval_words(row))


def interval_words(row: Row) -> str:
    """The 95 % interval with its method."""
    return f'95 % interval {row.low:.4f} .. {row.high:.4f} ({SCORES[row.score].interval})'


def print_line(kind: Score, row: Row, source: str, target: str) -> None:
    """A score among several."""
    at = '' if row.threshold is None else f' at {row.threshold:g}'
    print(f'{kind.printed} of {source} and {target}{at}: {row.value} ({row_words(row)})')


def print_score(kind: Score, row: Row, controls: list[Row], num_training: int | None = None) -> None:
    """A score by itself, its counts and its controls; RP, GL and MAE as the papers' software prints them."""
    if kind.copies:
        rest = Share(row.count, row.total).rest()
        memorized = (f'. Memorized fraction: {rest.value} ({rest.count} of {rest.total}, {num_training} '
                     'training images)')
    print(f'{kind.printed} = ', 1 - rest.value if kind.copies else row.value)
    says = kind.says.format(t=f'{row.threshold:g}' if row.threshold is not None else '')
    counts = f'{row.count} of {row.total} ' if row.count is not None else ''
    print(f'{counts}{says}; {interval_words(row)}{memorized if kind.copies else ""}')
    for each in controls:
        kind = SCORES[each.score]
        at = f' {each.threshold:.4f}' if each.threshold is not None and not kind.thresholded else ''
        print(f'{kind.label}{at}: {each.value} ({row_words(each)}){kind.says and ": "}{kind.says}')


def add_to_table(table: str | None, rows: list[Row]) -> None:
    """Add the scores to `--table`, if it is given."""
    if table is None:
        return
    if len({row.key for row in rows}) < len({(row.key, row.value, row.count) for row in rows}):
        raise click.UsageError('--table: several of these scores have one row; give each --source its --size')
    add_rows(table, rows)
    print(f'wrote {table}: {len(rows)} scores')


def write_score(json_path: str | None, kind: Score, rows: list[Row], **files: str) -> None:
    """Write a score and its controls to `--json`, if it is given, with provenance.

    rows: the score first. files: the inputs by name, such as source.
    """
    from torch_utils import provenance
    from torch_utils.files import write_json

    if json_path is None:
        return
    row, record = rows[0], provenance.record(inputs=files.values())
    rest = Share(row.count, row.total).rest().value if kind.copies else None
    main = {kind.key: row.value} if rest is None else {kind.key: 1 - rest, 'memorized_fraction': rest}
    controls = {each.score: _numbers(each) for each in rows[1:]}
    write_json(json_path, {
        **main, **{name: number for name, number in _numbers(row).items() if name != 'value'},
        **_about(row), **({'controls': controls} if controls else {}), **_files(files, record),
        'record': record})


def _numbers(row: Row) -> dict[str, float | None]:
    return {name: getattr(row, name) for name in ('value', 'low', 'high', 'count', 'total', 'threshold')}


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
    write_json(json_path, {
        **{row.score: _numbers(row) for row in rows},
        **_about(rows[0]), **_files(files, record), 'record': record})
