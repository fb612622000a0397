"""One HTML page about an experiment, finished or under way, that needs no other file."""

import base64
import html
import json
import os
import re
import shlex
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from experiments.report_tables import Table, recovery_table, result_tables, score_tables
from experiments.stage_records import Records
from experiments.stages import Stage, last_words
from torch_utils import provenance
from torch_utils.errors import UserError
from torch_utils.files import is_locked, write_json

PLAN = 'experiment.json'

STYLE = '''
body { font: 16px/1.5 system-ui, sans-serif; color: #222; margin: 0 auto; max-width: 62rem; padding: 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2.2rem; border-bottom: 1px solid #ddd; }
h3 { font-size: 1rem; margin: 1.4rem 0 .3rem; }
figure { margin: 1rem 0; overflow-x: auto; } figure img { width: 100%; min-width: 38rem; }
img.pixels { image-rendering: pixelated; width: 2.6rem; margin: 1px; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .85rem; }
td, th { padding: .15rem .6rem; text-align: right; white-space: nowrap; }
th { border-bottom: 1px solid #999; } td:first-child, th:first-child { text-align: left; }
tr:nth-child(even) td { background: #f6f6f6; } .quiet { color: #666; }
table.text td { text-align: left; white-space: normal; overflow-wrap: anywhere; vertical-align: top; }
table.text td:first-child { white-space: nowrap; }
progress { width: 100%; } .failed { color: #a00; }
pre { background: #f6f6f6; padding: .7rem; overflow-x: auto; font-size: .78rem; }
'''


@dataclass(frozen=True, kw_only=True)
class StageState:
    """How far a stage is.

    state: 'finished', 'running', 'failed', 'stopped' (which the next run continues) or 'waiting'.
    seconds: how long it has run by now, None if unknown. words: of one that failed, its last.
    """

    name: str
    command: str
    outputs: list[Path]
    state: str
    seconds: float | None = None
    words: str = ''


def write_plan(folder: Path, job, stages: Sequence[Stage], threads: int | None = None) -> None:
    """Say in `folder`/experiment.json what is going to be run. job: the settings, a dataclass."""
    folder.mkdir(parents=True, exist_ok=True)
    plan = {'command': f'python {provenance.command_line()}', 'settings': asdict(job), 'stages': {
        stage.name: {'command': stage.command_line(threads), 'needs': stage.needs,
                     'outputs': [str(path) for path in stage.outputs]}
        for stage in stages}}
    path = folder / PLAN
    if _json_of(path) != json.loads(json.dumps(plan)):
        write_json(path, plan)


def _json_of(path: Path):
    """What a file holds; None if it isn't there or is damaged."""
    try:
        return json.loads(path.read_text(encoding='utf-8'))
    except (OSError, ValueError):
        return None


def load_plan(folder: Path, option: str = 'DIR') -> dict:
    """What `write_plan` wrote. Raises UserError if there is none."""
    plan = _json_of(folder / PLAN)
    try:
        if isinstance(plan['settings'], dict) and all(
                isinstance(stage['command'], str) and isinstance(stage['outputs'], list)
                for stage in plan['stages'].values()):
            return plan
    except (KeyError, TypeError, AttributeError):
        pass
    raise UserError(f'{option} {folder}: expected a folder with {PLAN}, which reproduce.py makes under '
                    'evaluation/')


def stage_states(folder: Path, plan: dict) -> list[StageState]:
    """The state of each stage, from the records and logs in `folder`/stages.

    A record of another command, or of what followed from one, is none of this plan's.
    """
    records, at_work = Records(folder / 'stages'), is_locked(folder)
    states, finished = [], set()
    for name, stage in plan['stages'].items():
        record = records.read(name)
        if (_words(record.get('command', '')) != _words(stage['command'])
                or not finished.issuperset(stage.get('needs', []))):
            record = {}
        elif record['state'] == 'finished':
            finished.add(name)
        state, seconds = record.get('state', 'waiting'), record.get('seconds')
        if state == 'running' and at_work:
            seconds += time.time() - record['begun']
        elif state == 'running':  # whoever ran it was killed
            state, seconds = 'stopped', seconds or None
        words = last_words(records.folder / f'{name}.log') if state == 'failed' else ''
        states.append(StageState(name=name, command=stage['command'], state=state, seconds=seconds,
                                 words=words, outputs=[_base(folder) / path for path in stage['outputs']]))
    return states


def _words(command: str) -> list[str]:
    """A stage's script and arguments, wherever it is called from, on whatever threads and GPUs."""
    try:
        words = shlex.split(command)
    except ValueError:  # edited by hand
        return [command]
    while words and re.match(r'\w+=', words[0]):
        del words[0]
    return [Path(words[1]).name, *words[2:]] if len(words) > 1 else words


def _base(folder: Path) -> Path:
    """The folder from which an experiment's paths start."""
    return _absolute(folder).parent.parent


def _absolute(folder: Path) -> Path:
    """The path from the root; symbolic links stay: figures lie beside evaluation/, not what it links to."""
    return Path(os.path.abspath(folder))


def figures_folder(folder: Path) -> Path:
    """Where the figures of the experiment in `folder` lie."""
    return _base(folder) / 'figures' / _absolute(folder).name


