"""Memorization and generalization over training-set size: the experiment of paper 1, figure 2.

Students of several widths are trained on nested sets of N images and sampled from the same noises. The RP
score of two widths says how reproducible the samples are, the GL score how many are new; see `scores`.
Paper 1 is "The Emergence of Reproducibility and Consistency in Diffusion Models", arXiv 2310.05264.
"""

import itertools
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from experiments import script_options
from experiments.stages import Stage
from torch_utils import provenance
from torch_utils.downloads import is_url
from torch_utils.files import make_output_dir, write_json

CLOSED_FORMS = ('optimal', 'gaussian')  # denoisers of a training set that need no training


@dataclass(frozen=True, kw_only=True)
class Regimes:
    """The experiment's settings.

    name: of the folders under datasets/, training/, evaluation/ and figures/.
    data: zip whose first N images are the training set of size N; those after the largest set are held out.
    teacher: snapshot (path or URL) that generates these images instead.
    teacher_training: arguments of train.py that train such a teacher on `data`.
    sizes: training-set sizes N, rising. widths: --model_channels of the students; samples of the first are
        shown.
    kimg: thousands of images that each student sees. train, generate: further arguments of these scripts.
    num_samples: noises, the same for all students; from seed 100000 on, as a teacher's images use those
        from 0.
    num_heldout: images that a teacher generates beyond the largest training set.
    thresholds: of similarity, the main one first.
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

    @property
    def pool(self) -> Path:
        """The images from which training sets are taken."""
        generated = self.teacher is not None or self.teacher_training is not None
        return Path('evaluation', self.name, 'teacher') if generated else Path(self.data)

    def dataset(self, size: int) -> Path:
        """The training set of `size` images."""
        return Path('datasets', self.name, f'n{size:05d}.zip')

    def run(self, size: int, width: int) -> Path:
        """A student's run folder."""
        return Path('training', self.name, model_name(size, width))

    def features(self, source: str) -> Path:
        """The descriptors of `source`: 'pool' or a model's name."""
        return Path('evaluation', self.name, 'features', f'{source}.npz')

    def neighbors(self, size: int) -> Path:
        """The nearest training images of the first width's samples."""
        return Path('evaluation', self.name, 'neighbors', f'n{size:05d}.npz')

    @property
    def table(self) -> Path:
        """The score table, from which the figures are drawn."""
        return Path('figures', self.name, 'regimes.csv')

    @property
    def pictures(self) -> tuple[Path, ...]:
        """The figures; plot.py draws each by the command of its name."""
        return tuple(self.table.with_name(f'{figure}.{kind}') for figure in ('regimes', 'denoisers')
                     for kind in ('png', 'pdf'))


def model_name(size: int, width: int | str) -> str:
    """The name of a student, or of a closed-form denoiser, whose kind stands for the width."""
    return f'n{size:05d}-{width}' if isinstance(width, str) else f'n{size:05d}-w{width}'


def plan(job: Regimes) -> list[Stage]:
    """The stages from `job.data` or a teacher to the figures, each after those it needs."""
    stages, widths = _teacher_stages(job), sorted(job.widths, reverse=True)
    inputs = () if stages else (Path(job.data),)
    needs = tuple(stage.name for stage in stages[-1:])
    stages.append(_feature_stage(job, 'pool', job.pool, inputs=inputs, needs=needs))
    for size in job.sizes:
        stages.append(Stage(
            name=f'data-n{size:05d}', outputs=(job.dataset(size),), inputs=inputs, needs=needs,
            command=('dataset_tool.py', '--source', str(job.pool), '--dest', str(job.dataset(size)),
                     '--max-images', str(size))))
    for index, (size, width) in enumerate(itertools.product(job.sizes, widths)):
        stages += _student_stages(job, size, width, seed=job.seed + index)
    for size, kind in itertools.product(job.sizes, CLOSED_FORMS):
        options = (f'--{kind}_denoiser', '--dataset', str(job.dataset(size)), '--solver', 'heun')
        stages += _sample_stages(job, size, kind, job.widths[0], options)
    scores = _score_stages(job, widths)
    return stages + scores + _picture_stages(job, tuple(stage.name for stage in scores))


def check_training(job: Regimes, stages: Sequence[Stage], data: str) -> None:
    """Refuse arguments in `job` that train.py would refuse. data: images like those to train on.

    Raises UserError naming --train or --teacher-training.
    """
    for stage in stages:
        if stage.name == 'teacher':
            script_options.check_training(stage, job.data, job.teacher_training, '--teacher-training')
        elif stage.command[0] == 'train.py':
            script_options.check_training(stage, data, job.train, '--train',
                                          planned=('duration', 'model_channels', 'cbase'))


def _teacher_stages(job: Regimes) -> list[Stage]:
    """The stages that make the images to train on, the last one all of them; none without a teacher."""
    if job.teacher is None and job.teacher_training is None:
        return []
    stages, needs, teacher, inputs = [], (), job.teacher, ()
    if teacher is None:
        teacher, needs = f'training/{job.name}/teacher', ('teacher',)
        stages.append(Stage(
            name='teacher', outputs=(Path(teacher),), inputs=(Path(job.data),), cost=3 * job.kimg,
            command=('train.py', '--outdir', teacher, '--nosubdir', '--data', job.data, '--resume', 'auto',
                     '--device', job.device, '--seed', str(job.seed), *job.teacher_training)))
    elif not is_url(teacher):
        inputs = (Path(teacher),)
    last = max(job.sizes) + job.num_heldout - 1
    command = ('generate.py', '--network', teacher, '--outdir', str(job.pool), '--seeds', f'0-{last}',
               '--resume', '--overwrite', '--device', job.device, *job.generate)
    stages.append(Stage(name='teacher-images', command=command, outputs=(job.pool,), num_images=last + 1,
                        inputs=inputs, needs=needs, cost=3))
    return stages


