"""An experiment's stages as a Makefile or as a Slurm job script, to be run without this software's help.

A stage that has run leaves no record behind, which would tell of an earlier run: its files are to be adopted
(see `experiments.stages.run_stages`).
"""

import hashlib
import json
import re
import shlex
from collections.abc import Sequence
from pathlib import Path

from experiments.stages import Stage


def levels(stages: Sequence[Stage]) -> list[list[Stage]]:
    """Stages by how many others must run before them: those of one level don't depend on each other."""
    depth = {}
    for stage in stages:
        depth[stage.name] = max((depth[need] + 1 for need in stage.needs), default=0)
    return [[stage for stage in stages if depth[stage.name] == level]
            for level in range(max(depth.values(), default=-1) + 1)]


def makefile(stages: Sequence[Stage], last: str, *, records: Path, threads: int | None = None) -> str:
    """A Makefile that runs every stage once its needs are done, with `make -j N` N at a time.

    last: command line that follows when all are done. records, threads: as in `run_stages`. A finished stage
    leaves RECORDS/NAME-HASH.done, the hash being that of its command and of those that it needs. It is run
    again with another hash, after those it needs and if an input file is newer.
    """
    done = _markers(stages, records)
    rules = ['# make -j N -f THIS_FILE: N stages at a time, each when those it needs are done.',
             '.PHONY: all', f'all: {" ".join(map(_target, done.values()))}', f'\t{_escaped(last)}']
    for stage in stages:
        before = [*(done[need] for need in stage.needs), *stage.inputs]
        marker = shlex.quote(str(done[stage.name]))
        others = f'{shlex.quote(str(records / stage.name))}-????????????.done'
        lines = ['@' + _start(records, others), stage.command_line(threads),
                 '@' + f'{_forget(stage, records)} && touch {marker}']
        rules += ['', f'{_target(done[stage.name])}: {" ".join(map(_target, before))}'.rstrip(),
                  *(f'\t{_escaped(line)}' for line in lines)]
    return '\n'.join(rules) + '\n'


def _markers(stages: Sequence[Stage], records: Path) -> dict[str, Path]:
    """The files that say that a stage was run, by its name."""
    hashes = {}
    for stage in stages:
        parts = json.dumps([stage.command, [hashes[need] for need in stage.needs]])
        hashes[stage.name] = hashlib.sha256(parts.encode()).hexdigest()[:12]
    return {name: records / f'{name}-{digest}.done' for name, digest in hashes.items()}


def _start(records: Path, others: str) -> str:
    return f'mkdir -p {shlex.quote(str(records))} && rm -f {others}'


def _forget(stage: Stage, records: Path) -> str:
    return f'rm -f {shlex.quote(str(records / stage.name))}.json'


def _target(path: Path) -> str:
    """A path as make reads it in a rule."""
    return _escaped(re.sub(r'([\s#:\\])', r'\\\1', str(path)))


def _escaped(command: str) -> str:
    return command.replace('$', '$$')


def slurm_script(stages: Sequence[Stage], last: str, *, records: Path, threads: int | None = None) -> str:
    """A bash script that submits itself as one array job per level, each after the one before.

    last: command line of a final job. records, threads: as in `run_stages`. Options given to the script are
    handed on to sbatch.
    """
    commands = [[f'{stage.command_line(threads)} && {_forget(stage, records)}' for stage in level]
                for level in levels(stages)] + [[last]]
    arrays = [f'level_{i}=(\n' + ''.join(f'  {shlex.quote(line)}\n' for line in level) + ')'
              for i, level in enumerate(commands)]
    return '\n'.join([
        '#!/usr/bin/env bash',
        '# bash THIS_FILE [options of sbatch, such as --gres=gpu:1 --time=24:00:00]',
        'set -euo pipefail', *arrays,
        'if [ -n "${SLURM_ARRAY_TASK_ID:-}" ]; then',
        '  declare -n commands="level_$1"',
        '  eval "${commands[$SLURM_ARRAY_TASK_ID]}"',
        '  exit',
        'fi',
        'after=',
        f'for level in {{0..{len(commands) - 1}}}; do',
        '  declare -n commands="level_$level"',
        '  after=$(sbatch --parsable "$@" ${after:+--dependency=afterok:$after} \\',
        '    --array=0-$((${#commands[@]} - 1)) "$0" "$level")',
        '  echo "level $level: ${#commands[@]} tasks, job $after"',
        'done']) + '\n'


def outline(stages: Sequence[Stage], later: Sequence[Stage] = (), *, threads: int | None = None) -> str:
    """The command lines level by level; those of one level may run side by side.

    later: stages that follow once the scores are collected. threads: as in `run_stages`.
    """
    lines = []
    for number, level in enumerate(levels(stages)):
        lines.append(f'# level {number}: {_count(level)}' + (
            f', each after those of level {number - 1} that it needs' if number else ''))
        for stage in level:
            after = f'  # after {", ".join(stage.needs)}' if stage.needs else ''
            lines.append(stage.command_line(threads) + after)
    if later:
        lines.append(f'# then reproduce.py itself collects the scores, and from them: {_count(later)}')
        lines += [stage.command_line(threads) for stage in later]
    return '\n'.join(lines)


def _count(stages: Sequence[Stage]) -> str:
    return f'{len(stages)} stage{"s" * (len(stages) > 1)}'
