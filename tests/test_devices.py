"""No module hard-wires a device: work follows the one that the chooser names, here PyTorch's fake one, meta.

Tensors on `meta` have a shape and no numbers, and PyTorch refuses to compute with one there and one on the
CPU. So whatever runs through with all inputs on meta makes every tensor on its inputs' device.
"""

import ast
from functools import partial

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import generate
from golden_networks import golden_network
from helpers import ROOT, run
from image_sets import Images
from jacobians.products import jacobian
from sampling import generation
from sampling.denoiser import FiniteOutput
from sampling.sampler import generalized_sampler
from torch_utils import distributed, seeding
from torch_utils.training_stats import Moments
from training import loop
from training.augment import AugmentPipe
from training.build import LOSSES, build, build_network
from training.config import ARCHITECTURES, AUGMENTATION, OPTIMIZERS, PRECONDITIONINGS, TrainingConfig
from training.networks import EDMPrecond
from training.snapshot import save_snapshot

META = torch.device('meta')
CHOOSER = 'distributed.py'  # the only module that may name devices
MODULES = sorted((ROOT / 'edm').rglob('*.py'))


def on_meta(name):
    return golden_network(name)[0].to(META)


@pytest.mark.parametrize('path', MODULES, ids=lambda path: path.relative_to(ROOT / 'edm').as_posix())
def test_only_the_chooser_makes_a_gpu_device(path):
    """No .cuda(), no torch.device('cuda'), no device='cuda' and no .to('cuda') outside the chooser."""
    for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
        if not isinstance(node, ast.Call) or path.name == CHOOSER:
            continue
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, 'id', '')
        assert name != 'cuda', f'{path}:{node.lineno}'
        values = [*node.args, *(keyword.value for keyword in node.keywords if keyword.arg == 'device')]
        for value in values if name in ('to', 'device') else values[len(node.args):]:
            named = value.value if isinstance(value, ast.Constant) else None
            assert not (isinstance(named, str) and named.startswith(('cuda', 'mps'))), f'{path}:{node.lineno}'


@pytest.mark.parametrize('name', ['edm-ddpmpp', 'edm-adm-cond', 've-ncsnpp', 'iddpm-adm', 'edm-skip'])
def test_networks_compute_where_their_inputs_are(name):
    net = on_meta(name)
    x = torch.empty(2, net.img_channels, net.img_resolution, net.img_resolution, device=META)
    labels = torch.empty(2, net.label_dim, device=META) if net.label_dim else None
    assert net(x, 1.0, labels).device == META


class Transfers(TorchDispatchMode):
    """Lists the operations inside that have tensors on two devices: copies to the host, or from there."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        tensors = [x for x in tree_leaves((args, kwargs, out)) if isinstance(x, torch.Tensor)]
        if len({x.device for x in tensors}) > 1:
            self.names.append(func.overloadpacket.__name__)
        return out


def test_a_step_of_training_copies_its_batch_to_the_device_and_nothing_back(tmp_path, monkeypatch):
    """No number of a step comes to the host, which on meta is an error: nothing there can be read."""
    def without_fused(kwargs, *args, fused=None, **more):  # a kernel that meta lacks
        return build(kwargs, *args, **more)
    monkeypatch.setattr(loop, 'build', without_fused)
    images, rounds = Images(np.zeros((4, 3, 8, 8), np.uint8), np.eye(2, dtype=np.float32)[[0, 1, 1, 0]]), 2
    config = TrainingConfig(
        run_dir=str(tmp_path), dataset_kwargs={}, total_kimg=1, batch_size=4, batch_gpu=2, max_nan_steps=9,
        network_kwargs=ARCHITECTURES['ddpmpp'] | {
            'class_name': 'training.networks.EDMPrecond', 'model_channels': 8, 'channel_mult': [1, 2],
            'num_blocks': 1},
        loss_kwargs={'class_name': PRECONDITIONINGS['edm'].loss}, augment_kwargs=AUGMENTATION | {'p': 0.5},
        optimizer_kwargs=OPTIMIZERS['adam'] | {'lr': 1e-3})
    run = loop.prepare(config, images, partial(build_network, config.network_kwargs, images), device=META)
    loop.train_step(run)  # constants go to the device once
    with Transfers() as transfers:
        for _ in range(3):
            loop.train_step(run)
            loop.update_ema(run)
            assert not loop.stop_wanted(run)
    assert transfers.names == ['_to_copy'] * 3 * rounds * 2  # images and labels


@pytest.mark.parametrize('name', LOSSES)
def test_a_training_step_stays_on_its_device(name):
    net = on_meta('edm-ddpmpp').train().requires_grad_(True)
    moments = Moments(META)
    images = torch.empty(2, 3, 8, 8, device=META)
    losses = LOSSES[name]()(net, images)
    losses.sum().backward()
    moments.add(losses)
    assert {losses.device, *(parameter.grad.device for parameter in net.parameters())} == {META}


def test_colours_and_flips_are_augmented_on_the_images_device():
    pipe = AugmentPipe(p=1, xflip=1, yflip=1, rotate_int=1, translate_int=1, brightness=1, contrast=1, hue=1)
    images, labels = pipe(torch.empty(2, 3, 8, 8, device=META))
    assert (images.device, labels.device) == (META, META)


def test_a_jacobian_stays_on_its_device(monkeypatch):
    monkeypatch.setattr(FiniteOutput, 'check', lambda *_: None)  # which reads a number
    assert jacobian(on_meta('edm-ddpmpp'), torch.empty(1, 3, 8, 8, device=META), 1.0).device == META


@pytest.mark.parametrize('options', [{}, {'disc': 'vp', 'schedule': 'vp', 'scaling': 'vp'},
                                     {'S_churn': 10, 'randn': torch.randn_like}])
def test_the_sampler_stays_on_the_latents_device(options):
    latents, net = torch.empty(2, 3, 8, 8, device=META), on_meta('edm-ddpmpp')
    with Transfers() as transfers:
        assert generalized_sampler(net, latents, num_steps=3, **options).device == META
    assert transfers.names == []


def test_generate_computes_on_the_device_that_the_chooser_names(tmp_path, monkeypatch):
    class Draws(seeding.SampleGenerators):
        """There are no generators on meta."""

        def __init__(self, seeds, device):
            assert device == META
            self.count = len(seeds)

        def randn(self, shape, dtype=torch.float32):
            return torch.empty(self.count, *shape, dtype=dtype, device=META)

        def randint(self, high):
            return torch.empty(self.count, dtype=torch.int64, device=META)

    seen = []

    def to_uint8(images):
        seen.append(images.device)
        return torch.zeros(images.shape, dtype=torch.uint8)

    torch.manual_seed(0)
    net = EDMPrecond(8, 3, label_dim=2, model_type='SongUNet', model_channels=4, channel_mult=[1],
                     num_blocks=1)
    save_snapshot(tmp_path / 'net.pkl', ema=net)
    monkeypatch.setattr(distributed, 'pick_device', lambda name: META)
    monkeypatch.setattr(generation, 'SampleGenerators', Draws)
    monkeypatch.setattr(generation, 'to_uint8', to_uint8)
    # There are no numbers on meta to look at.
    monkeypatch.setattr(FiniteOutput, 'check', lambda output: seen.extend(n.device for n in output.counts))
    run(generate.main, f'--network={tmp_path / "net.pkl"}', f'--outdir={tmp_path / "out"}', '--seeds=0-2',
        '--steps=2', '--class=1')
    assert len(seen) > 1
    assert set(seen) == {META}
