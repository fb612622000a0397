"""An experiment's stages as a Makefile or a Slurm job script; both leave the markers of `experiments.stages`.

HASHes cover the inputs as they are when the script is written.
"""

import shlex
from collections.abc import Iterator, Sequence
from graphlib import TopologicalSorter
from pathlib import Path

from experiments.stages import Stage, done_markers


def levels(stages: Sequence[Stage]) -> Iterator[list[Stage]]:
    """Stages level by level; those of one level don't need each other."""
    by_name = {stage.name: stage for stage in stages}
    order = TopologicalSorter({stage.name: stage.needs for stage in stages})
    order.prepare()
    while names := order.get_ready():
        yield [by_name[name] for name in names]
        order.done(*names)


def makefile(stages: Sequence[Stage], last: str, *, records: Path, threads: int | None = None) -> str:
    """A Makefile that runs every stage once those it needs are done, then the command line `last`."""
    done = done_markers(stages, records)
    target = {name: _escaped(str(path)).translate({ord(c): f'\\{c}' for c in ' \t#:\\'})
              for name, path in done.items()}
    rules = ['# make -j N -f THIS_FILE: N stages at a time, each when those it needs are done.',
             '.PHONY: all', f'all: {" ".join(target.values())}', f'\t{_escaped(last)}']
    for stage in stages:
        before, after = _marking(done[stage.name])
        rules += ['', f'{target[stage.name]}: {" ".join(target[need] for need in stage.needs)}'.rstrip()]
        rules += [f'\t{_escaped(line)}' for line in (f'@{before}', stage.command_line(threads), f'@{after}')]
    return '\n'.join(rules) + '\n'


def _marking(done: Path) -> tuple[str, str]:
    """The commands before and after a stage's that leave its markers, and those of no other HASH."""
    folder, others = shlex.quote(str(done.parent)), shlex.quote(str(done.with_suffix(''))[:-12])
    begun, done = (shlex.quote(str(path)) for path in (done.with_suffix('.begun'), done))
    return f'mkdir -p {folder} && rm -f {others}????????????.[bd]* && touch {begun}', f'touch {done}'


def _escaped(command: str) -> str:
    return command.replace('$', '$$')


def slurm_script(stages: Sequence[Stage], last: str, *, records: Path, threads: int | None = None) -> str:
    """A bash script that submits itself as one array job per level, each after the one before.

    last: command line of a final job. Options given to the script are handed on to sbatch. A task whose stage
    is done ends at once.
    """
    done = done_markers(stages, records)

    def task(stage):
        before, after = _marking(done[stage.name])
        return (f'test -e {shlex.quote(str(done[stage.name]))} || '
                f'{{ {before} && {stage.command_line(threads)} && {after}; }}')

    commands = [*([task(stage) for stage in level] for level in levels(stages)), [last]]
    arrays = [f'level_{i}=(\n' + ''.join(f'  {shlex.quote(line)}\n' for line in level) + ')'
              for i, level in enumerate(commands)]
    return '\n'.join([
        '#!/usr/bin/env bash',
        '# bash THIS_FILE [options of sbatch, such as --gres=gpu:1 --time=24:00:00]',
        'set -euo pipefail', *arrays,
        'if [ -n "${SLURM_ARRAY_TASK_ID:-}" ]; then',
        '  declare -n commands="level_$1"',
        '  eval "${commands[$SLURM_ARRAY_TASK_ID]}"; exit',
        'fi',
        'after=',
        f'for level in {{0..{len(commands) - 1}}}; do',
        '  declare -n commands="level_$level"',
        '  after=$(sbatch --parsable "$@" ${after:+--dependency=afterok:$after} \\',
        '    --array=0-$((${#commands[@]} - 1)) "$0" "$level")',
        '  echo "level $level: ${#commands[@]} tasks, job $after"',
        'done']) + '\n'
