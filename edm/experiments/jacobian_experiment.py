"""Ranks of the Jacobians of denoisers of real images: paper 2 (arXiv 2409.02426), figure 3 left."""

import os
from dataclasses import dataclass
from pathlib import Path

from experiments import regimes
from experiments.script_options import RELEASED
from experiments.stages import Stage
from torch_utils.downloads import is_remote


@dataclass(frozen=True, kw_only=True)
class JacobianExperiment:
    """The experiment's settings.

    name: of the folders under training/, evaluation/ and figures/.
    networks: (label, path or URL) of the snapshots to study.
    training: a network to train and study first: (label, images, further arguments of train.py), or None.
    jacobian: further arguments of jacobian.py.
    """

    name: str
    networks: tuple[tuple[str, str], ...]
    training: tuple[str, str, tuple[str, ...]] | None
    jacobian: tuple[str, ...]
    device: str = 'auto'
    seed: int = 0

    @property
    def picture(self) -> Path:
        """The figure, beside the ranks."""
        return Path('figures', self.name, 'jacobian-real.png')


def plan(job: JacobianExperiment) -> list[Stage]:
    """The stages to the figure, each after those it needs."""
    stages, series = [], []
    networks = [(label, network, ()) for label, network in job.networks]
    if job.training is not None:
        label, data, train = job.training
        data, outdir = os.path.relpath(data), f'training/{job.name}/network'
        stages.append(Stage(name='train', outputs=(Path(outdir),), inputs=(Path(data),), cost=10, command=(
            'train.py', '--outdir', outdir, '--nosubdir', '--resume', 'auto', '--data', data,
            '--device', job.device, '--seed', f'{job.seed}', *train)))
        networks.insert(0, (label, outdir, ('train',)))
    for i, (label, network, needs) in enumerate(networks):
        ranks = job.picture.with_name(f'ranks-{i}.npz')
        series.append(f'{ranks}={label}')
        given = () if needs or is_remote(network) else (Path(network),)
        stages.append(Stage(name=f'ranks-{i}', outputs=(ranks,), inputs=given, needs=needs, cost=5, command=(
            'jacobian.py', '--network_pkl', network, '--out', f'{ranks}', '--overwrite',
            '--device', job.device, *job.jacobian)))
    stages.append(Stage(
        name='picture', outputs=(job.picture,), cost=0.2,
        needs=tuple(f'ranks-{i}' for i in range(len(networks))),
        command=('plot.py', 'jacobian', '--ranks', *series, '--axis', 'log', '--out', f'{job.picture}')))
    return stages


PRESETS = {
    # Minutes on two CPU cores: the network that generates images for `regimes --preset quickstart-teacher`.
    'quickstart': JacobianExperiment(
        name='jacobian-quickstart', networks=(), device='cpu', jacobian=('--seeds', '0-9'),
        training=('Digits, 8x8', regimes.QUICKSTART.data,
                  regimes.PRESETS['quickstart-teacher'].teacher_training)),
    'paper': JacobianExperiment(
        name='jacobian-paper', training=None, jacobian=('--seeds', '0-99'),
        networks=tuple(zip(('CIFAR-10', 'FFHQ', 'AFHQ'), RELEASED, strict=True))),
}
