"""Ranks of the Jacobians of denoisers of real images: paper 2 (arXiv 2409.02426), figure 3 left."""

import os
from dataclasses import dataclass, replace
from pathlib import Path

from data.dataset import ImageDataset
from data.image_sources import open_source
from data.published_sets import MNIST
from experiments import regimes, script_options
from experiments.stages import Stage
from jacobians import CLOSED_JACOBIANS
from torch_utils.downloads import is_remote
from torch_utils.errors import UserError


@dataclass(frozen=True, kw_only=True)
class JacobianExperiment:
    """The experiment's settings.

    name: of the folders under datasets/, training/, evaluation/ and figures/.
    networks: (label, path or URL) of the snapshots to study.
    training: a network to train and study first: (label, images, further arguments of train.py), or None.
    data: what dataset_tool.py makes these images of; None: they are a data set already.
    jacobian: further arguments of jacobian.py. controls: the same for the denoisers that these images have in
        closed form; None: without them.
    vectors: how many leading singular vectors of the network trained here are shown, 0 for none.
    """

    name: str
    networks: tuple[tuple[str, str], ...]
    training: tuple[str, str | None, tuple[str, ...]] | None
    data: str | None = None
    jacobian: tuple[str, ...]
    controls: tuple[str, ...] | None = None
    vectors: int = 0
    device: str = 'auto'
    seed: int = 0

    @property
    def images(self) -> Path | None:
        """The data set to train on, None if there is no training, or `data` is missing."""
        if self.data:
            return Path('datasets', self.name, 'images.zip')
        return Path(os.path.relpath(self.training[1])) if self.training and self.training[1] else None

    @property
    def label(self) -> str:
        """The curve's of the network trained here."""
        known = not self.data or Path(self.data).name == MNIST
        return self.training[0] if known else f'U-Net on {Path(self.data).stem}'

    @property
    def picture(self) -> Path:
        """The figure, beside the ranks."""
        return Path('figures', self.name, 'jacobian-real.png')

    @property
    def pictures(self) -> tuple[Path, ...]:
        """All figures."""
        vectors = self.picture.with_name('jacobian-vectors.png')
        return (self.picture, vectors) if self.training and self.vectors else (self.picture,)


def with_data(preset: JacobianExperiment, data: str | None) -> JacobianExperiment:
    """The preset with images given by --data. Raises UserError if it has no use for them, or lacks them."""
    job = replace(preset, data=data)
    if data and job.training is None:
        raise UserError(f'--data {data}: this preset trains no network')
    if job.training is not None and job.images is None:
        raise UserError(f'this preset needs --data: {MNIST} (datasets/README.md says where to get it), or '
                        'other images')
    return job


def plan(job: JacobianExperiment) -> list[Stage]:
    """The stages to all figures, each after those it needs.

    Raises UserError naming --data if it can't be read.
    """
    stages, networks, controls, shown = [], [(*network, ()) for network in job.networks], [], ()
    if job.training is not None:
        train, outdir = job.training[2], f'training/{job.name}/network'
        needs, inputs = (('images',), ()) if job.data else ((), (job.images,))
        if job.data:
            stages.append(Stage(name='images', outputs=(job.images,), inputs=(Path(job.data),), command=(
                'dataset_tool.py', '--source', job.data, '--dest', str(job.images))))
        stages.append(Stage(
            name='train', outputs=(Path(outdir),), inputs=inputs, needs=needs, cost=10, command=(
                'train.py', '--outdir', outdir, '--nosubdir', '--resume', 'auto', '--data', str(job.images),
                '--device', job.device, '--seed', f'{job.seed}', *train)))
        networks.insert(0, (job.label, outdir, ('train',)))
        controls = [(kind, needs, inputs) for kind in CLOSED_JACOBIANS if job.controls is not None]
        shown = _shown(job, stages[-1])
    ranks = [job.picture.with_name(f'ranks-{i}.npz') for i in range(len(networks))]
    for path, (_, network, needs) in zip(ranks, networks, strict=True):
        vectors = ('--save_vectors', f'{job.vectors}') if needs and job.vectors else ()
        inputs = () if needs or is_remote(network) else (Path(network),)
        stages.append(_ranks_stage(job, network, path, needs, inputs, (*job.jacobian, *vectors)))
    series = [f'{path}={label}' for path, (label, *_) in zip(ranks, networks, strict=True)]
    for kind, needs, inputs in controls:
        path = job.picture.with_name(f'ranks-{kind}.npz')
        series.append(f'{path}={kind.capitalize()} denoiser')
        stages.append(_ranks_stage(job, f'{kind}:{job.images}', path, needs, inputs,
                                   ('--cond', '0', *job.controls)))
    stages.append(Stage(
        name='picture', outputs=(job.picture,), cost=0.2,
        needs=tuple(stage.name for stage in stages if stage.name.startswith('ranks')),
        command=('plot.py', 'jacobian', '--ranks', *series, '--axis', 'log', '--scale', 'log', '--falling',
                 *shown, '--out', f'{job.picture}')))
    for path in job.pictures[1:]:
        stages.append(Stage(name='vectors', outputs=(path,), needs=('ranks-0',), cost=0.2, command=(
            'plot.py', 'jacobian-vectors', '--ranks', f'{ranks[0]}', *shown[-2:], '--out', f'{path}')))
    return stages


