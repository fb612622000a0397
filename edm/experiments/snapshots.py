"""When in training models memorize: the scores of the experiment `regimes` at snapshots of its students.

Bonnaire et al. 2025, "Why Diffusion Models Don't Memorize", arXiv 2505.17638: models generalize first, after
a time that does not depend on the training-set size N, and memorize after a time that grows with N.
"""

import math
from dataclasses import dataclass, replace
from pathlib import Path

from experiments import regimes, script_options
from experiments.regimes import DISJOINT, Model, Regimes
from experiments.stages import Stage
from torch_utils.run_dir import snapshot_name

SIGMA = 0.3  # noise level of denoising errors
TIMES = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256)  # of the first snapshot that are scored


@dataclass(frozen=True, kw_only=True)
class Snapshots(Regimes):
    """The settings: those of `regimes`, whose students of the first width and disjoint ones are scored."""

    @property
    def tables(self) -> list[Path]:
        """The score table, whose models are times, such as 2.048 kimg."""
        return [Path('figures', self.name, 'snapshots.csv')]

    @property
    def pictures(self) -> tuple[Path, ...]:
        """The figure."""
        return tuple(self.table.with_suffix(f'.{kind}') for kind in ('png', 'pdf'))


def plan(job: Snapshots, data: str | None) -> list[Stage]:
    """The stages from `job.data` or a teacher to the figure. data: as in `script_options.from_scratch`.

    Raises UserError as `regimes.disjoint_sizes`.
    """
    second, width = regimes.disjoint_sizes(job), job.widths[0]
    students = [*(Model(size, width) for size in job.sizes), *(Model(size, DISJOINT) for size in second)]
    trained = {f'train-{model.name}' for model in students}
    known = {'pool', 'features-pool', *trained}
    stages = [stage for stage in regimes.plan(Regimes(**vars(job)))
              if stage.name in known or stage.name.startswith(('teacher', 'data-'))]
    first = next(stage for stage in stages if stage.name in trained)
    times = snapshot_times(script_options.training_settings(script_options.from_scratch(first, data)))
    for model in students:
        for nimg in times:
            stage = regimes.sample_stage(job, _at(model, nimg), model)
            network = str(job.run(model) / snapshot_name(nimg))
            stages.append(replace(stage, command=tuple(
                network if word == str(job.run(model)) else word for word in stage.command)))
    for size in job.sizes:
        alike = [_at(model, nimg) for model in students if model.size == size for nimg in times]
        stages.append(regimes.feature_stage(
            job, f'n{size:05d}', {model.name: job.samples(model) for model in alike},
            needs=tuple(f'generate-{model.name}' for model in alike)))
    scores = [stage for nimg in times for stage in _score_stages(job, width, second, nimg)]
    scores.append(_denoising_stage(job, width, times))
    needs = tuple(stage.name for stage in scores)
    return [*stages, *scores, *(Stage(
        name=f'figure-{path.suffix[1:]}', outputs=(path,), needs=needs, command=(
            'plot.py', 'snapshots', '--table', str(job.table), '--denoising', str(job.denoising),
            '--data', job.data_name, '--out', str(path))) for path in job.pictures)]


def snapshot_times(settings: dict) -> list[int]:
    """The numbers of images after which a training leaves a snapshot that is scored; the last is its end.

    settings: what training_options.json records. Times grow about as powers of sqrt(2).
    """
    batch = settings['batch_size']
    tick, end = (math.ceil(1000 * settings[name] / batch) * batch for name in ('kimg_per_tick', 'total_kimg'))
    every = settings['snapshot_ticks'] * tick
    return [*(time * every for time in TIMES if time * every < end), end]


def time_name(nimg: int) -> str:
    """A time as the name of a model."""
    return f'{nimg / 1000:g} kimg'


def _at(model: Model, nimg: int) -> Model:
    """A student at a time."""
    kind = model.kind if isinstance(model.kind, str) else f'w{model.kind}'
    return Model(model.size, f'{kind}-k{nimg // 1000:06d}')


def _score_stages(job: Snapshots, width: int, second: tuple[int, ...], nimg: int) -> list[Stage]:
    """Calls of sscd.py, which add the scores of a time to the table."""
    def features(kind, sizes):
        return [str(job.features(_at(Model(size, kind), nimg).name)) for size in sizes]

    def stage(name, sizes, *command):
        return Stage(name=f'{name}-{nimg // 1000:06d}', outputs=(job.table,), command=(
            'sscd.py', *command, '--t', f'{job.thresholds[0]:g}', '--size', *map(str, sizes),
            '--names', time_name(nimg), '--table', str(job.table)),
            needs=('features-pool', *(f'features-n{size:05d}' for size in sizes)))

    stages = [stage('gl', job.sizes, 'mscore', '--source', *features(width, job.sizes),
                    '--target', str(job.features('pool')), '--nested', '--device', job.device)]
    if second:
        stages.append(stage('rp', second, 'rpscore', '--source', *features(width, second),
                            '--target', *features(DISJOINT, second), '--reference', DISJOINT))
    return stages


def _denoising_stage(job: Snapshots, width: int, times: list[int]) -> Stage:
    """Denoising errors of the first width on training and held-out images."""
    at = [(Model(size, width), nimg) for size in job.sizes for nimg in times]
    words = [f'{job.run(model) / snapshot_name(nimg)}={time_name(nimg)}' for model, nimg in at]
    return Stage(name='denoising', outputs=(job.denoising,), cost=len(at),
                 needs=('data-heldout', *(f'train-{Model(size, width).name}' for size in job.sizes)),
                 command=('denoise.py', 'error', '--network', *words,
                          '--data', *(str(job.dataset(model.size)) for model, _ in at),
                          '--heldout', str(job.heldout), '--sigmas', f'{SIGMA:g}', '--device', job.device,
                          '--out', str(job.denoising)))


def preset(job: Regimes, **changes) -> Snapshots:
    """The experiment on the settings of `regimes`, with changes."""
    return Snapshots(**{**vars(job), **changes})


# Long enough for 64 digits to be memorized; 256 are not.
QUICKSTART = preset(regimes.QUICKSTART, name='snapshots', sizes=(8, 16, 32, 64, 256), kimg=65,
                    num_samples=256, train=(*regimes.DIGITS_TRAINING, '--snap', '1'))

PRESETS = {'quickstart': QUICKSTART}
