"""reproduce.py similarity: its stages, and the networks of diffusers' form that it trains."""

import dataclasses
import json
import re

import numpy as np
import pytest
import torch

import reproduce
from adapters.discrete_denoiser import BETAS
from adapters.safetensors_file import read_safetensors, write_safetensors
from data.dataset import ImageDataset
from denoisers.open_network import open_network
from diffusers_folders import unpack
from experiments import estimates, script_options, similarity, stage_commands
from experiments.epsilon_training import EpsilonTraining, train
from experiments.regimes import write_settings
from helpers import ROOT, refuse, run
from image_sets import write
from torch_utils import cli
from torch_utils.errors import UserError
from torch_utils.images import from_uint8

CPU = torch.device('cpu')


@pytest.mark.parametrize('preset', similarity.PRESETS)
def test_every_stage_is_a_call_its_script_takes(preset):
    job = similarity.PRESETS[preset]
    stages = similarity.plan(job)
    names = [stage.name for stage in stages]
    assert len(set(names)) == len(names)
    for i, stage in enumerate(stages):
        assert {*stage.needs} <= {*names[:i]}
        if stage.command[:2] != ('reproduce.py', 'epsilon-training') and stage.command[0] in (
                'train.py', 'generate.py'):
            script_options.options(stage)
    assert len(job.networks) >= 6
    sampled = [stage for stage in stages if stage.command[0] == 'generate.py']
    assert len(sampled) == len(job.networks) + 2
    assert len({stage.command[stage.command.index('--seeds') + 1] for stage in sampled}) == 1


def test_training_and_held_out_images_are_disjoint():
    job = similarity.PRESETS['quickstart']
    train, heldout = ([*stage.command] for stage in similarity.plan(job)[:2])
    assert train[-4:] == ['--shuffle', '0', '--max-images', '1280']
    assert heldout[-6:] == ['--shuffle', '0', '--skip-images', '1280', '--max-images', '512']
    similarity.check_data(job)
    refuse(reproduce.main, 'similarity', f'--data={ROOT / "tests" / "data" / "nothing.zip"}', '-n', status=1,
           says=('--data',))
    with pytest.raises(UserError, match='expected 1,798'):
        similarity.check_data(dataclasses.replace(job, size=1286))


def test_two_networks_of_one_name_are_refused(tmp_path):
    path = tmp_path / 'net.pkl'
    path.write_bytes(b'')
    refuse(reproduce.main, 'similarity', '--networks', path, path, '-n', status=2, says=('called net',))
    refuse(reproduce.main, 'similarity', '--networks', tmp_path / 'x.pkl', '-n', status=2, says=('no such',))
    for label in 'optimal denoiser', 'held-out images', 'a vs b', 'ADM EDM':
        refuse(reproduce.main, 'similarity', '--networks', f'{path}={label}', '-n', status=2,
               says=('--networks', label))


def test_networks_of_other_images_are_refused_before_any_training(tmp_path):
    folder = unpack('v-cosine', tmp_path / 'net')
    refuse(reproduce.main, 'similarity', '--networks', f'{folder}/', f'--data={DATA}', '--name=refused',
           status=1, says=('--networks', '16x16 RGB', '8x8 grey'))
    path = tmp_path / 'junk.pkl'
    path.write_bytes(b'junk')
    refuse(reproduce.main, 'similarity', '--networks', path, '-n', status=1, says=('--networks',))
    assert cli.split_label(f'{folder}/') == ('net', f'{folder}/')


