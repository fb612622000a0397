"""Ranks of the Jacobians of denoisers of real images: paper 2 (arXiv 2409.02426), figure 3 left."""

import os
from dataclasses import dataclass
from pathlib import Path

from experiments import regimes
from experiments.stages import Stage
from torch_utils.downloads import is_url

_SITE = 'https://nvlabs-fi-cdn.nvidia.com/edm/pretrained'


def _ddpmpp(resolution: int, channel_mult: list[int]) -> dict:
    """The part of training_options.json that decides what a network costs."""
    return {'dataset_kwargs': {'resolution': resolution}, 'network_kwargs': {
        'class_name': 'training.networks.EDMPrecond', 'model_type': 'SongUNet', 'augment_dim': 9,
        'channel_mult': channel_mult}}


# Networks that are known before they are downloaded.
RELEASED = {f'{_SITE}/edm-cifar10-32x32-uncond-vp.pkl': _ddpmpp(32, [2, 2, 2]),
            f'{_SITE}/edm-ffhq-64x64-uncond-vp.pkl': _ddpmpp(64, [1, 2, 2, 2]),
            f'{_SITE}/edm-afhqv2-64x64-uncond-vp.pkl': _ddpmpp(64, [1, 2, 2, 2])}


@dataclass(frozen=True, kw_only=True)
class JacobianExperiment:
    """The experiment's settings.

    name: names the folders under training/, evaluation/ and figures/.
    networks: (label, path or URL) of the snapshots to study.
    training: one more network, studied first: (label, images, further arguments of train.py); None for none.
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
    """The stages to the picture, in an order that may be run."""
    stages, series = [], []
    networks = [(label, network, ()) for label, network in job.networks]
    if job.training is not None:
        label, data, train = job.training
        data = os.path.relpath(data)
        outdir = Path('training', job.name, 'network')
        stages.append(Stage(name='train', outputs=(outdir,), inputs=(Path(data),), cost=10, command=(
            'train.py', '--outdir', f'{outdir}', '--nosubdir', '--resume', 'auto', '--data', data,
            '--device', job.device, '--seed', f'{job.seed}', *train)))
        networks.insert(0, (label, f'{outdir}', ('train',)))
    for i, (label, network, needs) in enumerate(networks):
        ranks = job.picture.with_name(f'ranks-{i}.npz')
        series.append(f'{ranks}={label}')
        given = () if needs or is_url(network) else (Path(network),)
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
