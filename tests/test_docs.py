"""READMEs and help texts: every option, file and test that they name exists; every help is complete."""

import gzip
import importlib
import re
import shlex
import shutil
import subprocess
import sys

import click
import numpy as np
import pytest

import convert
from diffusers_folders import unpack
from helpers import DATA, ROOT, run
from torch_utils.cli import option_sections
from training.networks import EDMPrecond
from training.snapshot import save_snapshot

READMES = {str(path.relative_to(ROOT)): path.read_text(encoding='utf-8')
           for path in (ROOT / 'README.md', *sorted(ROOT.glob('[!.]*/README.md')),
                        *sorted(ROOT.glob('tests/*/README.md')))}
SCRIPTS = sorted(path.stem for path in (ROOT / 'edm').glob('*.py'))
OTHER_PROGRAMS = {'--gres'}  # options in a README that are not of our scripts: sbatch's


def commands():
    """(how it is called, command) of every script and sub-command."""
    for name in SCRIPTS:
        command = importlib.import_module(name).main
        if isinstance(command, click.Group):
            yield from ((f'{name}.py {key}', sub) for key, sub in command.commands.items())
        else:
            yield f'{name}.py', command


COMMANDS = dict(commands())


def options(name: str) -> set[str]:
    return {option for param in COMMANDS[name].params for option in (*param.opts, *param.secondary_opts)}


def calls(text: str) -> list[list[str]]:
    """The words of every call of a script of ours in a text: its name, then its arguments."""
    lines = text.replace('\\\n', ' ').splitlines()
    found = [re.search(r'edm/(\w+\.py .*)', line) for line in lines if re.search(r'(python|edm/\S+) ', line)]
    return [shlex.split(match[1].split('`')[0], comments=True) for match in found if match]


def command_of(call: list[str]) -> str:
    """The key in COMMANDS of a call."""
    return call[0] if call[0] in COMMANDS else ' '.join(call[:2])


def unknown_options(call: list[str]) -> set[str]:
    given = {word.split('=')[0] for word in call if re.match(r'--?[a-zA-Z]', word)}
    return given - options(command_of(call))


@pytest.mark.parametrize('readme', READMES)
def test_calls_in_readmes_have_known_options(readme):
    for call in calls(READMES[readme]):
        if command_of(call) in COMMANDS:
            assert not unknown_options(call), call
        else:  # `python edm/reproduce.py` and the like in running text
            assert not any(word.startswith('-') for word in call), call


@pytest.mark.parametrize('readme', READMES)
def test_options_named_in_readmes_exist(readme):
    known = OTHER_PROGRAMS.union(*map(options, COMMANDS))
    named = re.findall(r'(?<![\w-])(--[a-zA-Z][\w-]*)', re.sub(r'```.*?```', '', READMES[readme], flags=re.S))
    assert not set(named) - known, set(named) - known


@pytest.mark.parametrize('readme', READMES)
def test_pictures_and_files_linked_in_readmes_exist(readme):
    for target in re.findall(r'\]\(([^)#]+)\)', READMES[readme]):
        if not target.startswith('http'):
            assert ((ROOT / readme).parent / target).exists(), target


def python_example() -> str:
    section = READMES['README.md'].split('## Use from Python')[1]
    return re.search(r'```python\n(.*?)```', section, flags=re.DOTALL)[1]


def test_the_python_example_runs_as_it_stands(tmp_path, monkeypatch, capsys):
    run, data = tmp_path / 'training' / 'quickstart' / 'n00032-w16', tmp_path / 'datasets' / 'quickstart'
    run.mkdir(parents=True)
    data.mkdir(parents=True)
    save_snapshot(run / 'network-snapshot-000020.pkl', ema=EDMPrecond(
        8, 1, model_type='SongUNet', model_channels=4, num_blocks=1, channel_mult=[1], attn_resolutions=[]))
    shutil.copy(ROOT / 'datasets' / 'digits-8x8.zip', data / 'n00032.zip')
    monkeypatch.chdir(tmp_path)
    exec(python_example(), {})
    assert 0 <= float(capsys.readouterr().out) <= 1


@pytest.mark.parametrize(('kind', 'size', 'channels'), [('EDM', 8, 3), ('ADM', 16, 3), ('diffusers', 8, 1)])
def test_the_python_example_takes_any_network(kind, size, channels, tmp_path, capsys):
    network = tmp_path / 'network.pkl'
    if kind == 'EDM':
        network.write_bytes(gzip.decompress((DATA / 'snapshot-edm-ddpmpp.pkl.gz').read_bytes()))
    elif kind == 'ADM':
        checkpoint = tmp_path / 'adm.pt'
        checkpoint.write_bytes(gzip.decompress((DATA / 'adm-cond.pt.gz').read_bytes()))
        run(convert.main, 'adm', f'--source={checkpoint}', f'--dest={network}', '--image_size=16',
            '--noise_schedule=linear', '--num_head_channels=64')
    else:
        network = unpack('eps-variance', tmp_path / 'folder')
    images = np.random.default_rng(0).integers(256, size=(4, size, size, channels), dtype=np.uint8)
    np.savez(tmp_path / 'images.npz', samples=images)
    example = python_example()
    for old, new in (("'training/quickstart/n00032-w16'", repr(str(network))), ('range(64)', 'range(2)'),
                     ("'datasets/quickstart/n00032.zip'", repr(str(tmp_path / 'images.npz'))), ('=18', '=2')):
        assert old in example
        example = example.replace(old, new)
    capsys.readouterr()
    exec(example, {})
    assert 0 <= float(capsys.readouterr().out) <= 1


def test_the_tests_that_keep_promises_exist():
    named = re.findall(r'`(tests/[\w/]+\.py)(?:::(\w+))?`', READMES['tests/README.md'])
    assert len(named) >= 10
    for path, test in named:
        assert f'def {test}' in (ROOT / path).read_text(encoding='utf-8'), (path, test)


def test_every_benchmark_is_listed():
    for path in (ROOT / 'tests' / 'benchmarks').glob('bench_*.py'):
        assert f'| `{path.stem.removeprefix("bench_")}` |' in READMES['tests/benchmarks/README.md'], path.name


def test_every_room_is_on_the_map():
    for path in (ROOT / 'edm').glob('*/__init__.py'):
        assert f'| `{path.parent.name}/` |' in READMES['edm/README.md'], path.parent.name


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


@pytest.mark.parametrize('name', COMMANDS)
def test_help_gives_an_example_with_known_options(name):
    main = importlib.import_module(name.split('.')[0]).main
    examples = [call for text in (COMMANDS[name].help, main.help or '') for call in calls(text)
                if command_of(call) == name]
    assert examples, f'no example calls {name}'
    for call in examples:
        assert not unknown_options(call), call


@pytest.mark.parametrize('script', SCRIPTS)
def test_help_needs_no_torch(script):
    code = (f'import runpy, sys; sys.argv = ["{script}.py", "--help"]\n'
            f'try: runpy.run_path(r"{ROOT / "edm" / script}.py", run_name="__main__")\n'
            'except SystemExit as e: assert not e.code, e.code\n'
            'assert "torch" not in sys.modules')
    subprocess.run([sys.executable, '-c', code], check=True, capture_output=True,
                   env={'PYTHONPATH': str(ROOT / 'edm')})
