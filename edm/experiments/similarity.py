"""Different models of the same images, sampled from the same noises: paper 1, figures 6 and 12.

Networks of several architectures, preconditionings and programs are compared pair by pair, beside two
closed-form denoisers of the training set, and beside held-out images, which are the control: they have
nothing to do with the samples that they are paired with.
Paper 1 is "The Emergence of Reproducibility and Consistency in Diffusion Models", arXiv 2310.05264.
"""

from dataclasses import dataclass
from pathlib import Path

from adapters.diffusers_files import is_diffusers
from data.dataset import ImageDataset
from data.image_files import describe_shape
from experiments.regimes import DIGITS
from experiments.script_options import snapshot_network
from experiments.stages import Stage
from scores.score_table import HELDOUT
from torch_utils.downloads import is_remote
from torch_utils.errors import UserError

CLOSED_FORMS = {'optimal': 'optimal denoiser', 'gaussian': 'Gaussian denoiser'}
_SITE = 'https://nvlabs-fi-cdn.nvidia.com/edm/pretrained'
_IDDPM = 'https://openaipublic.blob.core.windows.net/diffusion/march-2021/cifar10_uncond_50M_500K.pt'


@dataclass(frozen=True, kw_only=True)
class Network:
    """A network to compare.

    path: of an existing one. Else command: the script that makes it and its arguments, without those for the
    output and the training images.
    """

    label: str
    path: str | None = None
    command: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Similarity:
    """The experiment's settings.

    name: of the folders under datasets/, training/, evaluation/ and figures/.
    data: images, which are shuffled; the first `size` (None: all) are the training set, and the next ones are
    held out, if `heldout` says so. num_samples: noises, from seed 0 on, and held-out images.
    threshold, mae_threshold: of similarity, and of the mean difference of pixels.
    generate: further arguments of generate.py.
    """

    name: str
    data: str
    networks: tuple[Network, ...]
    size: int | None
    num_samples: int
    heldout: bool = True
    threshold: float
    mae_threshold: float = 15
    descriptor: str = 'pixel'
    generate: tuple[str, ...] = ()
    device: str = 'auto'

    @property
    def table(self) -> Path:
        """The score table."""
        return Path('figures', self.name, 'similarity.csv')

    @property
    def tables(self) -> tuple[Path, ...]:
        """The score table, for `regimes.write_settings`."""
        return self.table,

    @property
    def pictures(self) -> tuple[Path, ...]:
        """The heat maps."""
        return tuple(self.table.with_suffix(f'.{kind}') for kind in ('png', 'pdf'))

    def dataset(self, part: str) -> Path:
        """The images of 'train' or 'heldout'."""
        return Path('datasets', self.name, f'{part}.zip')

    def images(self, key: str) -> Path:
        """Samples of a model, or the held-out images."""
        return self.dataset(key) if key == 'heldout' else Path('evaluation', self.name, 'samples', key)

    def features(self, key: str) -> Path:
        """The descriptors of these images."""
        return Path('evaluation', self.name, 'features', f'{key}.npz')


def plan(job: Similarity) -> list[Stage]:
    """The stages from the images to the heat maps, each after those it needs."""
    stages = _data_stages(job)
    labels = {f'model{number}': network.label for number, network in enumerate(job.networks)}
    for key, network in zip(labels, job.networks, strict=True):
        stages += _network_stages(job, key, network)
    # the first network says that images have no classes, whatever the labels of the data set
    first, needs = _network(job, 'model0', job.networks[0]), () if job.networks[0].path else ('make-model0',)
    labels |= CLOSED_FORMS
    stages += [_sample_stage(job, kind, ('--denoiser', kind, '--dataset', str(job.dataset('train')),
                                         '--solver', 'heun', '--network', first),
                             needs=('data-train', *needs)) for kind in CLOSED_FORMS]
    made = tuple(f'generate-{key}' for key in labels)
    if job.heldout:
        labels['heldout'], made = HELDOUT, (*made, 'data-heldout')
    return stages + _score_stages(job, labels, made)


def _data_stages(job: Similarity) -> list[Stage]:
    """The training set and the held-out images."""
    parts = {'train': ('--max-images', str(job.size)) if job.size else ()}
    if job.heldout:
        parts['heldout'] = ('--skip-images', str(job.size), '--max-images', str(job.num_samples))
    return [Stage(name=f'data-{part}', outputs=(job.dataset(part),), inputs=(Path(job.data),), command=(
        'dataset_tool.py', '--source', job.data, '--dest', str(job.dataset(part)), '--shuffle', '0',
        *args))
        for part, args in parts.items()]


