"""Train a `UNet2DModel` as diffusers users do: to predict noise, or v, at a random step (Ho et al. 2020).

It writes diffusers' own files: config.json, weights and scheduler_config.json.
"""

import copy
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch.nn.functional import mse_loss
from tqdm import tqdm

from adapters.diffusers_files import CONFIG, SCHEDULER, WEIGHTS
from adapters.discrete_denoiser import BETAS
from adapters.safetensors_file import write_safetensors
from adapters.unet2d import UNet2D
from data.dataset import ImageDataset
from torch_utils import provenance
from torch_utils.files import make_output_dir, write_json
from torch_utils.images import from_uint8
from torch_utils.seeding import seed_training
from training.config import LR_DECAYS

STEPS, BETA_START, BETA_END = 1000, 0.0001, 0.02
EMA_RATIO = 0.05  # half-life, as a share of the images seen


@dataclass(frozen=True, kw_only=True)
class EpsilonTraining:
    """The settings.

    data: images to train on. width: channels at the full resolution, twice as many below. attention: whether
    the network has any. betas: key of BETAS. prediction: 'epsilon', the noise, or 'v_prediction'.
    kimg: training duration in thousands of images. lr: learning rate, with a linear warm-up over the first
    twentieth of them and a cosine decay to 0.
    """

    data: str
    width: int = 16
    attention: bool = True
    betas: str = 'linear'
    prediction: str = 'epsilon'
    kimg: int = 20
    batch: int = 64
    lr: float = 0.004
    seed: int = 0


def network_config(job: EpsilonTraining, channels: int) -> dict:
    """The arguments of the network: two levels, one residual block each, with attention at the lower one."""
    low = 'Attn' if job.attention else ''
    return {'in_channels': channels, 'out_channels': channels, 'layers_per_block': 1,
            'block_out_channels': [job.width, 2 * job.width], 'norm_num_groups': 8, 'attention_head_dim': 8,
            'down_block_types': ['DownBlock2D', f'{low}DownBlock2D'],
            'up_block_types': [f'{low}UpBlock2D', 'UpBlock2D'], 'add_attention': job.attention}


def train(job: EpsilonTraining, out: Path, device: torch.device) -> None:
    """Train a network and write its files into the folder `out`. Draws from torch's default generators."""
    make_output_dir(out, '--out')
    dataset = ImageDataset(job.data)
    images = from_uint8(torch.from_numpy(dataset.images())).to(device)
    seed_training(job.seed, 0, 1)
    config = network_config(job, dataset.num_channels)
    net = UNet2D(**config).to(device)
    ema = copy.deepcopy(net).requires_grad_(False)
    optimizer = torch.optim.Adam(net.parameters(), fused=True)
    betas = BETAS[job.betas](BETA_START, BETA_END, STEPS)
    left = (1 - betas).cumprod(dim=0).to(device)[:, None, None, None]  # alphas_cumprod
    steps = -(-1000 * job.kimg // job.batch)
    for step in tqdm(range(steps), unit='step', disable=None):
        y = images[torch.randint(len(images), (job.batch,), device=device)]
        t = torch.randint(STEPS, (job.batch,), device=device)
        noise = torch.randn_like(y)
        signal, level = left[t].sqrt(), (1 - left[t]).sqrt()
        target = noise if job.prediction == 'epsilon' else signal * noise - level * y
        seen = step / steps
        optimizer.param_groups[0]['lr'] = job.lr * min(20 * seen, 1) * LR_DECAYS['cosine'](seen)
        optimizer.zero_grad()
        mse_loss(net(signal * y + level * noise, t.to(torch.float32)), target).backward()
        optimizer.step()
        weight = 1 - 0.5 ** (1 / (EMA_RATIO * max(step, 1)))
        torch._foreach_lerp_([*ema.parameters()], [*net.parameters()], weight)
    write_safetensors(out / WEIGHTS[0], ema.state_dict())
    write_json(out / SCHEDULER, {
        '_class_name': 'DDPMScheduler', 'num_train_timesteps': STEPS, 'beta_start': BETA_START,
        'beta_end': BETA_END, 'beta_schedule': job.betas, 'prediction_type': job.prediction,
        'clip_sample': False})
    write_json(out / CONFIG, {'_class_name': 'UNet2DModel', 'sample_size': dataset.resolution, **config})
    record = provenance.record(inputs=[job.data])
    write_json(out / 'training.json', {'settings': asdict(job), 'record': record})
