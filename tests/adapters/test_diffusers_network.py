"""Networks of diffusers compute what they did there; others are refused by what they are."""

import json
import os

import numpy as np
import pytest
import torch

import generate
import jacobian
from adapters.discrete_denoiser import BETAS, DiscreteDenoiser
from adapters.safetensors_file import read_safetensors
from denoisers.open_network import open_network
from diffusers_folders import NAMES, WEIGHTS, change_json, outputs, unpack
from helpers import ROOT, refuse, run
from torch_utils.errors import UserError

CPU = torch.device('cpu')


@pytest.fixture
def folder(tmp_path):
    """The smallest network."""
    return unpack('eps-variance', tmp_path / 'net')


def opened(path, **options):
    return open_network(str(path), CPU, **options).net


def relative(a, b) -> float:
    return float((a - b).abs().max() / b.abs().max())


@pytest.mark.parametrize('name', NAMES)
def test_outputs_are_those_of_diffusers(name, tmp_path):
    net, golden = opened(unpack(name, tmp_path)), outputs(name)
    out = net.model(golden['x'], golden['t'].float(), golden['labels'])
    assert relative(out, golden['out']) <= 1e-6
    assert net.label_dim == (0 if golden['labels'] is None else golden['labels'].shape[1])


@pytest.mark.parametrize('name', NAMES)
def test_ddim_from_the_denoiser_is_that_of_diffusers(name, tmp_path):
    net, golden = opened(unpack(name, tmp_path)), outputs(name)
    left, x = golden['alphas_cumprod'].double(), golden['ddim_start'].double()
    for t in golden['ddim_timesteps'].tolist():
        denoised = net(x / left[t].sqrt(), ((1 - left[t]) / left[t]).sqrt(), golden['labels']).double()
        noise = (x - left[t].sqrt() * denoised) / (1 - left[t]).sqrt()
        earlier = left[max(t - 100, 0)]  # diffusers' own rule, whatever the next step is
        x = earlier.sqrt() * denoised + (1 - earlier).sqrt() * noise
    assert relative(x, golden['ddim_final']) <= 1e-5


@pytest.mark.parametrize('kind', BETAS)
def test_noise_levels_and_time_steps_are_inverse(kind):
    betas = BETAS[kind](0.0001, 0.02, 1000)
    net = DiscreteDenoiser(torch.nn.Identity(), img_resolution=1, img_channels=1, label_dim=0, betas=betas)
    left = (1 - betas).cumprod(dim=0).double()
    sigma = ((1 - left) / left).sqrt()
    assert (net.sigma_min, net.sigma_max) == (sigma[0], sigma[-1])
    assert (net.time_steps(sigma) - torch.arange(1000)).abs().max() < 1e-9
    between = net.time_steps((sigma[500] * sigma[501]).sqrt().reshape(1))
    assert float(between) == pytest.approx(500.5)
    assert net.time_steps(torch.tensor([1e-9, 1e9], dtype=torch.float64)).tolist() == [0, 999]


@pytest.mark.parametrize('prediction', ['epsilon', 'v_prediction', 'sample'])
def test_the_denoiser_returns_the_image_where_the_network_is_right(prediction):
    torch.manual_seed(0)
    image, noise = torch.rand(2, 1, 2, 2).double(), torch.randn(2, 1, 2, 2).double()
    sigma = torch.tensor([0.3, 7.0]).double()
    a = 1 / (1 + sigma[:, None, None, None]**2)

    def model(x, t, labels):
        assert torch.allclose(x, (a.sqrt() * (image + sigma[:, None, None, None] * noise)).float())
        return {'epsilon': noise, 'v_prediction': a.sqrt() * noise - (1 - a).sqrt() * image,
                'sample': image}[prediction].float()

    net = DiscreteDenoiser(torch.nn.Identity(), img_resolution=2, img_channels=1, label_dim=0,
                           betas=BETAS['linear'](0.0001, 0.02, 1000), prediction=prediction)
    net.model.forward = model
    out = net(image + sigma[:, None, None, None] * noise, sigma)
    assert torch.allclose(out, image.float(), atol=1e-5)


