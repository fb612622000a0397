"""How a run computes: what is chosen, by which measurements, and that it changes no result."""

import contextlib
import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

import train
from golden_networks import golden_network
from helpers import refuse, run
from torch_utils.errors import UserError
from training import kernels
from training.config import TrainingConfig
from training.kernels import Kernels, choose_kernels
from training.snapshot import load_snapshot

CONFIG = TrainingConfig(run_dir='', dataset_kwargs={}, network_kwargs={}, loss_kwargs={}, optimizer_kwargs={},
                        total_kimg=1, batch_size=8)


class Probe:
    """Measures what it is told to."""

    device = torch.device('cpu')

    def __init__(self, net, micro_batch):
        pass

    def in_format(self, channels_last):
        self.now = channels_last
        return self

    def seconds(self):
        self.asked.append(self.now)
        return self.times[self.now]

    def compiled_seconds(self):
        self.asked.append('compiled')
        return self.times['compiled']


@pytest.mark.parametrize(('times', 'changes', 'steps', 'earlier', 'expected', 'measured'), [
    ((0.2, 0.1, 9), {}, 1000, None, Kernels(channels_last=True), 2),
    ((0.1, 0.099, 9), {}, 1000, None, Kernels(), 2),  # no more than noise
    ((2, 1, 9), {}, 999, None, Kernels(), 0),  # too short for a trial
    ((2, 1, 0.5), {}, 5000, None, Kernels(channels_last=True, compiled=True), 3),
    ((2, 1, 0.99), {}, 5000, None, Kernels(channels_last=True), 3),
    ((2, 1, math.inf), {}, 5000, None, Kernels(channels_last=True), 3),  # no compiler
    ((2, 1, 0.5), {'compile': '0'}, 5000, None, Kernels(channels_last=True), 2),
    ((2, 1, 0.5), {'memory_format': 'contiguous'}, 5000, None, Kernels(compiled=True), 2),
    ((2, 1, 0.5), {'memory_format': 'channels_last', 'compile': '0'}, 5, None, Kernels(channels_last=True),
     0),
    ((2, 1, 0.5), {}, 5000, {'channels_last': False, 'compiled': True}, Kernels(compiled=True), 0),
    ((2, 1, 0.5), {'compile': '0'}, 5000, {'channels_last': True, 'compiled': True},
     Kernels(channels_last=True), 0),
    ((2, 1, 0.5), {'compile': '0'}, 800, {'channels_last': True, 'compiled': True, 'graphs': True},
     Kernels(channels_last=True), 0),
])
def test_what_is_faster_is_chosen(times, changes, steps, earlier, expected, measured, monkeypatch):
    monkeypatch.setattr(kernels, '_Probe', Probe)
    monkeypatch.setattr(Probe, 'times', dict(zip((False, True, 'compiled'), times, strict=True)),
                        raising=False)
    monkeypatch.setattr(Probe, 'asked', [], raising=False)
    chosen = choose_kernels(replace(CONFIG, **changes), None, micro_batch=8, steps=steps, earlier=earlier)
    assert (chosen, len(Probe.asked)) == (expected, measured)


def test_a_trial_leaves_weights_and_random_numbers_alone():
    net, _ = golden_network('edm-adm-cond')
    net.train().requires_grad_(True)
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    torch.manual_seed(5)
    expected = torch.randn(3)
    torch.manual_seed(5)
    choose_kernels(replace(CONFIG, compile='0'), net, micro_batch=2, steps=1000)
    assert torch.equal(torch.randn(3), expected)
    assert all(torch.equal(before[name], tensor) for name, tensor in net.state_dict().items())
    assert all(parameter.grad is None for parameter in net.parameters())


TINY = ('--nosubdir', '--duration=0.001', '--batch=500', '--cbase=4', '--cres=1', '--num_blocks=1',
        '--attn_resolutions=0', '--dropout=0', '--lr_rampup=0', '--augment=0', '--device=cpu', '--seed=3')


@pytest.fixture
def images(tmp_path):
    (tmp_path / 'data').mkdir()
    Image.fromarray(np.arange(48, dtype=np.uint8).reshape(4, 4, 3)).save(tmp_path / 'data' / '0.png')
    return tmp_path / 'data'


