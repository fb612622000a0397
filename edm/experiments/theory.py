"""Which theory explains a network: its distance from every closed form, noise level by noise level.

Students of an experiment `regimes` are compared with the denoisers that their training set has in closed
form, with a student of another width and seed, and with one trained on N other images: on held-out
images with noise, along the student's own sampling trajectory, and by samples from the same noises. No theory
can be expected to come closer than two trainings do.
"""

import functools
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from data.dataset import ImageDataset
from denoisers import DENOISERS, OPTIONS, WINDOWED
from experiments import regimes
from experiments.regimes import DISJOINT, Model, Regimes
from experiments.stages import Stage
from torch_utils.errors import UserError, note, shown

NETWORK, SECOND = 'network', 'second'  # the student in question, and that of another width and seed
KINDS = tuple(kind for kind in DENOISERS if set(OPTIONS.get(kind, ())) <= {'patch'})  # that need no more


@dataclass(frozen=True, kw_only=True)
class Theory:
    """The experiment's settings.

    name: of the folders under datasets/, evaluation/ and figures/. students: the experiment that trains them.
    sizes: training-set sizes N. kinds: of closed forms, keys of DENOISERS. window: --patch of those that have
    windows.
    num_noisy: noisy images, or trajectories, on which outputs are compared. num_samples: noises that are
    sampled.
    """

    name: str = 'theory'
    students: Regimes
    sizes: tuple[int, ...]
    kinds: tuple[str, ...] = KINDS
    window: str = 'auto'
    num_noisy: int = 64
    num_samples: int = 256

    @property
    def device(self) -> str:
        """The students' device."""
        return self.students.device

    @functools.cached_property
    def disjoint_sizes(self) -> tuple[int, ...]:
        """The sizes of which the students have one on disjoint images."""
        return regimes.disjoint_sizes(self.students)

    @property
    def records(self) -> Path:
        """Where the stages leave their markers: with those of the students, which are trained once."""
        return Path('evaluation', self.students.name, 'stages')

    @property
    def heldout(self) -> Path:
        """Images that no student has seen in training, if there are enough."""
        return Path('datasets', self.name, 'heldout.zip')

    def others(self, size: int) -> dict[str, Model]:
        """The students that `network` is compared with, by their names here."""
        found = {SECOND: Model(size, self.students.widths[1])} if len(self.students.widths) > 1 else {}
        if {*self.sizes} <= {*self.disjoint_sizes}:
            found[DISJOINT] = Model(size, DISJOINT)
        return found

    def models(self, size: int) -> list[str]:
        """All that make samples: the network, other students, closed forms."""
        return [NETWORK, *self.others(size), *self.kinds]

    def samples(self, size: int, model: str) -> Path:
        """The folder of samples of a model."""
        return Path('evaluation', self.name, 'samples', f'n{size:05d}-{model}')

    def features(self, size: int, model: str) -> Path:
        """The descriptors of these samples."""
        return Path('evaluation', self.name, 'features', f'n{size:05d}-{model}.npz')

    def distances(self, size: int) -> Path:
        """The table of distances from the network."""
        return Path('figures', self.name, f'n{size:05d}.csv')

    @property
    def table(self) -> Path:
        """The score table of the samples."""
        return Path('figures', self.name, 'samples.csv')

    @property
    def tables(self) -> list[Path]:
        """Those that runs of other settings must not share."""
        return [self.table]

    @property
    def pictures(self) -> tuple[Path, ...]:
        """The figures; plot.py draws each by the command of its name."""
        return tuple(Path('figures', self.name, f'{figure}.{kind}')
                     for figure in ('theory', 'theory-samples') for kind in ('png', 'pdf'))


def load_students(name: str) -> Regimes:
    """The settings of an experiment `regimes`: those with which it was last run here, or of its preset.

    Raises UserError naming --students if there are none of this name that can be read.
    """
    path, preset = Path('figures', name, 'regimes.json'), regimes.PRESETS.get(name)
    if path.is_file():
        try:
            settings = json.loads(path.read_text(encoding='utf-8'))['settings']
            return Regimes(**{key: tuple(value) if isinstance(value, list) else value
                              for key, value in settings.items()})
        except (OSError, ValueError, KeyError, TypeError) as err:
            wrong = f'{path} holds no settings of this version of reproduce.py regimes ({shown(err)})'
            if preset is None:
                raise UserError(f'--students {name}: {wrong}') from err
            note(f'--students {name}: {wrong}; those of the preset are taken')
    if preset is None:
        raise UserError(f'--students {name}: reproduce.py regimes has not been run here by this --name, '
                        f'nor has such a preset; expected one of {", ".join(regimes.PRESETS)}')
    if not preset.data and not preset.has_teacher:
        raise UserError(f'--students {name}: run reproduce.py regimes --preset={name} --data=... first')
    return replace(preset, data=preset.data and os.path.relpath(preset.data))