def test_any_path_to_the_files_opens_them(folder):
    unet, weights = folder / 'unet', folder / WEIGHTS
    expected = opened(folder).state_dict()
    scheduler = folder / 'scheduler' / 'scheduler_config.json'
    alone = folder.parent / 'alone'
    alone.mkdir()
    for path in (unet / 'config.json', weights, scheduler):
        (alone / path.name).write_bytes(path.read_bytes())
    for path in (f'{folder}/', unet, weights, alone, alone / weights.name):
        assert all(map(torch.equal, opened(path).state_dict().values(), expected.values())), path
    (alone / scheduler.name).unlink()
    with pytest.raises(UserError, match=r'no scheduler_config\.json there; --scheduler FILE names one'):
        opened(alone)
    opened(alone, scheduler=str(scheduler))


def test_weights_of_torch_save_and_old_names_are_read(folder):
    tensors, expected = read_safetensors(folder / WEIGHTS), opened(folder).state_dict()
    old = {'to_q': 'query', 'to_k': 'key', 'to_v': 'value', 'to_out.0': 'proj_attn'}
    renamed = {}
    for name, tensor in tensors.items():
        for new, word in old.items():
            name = name.replace(f'.{new}.', f'.{word}.')
        renamed[name] = tensor
    (folder / WEIGHTS).unlink()
    torch.save(renamed, folder / 'unet' / 'diffusion_pytorch_model.bin')
    assert all(map(torch.equal, opened(folder).state_dict().values(), expected.values()))
    torch.save(renamed | tensors, folder / 'unet' / 'diffusion_pytorch_model.bin')
    with pytest.raises(UserError, match='under its old and its new name'):
        opened(folder)


def test_configurations_of_old_versions_lack_entries_and_mean_the_defaults(folder):
    config = folder / 'unet' / 'config.json'
    expected = opened(folder)
    change_json(config, attn_norm_num_groups=..., mid_block_type=..., upsample_type=None, dropout=...,
                add_attention=..., resnet_time_scale_shift=..., decay=0.9999, power=0.75)
    change_json(folder / 'scheduler' / 'scheduler_config.json', prediction_type=..., beta_start=...,
                predict_epsilon=False)
    net, x = opened(folder), torch.randn(1, 1, 8, 8)
    assert torch.equal(net.model(x, torch.ones(1)), expected.model(x, torch.ones(1)))
    assert net.prediction == 'sample'


def test_images_are_clipped_only_where_asked(folder, capsys):
    change_json(folder / 'scheduler' / 'scheduler_config.json', clip_sample=True, clip_sample_range=0.5)
    x = torch.randn(2, 1, 8, 8) * 50
    free, clipped = opened(folder)(x, 50.0), opened(folder, clip_sample=True)(x, 50.0)
    assert free.abs().max() > 1
    assert torch.equal(clipped, free.clamp(-0.5, 0.5))
    assert capsys.readouterr().err.count('only --clip_sample does so here') == 1


def test_no_label_is_no_class(tmp_path):
    net = opened(unpack('resnet-classes', tmp_path))
    x = torch.randn(3, 1, 8, 8)
    none, zeros, classes = net(x, 1.0), net(x, 1.0, torch.zeros(3, 3)), net(x, 1.0, torch.eye(3))
    assert torch.equal(none, zeros)
    assert not torch.allclose(none, classes)


def test_scripts_take_the_folder(tmp_path):
    folder = unpack('resnet-classes', tmp_path / 'net')
    for _ in range(2):
        result = run(generate.main, f'--network={folder}', f'--outdir={tmp_path / "out"}', '--seeds=0-2',
                     '--class=1', '--steps=3', '--resume')
    assert result.stdout.startswith('0 images')
    record = json.loads((tmp_path / 'out' / 'generation.json').read_text())['runs'][0]
    assert sorted(map(os.path.basename, record['inputs'])) == [
        'config.json', 'diffusion_pytorch_model.safetensors', 'scheduler_config.json']
    refuse(generate.main, f'--network={folder}', f'--outdir={tmp_path / "out"}', '--class=3', status=2,
           says=('the classes 0 to 2',))
    refuse(generate.main, f'--network={folder}', f'--outdir={tmp_path / "out"}', '--precision=bf16', status=1,
           says=('--precision bf16', 'fp32 only'))
    folder, out = unpack('eps-variance', tmp_path / 'other'), tmp_path / 'ranks.npz'
    run(jacobian.main, f'--network_pkl={folder}', f'--data={ROOT / "datasets" / "digits-8x8.zip"}',
        '--seeds=0', '--sigmas=1', '--method=exact', '--batch=16', f'--out={out}')
    with np.load(out) as ranks:
        assert 0 < ranks['rank'] <= 64


