"""Stages written as a Makefile and as a Slurm script run in order of need, with the tools that read them."""

import os
import subprocess

import pytest

from evaluation import stages
from evaluation.stage_scripts import levels, makefile, outline, slurm_script
from evaluation.stages import Stage

SBATCH = '''#!/usr/bin/env python3
import re, subprocess, sys, os
array = next(arg for arg in sys.argv if arg.startswith('--array='))
script = next(i for i, arg in enumerate(sys.argv) if arg.endswith('.sh'))
first, last = map(int, re.findall(r'\\d+', array))
open('submitted.txt', 'a').write(' '.join(sys.argv[1:script]) + '\\n')
for task in range(first, last + 1):
    subprocess.run(['bash', *sys.argv[script:]], check=True, stdout=subprocess.DEVNULL,
                   env=os.environ | {'SLURM_ARRAY_TASK_ID': str(task)})
print(100 + int(sys.argv[-1]))
'''


@pytest.fixture
def plan(tmp_path, monkeypatch):
    """Stages a and b, then c; each appends its name to order.txt, and cost$ shows that $ is kept."""
    (tmp_path / 'scripts').mkdir()
    (tmp_path / 'scripts' / 'append.py').write_text(
        'import sys\nopen("order.txt", "a").write(sys.argv[1] + "\\n")')
    monkeypatch.setattr(stages, 'SCRIPTS', tmp_path / 'scripts')
    monkeypatch.chdir(tmp_path)
    return [Stage(name='a', command=('append.py', 'a'), outputs=()),
            Stage(name='b', command=('append.py', 'b'), outputs=()),
            Stage(name='c', command=('append.py', 'cost$ and more'), outputs=(), needs=('a', 'b'))]


def test_levels_follow_the_needs(plan):
    assert [[stage.name for stage in level] for level in levels(plan)] == [['a', 'b'], ['c']]
    assert outline(plan).splitlines()[-1].endswith('# after a, b')


def test_the_makefile_runs_each_stage_once(plan, tmp_path):
    (tmp_path / 'Makefile').write_text(makefile(plan, 'echo finished'))
    for _ in range(2):
        done = subprocess.run(['make', '-j2'], check=True, capture_output=True, text=True, cwd=tmp_path)
        assert 'finished' in done.stdout
    order = (tmp_path / 'order.txt').read_text().splitlines()
    assert sorted(order[:2]) == ['a', 'b']
    assert order[2:] == ['cost$ and more']


def test_the_slurm_script_submits_an_array_a_level(plan, tmp_path):
    (tmp_path / 'bin').mkdir()
    (tmp_path / 'bin' / 'sbatch').write_text(SBATCH)
    (tmp_path / 'bin' / 'sbatch').chmod(0o755)
    (tmp_path / 'jobs.sh').write_text(slurm_script(plan, 'echo finished > last.txt'))
    subprocess.run(['bash', 'jobs.sh', '--gres=gpu:1'], check=True, capture_output=True, cwd=tmp_path,
                   env=os.environ | {'PATH': f'{tmp_path / "bin"}:{os.environ["PATH"]}'})
    order = (tmp_path / 'order.txt').read_text().splitlines()
    assert order == ['a', 'b', 'cost$ and more']
    assert (tmp_path / 'last.txt').read_text() == 'finished\n'
    submitted = (tmp_path / 'submitted.txt').read_text().splitlines()
    assert [line.split() for line in submitted] == [
        ['--parsable', '--gres=gpu:1', '--array=0-1'],
        ['--parsable', '--gres=gpu:1', '--dependency=afterok:100', '--array=0-0'],
        ['--parsable', '--gres=gpu:1', '--dependency=afterok:101', '--array=0-0']]
