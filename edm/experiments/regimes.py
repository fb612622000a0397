"""Memorization and generalization over training-set size: the experiment of paper 1, figure 2.

Students of several widths are trained on nested sets of N images and sampled from the same noises. The RP
score of two widths says how reproducible the samples are, the GL score how many are new; see `scores`. The RP
score of two students trained on disjoint sets (Kadkhodaie et al. 2024, arXiv 2310.02557, figure 2) says
whether they learn the distribution that both sets are from.
Paper 1 is "The Emergence of Reproducibility and Consistency in Diffusion Models", arXiv 2310.05264.
"""

import itertools
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from data import published_sets
from data.dataset import ImageDataset
from data.image_sources import open_source
from data.image_transforms import stretch
from experiments import script_options
from experiments.stages import Stage
from torch_utils import provenance
from torch_utils.downloads import is_remote
from torch_utils.errors import UserError
from torch_utils.files import make_output_dir, write_json

CLOSED_FORMS = ('optimal', 'gaussian')  # denoisers of a training set that need no training
DISJOINT = 'disjoint'
SIGMAS = '0.02,0.05,0.1,0.2,0.3,0.5,1,2,5,10'  # noise levels of denoising errors


@dataclass(frozen=True, kw_only=True)
class Regimes:
    """The experiment's settings.

    name: of the folders under datasets/, training/, evaluation/ and figures/.
    data: images, which are shuffled. The first N are the training set of size N; those after the largest set
        are held out.
    resolution: to which they are resized, by which `data` may be all that dataset_tool.py takes; None: as
        they are, and `data` a training set.
    teacher: snapshot (path or URL) that generates these images instead.
    teacher_training: arguments of train.py that train such a teacher on `data`.
    sizes: training-set sizes N, rising. widths: --model_channels of the students; samples of the first are
        shown.
    disjoint: train a second student of the first width on the next N images; None: where there are 2 N.
    repeats: how often all students are trained, each time from other seeds.
    kimg: thousands of images that each student sees. train, generate: further arguments of these scripts.
    num_samples: noises, the same for all students; from seed 100000 on, as a teacher's images use those
        from 0.
    num_heldout: images that a teacher generates beyond the largest training set, at least.
    thresholds: of similarity, the main one first.
    """

    name: str
    data: str | None = None
    resolution: int | None = None
    teacher: str | None = None
    teacher_training: tuple[str, ...] | None = None
    sizes: tuple[int, ...]
    widths: tuple[int, ...]
    disjoint: bool | None = None
    repeats: int = 1
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
    def has_teacher(self) -> bool:
        """Whether a teacher generates the images."""
        return self.teacher is not None or self.teacher_training is not None

    @property
    def data_name(self) -> str:
        """What captions call the images: the name of `data` or the teacher."""
        path = Path(self.data or self.teacher)
        known = path.name == published_sets.MNIST
        return f'MNIST at {self.resolution}x{self.resolution}' if known else path.stem

    @property
    def pool(self) -> Path:
        """The images from which training sets are taken."""
        if self.has_teacher:
            return Path('evaluation', self.name, 'teacher')
        return Path('datasets', self.name, 'pool.zip')

    def dataset(self, size: int, kind: int | str = '') -> Path:
        """The training set of `size` images of a model of this kind."""
        return Path('datasets', self.name, f'n{size:05d}{"-disjoint" if kind == DISJOINT else ""}.zip')

    @property
    def heldout(self) -> Path:
        """The images after the largest training set."""
        return Path('datasets', self.name, 'heldout.zip')

    def run(self, model: 'Model') -> Path:
        """A student's run folder."""
        return Path('training', self.name, model.name)

    def samples(self, model: 'Model') -> Path:
        """The folder of a model's samples."""
        return Path('evaluation', self.name, 'samples', model.name)

    def features(self, source: str) -> Path:
        """The descriptors of `source`: 'pool' or a model's name."""
        return Path('evaluation', self.name, 'features', f'{source}.npz')

    def neighbors(self, size: int) -> Path:
        """The nearest training images of the first width's samples."""
        return Path('evaluation', self.name, 'neighbors', f'n{size:05d}.npz')

    @property
    def tables(self) -> list[Path]:
        """The score tables of all repeats; from the first the figures are drawn."""
        return [Path('figures', self.name, f'regimes{f"-{repeat}" if repeat else ""}.csv')
                for repeat in range(self.repeats)]

    @property
    def table(self) -> Path:
        """The score table of the first repeat."""
        return self.tables[0]

    @property
    def denoising(self) -> Path:
        """The table of denoising errors."""
        return self.table.with_name('denoising.csv')

    @property
    def pictures(self) -> tuple[Path, ...]:
        """The figures; plot.py draws each by the command of its name."""
        return tuple(self.table.with_name(f'{figure}.{kind}')
                     for figure in ('regimes', 'denoisers', 'denoising') for kind in ('png', 'pdf'))


