"""Stages written as a Makefile and as a Slurm script run in order of need, with the tools that read them."""

import os
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from experiments import launcher, stages
from experiments.stage_scripts import levels, makefile, slurm_script
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
    monkeypatch.setattr(launcher, 'PRELOADED', ())
    monkeypatch.chdir(tmp_path)
    return [Stage(name='a', command=('append.py', 'a'), outputs=()),
            Stage(name='b', command=('append.py', 'b'), outputs=()),
            Stage(name='c', command=('append.py', 'cost$ and more'), outputs=(), needs=('a', 'b'))]


def test_levels_follow_the_needs(plan):
    assert [[stage.name for stage in level] for level in levels(plan)] == [['a', 'b'], ['c']]


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
    assert make(tmp_path, reads) == []
    (tmp_path / 'in put').write_text('other')
    assert make(tmp_path, reads) == ['b', 'cost$ and more']


def test_commands_have_the_threads_of_a_run(plan):
    for write in makefile, slurm_script:
        assert write(plan, 'echo', records=RECORDS, threads=1).count('OMP_NUM_THREADS=1 python') == 3


@pytest.mark.parametrize('engine', ['make', 'slurm'])
def test_what_a_script_has_run_is_finished_for_reproduce_and_the_other_way_round(engine, plan, tmp_path):
    def run_script():
        return make(tmp_path, plan) if engine == 'make' else _run_slurm(plan, tmp_path)

    run_script()
    (tmp_path / 'order.txt').unlink(missing_ok=True)
    stages.run_stages(plan, records=tmp_path / RECORDS)
    assert not (tmp_path / 'order.txt').exists()
    other = [plan[0], replace(plan[1], command=('append.py', 'B')), plan[2]]
    stages.run_stages(other, records=tmp_path / RECORDS)
    assert (tmp_path / 'order.txt').read_text().splitlines() == ['B', 'cost$ and more']
    (tmp_path / 'order.txt').unlink()
    run_script()
    stages.run_stages(other[:1], records=tmp_path / RECORDS)
    assert len(list((tmp_path / RECORDS).glob('*.done'))) == 3


def test_a_stage_that_fails_in_a_script_is_not_finished(plan, tmp_path):
    (tmp_path / 'scripts' / 'append.py').write_text('raise SystemExit(1)')
    (tmp_path / 'Makefile').write_text(makefile(plan, 'echo finished', records=RECORDS))
    assert subprocess.run(['make'], check=False, capture_output=True, cwd=tmp_path).returncode
    with pytest.raises(subprocess.CalledProcessError):
        _run_slurm(plan, tmp_path)
    assert not list((tmp_path / RECORDS).glob('*.done'))


def _run_slurm(plan, folder):
    (folder / 'bin').mkdir(exist_ok=True)
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
