"""One self-contained HTML page about an experiment, finished or under way."""

import base64
import csv
import html
import itertools
import json
import os
import re
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path

from experiments.stages import Stage, done_markers
from torch_utils import provenance
from torch_utils.errors import UserError
from torch_utils.files import is_locked, write_json

PLAN = 'experiment.json'
MOST_ROWS, MOST_BYTES, MOST_SAMPLES = 1000, 20_000_000, 8  # of a table, a picture, a folder of images
STYLE = '''
body { font: 16px/1.5 system-ui, sans-serif; color: #222; margin: 0 auto; max-width: 62rem; padding: 1rem; }
img { max-width: 100%; } td img { image-rendering: pixelated; width: 2.6rem; margin: 1px; }
div { overflow: auto; max-height: 32rem; } table { border-collapse: collapse; font-size: .85rem; }
td, th { padding: .15rem .6rem; text-align: left; vertical-align: top; overflow-wrap: anywhere; }
td:first-child { white-space: nowrap; } tr:nth-child(even) td { background: #f6f6f6; }
pre { background: #f6f6f6; padding: .7rem; font-size: .78rem; white-space: pre-wrap; word-break: break-word; }
'''


def write_plan(folder: Path, job, stages: Sequence[Stage], threads: int | None = None,
               records: Path | None = None) -> None:
    """Write settings and stages to `folder`/experiment.json.

    job: the settings, a dataclass. records: of the stages' logs and markers, `folder`/stages if None.
    """
    folder.mkdir(parents=True, exist_ok=True)
    records = records or folder / 'stages'
    done, of = done_markers(stages, records), records.parent.name
    plan = {'command': f'python {provenance.command_line()}', 'settings': asdict(job), 'records': of,
            'stages': {
        stage.name: {'command': stage.command_line(threads), 'done': done[stage.name].name,
                     'outputs': [str(path) for path in stage.outputs]}
        for stage in stages}}
    write_json(folder / PLAN, plan)


def load_plan(folder: Path) -> dict:
    """What `write_plan` wrote. Raises UserError if there is none."""
    try:
        plan = json.loads((folder / PLAN).read_text(encoding='utf-8'))
        texts = [plan['command'], *(text for stage in plan['stages'].values()
                                    for text in (stage['command'], *stage['outputs']))]
        names = [*plan['stages'], *(stage['done'] for stage in plan['stages'].values()),
                 plan.setdefault('records', 'this')]  # of an earlier version
        if isinstance(plan['settings'], dict) and all(isinstance(text, str) for text in texts) and all(
                re.fullmatch(r'[\w.-]+', name) for name in names):
            return plan
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        pass
    raise UserError(f'DIR {folder}: expected a folder with a whole {PLAN}, which reproduce.py leaves in '
                    'evaluation/NAME')


def figures_folder(folder: Path) -> Path:
    """Where the figures of the experiment in `folder` lie: beside evaluation/, not what it may link to."""
    folder = Path(os.path.abspath(folder))
    return folder.parent.parent / 'figures' / folder.name


