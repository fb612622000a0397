"""What a script makes of a stage's command line: asked of the script's own parser."""

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

from experiments.stages import SCRIPTS, Stage
from torch_utils.errors import UserError
from training.build import build


@functools.cache
def _command(script: str) -> click.Command:
    return runpy.run_path(str(SCRIPTS / script))['main']


def options(stage: Stage) -> dict:
    """The script's parameters by name, defaults included. Raises click.UsageError."""
    script, *args = stage.command
    return _command(script).make_context(script, args).params


@functools.cache
def training_settings(stage: Stage) -> dict:
    """What a training would record in training_options.json, by the script's own --dry-run.

    Raises click.UsageError, UserError or OSError as the script does.
    """
    script, *args = stage.command
    with contextlib.redirect_stdout(io.StringIO()) as printed, contextlib.redirect_stderr(io.StringIO()):
        _command(script).main([*args, '--dry-run'], script, standalone_mode=False)
    return json.loads(printed.getvalue())


def tried_out(stage: Stage, data: str | None) -> Stage:
    """A planned training from scratch, and on images that are there whatever its --data."""
    args = list(stage.command)
    for option, value in (('--outdir', str(Path(__file__, 'none'))), ('--data', data), ('--seed', '0')):
        if option in args and value is not None:
            args[args.index(option) + 1] = value
    return replace(stage, name='', command=tuple(args), outputs=(), needs=(), inputs=())


@functools.cache
def training_network(stage: Stage, channels: int) -> torch.nn.Module:
    """The network of a training, for images of so many channels; as of `sketch`."""
    return sketch(training_settings(stage), channels)


def sketch(settings: dict, channels: int) -> torch.nn.Module:
    """The network of such settings, on the meta device: without memory or numbers."""
    with torch.device('meta'):
        return build(settings['network_kwargs'], img_resolution=settings['dataset_kwargs']['resolution'],
                     img_channels=channels, label_dim=0)


def check_training(stage: Stage, given: Sequence[str], option: str, planned: Sequence[str] = ()) -> None:
    """Refuse arguments `given` with `option`, the last of a training's command, that it would refuse itself.

    planned: further parameters that are the plan's, as are data, folder and where to resume.
    Raises UserError naming `option`.
    """
    try:
        training_settings(stage)
        found, plan = options(stage), options(replace(stage, command=stage.command[:-len(given) or None]))
    except click.ClickException as err:
        raise UserError(f'{option}: {err.format_message()}') from err
    except UserError as err:
        raise UserError(f'{option}: {err}') from err
    except ValueError as err:  # not settings that were printed, but help
        raise UserError(f'{option} {" ".join(given)}: expected options of a training') from err
    for key in ('data', 'outdir', 'nosubdir', 'resume', 'dry_run', *planned):
        if found[key] != plan[key]:
            raise UserError(f'{option}: --{key} is what reproduce.py sets itself, and can\'t be given')