def test_scores_of_other_networks_do_not_stay_in_the_table(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    job = similarity.PRESETS['quickstart']
    write_settings(job)
    job.table.write_text('x')
    write_settings(job)
    assert job.table.exists()
    write_settings(dataclasses.replace(job, networks=job.networks[1:]))
    assert not job.table.exists()
    assert len(json.loads(job.table.with_suffix('.json').read_text())['settings']['networks']) == 6


def test_a_dry_run_says_what_each_network_needs_and_what_is_not_counted():
    printed = run(reproduce.main, 'similarity', '--preset=paper', '-n', '--assume-img-per-s=2000').stdout
    for network in similarity.PRESETS['paper'].networks:
        assert f'# {network.label}: downloaded from ' in printed
    assert 'cifar10_uncond_50M_500K.pt, a checkpoint that convert.py makes a snapshot of' in printed
    assert 'hf://google/ddpm-cifar10-32, a network of diffusers' in printed
    assert re.search(r'generate.py, unknown network +5 +\? ', printed)
    refuse(reproduce.main, 'similarity', '--preset=paper', status=1,
           says=('--data datasets/cifar10-32x32.zip', 'datasets/README.md has the command'))


def test_the_cost_of_epsilon_training_is_that_of_its_network():
    stages = [stage for stage in similarity.plan(similarity.PRESETS['quickstart']) if 'model6' in stage.name]
    text = estimates.estimate(stages[:2], CPU, assumed=100, places=1, data=str(DATA))
    assert re.search(r'reproduce.py, 0.16 M parameters +1 +06:42', text)  # 40,000 images and 2 s
    assert re.search(r'generate.py, 0.16 M parameters +1 +01:01', text)  # 512 samples of 35/3 images and 2 s


def test_speed_is_measured_with_parameters_that_training_alone_uses():
    net = script_options.sketch({'class_name': 'training.networks.EDMPrecond', 'model_type': 'SongUNet',
                                 'augment_dim': 9, 'model_channels': 8, 'channel_mult': [1]}, 8)
    assert estimates._speed(net, CPU) > 0


def test_the_hash_of_a_url_is_no_label():
    for url in 'https://x.org/net.pkl#sha256=00', 'hf://o/net#sha256=00':
        assert cli.split_label(url) == ('net', url)
        assert cli.split_label(f'{url}=A') == ('A', url)


DATA = ROOT / 'datasets' / 'digits-8x8.zip'


@pytest.mark.parametrize('options', [{}, {'attention': False, 'prediction': 'v_prediction'}])
def test_a_network_of_diffusers_form_is_trained_from_its_seed(options, tmp_path):
    pixels = np.random.RandomState(0).randint(256, size=(4, 8, 8), dtype=np.uint8)
    data = write(tmp_path / 'set', {f'{i}.png': image for i, image in enumerate(pixels)})
    for out, seed in (('a', 1), ('b', 1), ('c', 2)):
        train(EpsilonTraining(data=str(data), width=8, kimg=1, batch=512, seed=seed, **options),
              tmp_path / out, CPU)
    first, second, other = (open_network(str(tmp_path / out), CPU).net.state_dict() for out in 'abc')
    assert all(map(torch.equal, first.values(), second.values()))
    assert not all(map(torch.equal, first.values(), other.values()))
    assert any('attention' in name for name in first) == (not options)


def test_training_leads_to_a_denoiser(tmp_path):
    run(reproduce.main, 'epsilon-training', f'--data={DATA}', f'--out={tmp_path}', '--width=8', '--kimg=2',
        '--device=cpu')
    net = open_network(str(tmp_path), CPU).net
    assert (net.img_resolution, net.img_channels, net.label_dim) == (8, 1, 0)
    y = from_uint8(torch.from_numpy(ImageDataset(DATA).images(slice(0, 256))))
    noise = torch.randn(y.shape, generator=torch.Generator().manual_seed(0))
    assert (net(y + 0.5 * noise, 0.5) - y).square().mean() < 0.8 * 0.5**2
    assert json.loads((tmp_path / 'training.json').read_text())['settings']['kimg'] == 2
    refuse(reproduce.main, 'epsilon-training', f'--data={DATA}', f'--out={tmp_path}', '--betas=x', status=2,
           says=('--betas', 'squaredcos_cap_v2'))
    assert stage_commands.BETAS == tuple(BETAS)


def test_what_is_written_as_safetensors_is_read_as_it_was(tmp_path):
    tensors = {'a.b': torch.randn(3, 1, 2), 'empty': torch.zeros(0, 4), 'half': torch.ones(5).half(),
               'scalar': torch.tensor(7), 'turned': torch.arange(6).reshape(2, 3).T}
    write_safetensors(tmp_path / 'x.safetensors', tensors)
    read = read_safetensors(tmp_path / 'x.safetensors')
    assert read.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert read[name].dtype == tensor.dtype
        assert torch.equal(read[name], tensor)