@dataclass(frozen=True)
class Model:
    """What is sampled for one training-set size.

    kind: the width of a student; DISJOINT, one of the first width trained on N other images; or one of
    CLOSED_FORMS, a denoiser of the training set.
    """

    size: int
    kind: int | str
    repeat: int = 0

    @property
    def name(self) -> str:
        """Of its folders and stages."""
        kind = self.kind if isinstance(self.kind, str) else f'w{self.kind}'
        return f'n{self.size:05d}-{kind}{f"-{self.repeat}" if self.repeat else ""}'


def count_images(job: Regimes) -> int:
    """Images in `job.data`. Raises UserError naming --data if it can't be read."""
    if job.resolution:
        return open_source(job.data, '--data').total
    return len(ImageDataset(job.data, cache=False))


def first_image(data: str, resolution: int | None, folder: str) -> str:
    """Write the first image of `data`, resized if asked, into a folder. Raises UserError naming --data."""
    source = open_source(data, '--data')
    image = source.load(next(source.images))
    if resolution:
        image = stretch(image, (resolution, resolution))
    image.save(Path(folder, 'first.png'))
    return folder


def disjoint_sizes(job: Regimes) -> tuple[int, ...]:
    """The training-set sizes N with a second set: the N images after the first N.

    Raises UserError, with the largest N possible, if one is missing that must be there, or all are.
    """
    if job.disjoint is False:
        return ()
    if job.has_teacher:
        return job.sizes
    total = count_images(job)
    sizes = tuple(size for size in job.sizes if 2 * size <= total)
    if len(sizes) < len(job.sizes) and (job.disjoint or not sizes):
        size = job.sizes[len(sizes)]
        raise UserError(f'--sizes {size}: two disjoint training sets need {2 * size} images, and --data '
                        f'{job.data} has {total}; the largest N is {total // 2}, and --no-disjoint trains on '
                        'one set only')
    return sizes


def plan(job: Regimes) -> list[Stage]:
    """The stages from `job.data` or a teacher to the figures, each after those it needs.

    Raises UserError as `disjoint_sizes`.
    """
    second = disjoint_sizes(job)
    stages, students = _pool_stages(job, second), _students(job, second)
    needs = (stages[-1].name,)
    stages.append(feature_stage(job, 'pool', {'pool': job.pool}, needs=needs))
    sets = {job.dataset(size): (0, size) for size in job.sizes}
    sets |= {job.dataset(size, DISJOINT): (size, size) for size in second}
    sets[job.heldout] = max(job.sizes), None
    stages += [_data_stage(job, dest, *part, needs=needs) for dest, part in sets.items()]
    seeds = {model: seed for seed, model in enumerate(students, start=job.seed)}
    for model in sorted(students, key=lambda model: (model.repeat, model.size)):  # the smallest sets first
        stages += _student_stages(job, model, seeds[model])
    closed = [Model(size, kind) for size, kind in itertools.product(job.sizes, CLOSED_FORMS)]
    for model in closed:
        options = (f'--{model.kind}_denoiser', '--dataset', str(job.dataset(model.size)), '--solver', 'heun')
        stages.append(sample_stage(job, model, Model(model.size, job.widths[0]), options))
    scores = []
    for repeat, size in itertools.product(range(job.repeats), job.sizes):  # short scores in one call
        alike = [model for model in (*students, *closed) if (model.repeat, model.size) == (repeat, size)]
        stages.append(feature_stage(
            job, feature_name(size, repeat), {model.name: job.samples(model) for model in alike},
            needs=tuple(f'generate-{model.name}' for model in alike)))
    for repeat in range(job.repeats):
        scores += _score_stages(job, second, repeat)
    scores.append(_denoising_stage(job))
    return stages + scores + _picture_stages(job, second, tuple(stage.name for stage in scores))


