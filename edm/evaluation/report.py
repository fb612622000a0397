"""One HTML page about an experiment, finished or under way, that needs no other file."""

import base64
import html
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch_utils.errors import UserError
from torch_utils.files import write_json

PLAN = 'experiment.json'

STYLE = '''
body { font: 16px/1.5 system-ui, sans-serif; color: #222; margin: 0 auto; max-width: 62rem; padding: 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2.2rem; border-bottom: 1px solid #ddd; }
figure { margin: 1rem 0; } img { max-width: 100%; height: auto; }
img.pixels { image-rendering: pixelated; width: 2.6rem; margin: 1px; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .85rem; }
td, th { padding: .15rem .6rem; text-align: right; white-space: nowrap; }
th { border-bottom: 1px solid #999; } td:first-child, th:first-child { text-align: left; }
tr:nth-child(even) td { background: #f6f6f6; } .quiet { color: #777; }
pre { background: #f6f6f6; padding: .7rem; overflow-x: auto; font-size: .78rem; }
'''

SCORES = {'rp': 'RP', 'gl': 'GL', 'chance_rp': 'RP, different noises', 'heldout_gl': 'GL, held-out images',
          'optimal_rp': 'RP vs optimal denoiser', 'gaussian_rp': 'RP vs Gaussian denoiser'}


@dataclass(frozen=True, kw_only=True)
class StageState:
    """How far a stage is: 'finished' (with its seconds, None if unknown), 'begun' or 'waiting'."""

    name: str
    command: str
    state: str
    seconds: float | None = None


def write_plan(folder: Path, settings: dict, commands: dict[str, str]) -> None:
    """Say in `folder`/experiment.json what is going to be run. commands: command lines by stage."""
    folder.mkdir(parents=True, exist_ok=True)
    plan = {'settings': settings, 'stages': commands}
    path = folder / PLAN
    if not path.is_file() or json.loads(path.read_text(encoding='utf-8')) != json.loads(json.dumps(plan)):
        write_json(path, plan)


def load_plan(folder: Path, option: str = 'DIR') -> dict:
    """What `write_plan` wrote. Raises UserError if there is none."""
    path = folder / PLAN
    try:
        plan = json.loads(path.read_text(encoding='utf-8'))
        if isinstance(plan['settings'], dict) and isinstance(plan['stages'], dict):
            return plan
    except (OSError, ValueError, KeyError, TypeError):
        pass
    raise UserError(f'{option} {folder}: expected a folder with {PLAN}, which reproduce.py makes under '
                    'evaluation/')


def stage_states(folder: Path, commands: dict[str, str]) -> list[StageState]:
    """The state of each stage, from the records and logs in `folder`/stages."""
    states = []
    for name, command in commands.items():
        record, log = folder / 'stages' / f'{name}.json', folder / 'stages' / f'{name}.log'
        seconds, state = None, 'begun' if log.is_file() else 'waiting'
        if record.is_file():
            state = 'finished'
            seconds = json.loads(record.read_text(encoding='utf-8')).get('seconds')
        states.append(StageState(name=name, command=command, state=state, seconds=seconds))
    return states


def render(title: str, plan: dict, states: Sequence[StageState], figures: Sequence[Path],
           results: dict | None, results_folder: Path) -> str:
    """The page. results: of regimes.json, or None where there are none yet; figures: PNG files that exist."""
    done = sum(state.state == 'finished' for state in states)
    parts = [f'<h1>{_text(title)}</h1>',
             f'<p class="quiet">{done} of {len(states)} stages are finished.</p>']
    parts += [f'<figure><img src="{_data_url(path)}" alt="{_text(path.stem)}"></figure>' for path in figures]
    if results:
        parts += ['<h2>Scores</h2>', _scores(results)]
        if results.get('examples'):
            parts += ['<h2>Samples above their nearest training images</h2>',
                      _examples(results['examples'], results_folder)]
        if results.get('record'):
            parts += ['<h2>What made it</h2>', _pairs(results['record'])]
    parts += ['<h2>Settings</h2>', _pairs(plan['settings']),
              '<h2>Stages</h2>', _stages(states),
              '<h2>Commands to repeat it</h2>',
              '<pre>' + '\n'.join(_text(state.command) for state in states) + '</pre>']
    body = '\n'.join(parts)
    return (f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{_text(title)}</title>\n'
            f'<meta name="viewport" content="width=device-width, initial-scale=1">\n'
            f'<style>{STYLE}</style></head>\n<body>\n{body}\n</body></html>\n')


def _text(value) -> str:
    return html.escape(str(value))


def _data_url(path: Path) -> str:
    return 'data:image/png;base64,' + base64.b64encode(path.read_bytes()).decode()


def _table(head: Iterable[str], rows: Iterable[Iterable]) -> str:
    lines = [_row('th', head), *(_row('td', row) for row in rows)]
    return '\n'.join(['<div class="wide"><table>', *lines, '</table></div>'])


def _row(tag: str, cells: Iterable) -> str:
    return '<tr>' + ''.join(f'<{tag}>{_text(cell)}</{tag}>' for cell in cells) + '</tr>'


def _pairs(values: dict) -> str:
    return _table(['', ''], ((key, value if isinstance(value, str) else json.dumps(value))
                             for key, value in values.items() if key != 'commands'))


def _scores(results: dict) -> str:
    """A table per threshold: a line per size, value and 95 % interval per curve."""
    parts = []
    for threshold, curves in results['scores'].items():
        columns = []
        for score, value in curves.items():
            for models, points in (value.items() if isinstance(value, dict) else [('', value)]):
                columns.append((f'{SCORES.get(score, score)} {models}'.strip(), points))
        rows = ([f'{size:,}', *('{value:.3f} ({low:.3f} to {high:.3f})'.format(**points[i])
                                for _, points in columns)] for i, size in enumerate(results['sizes']))
        parts += [f'<p>Similarity above {_text(threshold)}, with 95 % intervals:</p>',
                  _table(['N', *(name for name, _ in columns)], rows)]
    return '\n'.join(parts)


def _examples(examples: dict, folder: Path) -> str:
    parts = ['<div class="wide"><table>']
    for column in examples['columns']:
        for kind in ('samples', 'nearest'):
            images = ''.join(f'<img class="pixels" src="{_data_url(folder / name)}" alt="">'
                             for name in column[kind] if (folder / name).is_file())
            label = f'N = {column["size"]:,}' if kind == 'samples' else 'nearest'
            parts.append(f'<tr><td>{label}</td><td style="text-align:left">{images}</td></tr>')
    return '\n'.join([*parts, '</table></div>'])


def _stages(states: Sequence[StageState]) -> str:
    known = [state.seconds for state in states if state.seconds is not None]
    rows = [(state.name, state.state, '' if state.seconds is None else f'{state.seconds:.1f}')
            for state in states]
    return _table(['stage', 'state', 'seconds'], [*rows, ('together', '', f'{sum(known):.1f}')])
