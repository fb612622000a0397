"""README and help: option tables are current, every help is complete, images exist."""

import importlib
import re
import shlex
import subprocess
import sys

import click
import pytest

import option_tables
from helpers import ROOT
from torch_utils.cli import option_sections

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


def test_every_row_of_the_benchmarks_is_explained():
    text = option_tables.BENCHMARKS.read_text(encoding='utf-8')
    assert option_tables.updated_benchmarks(text) == text, 'run `make docs`'


@pytest.mark.parametrize('name', COMMANDS)
def test_help_says_what_every_option_means(name):
    for param in COMMANDS[name].params:
        if isinstance(param, click.Option):
            assert param.help, f'{name} {param.opts[0]} has no help'
            assert re.search(r'[.)]$|  \[(default|required)[^\]]*\]$', param.help), (param.opts, param.help)


@pytest.mark.parametrize('name', COMMANDS)
def test_many_options_stand_in_groups(name):
    command = COMMANDS[name]
    sections = option_sections(command, click.Context(command))
    assert len(command.params) <= 7 or len(sections.get('Options', [])) <= 1, sections  # --help


def examples(script: str, text: str) -> list[list[str]]:
    """The words after the script's name in each of its calls in a help text."""
    lines = text.replace('\\\n', ' ').splitlines()
    calls = [line.split(f'edm/{script}', 1)[1] for line in lines if f'edm/{script}' in line]
    return [shlex.split(call) for call in calls]


@pytest.mark.parametrize('name', COMMANDS)
def test_help_gives_an_example_with_known_options(name):
    script, *sub = name.split()
    texts = COMMANDS[name].help, importlib.import_module(script.removesuffix('.py')).main.help or ''
    calls = [call for call in examples(script, '\n'.join(texts)) if call[:len(sub)] == sub]
    assert calls, f'no example calls {name}'
    known = {opt for param in COMMANDS[name].params for opt in (*param.opts, *param.secondary_opts)}
    for call in calls:
        assert {word.split('=')[0] for word in call if word.startswith('-')} <= known, call


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


def test_the_tests_that_keep_promises_exist():
    named = re.findall(r'`(tests/[\w/]+\.py)(?:::(\w+))?`', README)
    assert len(named) >= 10
    for path, test in named:
        assert (ROOT / path).is_file(), path
        assert f'def {test}' in (ROOT / path).read_text(encoding='utf-8'), (path, test)