def feature_name(size: int, repeat: int) -> str:
    """Name of the stage that computes the features of all models of a size."""
    return f'n{size:05d}{f"-{repeat}" if repeat else ""}'


def _students(job: Regimes, second: Sequence[int]) -> list[Model]:
    """The students in the order of their seeds. second: sizes with a disjoint set."""
    widths = sorted(job.widths, reverse=True)
    return [Model(size, kind, repeat) for repeat in range(job.repeats) for size, kind in (
        *itertools.product(job.sizes, widths), *((size, DISJOINT) for size in second))]


def _data_stage(job: Regimes, dest: Path, skip: int, size: int | None, needs: tuple[str, ...]) -> Stage:
    """A data set of the `size` images, or all, after the first `skip`."""
    part = ('--max-images', str(size)) if size else ()
    part += ('--skip-images', str(skip)) if skip else ()
    return Stage(name=f'data-{dest.stem}', outputs=(dest,), needs=needs, command=(
        'dataset_tool.py', '--source', str(job.pool), '--dest', str(dest), *part))


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


def _pool_stages(job: Regimes, second: Sequence[int]) -> list[Stage]:
    """The stages that make the images to train on, the last one all of them.

    Images of a data set are shuffled, as many come sorted by class, writer or day: the first N would be
    unlike the next N. Those of a teacher are independent.
    """
    if not job.has_teacher:
        size = ('--resolution', f'{job.resolution}x{job.resolution}') if job.resolution else ()
        return [Stage(name='pool', outputs=(job.pool,), inputs=(Path(job.data),), command=(
            'dataset_tool.py', '--source', job.data, '--dest', str(job.pool), '--shuffle', '0', *size))]
    stages, needs, teacher, inputs = [], (), job.teacher, ()
    if teacher is None:
        teacher, needs = f'training/{job.name}/teacher', ('teacher',)
        stages.append(Stage(
            name='teacher', outputs=(Path(teacher),), inputs=(Path(job.data),), cost=3 * job.kimg,
            command=('train.py', '--outdir', teacher, '--nosubdir', '--data', job.data, '--resume', 'auto',
                     '--device', job.device, '--seed', str(job.seed), *job.teacher_training)))
    elif not is_remote(teacher):
        inputs = (Path(teacher),)
    last = max(max(job.sizes) + job.num_heldout, 2 * max(second, default=0)) - 1
    command = ('generate.py', '--network', teacher, '--outdir', str(job.pool), '--seeds', f'0-{last}',
               '--resume', '--overwrite', '--device', job.device, *job.generate)
    stages.append(Stage(name='teacher-images', command=command, outputs=(job.pool,), num_images=last + 1,
                        inputs=inputs, needs=needs, cost=3))
    return stages


def _student_stages(job: Regimes, model: Model, seed: int) -> list[Stage]:
    width = job.widths[0] if model.kind == DISJOINT else model.kind
    data, run = job.dataset(model.size, model.kind), job.run(model)
    train = ('train.py', '--outdir', str(run), '--nosubdir', '--resume', 'auto', '--data', str(data),
             '--model_channels', str(width), '--duration', f'{job.kimg / 1000:g}', '--seed', str(seed),
             '--device', job.device, *job.train)
    return [Stage(name=f'train-{model.name}', command=train, outputs=(run,), needs=(f'data-{data.stem}',),
                  cost=3 + job.kimg),
            sample_stage(job, model, model)]