def check_data(job: Similarity) -> None:
    """Raise UserError naming --data unless it has the images for training and control.

    Raises UserError naming --networks for a network here that can't be read, or is of other images.
    """
    if job.data == PRESETS['paper'].data and not Path(job.data).exists():
        raise UserError(f'--data {job.data}: no such file; datasets/README.md has the command that makes it '
                        'from the archive of CIFAR-10')
    images, needed = ImageDataset(job.data, cache=False), (job.size or 1) + job.num_samples * job.heldout
    if len(images) < needed:
        raise UserError(f'--data {job.data}: has {len(images):,} images, expected {needed:,}')
    for network in job.networks:
        if network.path and not is_remote(network.path):
            net = snapshot_network(network.path, '--networks')
            made = net.img_channels, net.img_resolution, net.img_resolution
            if made != images.image_shape:
                raise UserError(f'--networks {network.path}: makes images of {describe_shape(made)}, and '
                                f'--data {job.data} has {describe_shape(images.image_shape)}')


def origins(job: Similarity) -> list[str]:
    """What the experiment needs: where the images and each network come from, a line each."""
    made = '' if Path(job.data).exists() else ', which is not there; datasets/README.md has the command'
    lines = [f'images: {job.data}{made}']
    for network in job.networks:
        script, *args = network.command or ('',)
        source = args[args.index('--source') + 1] if script == 'convert.py' else network.path or ''
        steps = [f'downloaded from {source}' if is_remote(source) else
                 source or 'trained here on these images']
        if script == 'convert.py':
            steps.append('a checkpoint that convert.py makes a snapshot of')
        elif source:
            steps.append('a network of diffusers' if is_diffusers(source) else 'a snapshot')
        lines.append(f'{network.label}: {", ".join(steps)}')
    return lines


def _network(job: Similarity, key: str, network: Network) -> str:
    """The path of a network, for --network."""
    dest = Path('training', job.name, key)
    return network.path or (f'{dest}.pkl' if network.command[0] == 'convert.py' else str(dest))


def _network_stages(job: Similarity, key: str, network: Network) -> list[Stage]:
    """The stages that make a network, if it does not exist, and its samples."""
    if network.path:
        return [_sample_stage(job, key, ('--network', network.path),
                              inputs=() if is_remote(network.path) else (Path(network.path),))]
    script, *args = network.command
    dest = Path('training', job.name, key)
    on_images = ('--data', str(job.dataset('train')), '--device', job.device)
    command, outputs, needs = {
        'train.py': ((script, '--outdir', f'{dest}', '--nosubdir', '--resume', 'auto', *on_images, *args),
                     (dest,), ('data-train',)),
        'reproduce.py': ((script, *args, '--out', f'{dest}', *on_images), (dest / 'config.json',),
                         ('data-train',)),
        'convert.py': ((script, *args, '--dest', f'{dest}.pkl'), (Path(f'{dest}.pkl'),), ())}[script]
    return [Stage(name=f'make-{key}', outputs=outputs, needs=needs, command=command, cost=20),
            _sample_stage(job, key, ('--network', _network(job, key, network)), needs=(f'make-{key}',))]


def _score_stages(job: Similarity, labels: dict[str, str], made: tuple[str, ...]) -> list[Stage]:
    """Descriptors, scores and heat maps. labels: of all rows, networks first. made: stages they need."""
    images, features = ([str(path(key)) for key in labels] for path in (job.images, job.features))
    training = str(job.features('train'))
    stages = [Stage(
        name='features', outputs=tuple(map(Path, (*features, training))), needs=made, command=(
            'sscd.py', 'feature', '--images', *images, str(job.dataset('train')),
            '--features', *features, training, '--descriptor', job.descriptor))]
    control = ('--heldout', str(job.features('heldout'))) if job.heldout else ()
    networks = list(zip(labels, job.networks, strict=False))
    stages += [Stage(name=f'gl-{key}', outputs=(job.table,), needs=('features',), command=(
        'sscd.py', 'mscore', '--source', str(job.features(key)), '--target', training, *control,
        '--names', network.label, '--t', f'{job.threshold:g}', '--device', job.device,
        '--table', str(job.table))) for key, network in networks]
    stages.append(Stage(
        name='matrix', outputs=(job.table,), needs=('features',), command=(
            'sscd.py', 'matrix', '--features', *features, '--images', *images, '--names', *labels.values(),
            '--scores', 'rp', 'pfd', '--t', f'{job.threshold:g}', '--mae-t', f'{job.mae_threshold:g}',
            '--table', str(job.table))))
    scores = ('matrix', *(f'gl-{key}' for key, _ in networks))
    return stages + [Stage(
        name=f'figure-{path.suffix[1:]}', outputs=(path,), needs=scores,
        command=('plot.py', 'similarity', '--table', str(job.table), '--samples', *(
            f'{job.images(key)}={label}' for key, label in labels.items()), '--out', str(path)))
        for path in job.pictures]


