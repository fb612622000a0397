"""Experiments on mixtures of low-rank Gaussians: paper 2 (arXiv 2409.02426), figure 3 right and figure 4.

A low-rank denoiser and a U-Net are trained on one data set, and the ranks of their Jacobians compared; and
low-rank denoisers on data sets of many sizes, to see from how many samples on they find the classes.
"""

from dataclasses import dataclass
from pathlib import Path

from data.molrg_data import MoLRGShape
from experiments.phase_transition import Transition
from experiments.stages import Stage


@dataclass(frozen=True, kw_only=True)
class MoLRGExperiment:
    """The experiment's settings.

    name: names the folders under datasets/, training/, evaluation/ and figures/.
    low_rank, unet: further arguments of trainMoLRG.py.
    jacobian: further arguments of jacobian.py.
    """

    name: str
    shape: MoLRGShape
    low_rank: tuple[str, ...]
    unet: tuple[str, ...]
    jacobian: tuple[str, ...]
    transition: Transition
    device: str = 'auto'
    seed: int = 0

    @property
    def folder(self) -> Path:
        """Where pictures and numbers lie."""
        return Path('figures', self.name)

    @property
    def pictures(self) -> tuple[Path, ...]:
        """Ranks of Jacobians on both axes, and the phase transition."""
        names = 'jacobian-MoLRG', 'jacobian-MoLRG-log', 'molrg-phase-transition'
        return tuple(self.folder / f'{name}.png' for name in names)

    def run(self, model: str) -> Path:
        """The folder of the training of 'low-rank' or 'unet'."""
        return Path('training', self.name, model, self.shape.name)


def plan(job: MoLRGExperiment) -> list[Stage]:
    """The stages from nothing to both pictures, in an order that may be run."""
    series, stages = [], []
    for model, label, train, cost in (('unet', 'U-Net', job.unet, 20),
                                      ('low-rank', 'Low-rank model', job.low_rank, 2)):
        ranks = job.folder / f'ranks-{model}.npz'
        series.append(f'{ranks}={label}')
        stages += [
            Stage(name=f'train-{model}', outputs=(job.run(model),), cost=cost, command=(
                'trainMoLRG.py', '--path', f'datasets/{job.name}', '--outdir', f'training/{job.name}/{model}',
                '--nosubdir', '--resume', 'auto', *_data_options(job.shape), '--device', job.device,
                '--seed', f'{job.seed}', *train)),
            Stage(name=f'ranks-{model}', outputs=(ranks,), needs=(f'train-{model}',), command=(
                'jacobian.py', '--network_pkl', f'{job.run(model)}', '--out', f'{ranks}',
                '--overwrite', '--device', job.device, *job.jacobian))]
    points = [job.folder / f'transition-d{dim}.json' for dim in job.transition.dims]
    for dim, path in zip(job.transition.dims, points, strict=True):
        stages.append(Stage(name=f'transition-d{dim}', outputs=(path,), cost=8, command=(
            'reproduce.py', 'phase-transition', '--dims', f'{dim}', *_transition_options(job.transition),
            '--out', f'{path}', '--device', job.device)))
    *rank_pictures, transition_picture = job.pictures
    for picture, axis in zip(rank_pictures, _AXES, strict=True):
        stages.append(Stage(
            name=picture.stem, outputs=(picture,), needs=('ranks-unet', 'ranks-low-rank'), cost=0.2,
            command=('plot.py', 'jacobian', '--ranks', *reversed(series), *axis, '--out', f'{picture}')))
    stages += [
        Stage(name=transition_picture.stem, outputs=(transition_picture,), cost=0.2,
              needs=tuple(f'transition-d{dim}' for dim in job.transition.dims),
              command=('plot.py', 'phase-transition', '--results', *map(str, points),
                       '--out', f'{transition_picture}'))]
    return stages


# On the linear axis the change from K d to d fills the picture; the logarithmic one shows all noise levels.
_AXES = ('--axis', 'linear', '--max_snr', '20'), ('--axis', 'log')


def _data_options(shape: MoLRGShape) -> tuple[str, ...]:
    return ('--img_res', f'{shape.resolution}', '--class_num', f'{shape.class_num}',
            '--per_class_dim', f'{shape.per_class_dim}', '--sample_per_class', f'{shape.sample_per_class}')


def _transition_options(job: Transition) -> tuple[str, ...]:
    return ('--img_res', f'{job.img_res}', '--class_num', f'{job.class_num}',
            '--ratios', ','.join(f'{ratio:g}' for ratio in job.ratios), '--trials', f'{job.trials}',
            '--restarts', f'{job.restarts}', '--steps', f'{job.steps}', '--seed', f'{job.seed}')


def summary(job: MoLRGExperiment) -> str:
    """What the low-rank model has found, as text; the experiment is finished."""
    import torch

    from data.molrg_data import MoLRG
    from scores.recovery import describe_errors, recovery_errors
    from torch_utils.run_dir import find_snapshot
    from training.snapshot import load_network

    truth = MoLRG(f'datasets/{job.name}', job.shape).bases()
    found = load_network(find_snapshot(job.run('low-rank')), torch.device('cpu')).orthonormal_bases()
    return f'Low-rank model: {describe_errors(recovery_errors(found, truth))}'


_RATIOS = (0.34, 0.67, 0.84, 1, 1.17, 1.34, 1.67, 2, 2.5, 3, 4)

PRESETS = {
    # Minutes on two CPU cores: a U-Net of 0.26 M parameters that sees a million samples.
    'quickstart': MoLRGExperiment(
        name='molrg-quickstart', device='cpu',
        shape=MoLRGShape(resolution=4, class_num=2, per_class_dim=6, sample_per_class=350),
        low_rank=('--arch', 'param-mlp', '--duration', '0.5', '--batch', '128'),
        unet=('--arch', 'ddpmpp', '--embed_channels', '16', '--cres', '2,2', '--num_blocks', '1',
              '--dropout', '0', '--duration', '1', '--batch', '128', '--lr', '0.006', '--lr_decay', 'cosine'),
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
