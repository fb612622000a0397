"""Memorization and generalization over training-set size: the experiment of paper 1, figure 2.

Students of several widths are trained on nested sets of N images and sampled from the same noises. The RP
score of two widths says how reproducible the samples are, the GL score how many are new; see `scores`.
Paper 1 is "The Emergence of Reproducibility and Consistency in Diffusion Models", arXiv 2310.05264.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from experiments.stages import Stage
from torch_utils.downloads import is_url

REFERENCES = ('optimal', 'gaussian')  # denoisers that a training set has in closed form


@dataclass(frozen=True, kw_only=True)
class Regimes:
    """The experiment's settings.

    name: names the folders under datasets/, training/, evaluation/ and figures/.
    data: zip from whose images, in their order, training sets are taken; those after the largest set are held
        out.
    teacher: snapshot (path or URL) that generates the images instead; None takes them from `data`.
    teacher_training: arguments of train.py that fit a teacher to `data` first; None for no such teacher.
    sizes: training-set sizes N, rising. widths: of the students' networks, the first one's samples are shown.
    kimg: thousands of images that each student sees. train, generate: further arguments of these scripts.
    num_samples: noises, the same for all students; from seed 100000 on, as a teacher's images use those
        from 0.
    num_heldout: images that a teacher generates beyond the largest training set.
    thresholds: of similarity, the main one first.
    resolution, channels: of the images, for an estimate of what the experiment costs.
    """

    name: str
    data: str | None = None
    teacher: str | None = None
    teacher_training: tuple[str, ...] | None = None
    sizes: tuple[int, ...]
    widths: tuple[int, ...]
    kimg: int
    train: tuple[str, ...] = ()
    generate: tuple[str, ...] = ()
    num_samples: int = 256
    num_heldout: int = 256
    thresholds: tuple[float, ...]
    descriptor: str = 'pixel'
    device: str = 'auto'
    seed: int = 0
    resolution: int = 8
    channels: int = 1

    first_sample_seed = 100000

    def features(self, source: str) -> Path:
        """Where the features of `source` lie: 'pool' or a student's name."""
        return Path('evaluation', self.name, 'features', f'{source}.npz')

    @property
    def pool(self) -> Path:
        """Where the images lie from which training sets are taken."""
        generated = self.teacher is not None or self.teacher_training is not None
        return Path('evaluation', self.name, 'teacher') if generated else Path(self.data)

    def dataset(self, size: int) -> Path:
        """The training set of `size` images."""
        return Path('datasets', self.name, f'n{size:05d}.zip')

    def run(self, size: int, width: int) -> Path:
        """The folder of a student's training."""
        return Path('training', self.name, student_name(size, width))

    @property
    def duration(self) -> tuple[str, str]:
        """The option of train.py for `kimg`."""
        return '--duration', f'{self.kimg / 1000:g}'

    def samples(self, size: int, width: int | str) -> Path:
        """The folder of a student's samples, or of a reference's."""
        return Path('evaluation', self.name, 'samples', student_name(size, width))

    def neighbors(self, size: int) -> Path:
        """Samples of the first width with their nearest training images."""
        return Path('evaluation', self.name, 'neighbors', f'n{size:05d}.npz')

    @property
    def table(self) -> Path:
        """The score table, from which the figures are drawn."""
        return Path('figures', self.name, 'regimes.csv')

    @property
    def settings(self) -> Path:
        """What the table was made with."""
        return self.table.with_suffix('.json')

    @property
    def data_name(self) -> str:
        """What captions call the images."""
        return Path(self.data or self.teacher).stem

    @property
    def pictures(self) -> tuple[Path, ...]:
        """The figures; each name is that of the command of plot.py which draws it."""
        return tuple(self.table.with_name(f'{figure}.{kind}') for figure in ('regimes', 'denoisers')
                     for kind in ('png', 'pdf'))

    @property
    def students(self) -> list[tuple[int, int]]:
        """All (size, width), the widest of each size first."""
        return list(itertools.product(self.sizes, sorted(self.widths, reverse=True)))


def student_name(size: int, width: int | str) -> str:
    """The name of a student's run, samples and features; for a reference, its kind stands for the width."""
    return f'n{size:05d}-{width}' if isinstance(width, str) else f'n{size:05d}-w{width}'


def plan(job: Regimes) -> list[Stage]:
    """The stages from `job.data` or a teacher to one features file per student, each after those it needs."""
    stages = _teacher_stages(job)
    inputs = () if stages else (Path(job.data),)
    needs = tuple(stage.name for stage in stages[-1:])
    pool = job.pool
    stages.append(_feature_stage(job, 'pool', pool, inputs=inputs, needs=needs))
    for size in job.sizes:
        dest = job.dataset(size)
        stages.append(Stage(
            name=f'data-n{size:05d}', outputs=(dest,), inputs=inputs, needs=needs, cost=1.0,
            command=('dataset_tool.py', '--source', str(pool), '--dest', str(dest), '--max-images',
                     str(size))))
    for index, (size, width) in enumerate(job.students):
        stages.extend(_student_stages(job, size, width, seed=job.seed + index))
    for size, kind in itertools.product(job.sizes, REFERENCES):
        stages.extend(_reference_stages(job, size, kind))
    return stages


def check_training(job: Regimes, stages: Sequence[Stage], data: str) -> None:
    """Refuse arguments in `job` that train.py would refuse. data: images like those to train on.

    Raises UserError naming --train or --teacher-training.
    """
    from experiments.script_options import check_training, tried_out

    for stage in stages:
        if stage.name == 'teacher':
            check_training(tried_out(stage, job.data), job.teacher_training, '--teacher-training')
        elif stage.name in {f'train-{student_name(job.sizes[0], width)}' for width in job.widths}:
            check_training(tried_out(stage, data), job.train, '--train',
                           planned=('duration', 'model_channels', 'cbase'))


