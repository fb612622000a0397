"""README and help: option tables are current, every help is complete, images exist."""

import importlib
import inspect
import re
import subprocess
import sys

import click
import pytest

import option_tables
from helpers import ROOT

README = (ROOT / 'README.md').read_text(encoding='utf-8')


def commands():
    """(how it is called, command) of every script and sub-command."""
    for name in option_tables.scripts():
        command = importlib.import_module(name).main
        if isinstance(command, click.Group):
            yield from ((f'{name}.py {key}', sub) for key, sub in command.commands.items())
        else:
            yield f'{name}.py', command


COMMANDS = dict(commands())


def test_option_tables_are_current():
    assert option_tables.updated(README) == README, 'run `make docs`'


@pytest.mark.parametrize('name', COMMANDS)
def test_help_says_what_every_option_means(name):
    for param in COMMANDS[name].params:
        assert param.help, f'{name} {param.opts[0]} has no help'
        assert param.help.rstrip(' ]').endswith(('.', ')')) or '[default' in param.help, param.help


@pytest.mark.parametrize('name', COMMANDS)
def test_help_gives_an_example_that_runs_this_command_with_known_options(name):
    script = name.split()[0]
    helps = COMMANDS[name].help, importlib.import_module(script[:-3]).main.help or ''
    examples = re.findall(rf'edm/{re.escape(script)} [^\n]*(?:\\\n[^\n]*|\n {{6,}}[^\n]*)*',
                          '\n'.join(map(inspect.cleandoc, helps)))
    used = [example for example in examples if example.split()[:len(name.split())][1:] == name.split()[1:]]
    assert used, f'no example calls {name}'
    known = {opt for param in COMMANDS[name].params for opt in (*param.opts, *param.secondary_opts)}
    for example in used:
        assert set(re.findall(r'(?<!\S)--?[A-Za-z][\w-]*', example)) <= known, example


def test_pictures_and_files_in_readme_exist():
    targets = re.findall(r'\]\(([^)#]+)\)|src="([^"]+)"', README)
    for target in {a or b for a, b in targets}:
        if not target.startswith('http'):
            assert (ROOT / target).exists(), target


@pytest.mark.parametrize('script', option_tables.scripts())
def test_help_needs_no_torch(script):
    code = (f'import runpy, sys; sys.argv = ["{script}.py", "--help"]\n'
            f'try: runpy.run_path(r"{ROOT / "edm" / script}.py", run_name="__main__")\n'
            'except SystemExit as e: assert not e.code, e.code\n'
            'assert "torch" not in sys.modules')
    subprocess.run([sys.executable, '-c', code], check=True, capture_output=True,
                   env={'PYTHONPATH': str(ROOT / 'edm')})