def test_compiled_training_makes_the_same_snapshot(images, tmp_path, monkeypatch):
    compile_module, calls = torch.nn.Module.compile, []

    def compile_eagerly(self, **options):  # traced as for any compiler, but then run as it is
        calls.append(options)
        compile_module(self, backend='eager', **options)

    monkeypatch.setattr(torch.nn.Module, 'compile', compile_eagerly)
    monkeypatch.setattr(kernels, '_check_compiler', lambda *args: None)
    for mode in '01':
        run(train.main, f'--outdir={tmp_path / mode}', f'--data={images}', *TINY, f'--compile={mode}')
    assert calls == [{'dynamic': False, 'mode': None}]
    nets = [load_snapshot(str(tmp_path / mode / 'network-snapshot-000001.pkl'))['ema'] for mode in '01']
    weights = [net.state_dict() for net in nets]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert 'compiled' in (tmp_path / '1' / 'log.txt').read_text()


def test_graphs_are_for_cuda(images, tmp_path):
    refuse(train.main, f'--outdir={tmp_path / "run"}', f'--data={images}', *TINY, '--compile=graphs',
           status=1, says=('--compile graphs', 'cpu'))


def test_graphs_of_an_earlier_run_are_checked_anew():
    earlier, net = Kernels(compiled=True, graphs=True).as_dict(), torch.nn.Linear(1, 1)
    with pytest.raises(UserError, match='the device is cpu'):
        choose_kernels(CONFIG, net, micro_batch=8, steps=800, earlier=earlier)


def test_graphs_are_for_steps_of_one_round():
    for rounds, fine in ((1, True), (2, False)):
        with contextlib.nullcontext() if fine else pytest.raises(UserError, match='--batch-gpu'):
            kernels.check_graphs(torch.device('cuda'), rounds)


def test_graphs_are_asked_of_the_compiler(monkeypatch):
    asked = []
    monkeypatch.setattr(torch.nn.Module, 'compile', lambda net, **options: asked.append(options['mode']))
    for choice in (Kernels(), Kernels(compiled=True), Kernels(compiled=True, graphs=True)):
        kernels.compile_network(torch.nn.Identity(), choice)
    assert asked == [None, 'reduce-overhead']


def test_a_missing_compiler_is_one_line(images, tmp_path, monkeypatch):
    def no_compiler(*args, **kwargs):
        raise RuntimeError('No working C++ compiler found\nmore words')

    monkeypatch.setattr(torch, 'compile', no_compiler)
    refuse(train.main, f'--outdir={tmp_path / "run"}', f'--data={images}', *TINY, '--compile=1', status=1,
           says=('--compile 1', 'No working C++ compiler found'))


@pytest.mark.parametrize('precision', ['tf32', 'fp16', 'bf16'])
def test_precisions_of_cuda_are_named_and_leave_float32_snapshots(precision, images, tmp_path):
    args = (f'--outdir={tmp_path / "runs"}', f'--data={images}', *TINY)
    settings = json.loads(run(train.main, *args[:2], *TINY[1:], f'--precision={precision}', '-n').stdout)
    assert settings['run_dir'].endswith(f'-batch500-{precision}')
    assert settings['network_kwargs']['use_fp16'] == (precision == 'fp16')
    run(train.main, *args, f'--precision={precision}')
    assert f'--precision {precision} is for CUDA' in (tmp_path / 'runs' / 'log.txt').read_text()
    net = load_snapshot(str(tmp_path / 'runs' / 'network-snapshot-000001.pkl'))['ema']
    assert net.use_fp16 == (precision == 'fp16')
    assert net.half_type == torch.float16
    assert {tensor.dtype for tensor in net.state_dict().values()} == {torch.float32}


def test_fp16_is_a_precision(images):
    assert json.loads(run(train.main, '--outdir=x', f'--data={images}', '--fp16=1', '-n').stdout)[
        'precision'] == 'fp16'
    refuse(train.main, '--outdir=x', f'--data={images}', '--fp16=1', '--precision=tf32', status=2,
           says=('--fp16', '--precision tf32'))
