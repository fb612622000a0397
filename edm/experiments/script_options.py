"""A stage's options as its script's own parser reads them, and networks before they exist."""

import contextlib
import functools
import io
import json
import runpy
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import click
import torch

from adapters.discrete_denoiser import BETAS, DiscreteDenoiser
from adapters.unet2d import UNet2D
from data.dataset import ImageDataset
from denoisers.open_network import open_network
from experiments.epsilon_training import EpsilonTraining, network_config
from experiments.stage_commands import epsilon_training
from experiments.stages import SCRIPTS, Stage
from torch_utils.errors import UserError
from training.build import build

_SITE = 'https://nvlabs-fi-cdn.nvidia.com/edm/pretrained'


# Published networks (DDPM++), to estimate costs before they are downloaded: network_kwargs, resolution.
_DDPMPP = {'class_name': 'training.networks.EDMPrecond', 'model_type': 'SongUNet', 'augment_dim': 9}
RELEASED = {f'{_SITE}/edm-cifar10-32x32-uncond-vp.pkl': (_DDPMPP | {'channel_mult': [2, 2, 2]}, 32),
            f'{_SITE}/edm-ffhq-64x64-uncond-vp.pkl': (_DDPMPP | {'channel_mult': [1, 2, 2, 2]}, 64),
            f'{_SITE}/edm-afhqv2-64x64-uncond-vp.pkl': (_DDPMPP | {'channel_mult': [1, 2, 2, 2]}, 64)}


@functools.cache
def _command(script: str) -> click.Command:
    return runpy.run_path(str(SCRIPTS / script))['main']


def options(stage: Stage) -> dict:
    """The script's parameters by name, defaults included. Raises click.UsageError."""
    script, *args = stage.command
    return _command(script).make_context(script, args).params


def from_scratch(stage: Stage, data: str | None) -> Stage:
    """A planned training on images that exist: `data`, or those of the command if this is None."""
    args = list(stage.command)
    for option, value in (('--outdir', str(Path(__file__, 'none'))), ('--data', data), ('--seed', '0')):
        if option in args and value is not None:
            args[args.index(option) + 1] = value
    return Stage(name='', command=tuple(args), outputs=())


@functools.cache
def training_settings(stage: Stage) -> dict:
    """What a training would record in training_options.json, by the script's own --dry-run.

    Raises click.UsageError, UserError or OSError as the script does.
    """
    script, *args = stage.command
    with contextlib.redirect_stdout(io.StringIO()) as printed, contextlib.redirect_stderr(io.StringIO()):
        _command(script).main([*args, '--dry-run'], script, standalone_mode=False)
    return json.loads(printed.getvalue())


@functools.cache
def training_network(stage: Stage) -> torch.nn.Module:
    """The network of a training, as of `sketch`."""
    made = training_settings(stage)
    images = made['dataset_kwargs']
    channels = ImageDataset(images['path'], cache=False).num_channels if 'max_size' in images else 3
    return sketch(made['network_kwargs'], images['resolution'], channels)


def epsilon_network(stage: Stage, data: str | None) -> tuple[int, torch.nn.Module]:
    """Duration in kimg and network, as of `sketch`, of reproduce.py epsilon-training.

    data: as in `from_scratch`. Raises UserError naming --data if there are no images.
    """
    given = epsilon_training.make_context(stage.name, list(stage.command[2:])).params
    job = EpsilonTraining(**{name: given[name] for name in given.keys() - {'out', 'device'}})
    images = ImageDataset(data or job.data, cache=False)
    with torch.device('meta'):
        net = UNet2D(**network_config(job, images.num_channels))
    return job.kimg, DiscreteDenoiser(net, img_resolution=images.resolution, img_channels=images.num_channels,
                                      label_dim=0, betas=BETAS[job.betas](0.0001, 0.02, 1000))


def sketch(network_kwargs: dict, resolution: int, channels: int = 3) -> torch.nn.Module:
    """A network on the meta device: without memory or numbers."""
    with torch.device('meta'):
        return build(network_kwargs, img_resolution=resolution, img_channels=channels, label_dim=0)


def snapshot_network(path: str, option: str = '--network') -> torch.nn.Module:
    """The network at `path`, as of `sketch`. Errors as in `open_network`."""
    if path in RELEASED:
        return sketch(*RELEASED[path])
    return open_network(path, torch.device('meta'), option).net


def check_training(stage: Stage, data: str | None, given: Sequence[str], option: str,
                   planned: Sequence[str] = ()) -> None:
    """Refuse arguments `given` with `option`, the last of a training's command, that it would refuse itself.

    data: as in `from_scratch`. planned: parameters that reproduce.py sets, besides folder, data and
    where to resume. Raises UserError naming `option`.
    """
    try:
        training_settings(from_scratch(stage, data))
        found, plan = options(stage), options(replace(stage, command=stage.command[:-len(given) or None]))
    except click.ClickException as err:
        raise UserError(f'{option}: {err.format_message()}') from err
    except UserError as err:
        raise UserError(f'{option}: {err}') from err
    except ValueError as err:  # not settings that were printed, but help
        raise UserError(f'{option} {" ".join(given)}: expected options of a training') from err
    for key in ('data', 'outdir', 'nosubdir', 'resume', 'dry_run', *planned):
        if found[key] != plan[key]:
            raise UserError(f'{option}: --{key} can\'t be given: reproduce.py sets it')
