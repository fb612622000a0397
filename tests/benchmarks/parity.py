"""How far this software is from the reference's numbers: a table, golden case by golden case.

`python tests/benchmarks/parity.py` prints it. A difference is the largest one of the case's numbers, divided
by the largest of them unless the table says otherwise; `bits` counts values that are not equal.
"""

import contextlib
import gzip
import io
import json
import math
import sys
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import torch

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE.parents[1] / 'edm')]

from data import data_order  # noqa: E402, found through the line above
from data.pixels import Pixels  # noqa: E402
from denoisers.optimal_denoiser import OptimalDenoiser  # noqa: E402
from golden_networks import golden_network, network_specs  # noqa: E402
from helpers import DATA, golden  # noqa: E402
from jacobians.products import jacobian, numerical_rank  # noqa: E402
from sampling.sampler import edm_sampler, generalized_sampler  # noqa: E402
from scores import copy_scores as scores  # noqa: E402
from torch_utils.seeding import SampleGenerators  # noqa: E402
from training import loop, loss, networks, saving, snapshot  # noqa: E402
from training.augment import AugmentPipe  # noqa: E402
from training.build import LOSSES, build, build_network  # noqa: E402
from training.config import TrainingConfig  # noqa: E402

Case = tuple[str, str, float | int]  # what, how it is counted, difference
CPU = torch.device('cpu')
GEOMETRY = {'xflip': 1e8, 'yflip': 1, 'scale': 1, 'rotate_frac': 1, 'aniso': 1, 'translate_frac': 1}


def difference(ours, theirs) -> float:
    """Largest difference, relative to the largest number of `theirs`."""
    ours, theirs = (torch.as_tensor(x).detach().to(torch.float64) for x in (ours, theirs))
    return float((ours - theirs).abs().max() / theirs.abs().max())


def unequal(ours, theirs) -> int:
    """How many values are not equal to the last bit."""
    return int((np.asarray(ours) != np.asarray(theirs)).sum())


@torch.no_grad()
def network_cases() -> Iterator[Case]:
    """Forward passes, initial weights, rounded noise levels."""
    for name, spec in network_specs().items():
        net, arrays = golden_network(name)
        inputs = {key: torch.from_numpy(arrays[key]) for key in ('x', 'sigma', 'class_labels',
                                                                 'augment_labels') if key in arrays}
        yield f'network {name}: denoised images', 'relative', difference(net(**inputs), arrays['out'])
        rounded = net.round_sigma(torch.from_numpy(arrays['round_sigma_in']))
        yield f'network {name}: round_sigma', 'bits', unequal(rounded, arrays['round_sigma_out'])
        torch.manual_seed(spec['init_seed'])
        state = getattr(networks, spec['precond'])(**spec['kwargs']).state_dict()
        sums = [(float(state[key].double().square().sum()), squares)
                for key, (_, _, squares) in spec['init'].items()]
        yield (f'network {name}: initial weights, sums of squares', 'relative',
               difference(*zip(*sums, strict=True)))


def shape_cases() -> Iterator[Case]:
    """Names and shapes of the full-size networks."""
    for name, spec in json.loads(gzip.decompress((DATA / 'paper-size-shapes.json.gz').read_bytes())).items():
        with torch.device('meta'):
            state = getattr(networks, spec['precond'])(**spec['kwargs']).state_dict()
        ours = [(key, list(tensor.shape)) for key, tensor in state.items()]
        wrong = sum(a != b for a, b in zip(ours, spec['state'].items(), strict=True))
        yield f'full size {name}: names and shapes', 'bits', wrong


@torch.no_grad()
def snapshot_cases() -> Iterator[Case]:
    """Networks in files of the released form."""
    for path in sorted(DATA.glob('snapshot-*.pkl.gz')):
        name = path.name.removeprefix('snapshot-').removesuffix('.pkl.gz')
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder, 'network-snapshot.pkl')
            file.write_bytes(gzip.decompress(path.read_bytes()))
            net = snapshot.load_snapshot(str(file))['ema']
        _, arrays = golden_network('vp-ddpmpp-augment' if name == 'vp-ddpmpp' else name)
        inputs = {key: torch.from_numpy(arrays[key]) for key in ('x', 'sigma', 'class_labels',
                                                                 'augment_labels') if key in arrays}
        yield f'snapshot {name}: denoised images', 'relative', difference(net(**inputs), arrays['out'])