def sample_stage(job: Regimes, model: Model, student: Model, options=()) -> Stage:
    """Samples of a model. student: whose network or, for a closed form, noise levels they are made with."""
    first, outdir = 100000, job.samples(model)
    command = ('generate.py', *options, '--network', str(job.run(student)), '--outdir', str(outdir),
               '--seeds', f'{first}-{first + job.num_samples - 1}', '--resume', '--overwrite',
               '--device', job.device, *job.generate)
    return Stage(name=f'generate-{model.name}', command=command, outputs=(outdir,), cost=3,
                 num_images=job.num_samples, needs=(f'train-{student.name}',))


def feature_stage(job: Regimes, name: str, images: dict[str, Path], *, needs=()) -> Stage:
    """Descriptors of folders of images. images: by the names of `Regimes.features`."""
    features = tuple(map(job.features, images))
    command = ('sscd.py', 'feature', '--images', *map(str, images.values()),
               '--features', *map(str, features), '--descriptor', job.descriptor)
    return Stage(name=f'features-{name}', command=command, outputs=features, needs=needs, cost=1.5)


def _score_stages(job: Regimes, second: Sequence[int], repeat: int) -> list[Stage]:
    """Calls of sscd.py, each of which adds one curve over all sizes to the table of this repeat."""
    widths, first, table = sorted(job.widths, reverse=True), job.widths[0], job.tables[repeat]

    def kept(sizes):
        return '--size', *map(str, sizes), '--table', str(table)

    def features(kind, sizes=job.sizes):
        return [str(job.features(Model(size, kind, repeat).name)) for size in sizes]

    pairs = [(*pair, job.sizes, ('--width', *map(str, pair))) for pair in itertools.combinations(widths, 2)]
    pairs += [(first, DISJOINT, second, ('--width', str(first), '--reference', DISJOINT))] if second else []
    distances = [('pfd', *pair) for pair in pairs]
    if repeat == 0:
        distances += [('pfd', first, 'optimal', job.sizes, ('--width', str(first), '--reference', 'optimal'))]
        pairs += [(width, kind, job.sizes, ('--width', str(width), '--reference', kind))
                  for width, kind in itertools.product(job.widths, CLOSED_FORMS)]
    needs, end = tuple(f'features-{feature_name(size, repeat)}' for size in job.sizes), table.stem[7:]
    thresholds = ('--t', *map('{:g}'.format, job.thresholds))
    stages = [Stage(name=f'{score.removesuffix("score")}-{kind}-{other}{end}', outputs=(table,), needs=needs,
                    command=('sscd.py', score, '--source', *features(kind, sizes),
                             '--target', *features(other, sizes), *(thresholds if score == 'rpscore' else ()),
                             *kept(sizes), *options))
              for score, kind, other, sizes, options in [*(('rpscore', *pair) for pair in pairs), *distances]]
    for width in job.widths:
        files = [job.neighbors(size) for size in job.sizes] if (width, repeat) == (first, 0) else []
        neighbors = ('--neighbors', *map(str, files)) if files else ()
        stages.append(Stage(  # against the first N images; those beyond the largest N are held out
            name=f'gl-{width}{end}', outputs=(table, *files), needs=('features-pool', *needs),
            command=('sscd.py', 'mscore', '--source', *features(width), '--target', str(job.features('pool')),
                     '--nested', *thresholds, *kept(job.sizes), '--width', str(width),
                     '--device', job.device, *neighbors)))
    return stages


def _denoising_stage(job: Regimes) -> Stage:
    """Denoising errors of the first width, and of closed forms, on training and held-out images."""
    width, data = job.widths[0], [str(job.dataset(size)) for size in job.sizes]
    students = [Model(size, width) for size in job.sizes]
    words = [*(f'{job.run(model)}=UNet-{width}' for model in students), *(f'optimal:{path}' for path in data),
             f'gaussian:{data[-1]}']
    return Stage(name='denoising', outputs=(job.denoising,), cost=6,
                 needs=('data-heldout', *(f'train-{model.name}' for model in students)),
                 command=('denoise.py', 'error', '--network', *words, '--data', *data, *data, data[-1],
                          '--heldout', str(job.heldout), '--sigmas', SIGMAS, '--device', job.device,
                          '--out', str(job.denoising)))