def test_options_of_diffusers_are_for_its_networks(tmp_path):
    (tmp_path / 'net.pkl').write_bytes(b'')
    for option in ('--scheduler=x.json', '--clip_sample'):
        refuse(generate.main, f'--network={tmp_path / "net.pkl"}', f'--outdir={tmp_path / "out"}', option,
               status=1, says=(option.partition('=')[0], 'is for networks of diffusers'))
        refuse(generate.main, '--optimal_denoiser', '--dataset=x.zip', f'--outdir={tmp_path / "out"}', option,
               status=2, says=('is for --network',))
    assert not (tmp_path / 'out').exists()


CONFIGS = {
    'text': ({'_class_name': 'UNet2DConditionModel'}, 'UNet2DConditionModel.*by cross attention'),
    'other class': ({'_class_name': 'AutoencoderKL'}, 'AutoencoderKL.*expected UNet2DModel'),
    'no class': ({'_class_name': ...}, 'expected UNet2DModel'),
    'cross attention': ({'down_block_types': ['DownBlock2D', 'CrossAttnDownBlock2D']}, 'CrossAttnDownBlock'),
    'unknown block': ({'up_block_types': ['SkipUpBlock2D', 'UpBlock2D']}, "up_block_types 'SkipUpBlock2D'"),
    'block of no name': ({'up_block_types': [['UpBlock2D'], 7]}, 'up_block_types .* is not read'),
    'levels differ': ({'up_block_types': ['UpBlock2D']}, 'numbers of levels differ'),
    'no level': ({'up_block_types': [], 'down_block_types': [], 'block_out_channels': []}, 'levels differ'),
    'latents': ({'in_channels': 4, 'out_channels': 4}, 'latents'),
    'super-resolution': ({'in_channels': 6, 'out_channels': 3}, 'conditioned on an image'),
    'no size': ({'sample_size': None}, 'sample_size'),
    'not square': ({'sample_size': [8, 16]}, 'images are square'),
    'odd size': ({'sample_size': 9}, 'expected a multiple of 2'),
    'class kind': ({'class_embed_type': 'timestep'}, "class_embed_type 'timestep'"),
    'classes': ({'num_class_embeds': -1}, 'num_class_embeds'),
    'other width': ({'block_out_channels': [8, 24]}, r"tensor '.*' is .*\[16, .*asks for .*\[24, "),
    'more layers': ({'layers_per_block': 2}, 'is nothing, and config.json asks for'),
    'fewer blocks with attention': ({'down_block_types': ['DownBlock2D'] * 2}, 'asks for nothing'),
    'endless layers': ({'layers_per_block': 100_000}, 'more modules than the file has'),
    'huge layers': ({'layers_per_block': 10**12}, 'beyond any network'),
    'huge width': ({'block_out_channels': [100_000, 100_000]}, 'asks for'),
    'text for a number': ({'time_embedding_dim': 'x'}, 'no network can be built'),
    'padding': ({'downsample_padding': -1}, "downsample_padding '-1', expected a whole number from 0 to 1$"),
    'groups': ({'norm_num_groups': -1}, 'norm_num_groups .-1., expected a whole number'),
    'shift': ({'freq_shift': None}, 'freq_shift .None., expected a number'),
    'scale': ({'mid_block_scale_factor': 0}, 'mid_block_scale_factor .0., expected a number'),
    'no number': ({'norm_eps': float('nan')}, 'norm_eps .nan., expected a number from 0 to 1'),
    'heads': ({'attention_head_dim': -8}, 'attention_head_dim .-8., expected a whole number'),
    'time shift': ({'resnet_time_scale_shift': 'spatial'}, "resnet_time_scale_shift 'spatial'"),
    'time embedding': ({'time_embedding_type': 'adm'}, "time_embedding_type 'adm'"),
}


@pytest.mark.parametrize('kind', CONFIGS)
def test_other_networks_are_refused_by_what_they_are(kind, folder):
    changes, says = CONFIGS[kind]
    change_json(folder / 'unet' / 'config.json', **changes)
    with pytest.raises(UserError, match=says) as caught:
        opened(folder)
    assert str(caught.value).startswith(f'--network {folder}: ')
    assert str(caught.value).isprintable()