def loss_cases() -> Iterator[Case]:
    """Losses and augmentation under a seed."""
    arrays = golden('losses')
    images = torch.from_numpy(arrays['images'])
    for name, network in (('vp', 'vp-ddpmpp-augment'), ('ve', 'edm-ddpmpp'), ('edm', 'edm-ddpmpp')):
        net, _ = golden_network(network)  # which draws, too
        torch.manual_seed(5)
        out = LOSSES[name]()(net, images)
        yield f'loss {name}', 'relative', difference(out, arrays[f'{name}/loss'])
    net, _ = golden_network('vp-ddpmpp-augment')
    torch.manual_seed(6)
    out = loss.VPLoss()(net, images, None, AugmentPipe(p=0.5, **GEOMETRY))
    yield 'loss vp, augmented', 'relative', difference(out, arrays['vp/loss_augmented'])
    pipes = {'train-default': {'p': 0.12, **GEOMETRY}, 'always': {'p': 1, **GEOMETRY},
             'blit': {'p': 1, 'xflip': 1, 'yflip': 1, 'rotate_int': 1, 'translate_int': 1},
             'color': {'p': 1, 'brightness': 1, 'contrast': 1, 'lumaflip': 1, 'hue': 1, 'saturation': 1}}
    arrays = golden('augment')
    for name, kwargs in pipes.items():
        torch.manual_seed(9)
        images, labels = AugmentPipe(**kwargs)(torch.from_numpy(arrays['images']))
        yield f'augmentation {name}: images', 'relative', difference(images, arrays[f'{name}/images'])
        yield f'augmentation {name}: labels', 'relative', difference(labels, arrays[f'{name}/labels'])


def order_cases() -> Iterator[Case]:
    """Which images training visits, and which `max_size` keeps."""
    from data.dataset import kept_by_max_size
    wrong, kept = 0, 0
    for name, order in golden('orders').items():
        kind, text = name.split('/')
        numbers = [int(part) for part in ''.join(c if c.isdigit() else ' ' for c in text).split()]
        if kind == 'infinite':
            n, seed, rank, replicas = numbers
            sampler = data_order.InfiniteSampler(n, rank=rank, num_replicas=replicas, seed=seed)
            wrong += unequal([next(sampler) for _ in order], order)
        else:
            kept += unequal(kept_by_max_size(*numbers), order)
    yield 'order of data', 'bits', wrong
    yield 'images kept by max_size', 'bits', kept


def sampler_cases() -> Iterator[Case]:
    """States of the samplers in float64."""
    arrays = golden('samplers')
    latents, seeds = torch.from_numpy(arrays['latents']), arrays['seeds']
    draws = SampleGenerators(seeds, CPU)
    yield 'latents of seeds', 'bits', unequal(draws.randn(latents.shape[1:]), latents)
    yield 'class draws of seeds', 'bits', unequal(draws.randint(10), arrays['randint10_after_latents'])
    for key in sorted(key for key in arrays if '/' in key):
        name, network = key.split('/')
        net, options, draws = golden_network(network)[0], {}, SampleGenerators(seeds, CPU)
        if name == 'heun7-rho5':
            options = {'num_steps': 7, 'rho': 5, 'sigma_min': 0.01, 'sigma_max': 50}
        elif name == 'churn40':
            draws.randn(latents.shape[1:])
            options = {'num_steps': 10, 'S_churn': 40, 'S_min': 0.05, 'S_max': 50, 'S_noise': 1.003,
                       'randn': lambda x, draws=draws: draws.randn(x.shape[1:], x.dtype)}
        elif name.startswith('ablate'):
            names = zip(('solver', 'disc', 'schedule', 'scaling'), name.split('-')[1:], strict=False)
            options = {'num_steps': 8, **dict(names)}
        states = generalized_sampler(net, latents, **options)
        yield f'sampler {key}', 'relative', difference(states, arrays[key])


def optimal_cases() -> Iterator[Case]:
    """The optimal denoiser, and its samples."""
    arrays = golden('optimal-denoiser')
    images = _Images(arrays['dataset_uint8'])
    net = OptimalDenoiser(Pixels(images, range(len(images)), arrays['dataset_uint8'].shape[1:], device=CPU,
                                 cache_bytes=math.inf))
    for key in (key for key in arrays if key.startswith('x/')):
        sigma = key.removeprefix('x/')
        out = net(torch.from_numpy(arrays[key]), float(sigma))
        yield f'optimal denoiser at sigma {sigma}', 'absolute', _absolute(out, arrays[f'out/{sigma}'])
    samples = edm_sampler(net, torch.from_numpy(arrays['latents']), solver='euler')
    yield 'optimal denoiser, 18 Euler steps', 'absolute', _absolute(samples, arrays['sample_euler18'])


def _absolute(ours: torch.Tensor, theirs: np.ndarray) -> float:
    return float((ours.to(torch.float64) - torch.from_numpy(theirs)).abs().max())


