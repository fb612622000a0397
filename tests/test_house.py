"""The house: imports go one way, one name is one file, and no file or room holds two ideas."""

import ast
from collections import Counter
from functools import cache
from itertools import chain
from pathlib import Path

import pytest

from helpers import ROOT

TIERS = {room: tier for tier, rooms in enumerate((
    ('torch_utils',), ('data', 'sampling'), ('training', 'descriptors'), ('adapters',),
    ('denoisers', 'scores', 'jacobians'), ('figures', 'experiments'), ('scripts',))) for room in rooms}
LONGEST_FILE, LONGEST_ROOM = 450, 2700  # lines
LONG_FILES = {'networks.py'}  # travels in snapshots as one text


@cache
def files() -> dict[str, Path]:
    """Every module of edm/, by its dotted name."""
    folder = ROOT / 'edm'
    return {'.'.join(path.relative_to(folder).with_suffix('').parts): path
            for path in sorted([*folder.glob('*.py'), *folder.glob('*/*.py')])}


def room(module: str) -> str:
    return module.split('.')[0] if '.' in module else 'scripts'


@cache
def imports(module: str) -> frozenset[str]:
    """The modules of edm/ that a module imports anywhere in its text, lazily or not."""
    found = set()
    for node in ast.walk(ast.parse(files()[module].read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f'{module} imports relatively'
            inner = {f'{node.module}.{alias.name}' for alias in node.names}
            found |= inner & files().keys() or {node.module}
    return frozenset(found & files().keys() - {module})


def arrows() -> list[tuple[str, str]]:
    return [(module, other) for module in files() for other in imports(module)]


def test_every_room_has_its_tier():
    assert {room(module) for module in files()} == TIERS.keys()


def test_imports_lead_to_a_lower_tier_or_stay_in_the_room():
    wrong = [f'{module} imports {other}' for module, other in arrows()
             if room(module) != room(other) and TIERS[room(module)] <= TIERS[room(other)]]
    assert not wrong


def test_nothing_imports_a_script():
    assert not [f'{module} imports {other}' for module, other in arrows() if room(other) == 'scripts']


def test_no_circle_of_imports():
    graph = {module: set(imports(module)) for module in files()}
    while leaves := {module for module, others in graph.items() if not others}:
        graph = {module: others - leaves for module, others in graph.items() if module not in leaves}
    assert not graph


@pytest.mark.parametrize('folder', ['edm', 'tests'])
def test_no_two_files_have_one_name(folder):
    found = chain((ROOT / folder).glob('*.py'), (ROOT / folder).glob('*/*.py'))
    names = Counter(path.name for path in found if path.name != '__init__.py')
    assert not [name for name, count in names.items() if count > 1]


def test_no_room_has_the_name_of_a_script():
    assert not TIERS.keys() & {module for module in files() if room(module) == 'scripts'}


def lines(path: Path) -> int:
    return len(path.read_text().splitlines())


def test_no_file_is_too_long():
    assert not {path.name: lines(path) for path in files().values()
                if lines(path) > LONGEST_FILE and path.name not in LONG_FILES}


def test_no_room_is_too_large():
    sizes = Counter()
    for module, path in files().items():
        sizes[room(module)] += lines(path)
    assert not {name: size for name, size in sizes.items() if size > LONGEST_ROOM}
