"""Writes what follows from the code into README.md and tests/benchmarks/README.md: `make docs`.

The option tables come from the scripts' own help, stages from the experiments' plans, what the benchmarks'
rows are from their docstrings.
"""

import ast
import importlib
import re
import shlex
import sys
from pathlib import Path

import click

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / 'README.md'
BENCHMARKS = ROOT / 'tests' / 'benchmarks' / 'README.md'
BEGIN, END = '<!-- options: made by `make docs` -->\n', '<!-- end of options -->'
ROWS_BEGIN, ROWS_END = '<!-- rows: made by `make docs` -->\n', '<!-- end of rows -->'
STAGES_BEGIN, STAGES_END = '<!-- stages: made by `make docs` -->\n', '<!-- end of stages -->'


def scripts() -> list[str]:
    """The names of the scripts under edm/, without `.py`, in the order in which README speaks of them."""
    order = ['generate', 'dataset_tool', 'train', 'trainMoLRG', 'sscd', 'jacobian', 'plot', 'reproduce']
    found = {path.stem for path in (ROOT / 'edm').glob('*.py')}
    return [*(name for name in order if name in found), *sorted(found - set(order))]


def tables() -> str:
    """One folded section per script with a table of its options, or of those of each sub-command."""
    return '\n'.join(_script(name, importlib.import_module(name).main) for name in scripts())


def _script(name: str, command: click.Command) -> str:
    lines = ['<details>', f'<summary><code>{name}.py</code> {_first_sentence(command)}</summary>', '']
    commands = command.commands.values() if isinstance(command, click.Group) else [command]
    for each in commands:
        if each is not command:
            lines += [f'**{name}.py {each.name}**: {_first_sentence(each)}', '']
        lines += [*_table(each, None if each is command else command), '']
    return '\n'.join([*lines, '</details>', ''])


def _first_sentence(command: click.Command) -> str:
    return re.split(r'(?<=\.)\s', ' '.join(command.help.split()))[0]


def _table(command: click.Command, group: click.Group | None) -> list[str]:
    from torch_utils.cli import option_sections

    # A sub-command shows its defaults because its group does.
    parent = group and click.Context(group, **group.context_settings)
    context = click.Context(command, info_name=command.name, parent=parent, **command.context_settings)
    lines = ['| option | meaning |', '|---|---|']
    for title, params in option_sections(command, context).items():
        rows = [param.get_help_record(context) for param in params if param.name != 'help']
        rows = [row for row in rows if row]
        if title != 'Options' and rows:
            lines.append(f'| **{title}** | |')
        lines += [f'| `{_cell(option)}` | {_cell(text)} |' for option, text in rows]
    return lines


def _cell(text: str) -> str:
    return re.sub(r'\s+', ' ', text).replace('|', '\\|').replace('<', '&lt;').strip()


def stages() -> str:
    """Of each experiment's preset `paper`, folded, a command of each kind of stage, and their number."""
    from experiments import jacobian_experiment, molrg_experiment, regimes, regimes_scores

    plans = {'regimes': [*regimes.plan(regimes.PAPER), *regimes_scores.picture_stages(regimes.PAPER)],
             'molrg': molrg_experiment.plan(molrg_experiment.PRESETS['paper']),
             'jacobian': jacobian_experiment.plan(jacobian_experiment.PRESETS['paper'])}
    return '\n'.join(_stages(name, plan) for name, plan in plans.items())


def _stages(experiment: str, plan: list) -> str:
    kinds = {}
    for stage in plan:  # a kind is a name without sizes, widths, dimensions and numbers
        kinds.setdefault(re.sub(r'-([nwd]?\d+|png|pdf)(?=-|$)', '', stage.name), []).append(stage)
    lines = ['<details>', f'<summary><code>reproduce.py {experiment}</code></summary>', '', '```']
    for alike in kinds.values():
        script, *args = alike[0].command
        lines += [f'# {alike[0].name}' + (f', and {len(alike) - 1} like it' if len(alike) > 1 else ''),
                  shlex.join(['python', f'edm/{script}', *args])]
    return '\n'.join([*lines, '```', '', '</details>', ''])


def benchmark_rows() -> str:
    """A section per benchmark: what its docstring says of its rows."""
    sections = []
    for path in sorted(BENCHMARKS.parent.glob('bench_*.py')):
        text = ast.get_docstring(ast.parse(path.read_text(encoding='utf-8')))
        sections.append(f'### {path.stem.removeprefix("bench_")}\n\n{text}\n')
    return '\n'.join(sections)


def updated(readme: str) -> str:
    """The text of README.md with current tables and stages."""
    readme = _replaced(readme, BEGIN, END, tables())
    return _replaced(readme, STAGES_BEGIN, STAGES_END, stages())


def updated_benchmarks(readme: str) -> str:
    """The text of tests/benchmarks/README.md with current explanations."""
    return _replaced(readme, ROWS_BEGIN, ROWS_END, benchmark_rows())


def _replaced(readme: str, begin: str, end: str, text: str) -> str:
    before, rest = readme.split(begin)
    return before + begin + text + end + rest.split(end)[1]


if __name__ == '__main__':
    sys.path.insert(0, str(ROOT / 'edm'))
    for path, update in (README, updated), (BENCHMARKS, updated_benchmarks):
        path.write_text(update(path.read_text(encoding='utf-8')), encoding='utf-8')