def _teacher_stages(job: Regimes) -> list[Stage]:
    """The stages that make the images to train on, the last one all of them; none without a teacher."""
    if job.teacher is None and job.teacher_training is None:
        return []
    stages, needs, teacher, inputs = [], (), job.teacher, ()
    if teacher is None:
        run = Path('training', job.name, 'teacher')
        command = ('train.py', '--outdir', str(run), '--nosubdir', '--data', job.data,
                   '--resume', 'auto', '--device', job.device, '--seed', str(job.seed),
                   *job.teacher_training)
        stages.append(Stage(name='teacher', command=command, outputs=(run,), inputs=(Path(job.data),),
                            cost=3 * job.kimg))
        needs, teacher = ('teacher',), str(run)
    elif not is_url(teacher):
        inputs = (Path(teacher),)
    images = job.pool
    last = max(job.sizes) + job.num_heldout - 1
    command = ('generate.py', '--network', teacher, '--outdir', str(images), '--seeds', f'0-{last}',
               '--resume', '--overwrite', '--device', job.device, *job.generate)
    stages.append(Stage(name='teacher-images', command=command, outputs=(images,), num_images=last + 1,
                        inputs=inputs, needs=needs, cost=3))
    return stages


def _student_stages(job: Regimes, size: int, width: int, seed: int) -> list[Stage]:
    name, run = student_name(size, width), job.run(size, width)
    train = ('train.py', '--outdir', str(run), '--nosubdir', '--resume', 'auto',
             '--data', str(job.dataset(size)), '--model_channels', str(width), *job.duration,
             '--seed', str(seed), '--device', job.device, *job.train)
    return [
        Stage(name=f'train-{name}', command=train, outputs=(run,), needs=(f'data-n{size:05d}',),
              cost=3 + job.kimg),
        *_sample_stages(job, size, width, ('--network', str(run)), needs=(f'train-{name}',))]


def _reference_stages(job: Regimes, size: int, kind: str) -> list[Stage]:
    """Samples of a denoiser in closed form, at the noise levels and by the solver of the students."""
    width = job.widths[0]
    options = (f'--{kind}_denoiser', '--dataset', str(job.dataset(size)), '--solver', 'heun',
               '--network', str(job.run(size, width)))
    return _sample_stages(job, size, kind, options, needs=(f'train-{student_name(size, width)}',))


def _sample_stages(job: Regimes, size: int, width: int | str, options: tuple[str, ...], needs) -> list[Stage]:
    name, samples = student_name(size, width), job.samples(size, width)
    last = job.first_sample_seed + job.num_samples - 1
    command = ('generate.py', *options, '--outdir', str(samples), '--seeds',
               f'{job.first_sample_seed}-{last}', '--resume', '--overwrite', '--device', job.device,
               *job.generate)
    return [Stage(name=f'generate-{name}', command=command, outputs=(samples,), num_images=job.num_samples,
                  needs=needs, cost=3),
            _feature_stage(job, name, samples, needs=(f'generate-{name}',))]


def _feature_stage(job: Regimes, source: str, images: Path, *, inputs=(), needs=()) -> Stage:
    features = job.features(source)
    command = ('sscd.py', 'feature', '--images', str(images), '--features', str(features),
               '--descriptor', job.descriptor)
    return Stage(name=f'features-{source}', command=command, outputs=(features,), inputs=inputs, needs=needs,
                 cost=1.5)


DIGITS = Path(__file__).resolve().parents[2] / 'datasets' / 'digits-8x8.zip'

# The recipe for real 8x8 digits: networks small enough for a CPU, P_mean moved up to the noise levels where
# such small images take shape, a learning rate and a ramp-up that suit 20 kimg. The EMA's half-life is 5 % of
# the images seen (train.py's --ema_rampup).
DIGITS_TRAINING = (
    '--arch', 'ddpmpp', '--precond', 'edm', '--num_blocks', '1', '--cres', '1,2', '--dropout', '0',
    '--augment', '0', '--batch', '64', '--lr', '0.004', '--lr_rampup', '1', '--P_mean', '-0.8',
    '--P_std', '1.2', '--tick', '2', '--snap', '1000')

QUICKSTART = Regimes(
    name='quickstart', data=str(DIGITS), sizes=(2, 4, 8, 16, 32, 64, 256, 1536), widths=(16, 8),
    kimg=20, train=DIGITS_TRAINING, generate=('--batch', '256'), num_samples=1024, thresholds=(0.97, 0.95),
    device='cpu')

# Paper 1's setting: students on what a released teacher generates. The published figure has N = 2^6 .. 2^15.
PAPER = Regimes(
    name='paper', teacher='https://nvlabs-fi-cdn.nvidia.com/edm/pretrained/edm-cifar10-32x32-uncond-vp.pkl',
    sizes=tuple(2**k for k in range(6, 16)), widths=(128, 64), kimg=50000,
    train=('--cond', '0', '--arch', 'ddpmpp', '--precond', 'vp', '--batch', '128', '--snap', '500',
           '--dump', '20', '--keep', '1'),
    generate=('--batch', '256'), num_samples=10000, num_heldout=10000, thresholds=(0.6,), descriptor='sscd',
    resolution=32, channels=3)

PRESETS = {
    'paper': PAPER,
    'quickstart': QUICKSTART,
    'quickstart-teacher': replace(
        QUICKSTART, name='quickstart-teacher',
        teacher_training=(*DIGITS_TRAINING, '--model_channels', '16', '--duration', '0.06')),
}