def _student_stages(job: Regimes, size: int, width: int, seed: int) -> list[Stage]:
    run = job.run(size, width)
    train = ('train.py', '--outdir', str(run), '--nosubdir', '--resume', 'auto',
             '--data', str(job.dataset(size)), '--model_channels', str(width),
             '--duration', f'{job.kimg / 1000:g}', '--seed', str(seed), '--device', job.device, *job.train)
    return [Stage(name=f'train-{model_name(size, width)}', command=train, outputs=(run,),
                  needs=(f'data-n{size:05d}',), cost=3 + job.kimg),
            *_sample_stages(job, size, width, width)]


def _sample_stages(job: Regimes, size: int, model: int | str, width: int, options=()) -> list[Stage]:
    """Samples and their features. model: as in `model_name`; its noise levels are those of a student."""
    name, first = model_name(size, model), 100000
    samples = Path('evaluation', job.name, 'samples', name)
    command = ('generate.py', *options, '--network', str(job.run(size, width)), '--outdir', str(samples),
               '--seeds', f'{first}-{first + job.num_samples - 1}', '--resume', '--overwrite',
               '--device', job.device, *job.generate)
    return [Stage(name=f'generate-{name}', command=command, outputs=(samples,), num_images=job.num_samples,
                  needs=(f'train-{model_name(size, width)}',), cost=3),
            _feature_stage(job, name, samples, needs=(f'generate-{name}',))]


def _feature_stage(job: Regimes, source: str, images: Path, *, inputs=(), needs=()) -> Stage:
    features = job.features(source)
    command = ('sscd.py', 'feature', '--images', str(images), '--features', str(features),
               '--descriptor', job.descriptor)
    return Stage(name=f'features-{source}', command=command, outputs=(features,), inputs=inputs, needs=needs,
                 cost=1.5)


def _score_stages(job: Regimes, widths: list[int]) -> list[Stage]:
    """Calls of sscd.py, each of which adds one curve over all sizes to the table."""
    names = {model: [model_name(size, model) for size in job.sizes] for model in (*widths, *CLOSED_FORMS)}
    features = {model: [str(job.features(name)) for name in own] for model, own in names.items()}
    needs = {model: [f'features-{name}' for name in own] for model, own in names.items()}
    common = ('--t', *map('{:g}'.format, job.thresholds), '--size', *map(str, job.sizes),
              '--table', str(job.table))
    pairs = [(*pair, ('--width', *map(str, pair))) for pair in itertools.combinations(widths, 2)]
    pairs += [(width, kind, ('--width', str(width), '--reference', kind))
              for width, kind in itertools.product(job.widths, CLOSED_FORMS)]
    stages = [Stage(name=f'rp-{model}-{other}', outputs=(job.table,), needs=(*needs[model], *needs[other]),
                    command=('sscd.py', 'rpscore', '--source', *features[model],
                             '--target', *features[other], *common, *options))
              for model, other, options in pairs]
    for width in job.widths:
        files = [job.neighbors(size) for size in job.sizes] if width == job.widths[0] else []
        neighbors = ('--neighbors', *map(str, files)) if files else ()
        stages.append(Stage(  # against the first N images; those beyond the largest N are held out
            name=f'gl-{width}', outputs=(job.table, *files), needs=('features-pool', *needs[width]),
            command=('sscd.py', 'mscore', '--source', *features[width], '--target', str(job.features('pool')),
                     '--nested', *common, '--width', str(width), '--device', job.device, *neighbors)))
    return stages


def _picture_stages(job: Regimes, needs: tuple[str, ...]) -> list[Stage]:
    neighbors = ('--neighbors', *(str(job.neighbors(size)) for size in job.sizes))
    return [Stage(name=f'figure-{path.name.replace(".", "-")}', outputs=(path,), needs=needs,
                  command=('plot.py', path.stem, '--table', str(job.table), '--data',
                           Path(job.data or job.teacher).stem, '--kimg', f'{job.kimg}',
                           '--threshold', f'{job.thresholds[0]:g}',
                           *(neighbors if path.stem == 'regimes' else ()), '--out', str(path)))
            for path in job.pictures]


def write_settings(job: Regimes) -> None:
    """Write settings and provenance beside the table, in a .json; a table of other settings is removed."""
    path, settings = job.table.with_suffix('.json'), json.loads(json.dumps(asdict(job)))
    try:
        written = json.loads(path.read_text(encoding='utf-8'))['settings']
    except (OSError, ValueError, TypeError, KeyError):
        written = None
    if written != settings:
        make_output_dir(path.parent, '--name')
        job.table.unlink(missing_ok=True)
        write_json(path, {'settings': settings, 'record': provenance.record()})


DIGITS = Path(__file__).resolve().parents[2] / 'datasets' / 'digits-8x8.zip'

# Real 8x8 digits: networks small enough for a CPU, P_mean moved up to the noise levels where such small
# images take shape, learning rate and warm-up for 20 kimg. The EMA half-life is 5 % of the images seen.
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
    generate=('--batch', '256'), num_samples=10000, num_heldout=10000, thresholds=(0.6,), descriptor='sscd')

PRESETS = {
    'paper': PAPER,
    'quickstart': QUICKSTART,
    'quickstart-teacher': replace(
        QUICKSTART, name='quickstart-teacher',
        teacher_training=(*DIGITS_TRAINING, '--model_channels', '16', '--duration', '0.06')),
}
