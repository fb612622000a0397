"""Stages written as a Makefile and as a Slurm script run in order of need, with the tools that read them."""

import os
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from experiments import stages
from experiments.stage_scripts import levels, makefile, outline, slurm_script
from experiments.stages import Stage

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
    lines = outline(plan[:2], plan[2:], threads=1).splitlines()
    assert outline(plan).splitlines()[-1].endswith('# after a, b')
    assert lines[-2] == '# then reproduce.py itself collects the scores, and from them: 1 stage'
    assert [line for line in lines if not line.startswith('#')] == [
        stage.command_line(threads=1) for stage in plan]


RECORDS = Path('evaluation', 'my: #1$', 'stages')


def make(folder, plan, records=RECORDS):
    """What the stages append while their Makefile is run."""
    (folder / 'Makefile').write_text(makefile(plan, 'echo finished', records=records))
    done = subprocess.run(['make', '-j2'], check=True, capture_output=True, text=True, cwd=folder)
    assert 'finished' in done.stdout
    order = folder / 'order.txt'
    lines = order.read_text().splitlines() if order.exists() else []
    order.unlink(missing_ok=True)
    return lines


def test_the_makefile_runs_each_stage_once(plan, tmp_path):
    order = make(tmp_path, plan)
    assert sorted(order[:2]) == ['a', 'b']
    assert order[2:] == ['cost$ and more']
    assert make(tmp_path, plan) == []


def test_the_makefile_runs_what_another_name_or_command_or_input_changes(plan, tmp_path):
    make(tmp_path, plan)
    assert len(make(tmp_path, plan, Path('evaluation/other/stages'))) == 3
    other = [replace(plan[0], command=('append.py', 'A')), *plan[1:]]
    assert make(tmp_path, other) == ['A', 'cost$ and more']  # and what follows from it
    assert make(tmp_path, plan) == ['a', 'cost$ and more']  # whose files the other command has replaced
    (tmp_path / 'in put').touch()
    reads = [plan[0], replace(plan[1], inputs=(Path('in put'),)), plan[2]]
    make(tmp_path, reads)
    os.utime(tmp_path / 'in put', (4e9, 4e9))
    assert make(tmp_path, reads) == ['b', 'cost$ and more']


def test_commands_have_the_threads_of_a_run(plan):
    for write in makefile, slurm_script:
        assert write(plan, 'echo', records=RECORDS, threads=1).count('OMP_NUM_THREADS=1 python') == 3


def test_what_a_script_has_run_is_adopted_whatever_was_recorded(plan, tmp_path):
    """The record of another command that was stopped is of earlier files; without it theirs are adopted."""
    files = [replace(stage, outputs=(tmp_path / 'order.txt',)) for stage in plan[:1]]
    record = tmp_path / RECORDS / 'a.json'
    for run_script in (lambda: _run_slurm(files, tmp_path),
                       lambda: subprocess.run(['make'], check=True, capture_output=True, cwd=tmp_path)):
        (tmp_path / 'Makefile').write_text(makefile(files, 'echo finished', records=RECORDS))
        record.parent.mkdir(parents=True, exist_ok=True)
        record.write_text('{"state": "stopped", "key": "of another command"}')
        run_script()
        made = (tmp_path / 'order.txt').read_text()
        stages.run_stages(files, records=record.parent, adopt=True)
        assert (tmp_path / 'order.txt').read_text() == made


def _run_slurm(plan, folder):
    (folder / 'bin').mkdir()
    (folder / 'bin' / 'sbatch').write_text(SBATCH)
    (folder / 'bin' / 'sbatch').chmod(0o755)
    (folder / 'jobs.sh').write_text(slurm_script(plan, 'echo finished > last.txt', records=RECORDS))
    subprocess.run(['bash', 'jobs.sh', '--gres=gpu:1'], check=True, capture_output=True, cwd=folder,
                   env=os.environ | {'PATH': f'{folder / "bin"}:{os.environ["PATH"]}'})


def test_the_slurm_script_submits_an_array_a_level(plan, tmp_path):
    _run_slurm(plan, tmp_path)
    order = (tmp_path / 'order.txt').read_text().splitlines()
    assert order == ['a', 'b', 'cost$ and more']
    assert (tmp_path / 'last.txt').read_text() == 'finished\n'
    submitted = (tmp_path / 'submitted.txt').read_text().splitlines()
    assert [line.split() for line in submitted] == [
        ['--parsable', '--gres=gpu:1', '--array=0-1'],
        ['--parsable', '--gres=gpu:1', '--dependency=afterok:100', '--array=0-0'],
        ['--parsable', '--gres=gpu:1', '--dependency=afterok:101', '--array=0-0']]