SCHEDULERS = {
    'zero SNR': ({'rescale_betas_zero_snr': True}, 'zero terminal SNR'),
    'zero SNR by its betas': ({'beta_end': 1}, 'to a finite one, got .* to inf'),
    'other kind': ({'_class_name': 'ScoreSdeVeScheduler'}, 'ScoreSdeVeScheduler.*not read'),
    'flow matching': ({'_class_name': 'FlowMatchEulerDiscreteScheduler'}, 'FlowMatch'),
    'betas': ({'beta_schedule': 'laplace'}, "beta_schedule 'laplace'.*linear or scaled_linear"),
    'prediction': ({'prediction_type': 'flow_prediction'}, 'flow_prediction'),
    'steps': ({'num_train_timesteps': 1}, 'num_train_timesteps'),
    'many steps': ({'num_train_timesteps': 10**9}, 'num_train_timesteps'),
    'own betas': ({'trained_betas': [0.1, 2]}, 'trained_betas'),
    'start': ({'beta_start': 'x'}, 'beta_start'),
    'falling': ({'beta_start': 0.5, 'beta_end': 2}, 'noise levels must rise'),
}


@pytest.mark.parametrize('kind', SCHEDULERS)
def test_other_schedulers_are_refused_by_what_they_are(kind, folder):
    changes, says = SCHEDULERS[kind]
    change_json(folder / 'scheduler' / 'scheduler_config.json', **changes)
    with pytest.raises(UserError, match=says):
        opened(folder)


def test_pipelines_of_more_parts_are_refused_by_these(folder):
    index = folder / 'model_index.json'
    unet = {'unet': ['diffusers', 'UNet2DModel'], 'scheduler': ['diffusers', 'DDIMScheduler']}
    index.write_text(json.dumps({'_class_name': 'DDIMPipeline', 'safety_checker': [None, None], **unet}))
    opened(folder)
    index.write_text(json.dumps({'_class_name': 'AudioDiffusionPipeline', 'mel': ['audio_diffusion', 'Mel'],
                                 'vqvae': [], **unet}))
    opened(folder)
    for part, says in ((['vqvae', 'VQModel'], 'LDMPipeline.*latent diffusion'),
                       (['text_encoder', 'CLIPTextModel'], 'conditioned on text.*CLIPTextModel'),
                       (['movement', 'X'], 'is more, with')):
        index.write_text(json.dumps({'_class_name': 'LDMPipeline', part[0]: ['diffusers', part[1]], **unet}))
        for path in (folder, folder / 'unet', folder / WEIGHTS):
            with pytest.raises(UserError, match=says):
                opened(path)


def test_damaged_files_are_refused(folder):
    config, good = folder / 'unet' / 'config.json', (folder / 'unet' / 'config.json').read_bytes()
    for text in (b'', b'[]', b'{', b'[' * 100_000, b'\xff', b' ' * 2_000_000):
        config.write_bytes(text)
        with pytest.raises(UserError, match=r'config.json is no JSON of diffusers'):
            opened(folder)
    config.unlink()
    refuse(generate.main, f'--network={folder}', '--outdir=out', status=1,
           says=('no network-snapshot-*.pkl', 'config.json'))
    config.write_bytes(good)
    (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:-4])
    with pytest.raises(UserError, match='no weights that can be read: it is cut short within its tensor'):
        opened(folder)
    (folder / WEIGHTS).write_text('version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n')
    with pytest.raises(UserError, match='a pointer of Git LFS; `git lfs pull`'):
        opened(folder)
    torch.save({'x': torch.zeros(1)}, folder / WEIGHTS, _use_new_zipfile_serialization=False)
    with pytest.raises(UserError, match=r'written by torch.save before PyTorch 1\.6'):
        opened(folder)
    (folder / WEIGHTS).unlink()
    with pytest.raises(UserError, match=r'no diffusion_pytorch_model\.safetensors or .*\.bin'):
        opened(folder)


@pytest.mark.parametrize('kind', ['safetensors', 'bin'])
def test_sharded_weights_are_refused_by_name(kind, folder):
    whole = folder / WEIGHTS
    index = whole.with_name(f'diffusion_pytorch_model.{kind}.index.json')
    shard = whole.with_name(f'diffusion_pytorch_model-00001-of-00002.{kind}')
    for path in index, shard:
        path.write_text('{}')
    opened(folder)
    whole.unlink()
    for path in folder, folder / 'unet', index, shard:
        with pytest.raises(UserError, match=f'diffusion_pytorch_model.*{kind}.* sharded .* one file'):
            opened(path)