def _sample_stage(job: Similarity, key: str, options: tuple[str, ...], *, inputs=(), needs=()) -> Stage:
    outdir = job.images(key)
    return Stage(name=f'generate-{key}', outputs=(outdir,), num_images=job.num_samples, inputs=inputs,
                 needs=needs, command=(
                     'generate.py', *options, '--outdir', str(outdir), '--seeds', f'0-{job.num_samples - 1}',
                     '--resume', '--overwrite', '--device', job.device, *job.generate))


def _trained(label: str, arch: str, precond: str, width: int, seed: int, *, mult: str = '1,2',
             lr: float = 0.004, kimg: int = 40) -> Network:
    """A network that train.py makes, of two levels with a block each."""
    return Network(label=label, command=(
        'train.py', '--arch', arch, '--precond', precond, '--cbase', str(width), '--cres', mult,
        '--seed', str(seed), *(('--P_mean', '-0.8') if precond == 'edm' else ()), '--num_blocks', '1',
        '--dropout', '0', '--augment', '0', '--batch', '64', '--lr', f'{lr:g}', '--lr_rampup', '2',
        '--lr_decay', 'cosine', '--duration', f'{kimg / 1000:g}', '--tick', '2', '--snap', '1000'))


def _predicting(label: str, *args: str, kimg: int = 40) -> Network:
    """A `UNet2DModel`, trained as diffusers' users do."""
    return Network(label=label, command=('reproduce.py', 'epsilon-training', '--kimg', str(kimg), *args))


PRESETS = {
    # Minutes on two CPU cores. Sampling starts at sigma = 10, where 0.3 % of the variance of a pixel is the
    # image's: the errors of small networks that estimate the noise (VE, VP, epsilon) grow with sigma.
    'quickstart': Similarity(
        name='similarity-quickstart', data=str(DIGITS), size=1280, num_samples=512, threshold=0.97,
        device='cpu', generate=('--batch', '256', '--sigma_max', '10'),
        networks=(
            _trained('DDPM++ EDM', 'ddpmpp', 'edm', 16, 0),
            _trained('DDPM++ EDM, wider', 'ddpmpp', 'edm', 24, 1),
            _trained('DDPM++ VP', 'ddpmpp', 'vp', 16, 2),
            _trained('NCSN++ VE', 'ncsnpp', 've', 32, 3, mult='1,1', lr=0.003, kimg=80),
            _trained('ADM EDM', 'adm', 'edm', 16, 4),
            _predicting('UNet2D, epsilon', '--seed', '5'),
            _predicting('UNet2D, v', '--prediction', 'v_prediction', '--betas',
                        'squaredcos_cap_v2', '--no-attention', '--seed', '6'))),
    # Published networks of CIFAR-10; all but the closed forms need nothing but a GPU and the network.
    'paper': Similarity(
        name='similarity-paper', data='datasets/cifar10-32x32.zip', size=None, num_samples=10000,
        heldout=False, threshold=0.6, descriptor='sscd', generate=('--batch', '256'),
        networks=(
            Network(label='EDM VP', path=f'{_SITE}/edm-cifar10-32x32-uncond-vp.pkl'),
            Network(label='EDM VE', path=f'{_SITE}/edm-cifar10-32x32-uncond-ve.pkl'),
            Network(label='Score SDE VP', path=f'{_SITE}/baseline/baseline-cifar10-32x32-uncond-vp.pkl'),
            Network(label='Score SDE VE', path=f'{_SITE}/baseline/baseline-cifar10-32x32-uncond-ve.pkl'),
            Network(label='improved DDPM', command=('convert.py', 'adm', '--preset', 'improved-32',
                                                    '--source', _IDDPM)),
            Network(label='DDPM', path='hf://google/ddpm-cifar10-32'))),
}