def jacobian_cases() -> Iterator[Case]:
    """Singular values and numerical ranks of Jacobians."""
    arrays, (net, _) = golden('jacobian'), golden_network('edm-ddpmpp')
    states = []
    edm_sampler(net, torch.from_numpy(arrays['latents']), num_steps=6,
                on_step=lambda i, sigma, x, denoised: states.append((sigma, x)))
    found, ranks = [], []
    for sigma, x in states:
        rows = jacobian(net, x, sigma).reshape(x[0].numel(), -1).to(torch.float64)
        found.append(torch.linalg.svdvals(rows))
        ranks.append(int(numerical_rank(found[-1]**2)))
    values = np.stack(found)
    yield 'Jacobian: ranks', 'bits', unequal(ranks, arrays['ranks'])
    yield ('Jacobian: singular values', 'relative',
           max(map(difference, values, arrays['singular_values'])))


def score_cases() -> Iterator[Case]:
    """RP score, memorized fraction and GL score."""
    source, target, train = (golden(f'features-{name}')['features'] for name in ('source', 'target', 'train'))
    for threshold, expected in json.loads((DATA / 'scores.json').read_text()).items():
        t = float(threshold)
        ours = [scores.rp_score(source, target, t), scores.memorized_fraction(source, train, t),
                scores.generalization_score(source, train, t)]
        yield f'scores at {threshold}', 'bits', unequal(ours, list(expected.values()))


class _Images:
    """The golden run's images as a data set."""

    def __init__(self, images):
        self._images = images
        self.resolution, self.num_channels, self.label_dim = images.shape[2], images.shape[1], 0

    def __len__(self):
        return len(self._images)

    def images(self, indices):
        return self._images[indices]

    def labels(self, indices):
        return np.zeros((len(indices), 0), np.float32)


def training_cases() -> Iterator[Case]:
    """125 iterations from the seed: loss of each micro-batch, EMA weights."""
    arrays, cases = golden('training'), json.loads((DATA / 'training.json').read_text())
    dataset = _Images(arrays['images_nhwc_uint8'].transpose(0, 3, 1, 2))
    for case, facts in cases.items():
        losses, averaged = [], []

        def record(kwargs, *args, losses=losses, **more):
            built = build(kwargs, *args, **more)
            if 'loss' not in kwargs['class_name']:
                return built

            def loss_fn(*call):
                values = built(*call)
                losses.append(values.mean().item())
                return values
            return loss_fn

        loop.build = record
        saving.save_snapshot = lambda path, *, ema, averaged=averaged, **rest: averaged.append(ema)
        with tempfile.TemporaryDirectory() as folder:
            config = TrainingConfig(
                **facts['loop'], run_dir=folder, dataset_kwargs={'cache': True},
                augment_kwargs=facts['augment'],
                network_kwargs={'class_name': f'training.networks.{facts["precond"]}'}
                | facts['network_kwargs'],
                loss_kwargs={'class_name': f'training.loss.{facts["loss"]}'},
                optimizer_kwargs={'class_name': 'torch.optim.Adam', 'lr': facts['lr'],
                                  'betas': facts['adam_betas'], 'eps': facts['adam_eps']})
            make_net = partial(build_network, config.network_kwargs, dataset)
            with contextlib.redirect_stdout(io.StringIO()):
                loop.train(config, dataset, make_net, device=CPU)
        expected = arrays[f'{case}/loss_per_micro_batch']
        yield (f'training {case}: loss of {len(expected)} micro-batches', 'relative, each',
               float(np.max(np.abs(np.array(losses) / expected - 1))))
        yield f'training {case}: EMA weights', 'relative, norm of each', max(
            float((tensor - want).norm() / want.norm())
            for name, tensor in averaged[-1].state_dict().items() if not name.endswith('qkv.bias')
            for want in [torch.from_numpy(arrays[f'{case}/ema/{name}'])])


GROUPS = [network_cases, shape_cases, snapshot_cases, loss_cases, order_cases, sampler_cases, optimal_cases,
          jacobian_cases, score_cases, training_cases]


def main() -> None:
    """Print the table, then the largest differences of each group of cases."""
    print('| golden case | counted | difference |\n|---|---|---|')
    largest = {}
    for cases in GROUPS:
        for what, how, value in cases():
            print(f'| {what} | {how} | {_shown(how, value)} |', flush=True)
            key = cases.__doc__.removesuffix('.'), how
            largest[key] = max(largest.get(key, 0), value)
    print('\n| group | counted | largest difference |\n|---|---|---|')
    for (group, how), value in largest.items():
        print(f'| {group} | {how} | {_shown(how, value)} |')


def _shown(how: str, value: float) -> str:
    return f'{value} differ' if how == 'bits' else f'{value:.1e}'


if __name__ == '__main__':
    main()