def plan(job: Theory) -> list[Stage]:
    """The stages from the students' data to the figures, each after those it needs.

    Raises UserError naming --sizes if the students have not all of them, --students if no image is held out,
    or --name if it is that of an experiment `regimes`, whose files have the same names.
    """
    if job.name == job.students.name or Path('figures', job.name, 'regimes.json').is_file():
        raise UserError(f'--name {job.name}: is that of an experiment of reproduce.py regimes')
    missing = [size for size in job.sizes if size not in job.students.sizes]
    if missing:
        raise UserError(f'--sizes {missing[0]}: the students of {job.students.name} have N = '
                        f'{", ".join(map(str, job.students.sizes))}')
    alone = sorted({*job.sizes} - {*job.disjoint_sizes})
    if alone and job.students.disjoint is None:
        note(f'--sizes {", ".join(map(str, alone))}: no disjoint set, so that no size is compared with one')
    own = {stage.name: stage for stage in regimes.plan(job.students)}
    students = [model for size in job.sizes
                for model in (Model(size, job.students.widths[0]), *job.others(size).values())]
    stages = _with_needs(own, [f'train-{model.name}' for model in students])
    stages.append(_heldout_stage(job))
    for size in job.sizes:
        stages += [*_sample_stages(job, size), _distance_stage(job, size)]
    scores = _score_stages(job)
    return stages + scores + _picture_stages(job, [stage.name for stage in scores])


def check_window(job: Theory, data: str) -> None:
    """Refuse a window that not all closed forms take. data: images like those of the students.

    Raises UserError naming --patch.
    """
    resolution = ImageDataset(data, cache=False).resolution
    if job.window != 'auto' and (int(job.window) % 2 == 0 or int(job.window) > resolution):
        raise UserError(f'--patch {job.window}: expected an odd number up to {resolution}, the width of the '
                        'images')


def _with_needs(stages: dict[str, Stage], names: Sequence[str]) -> list[Stage]:
    """The stages of these names, after all that they need."""
    wanted, left = set(), list(names)
    while left:
        if (name := left.pop()) not in wanted:
            wanted.add(name)
            left += stages[name].needs
    return [stage for stage in stages.values() if stage.name in wanted]


def _heldout_images(job: Theory) -> range:
    """Of the pool, those after all training sets; where these are fewer than 64, the last 256."""
    students, largest = job.students, max(job.students.sizes)
    seen = max(largest, 2 * max(job.disjoint_sizes, default=0))
    if students.has_teacher:
        total = max(largest + students.num_heldout, seen)
    else:
        total = regimes.count_images(students)
    skip = seen if total - seen >= 64 else max(largest, total - 256)
    if total - skip < 2:
        raise UserError(f'--students {students.name}: of its {total} images none is held out')
    return range(skip, min(total, skip + 10000))


def _heldout_stage(job: Theory) -> Stage:
    images = _heldout_images(job)
    return Stage(name='theory-heldout', outputs=(job.heldout,),
                 needs=('teacher-images' if job.students.has_teacher else 'pool',), command=(
                     'dataset_tool.py', '--source', str(job.students.pool), '--dest', str(job.heldout),
                     '--skip-images', str(images.start), '--max-images', str(len(images))))


def _window(job: Theory, kinds: Sequence[str]) -> tuple[str, ...]:
    """The options --patch and --heldout of these kinds, if they have windows."""
    if not set(kinds) & set(WINDOWED):
        return ()
    return ('--patch', job.window, *(('--heldout', str(job.heldout)) if job.window == 'auto' else ()))