def _picture_stages(job: Regimes, second: Sequence[int], needs: tuple[str, ...]) -> list[Stage]:
    sizes = second or job.sizes  # of which a small, a middle and a large one are shown
    shown = sorted({sizes[0], sizes[len(sizes) // 2], sizes[-1]})
    kinds = {**{width: f'UNet-{width}' for width in job.widths}, **({DISJOINT: DISJOINT} if second else {})}
    table = ('--table', str(job.table), '--data', job.data_name,
             '--kimg', f'{job.kimg}', '--threshold', f'{job.thresholds[0]:g}',
             '--denoising', str(job.denoising))
    args = {'denoisers': table, 'denoising': ('--table', str(job.denoising)), 'regimes': (
        *table, '--neighbors', *(str(job.neighbors(size)) for size in job.sizes),
        '--samples', *(f'{job.samples(Model(size, kind))}={size}:{label}'
                       for size in shown for kind, label in kinds.items()),
        *(('--repeats', *map(str, job.tables[1:])) if job.repeats > 1 else ()))}
    return [Stage(name=f'figure-{path.name.replace(".", "-")}', outputs=(path,), needs=needs,
                  command=('plot.py', path.stem, *args[path.stem], '--out', str(path)))
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
        for table in job.tables:
            table.unlink(missing_ok=True)
        write_json(path, {'settings': settings, 'record': provenance.record()})


DIGITS = Path(__file__).resolve().parents[2] / 'datasets' / 'digits-8x8.zip'

# Real 8x8 digits: networks small enough for a CPU, P_mean moved up to the noise levels where such small
# images take shape, learning rate and warm-up for 20 kimg. The EMA half-life is 5 % of the images seen.
DIGITS_TRAINING = (
    '--arch', 'ddpmpp', '--precond', 'edm', '--num_blocks', '1', '--cres', '1,2', '--dropout', '0',
    '--augment', '0', '--batch', '64', '--lr', '0.004', '--lr_rampup', '1', '--P_mean', '-0.8',
    '--P_std', '1.2', '--tick', '2', '--snap', '1000')

QUICKSTART = Regimes(
    name='quickstart', data=str(DIGITS), sizes=(2, 8, 32, 64, 256, 896), widths=(16, 8),
    kimg=20, train=DIGITS_TRAINING, generate=('--batch', '256'), num_samples=1024, thresholds=(0.97, 0.95),
    device='cpu')

# Attention at 8x8 only takes a quarter off a step. As such networks do not converge in so short a training,
# batches are small, for more steps, and the learning rate decays to 0.
MNIST = Regimes(
    name='mnist', resolution=16, sizes=(16, 64, 128, 512, 2048, 16384),
    widths=(32, 16), kimg=50, generate=('--batch', '64'), num_samples=512, thresholds=(0.95, 0.9),
    device='cpu', train=(*DIGITS_TRAINING, '--attn_resolutions', '8', '--P_mean', '-0.6', '--P_std', '1.3',
                         '--batch', '16', '--lr', '0.002', '--lr_decay', 'cosine', '--tick', '5'))

# Paper 1's setting: students on what a released teacher generates. The published figure has N = 2^6 .. 2^15.
PAPER = Regimes(
    name='paper', teacher='https://nvlabs-fi-cdn.nvidia.com/edm/pretrained/edm-cifar10-32x32-uncond-vp.pkl',
    sizes=tuple(2**k for k in range(6, 16)), widths=(128, 64), kimg=50000,
    train=('--cond', '0', '--arch', 'ddpmpp', '--precond', 'vp', '--batch', '128', '--snap', '500',
           '--dump', '20', '--keep', '1'),
    generate=('--batch', '256'), num_samples=10000, num_heldout=10000, thresholds=(0.6,), descriptor='sscd')

PRESETS = {
    'mnist': MNIST,
    'paper': PAPER,
    'quickstart': QUICKSTART,
    'quickstart-teacher': replace(
        QUICKSTART, name='quickstart-teacher',
        teacher_training=(*DIGITS_TRAINING, '--model_channels', '16', '--duration', '0.06')),
}
