"""Experiments on mixtures of low-rank Gaussians: paper 2 (arXiv 2409.02426), figure 3 right and figure 4.

A low-rank denoiser and a U-Net are trained on one data set, and the ranks of their Jacobians compared with
those of the true denoiser. Then low-rank denoisers are trained on data sets of many sizes, to see how many
samples training needs to find the classes, beside how many determine them.
"""

from dataclasses import asdict, dataclass
from pathlib import Path

from data.molrg_data import MoLRGShape
from experiments.phase_transition import Transition
from experiments.stages import Stage


@dataclass(frozen=True, kw_only=True)
class MoLRGExperiment:
    """The experiment's settings.

    name: of the folders under datasets/, training/, evaluation/ and figures/.
    low_rank, unet: further arguments of trainMoLRG.py. noise: the U-Net's P_mean and P_std.
    jacobian: further arguments of jacobian.py.
    """

    name: str
    shape: MoLRGShape
    low_rank: tuple[str, ...]
    unet: tuple[str, ...]
    noise: tuple[float, float] = (-1.2, 1.2)
    jacobian: tuple[str, ...]
    transition: Transition
    device: str = 'auto'
    seed: int = 0

    @property
    def pictures(self) -> tuple[Path, ...]:
        """Ranks of Jacobians on both axes, and the phase transition."""
        names = 'jacobian-MoLRG', 'jacobian-MoLRG-log', 'molrg-phase-transition'
        return tuple(Path('figures', self.name, f'{name}.png') for name in names)


def plan(job: MoLRGExperiment) -> list[Stage]:
    """The stages to all figures, each after those it needs."""
    series, stages, transition = [], [], job.transition
    *rank_pictures, transition_picture = job.pictures
    shape = _options(img_res=job.shape.resolution, **asdict(job.shape), without=('resolution',))
    data = Path('datasets', job.name, f'{job.shape.name}.pt')
    noise = ('--P_mean', f'{job.noise[0]:g}', '--P_std', f'{job.noise[1]:g}')
    for model, label, train, cost in (('unet', 'U-Net', (*job.unet, *noise), 20),
                                      ('low-rank', 'Low-rank model', job.low_rank, 2)):
        ranks = transition_picture.with_name(f'ranks-{model}.npz')
        run = Path('training', job.name, model, job.shape.name)
        series.insert(0, f'{ranks}={label}')
        stages += [
            Stage(name=f'train-{model}', outputs=(run,), cost=cost, command=(
                'trainMoLRG.py', '--path', f'datasets/{job.name}', '--outdir', f'training/{job.name}/{model}',
                '--nosubdir', '--resume', 'auto', *shape, '--device', job.device, '--seed', f'{job.seed}',
                *train)),
            Stage(name=f'ranks-{model}', outputs=(ranks,), needs=(f'train-{model}',), command=(
                'jacobian.py', '--network_pkl', f'{run}', '--out', f'{ranks}', '--overwrite',
                '--device', job.device, *job.jacobian))]
    points = [transition_picture.with_name(f'transition-d{dim}.json') for dim in transition.dims]
    ratios = ','.join(f'{ratio:g}' for ratio in transition.ratios)
    settings = _options(**asdict(transition) | {'ratios': ratios}, without=('dims', 'batch'))
    for dim, path in zip(transition.dims, points, strict=True):
        stages.append(Stage(name=path.stem, outputs=(path,), cost=8, command=(
            'reproduce.py', 'phase-transition', '--dims', f'{dim}', *settings, '--out', f'{path}',
            '--device', job.device)))
    # The data file is there once a network has been trained on it.
    truth = transition_picture.with_name('ranks-true.npz')
    stages.append(Stage(name='ranks-true', outputs=(truth,), needs=('train-low-rank',), command=(
        'jacobian.py', '--network_pkl', f'molrg:{data}', '--out', f'{truth}', '--overwrite',
        '--device', job.device, *job.jacobian)))
    for picture, axis in zip(rank_pictures, ('categorical', 'log'), strict=True):
        stages.append(Stage(
            name=picture.stem, outputs=(picture,), needs=('ranks-unet', 'ranks-low-rank', 'ranks-true'),
            cost=0.2, command=(
                'plot.py', 'jacobian', '--ranks', *series, '--references', f'{truth}=True denoiser',
                '--trained', f'U-Net={job.noise[0]:g},{job.noise[1]:g}', '--axis', axis,
                '--out', f'{picture}')))
    stages.append(Stage(
        name=transition_picture.stem, outputs=(transition_picture,), cost=0.2,
        needs=tuple(path.stem for path in points),
        command=('plot.py', 'phase-transition', '--results', *map(str, points),
                 '--out', f'{transition_picture}')))
    return stages


def _options(*, without: tuple[str, ...], **values) -> list[str]:
    return [word for name, value in values.items() if name not in without
            for word in (f'--{name}', f'{value}')]


_RATIOS = (0.34, 0.67, 0.84, 1, 1.17, 1.34, 1.67, 2, 2.5, 3, 4)

PRESETS = {
    # Minutes on two CPU cores: a U-Net of 0.26 M parameters that sees a million samples, at the noise levels
    # where the rank falls. With training.loss's own, its smallest rank is further from the truth.
    'quickstart': MoLRGExperiment(
        name='molrg-quickstart', device='cpu',
        shape=MoLRGShape(resolution=4, class_num=2, per_class_dim=6, sample_per_class=350),
        low_rank=('--arch', 'param-mlp', '--duration', '0.5', '--batch', '128'),
        unet=('--arch', 'ddpmpp', '--embed_channels', '16', '--cres', '2,2', '--num_blocks', '1',
              '--dropout', '0', '--duration', '1', '--batch', '128', '--lr', '0.006', '--lr_decay', 'cosine'),
        noise=(-0.4, 0.7),
        jacobian=('--seeds', '0-9', '--method', 'exact'),
        transition=Transition(dims=(2, 4, 8), ratios=_RATIOS, trials=20, restarts=4, steps=1000)),
    # The paper's data; the U-Net has 54 M parameters.
    'paper': MoLRGExperiment(
        name='molrg-paper',
        shape=MoLRGShape(resolution=4, class_num=2, per_class_dim=6, sample_per_class=350),
        low_rank=('--arch', 'param-mlp', '--duration', '2', '--batch', '128'),
        unet=('--arch', 'ddpmpp', '--embed_channels', '128', '--duration', '6', '--batch', '512',
              '--dump', '10', '--keep', '1'),
        jacobian=('--seeds', '0-99', '--method', 'exact'),
        transition=Transition(dims=(2, 4, 8, 16), ratios=_RATIOS, trials=100, restarts=10, steps=4000)),
}