def _sample_stages(job: Theory, size: int) -> list[Stage]:
    """Samples of all models of a size from the same noises, and their descriptors."""
    students, first = job.students, 100000
    network, stages = Model(size, students.widths[0]), []
    for name in job.models(size):
        model = {NETWORK: network, **job.others(size)}.get(name, network)
        options = () if name not in job.kinds else (
            '--denoiser', name, '--dataset', str(students.dataset(size)), '--solver', 'heun',
            *_window(job, [name]))
        command = ('generate.py', *options, '--network', str(students.run(model)), '--outdir',
                   str(job.samples(size, name)), '--seeds', f'{first}-{first + job.num_samples - 1}',
                   '--resume', '--overwrite', '--device', job.device, *students.generate)
        stages.append(Stage(name=f'theory-generate-n{size:05d}-{name}', outputs=(job.samples(size, name),),
                            num_images=job.num_samples, command=command, cost=3, needs=(
                                f'train-{model.name}', *['theory-heldout'] * ('--heldout' in options))))
    paths = [str(job.samples(size, name)) for name in job.models(size)]
    features = [job.features(size, name) for name in job.models(size)]
    return [*stages, Stage(
        name=f'theory-features-n{size:05d}', outputs=tuple(features), needs=tuple(s.name for s in stages),
        command=('sscd.py', 'feature', '--images', *paths, '--features', *map(str, features),
                 '--descriptor', students.descriptor))]


def _distance_stage(job: Theory, size: int) -> Stage:
    """Distances of all models from the network, at noisy held-out images and along its trajectory."""
    students = job.students
    network, others = Model(size, students.widths[0]), job.others(size)
    words = [f'{students.run(network)}={NETWORK}',
             *(f'{students.run(model)}={name}' for name, model in others.items()),
             *(f'{kind}:{students.dataset(size)}' for kind in job.kinds)]
    command = ('denoise.py', 'distance', *words, '--data', str(job.heldout), '--trajectory',
               *_window(job, job.kinds), '--size', str(size), '--seeds', f'0-{job.num_noisy - 1}',
               '--device', job.device, '--out', str(job.distances(size)))
    trained = tuple(f'train-{model.name}' for model in (network, *others.values()))
    return Stage(name=f'theory-distance-n{size:05d}', outputs=(job.distances(size),), command=command,
                 needs=(*trained, 'theory-heldout'), cost=10)


def _score_stages(job: Theory) -> list[Stage]:
    """Calls of sscd.py, each of which adds the scores of all pairs of models of a size to the table."""
    return [Stage(name=f'theory-scores-n{size:05d}', outputs=(job.table,),
                  needs=(f'theory-features-n{size:05d}',), command=(
                      'sscd.py', 'matrix', '--features',
                      *(str(job.features(size, name)) for name in job.models(size)),
                      '--names', *job.models(size), '--scores', 'rp', 'pfd', 'similarity',
                      '--t', f'{job.students.thresholds[0]:g}', '--size', str(size),
                      '--table', str(job.table))) for size in job.sizes]


def _note(job: Theory) -> str:
    """What captions say of the networks, and of held-out images that a disjoint training set holds."""
    students, heldout = job.students, _heldout_images(job)
    networks = ' and, second, '.join(f'UNet-{width}' for width in students.widths[:2])
    sentences = [f'Networks: {networks}, trained on images of {students.data_name} for {students.kimg:g} '
                 'kimg each.']
    for size in job.sizes:
        if DISJOINT in job.others(size) and (seen := len(range(heldout.start, min(2 * size, heldout.stop)))):
            sentences.append(f'At N = {size:,}, {seen:,} of the {len(heldout):,} held-out images are '
                             'training images of the network on disjoint data.')
    return ' '.join(sentences)


def _picture_stages(job: Theory, scores: Sequence[str]) -> list[Stage]:
    """Calls of plot.py."""
    samples = [f'{job.samples(size, name)}={size}:{name}' for size in job.sizes for name in job.models(size)]
    inputs = {'theory': ('--tables', *(str(job.distances(size)) for size in job.sizes)),
              'theory-samples': ('--table', str(job.table), '--samples', *samples,
                                 '--network', NETWORK)}
    needs = {'theory': tuple(f'theory-distance-n{size:05d}' for size in job.sizes),
             'theory-samples': tuple(scores)}
    return [Stage(name=f'figure-{path.name.replace(".", "-")}', outputs=(path,), needs=needs[path.stem],
                  command=('plot.py', path.stem, *inputs[path.stem], '--note', _note(job),
                           '--out', str(path)))
            for path in job.pictures]


PRESETS = {'quickstart': ('quickstart', (8, 64, 896))}  # names of students, training-set sizes