def page(folder: Path, option: str = 'DIR') -> str:
    """The page about the experiment in `folder`, evaluation/NAME.

    Of figures and scores it shows those that finished stages left.
    Raises UserError if `folder` is that of no experiment.
    """
    plan = load_plan(folder, option)
    states = stage_states(folder, plan)
    title = f'Experiment {_absolute(folder).name}'
    parts = [f'<h1>{_text(title)}</h1>', *_progress(states)]
    done = [state for state in states if state.state == 'finished']
    parts += [f'<figure><img src="{_data_url(path)}" alt="{_text(path.stem)}"></figure>'
              for state in done for path in state.outputs if path.suffix == '.png' and path.is_file()]
    results = _results(folder, states)
    tables = score_tables(results) if results else []
    tables += result_tables([path for state in done for path in state.outputs],
                            [word for state in states for word in _words(state.command)])
    tables += recovery_table([folder / 'stages' / f'{state.name}.log' for state in done
                              if 'trainMoLRG.py' in state.command])
    if tables:
        parts += ['<h2>Scores</h2>', *map(_titled, tables)]
    if results and results.get('examples'):
        parts += ['<h2>Samples above their nearest training images</h2>',
                  _examples(results['examples'], figures_folder(folder))]
    else:
        parts += _first_samples(done)
    if results and results.get('record'):
        parts += ['<h2>What made it</h2>', _pairs(results['record'])]
    parts += ['<h2>Settings</h2>', _pairs(plan['settings']), '<h2>Time of each stage</h2>', _stages(states),
              '<h2>Commands to repeat it</h2>', '<p>All of it; what is finished is not run again:</p>',
              f'<pre>{_text(plan.get("command", ""))}</pre>', '<p>Stage by stage:</p>',
              '<pre>' + '\n'.join(_text(state.command) for state in states) + '</pre>']
    body = '\n'.join(parts)
    return (f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{_text(title)}</title>\n'
            f'<meta name="viewport" content="width=device-width, initial-scale=1">\n'
            f'<style>{STYLE}</style></head>\n<body>\n{body}\n</body></html>\n')


def _results(folder: Path, states: Sequence[StageState]) -> dict | None:
    """The contents of regimes.json, once all that it stands on is finished."""
    path = figures_folder(folder) / 'regimes.json'
    missing = any(state.state != 'finished' for state in states if not state.name.startswith('figure-'))
    return None if missing else _json_of(path)


def _progress(states: Sequence[StageState]) -> list[str]:
    """How much is done, what is under way, what failed."""
    done = sum(state.state == 'finished' for state in states)
    spent = sum(state.seconds or 0 for state in states)
    parts = [f'<p class="quiet">{done} of {len(states)} stages are finished; '
             f'{_duration(spent)} were spent on stages. Page of '
             f'{time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime())}.</p>']
    if done < len(states):
        parts.append(f'<progress max="{len(states)}" value="{done}"></progress>')
    running = [f'{state.name} ({_duration(state.seconds)})' for state in states if state.state == 'running']
    if running:
        parts.append(f'<p>Under way: {_text(", ".join(running))}</p>')
    parts += [f'<p class="failed">{_text(state.name)} failed: {_text(state.words)}</p>'
              for state in states if state.state == 'failed']
    return parts


def _text(value) -> str:
    return html.escape(str(value))


def _data_url(path: Path) -> str:
    return 'data:image/png;base64,' + base64.b64encode(path.read_bytes()).decode()


def _titled(table: Table) -> str:
    return f'<h3>{_text(table.title)}</h3>\n{_table(table.head, table.rows)}'


def _table(head: Iterable[str], rows: Iterable[Iterable], kind: str = '') -> str:
    lines = [_row('th', head)] if head else []
    lines += [_row('td', row) for row in rows]
    return '\n'.join([f'<div class="wide"><table class="{kind}">', *lines, '</table></div>'])


def _row(tag: str, cells: Iterable) -> str:
    return '<tr>' + ''.join(f'<{tag}>{_text(cell)}</{tag}>' for cell in cells) + '</tr>'


def _pairs(values: dict) -> str:
    return _table((), ((key, _value(value)) for key, value in values.items()
                       if key != 'commands' and value not in (None, {}, [])), kind='text')


def _value(value) -> str:
    """A setting as text; arguments of a script as one types them."""
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return shlex.join(value)
    if isinstance(value, list) and all(isinstance(item, int | float) for item in value):
        return ', '.join(map(str, value))
    if isinstance(value, dict):
        return ', '.join(f'{key}: {_value(item)}' for key, item in value.items() if item is not None)
    return value if isinstance(value, str) else json.dumps(value)


def _examples(examples: dict, folder: Path) -> str:
    rows = []
    for column in examples['columns']:
        rows += [(f'N = {column["size"]:,}', [folder / name for name in column['samples']]),
                 ('nearest', [folder / name for name in column['nearest']])]
    return _image_table(rows)


def _first_samples(states: Iterable[StageState]) -> list[str]:
    """What there is to see before samples are compared: the first images in the folders that stages left."""
    rows = [(folder.name, sorted(folder.glob('*.png'))[:8])
            for state in states for folder in state.outputs if folder.is_dir()]
    return ['<h2>First images</h2>', _image_table(rows)] if rows else []


def _image_table(rows: Iterable[tuple[str, Iterable[Path]]]) -> str:
    """A label and images per row; files that aren't there are left out."""
    parts = ['<div class="wide"><table>']
    for label, paths in rows:
        images = ''.join(f'<img class="pixels" src="{_data_url(path)}" alt="">'
                         for path in paths if path.is_file())
        parts.append(f'<tr><td>{_text(label)}</td><td style="text-align:left">{images}</td></tr>')
    return '\n'.join([*parts, '</table></div>'])


def _stages(states: Sequence[StageState]) -> str:
    rows = [(state.name, state.state, _duration(state.seconds)) for state in states]
    return _table(['stage', 'state', 'time'],
                  [*rows, ('together', '', _duration(sum(state.seconds or 0 for state in states)))])


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return ''
    if seconds < 100:
        return f'{seconds:.1f} s'
    minutes = round(seconds / 60)
    return f'{minutes} min' if minutes < 100 else f'{minutes // 60} h {minutes % 60:02d} min'