def _shown(job: JacobianExperiment, training: Stage) -> tuple[str, ...]:
    """Arguments of plot.py: the training's noise levels, and for captions, last, a sentence about it."""
    total = (open_source(job.data, '--data').total if job.data
             else len(ImageDataset(str(job.images), cache=False)))
    given = script_options.options(training)
    width = given['cbase'] or given['model_channels']
    noise = given['p_mean'], given['p_std']
    trained = () if None in noise else ('--trained', f'{job.label}={noise[0]:g},{noise[1]:g}')
    return (*trained, '--about', f'{job.label}: a network ({given["arch"]}, width {width}) trained '
            f'on {total:,} images for {1000 * given["duration"]:g} kimg.')


def _ranks_stage(job: JacobianExperiment, network: str, ranks: Path, needs: tuple[str, ...],
                 inputs: tuple[Path, ...], options: tuple[str, ...]) -> Stage:
    return Stage(name=ranks.stem, outputs=(ranks,), inputs=inputs, needs=needs, cost=5, command=(
        'jacobian.py', '--network_pkl', network, '--out', f'{ranks}', '--overwrite', '--device', job.device,
        *options))


PRESETS = {
    # Minutes on two CPU cores: the network that generates images for `regimes --preset quickstart-teacher`.
    'quickstart': JacobianExperiment(
        name='jacobian-quickstart', networks=(), device='cpu', jacobian=('--seeds', '0-9'),
        controls=('--seeds', '0-9'), vectors=8,
        training=('U-Net on digits, 8x8', regimes.QUICKSTART.data,
                  regimes.PRESETS['quickstart-teacher'].teacher_training)),
    # A quarter of an hour of one CPU core: a network of 0.2 M parameters, trained at all noise levels of the
    # sampler but a few at the ends. Attention at 8x8 only and few channels at 32x32, where most time goes.
    'mnist': JacobianExperiment(
        name='jacobian-mnist', networks=(), device='cpu', jacobian=('--seeds', '0-1', '--method', 'exact'),
        controls=('--seeds', '0-1'), vectors=8,
        training=('U-Net on MNIST, 32x32', None, (
            '--arch', 'ddpmpp', '--precond', 'edm', '--model_channels', '8', '--cres', '1,2,4',
            '--num_blocks', '1', '--attn_resolutions', '8', '--dropout', '0', '--augment', '0',
            '--batch', '32', '--duration', '0.15', '--lr', '0.003', '--lr_rampup', '1',
            '--lr_decay', 'cosine', '--P_mean', '0', '--P_std', '1.8', '--tick', '5', '--snap', '1000'))),
    'paper': JacobianExperiment(
        name='jacobian-paper', training=None, jacobian=('--seeds', '0-99'),
        networks=tuple(zip(('CIFAR-10', 'FFHQ', 'AFHQ'), script_options.RELEASED, strict=True))),
}
