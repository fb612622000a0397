"""Writes the option tables of README.md from the scripts' own help: `make docs`."""

import importlib
import re
import sys
from pathlib import Path

import click

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / 'README.md'
BEGIN, END = '<!-- options: made by `make docs` -->\n', '<!-- end of options -->'


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


def updated(readme: str) -> str:
    """The text of README.md with current tables."""
    before, rest = readme.split(BEGIN)
    return before + BEGIN + tables() + END + rest.split(END)[1]


if __name__ == '__main__':
    sys.path.insert(0, str(ROOT / 'edm'))
    README.write_text(updated(README.read_text(encoding='utf-8')), encoding='utf-8')
