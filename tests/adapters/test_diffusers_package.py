"""Beside the package diffusers itself, where it is installed."""

import pytest
import torch

from denoisers.open_network import open_network
from experiments.epsilon_training import EpsilonTraining, train
from helpers import ROOT

diffusers = pytest.importorskip('diffusers')

SMALL = {'sample_size': 8, 'in_channels': 1, 'out_channels': 1, 'block_out_channels': [8, 16],
         'layers_per_block': 1, 'norm_num_groups': 4}
CASES = {
    'plain': {'down_block_types': ['DownBlock2D', 'AttnDownBlock2D'],
              'up_block_types': ['AttnUpBlock2D', 'UpBlock2D']},
    'resnet': {'down_block_types': ['ResnetDownsampleBlock2D', 'AttnDownBlock2D'], 'act_fn': 'gelu',
               'up_block_types': ['AttnUpBlock2D', 'ResnetUpsampleBlock2D'], 'upsample_type': 'resnet',
               'resnet_time_scale_shift': 'scale_shift', 'num_class_embeds': 3},
    'fourier': {'down_block_types': ['DownBlock2D'] * 2, 'up_block_types': ['UpBlock2D'] * 2,
                'time_embedding_type': 'fourier', 'add_attention': False},
    'learned': {'down_block_types': ['DownBlock2D'] * 2, 'up_block_types': ['UpBlock2D'] * 2,
                'time_embedding_type': 'learned', 'num_train_timesteps': 1000, 'mid_block_type': None},
}


def test_the_package_reads_what_reproduce_trains(tmp_path):
    train(EpsilonTraining(data=str(ROOT / 'datasets' / 'digits-8x8.zip'), width=8, kimg=1), tmp_path,
          torch.device('cpu'))
    theirs = diffusers.UNet2DModel.from_pretrained(tmp_path)
    net = open_network(str(tmp_path), torch.device('cpu')).net
    x, t = torch.randn(3, 1, 8, 8), torch.tensor([1, 500, 999])
    with torch.no_grad():
        assert torch.allclose(net.model(x, t.float()), theirs(x, t).sample, atol=1e-6)
    assert diffusers.DDPMScheduler.from_pretrained(tmp_path).config.beta_schedule == 'linear'


@pytest.mark.parametrize('case', CASES)
@pytest.mark.parametrize('safe', [True, False])
def test_outputs_are_those_of_the_package(case, safe, tmp_path):
    torch.manual_seed(0)
    theirs = diffusers.UNet2DModel(**SMALL | CASES[case]).eval()
    theirs.save_pretrained(tmp_path / 'unet', safe_serialization=safe)
    diffusers.DDPMScheduler().save_pretrained(tmp_path / 'scheduler')
    net = open_network(str(tmp_path), torch.device('cpu')).net
    x, t = torch.randn(3, 1, 8, 8), torch.tensor([1, 500, 999])
    classes = torch.tensor([0, 1, 2]) if 'num_class_embeds' in CASES[case] else None
    with torch.no_grad():
        expected = theirs(x, t, class_labels=classes).sample
    out = net.model(x, t.float(), None if classes is None else torch.eye(3)[classes])
    assert (out - expected).abs().max() <= 1e-6 * expected.abs().max()
