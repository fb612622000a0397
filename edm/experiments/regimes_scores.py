"""From the features of all students to the score table, the settings beside it, and the figures."""

import itertools
import json
from dataclasses import asdict
from pathlib import Path

from experiments.regimes import REFERENCES, Regimes, student_name
from experiments.stages import Stage
from torch_utils import provenance
from torch_utils.files import make_output_dir, write_json


def plan(job: Regimes) -> list[Stage]:
    """The stages behind those of `regimes.plan`: a call per curve scores all sizes, a call draws a figure."""
    stages = [_rp_stage(job, *pair, ('--width', *map(str, pair)))
              for pair in itertools.combinations(sorted(job.widths, reverse=True), 2)]
    stages += [_rp_stage(job, width, kind, ('--width', str(width), '--reference', kind))
               for width, kind in itertools.product(job.widths, REFERENCES)]
    stages += [_gl_stage(job, width) for width in job.widths]
    return stages + _picture_stages(job, tuple(stage.name for stage in stages))


def _features(job: Regimes, width: int | str) -> list[str]:
    return [str(job.features(student_name(size, width))) for size in job.sizes]


def _needs(job: Regimes, width: int | str) -> list[str]:
    return [f'features-{student_name(size, width)}' for size in job.sizes]


def _common(job: Regimes) -> tuple[str, ...]:
    return ('--t', *map('{:g}'.format, job.thresholds), '--size', *map(str, job.sizes), '--table',
            str(job.table))


def _rp_stage(job: Regimes, width: int, other: int | str, models: tuple[str, ...]) -> Stage:
    command = ('sscd.py', 'rpscore', '--source', *_features(job, width), '--target', *_features(job, other),
               *_common(job), *models)
    return Stage(name=f'rp-{width}-{other}', command=command, outputs=(job.table,),
                 needs=(*_needs(job, width), *_needs(job, other)))


def _gl_stage(job: Regimes, width: int) -> Stage:
    """Each student's samples against the first N images of the pool, those beyond the largest N held out."""
    command = ('sscd.py', 'mscore', '--source', *_features(job, width), '--target', str(job.features('pool')),
               '--nested', *_common(job), '--width', str(width), '--device', job.device)
    files = [job.neighbors(size) for size in job.sizes] if width == job.widths[0] else []
    neighbors = ('--neighbors', *map(str, files)) if files else ()
    return Stage(name=f'gl-{width}', outputs=(job.table, *files), command=(*command, *neighbors),
                 needs=('features-pool', *_needs(job, width)))


def _picture_stages(job: Regimes, needs: tuple[str, ...]) -> list[Stage]:
    """The calls that draw the figures, as PNG and as PDF."""
    neighbors = ('--neighbors', *(str(job.neighbors(size)) for size in job.sizes))
    return [Stage(name=f'figure-{path.name.replace(".", "-")}', outputs=(path,), needs=needs,
                  command=('plot.py', path.stem, '--table', str(job.table), '--data', job.data_name,
                           '--kimg', f'{job.kimg}', '--threshold', f'{job.thresholds[0]:g}',
                           *(neighbors if path.stem == 'regimes' else ()), '--out', str(path)))
            for path in job.pictures]


def write_settings(job: Regimes) -> None:
    """Keep settings and provenance beside the table; a table of other settings is removed."""
    settings = json.loads(json.dumps(asdict(job)))
    try:
        written = json.loads(job.settings.read_text(encoding='utf-8'))['settings']
    except (OSError, ValueError, TypeError, KeyError):
        written = None
    if written != settings:
        make_output_dir(job.settings.parent, '--name')
        if written is not None:
            Path(job.table).unlink(missing_ok=True)
        write_json(job.settings, {'settings': settings, 'record': provenance.record()})
