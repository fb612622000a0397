"""How a run computes: what is chosen, by which rule, and that it changes no result."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

import train
from helpers import refuse, run
from torch_utils.errors import UserError
from training import kernels
from training.config import COMPILERS, TrainingConfig
from training.snapshot import load_snapshot

CONFIG = TrainingConfig(run_dir='', dataset_kwargs={}, network_kwargs={}, loss_kwargs={}, optimizer_kwargs={},
                        total_kimg=1, batch_size=8)


@pytest.mark.parametrize(('device', 'precision', 'expected'), [
    ('cpu', 'fp32', torch.contiguous_format), ('cpu', 'fp16', torch.contiguous_format),
    ('cuda', 'tf32', torch.contiguous_format), ('cuda', 'bf16', torch.channels_last)])
def test_half_precision_on_cuda_has_channels_last(device, precision, expected):
    config = replace(CONFIG, precision=precision)
    assert kernels.memory_format(config, torch.device(device)) == expected


TINY = ('--nosubdir', '--duration=0.001', '--batch=500', '--cbase=4', '--cres=1', '--num_blocks=1',
        '--attn_resolutions=0', '--dropout=0', '--lr_rampup=0', '--augment=0', '--device=cpu', '--seed=3')


@pytest.fixture
def images(tmp_path):
    (tmp_path / 'data').mkdir()
    Image.fromarray(np.arange(48, dtype=np.uint8).reshape(4, 4, 3)).save(tmp_path / 'data' / '0.png')
    return tmp_path / 'data'


def test_compiled_training_makes_the_same_snapshot(images, tmp_path, monkeypatch):
    real_compile, calls = torch.compile, []

    def compile_eagerly(function, **options):  # traced as for any compiler, but then run as it is
        calls.append(options)
        return real_compile(function, backend='eager', **options)

    monkeypatch.setattr(torch, 'compile', compile_eagerly)
    for mode in '01':
        run(train.main, f'--outdir={tmp_path / mode}', f'--data={images}', *TINY, f'--compile={mode}')
    assert calls == [{}, {'dynamic': False}]  # a function for a try, then the network
    nets = [load_snapshot(str(tmp_path / mode / 'network-snapshot-000001.pkl'))['ema'] for mode in '01']
    weights = [net.state_dict() for net in nets]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert 'compiled' in (tmp_path / '1' / 'log.txt').read_text()


def test_graphs_are_for_cuda(images, tmp_path):
    refuse(train.main, f'--outdir={tmp_path / "run"}', f'--data={images}', *TINY, '--compile=graphs',
           status=1, says=('--compile graphs', 'cpu'))


def test_graphs_are_asked_of_the_compiler_for_steps_of_one_round(monkeypatch):
    asked, cuda = [], torch.device('cuda')
    monkeypatch.setattr(torch, 'compile', lambda function: lambda tensor: None)
    monkeypatch.setattr(torch, 'ones', lambda *args, **kwargs: None)  # without a GPU
    monkeypatch.setattr(torch.nn.Module, 'compile', lambda net, **options: asked.append(options.get('mode')))
    for choice in COMPILERS:
        kernels.compile_network(torch.nn.Identity(), choice, cuda, rounds=1)
    assert asked == [None, 'reduce-overhead']
    with pytest.raises(UserError, match='--batch-gpu'):
        kernels.compile_network(torch.nn.Identity(), 'graphs', cuda, rounds=2)


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
