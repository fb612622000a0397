"""An experiment's stages as a Makefile or as a Slurm job script, to be run without this software's help."""

import shlex
from collections.abc import Sequence

from evaluation.stages import Stage


def levels(stages: Sequence[Stage]) -> list[list[Stage]]:
    """Stages by how many others must run before them: those of one level don't depend on each other."""
    depth = {}
    for stage in stages:
        depth[stage.name] = max((depth[need] + 1 for need in stage.needs), default=0)
    return [[stage for stage in stages if depth[stage.name] == level]
            for level in range(max(depth.values(), default=-1) + 1)]


def makefile(stages: Sequence[Stage], last: str) -> str:
    """A Makefile that runs every stage once its needs are done, with `make -j N` N at a time.

    last: command line that follows when all are done. A finished stage leaves `stages/NAME.done`.
    """
    done = {stage.name: f'stages/{stage.name}.done' for stage in stages}
    rules = ['# make -j N -f THIS_FILE: N stages at a time, each when those it needs are done.',
             '.PHONY: all', f'all: {" ".join(done.values())}', f'\t{_escaped(last)}']
    for stage in stages:
        needs = ' '.join(done[need] for need in stage.needs)
        rules += ['', f'{done[stage.name]}: {needs}'.rstrip(), '\t@mkdir -p stages',
                  f'\t{_escaped(stage.command_line())}', '\t@touch $@']
    return '\n'.join(rules) + '\n'


def _escaped(command: str) -> str:
    return command.replace('$', '$$')


def slurm_script(stages: Sequence[Stage], last: str) -> str:
    """A bash script that submits itself as one array job per level, each after the one before.

    last: command line of a final job. Options given to the script are handed on to sbatch.
    """
    commands = [[stage.command_line() for stage in level] for level in levels(stages)] + [[last]]
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


def outline(stages: Sequence[Stage]) -> str:
    """The command lines level by level; those of one level may run side by side."""
    lines = []
    for number, level in enumerate(levels(stages)):
        lines.append(f'# level {number}: {len(level)} stage{"s" * (len(level) > 1)}' + (
            f', each after those of level {number - 1} that it needs' if number else ''))
        for stage in level:
            after = f'  # after {", ".join(stage.needs)}' if stage.needs else ''
            lines.append(stage.command_line() + after)
    return '\n'.join(lines)