def page(folder: Path) -> str:
    """The page about the experiment in `folder`, evaluation/NAME. Errors as in `load_plan`."""
    plan = load_plan(folder)
    own = plan['records'] in ('this', '..', figures_folder(folder).name)
    records = folder if own else figures_folder(folder).parents[1] / 'evaluation' / plan['records']
    records /= 'stages'
    stages = [_stage_row(records, name, stage['done']) for name, stage in plan['stages'].items()]
    finished = [plan['stages'][row[0]] for row in stages if row[1] == 'finished']
    tables = sorted(figures_folder(folder).glob('*.csv')) if len(finished) == len(stages) else []
    left = _inside(folder, [path for stage in finished for path in stage['outputs']] + [*map(str, tables)])
    title = f'Experiment {_text(figures_folder(folder).name)}'
    samples = [(_text(path.name), ''.join(map(_image, images))) for path in left if path.is_dir() and (
        images := _inside(folder, sorted(map(str, path.glob('*.png')))[:MOST_SAMPLES]))]
    now = '; the others are being run' if is_locked(records.parent) else ''
    parts = [
        f'<h1>{title}</h1><p>{len(finished)} of {len(stages)} stages are finished{now}. '
        f'Page of {_utc(time.time())}.</p>',
        *(f'<p>{_image(path)}</p>' for path in left if path.suffix == '.png'),
        *(f'<h2>{_text(path.name)}</h2>{_csv_table(path)}' for path in left if path.suffix == '.csv'),
        *(['<h2>First samples</h2>', _table(samples)] if samples else []),
        '<h2>Settings</h2>', _table(
            (_text(key), _text(' '.join(map(str, value)) if isinstance(value, list) else value))
            for key, value in plan['settings'].items() if value is not None),
        '<h2>Stages</h2>', _table(stages, head=('stage', 'state', 'started', 'took', 'log')),
        '<h2>Commands to repeat it</h2><p>All of it; what is finished is not run again:</p>',
        f'<pre>{_text(plan["command"])}</pre><p>Stage by stage:</p>',
        '<pre>' + '\n'.join(_text(stage['command']) for stage in plan['stages'].values()) + '</pre>']
    return (f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title>\n'
            f'<style>{STYLE}</style></head>\n<body>\n' + '\n'.join(parts) + '\n</body></html>\n')


def _inside(folder: Path, paths: Iterable[str]) -> list[Path]:
    """The paths of a plan inside the experiment's own folders, once each: a plan may be edited."""
    figures = figures_folder(folder)
    base, rooms = figures.parents[1], ('datasets', 'training', 'evaluation', 'figures')
    found = {}
    for path in paths:
        try:
            target = (base / path).resolve(strict=True)
            if any(target.is_relative_to((base / room / figures.name).resolve()) for room in rooms):
                found[base / path] = True
        except (OSError, ValueError, RuntimeError):  # not there, a NUL in it, a loop of links
            continue
    return list(found)


def _stage_row(records: Path, name: str, done: str) -> tuple[str, ...]:
    """A stage's name, state, time of its last start, seconds from there to its end, and log, as HTML."""
    start, end, log = (path.stat().st_mtime if path.exists() else None for path in (
        records / f'{done[:-5]}.begun', records / done, records / f'{name}.log'))
    return (_text(name), 'finished' if end else 'begun' if start else 'waiting', _utc(start) if start else '',
            f'{end - start:.1f} s' if start and end else '', _text(records / f'{name}.log') if log else '')


def _utc(seconds: float) -> str:
    return time.strftime('%Y-%m-%d %H:%M:%S UTC', time.gmtime(seconds))


def _text(value) -> str:
    return html.escape(str(value))


def _table(rows: Iterable[Sequence[str]], head: Sequence[str] = ()) -> str:
    """Rows of cells in HTML."""
    lines = [''.join(f'<th>{cell}</th>' for cell in head)] if head else []
    lines += [''.join(f'<td>{cell}</td>' for cell in row) for row in rows]
    return '<div><table>' + '\n'.join(f'<tr>{line}</tr>' for line in lines) + '</table></div>'


def _image(path: Path) -> str:
    """A PNG file within the page; a damaged one leaves a line."""
    data = _bytes_of(path)
    if not data.startswith(b'\x89PNG\r\n\x1a\n'):
        return f'No picture: {_text(path)}'
    return f'<img src="data:image/png;base64,{base64.b64encode(data).decode()}" alt="{_text(path.stem)}">'


def _csv_table(path: Path) -> str:
    """The rows of a table; of a damaged one a line."""
    try:
        head, *rows = itertools.islice(csv.reader(_bytes_of(path).decode().splitlines()), MOST_ROWS + 1)
        return _table((map(_text, row) for row in rows), [*map(_text, head)])
    except (ValueError, csv.Error) as err:
        return f'<p>No table: {_text(err)}</p>'


def _bytes_of(path: Path) -> bytes:
    return path.read_bytes() if path.is_file() and path.stat().st_size < MOST_BYTES else b''
