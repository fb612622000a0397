"""Denoisers by their options: closed forms, and networks of any software. Imports no torch."""

from collections.abc import Iterable

import click

from adapters.diffusers_files import is_diffusers
from torch_utils import cli
from torch_utils.errors import UserError
from torch_utils.run_dir import find_snapshot

DENOISERS = {  # --denoiser: those of a data set, each a `data_denoiser.DataDenoiser`
    'optimal': 'denoisers.optimal_denoiser:OptimalDenoiser',
    'gaussian': 'denoisers.gaussian_denoiser:GaussianDenoiser',
    'patch': 'denoisers.patch_denoiser:PatchDenoiser',
    'local': 'denoisers.local_denoiser:LocalDenoiser',
    'equivariant': 'denoisers.equivariant_denoiser:EquivariantDenoiser',
    'linear': 'denoisers.linear_denoiser:LinearDenoiser',
    'molrg': 'denoisers.mixture_denoiser:MixtureDenoiser',
}
MEANINGS = {
    'optimal': 'posterior mean if all images of the data set are equally likely',
    'gaussian': 'that of the Gaussian with its mean and covariance',
    'patch': 'mean over all P x P patches of their posterior means (Niedoba et al. 2024)',
    'local': 'for each pixel, that by the P x P window around it (LS of Kamb & Ganguli 2024)',
    'equivariant': 'the same among the windows of all places (ELS)',
    'linear': 'for each pixel, the best affine function of its window',
    'molrg': 'posterior mean of a mixture of low-rank Gaussians (MoLRG), that of a MoLRG .pt file or fitted',
}
WINDOWED = ('patch', 'local', 'equivariant', 'linear')
OPTIONS = {kind: ('patch',) for kind in WINDOWED} | {'molrg': ('classes', 'dim')}  # that a kind takes

choice = click.option(
    '--denoiser', type=click.Choice(list(DENOISERS)),
    help='; '.join(f'{name}: {meaning}' for name, meaning in MEANINGS.items()) + '.')
options = (
    click.option('--patch', metavar='INT|auto', type=cli.IntOrAuto(),
                 help='P, the width of windows in pixels, odd but for patch; auto: at each noise level the P '
                      'of the lowest denoising error on images left out of the denoiser.'),
    click.option('--classes', metavar='K', type=click.IntRange(min=1),
                 help='Low-rank Gaussians to fit for molrg.'),
    click.option('--dim', metavar='D', type=click.IntRange(min=1), help='Dimensions of each of them.'),
)

network_options = (
    click.option('--scheduler', metavar='JSON|URL',
                 help='scheduler_config.json of a diffusers network.  [default: found beside the network]'),
    click.option('--clip_sample', is_flag=True,
                 help='Clip denoised images of a diffusers network to its scheduler\'s clip_sample_range, by '
                      'default [-1, 1], as its samplers may do at every step.'),
)


def find_network(path: str, option: str) -> str:
    """The path for `open_network.open_network`; of a run folder, that of its newest snapshot, as it is now.

    Raises UserError naming `option` if a folder has none.
    """
    if is_diffusers(path):
        return path
    try:
        return find_snapshot(path, option)
    except UserError as err:
        raise UserError(f'{err}, and no config.json of diffusers') from err


def take_network(context: click.Context, parameter: click.Parameter, value: str | None) -> str | None:
    """Callback of an option that takes a network."""
    return value and find_network(value, parameter.opts[0])


def own_options(kind: str | None, opts: dict) -> dict:
    """Those of a command's `options` that are given, for `open_denoiser.open_denoiser`.

    kind: key of DENOISERS, None for a network.
    Raises UsageError for an option that the denoiser does not take, or needs.
    """
    given = {name: opts[name] for name in _names() if opts[name] is not None}
    for name in given:
        if name not in OPTIONS.get(kind, ()):
            users = ', '.join(user for user, names in OPTIONS.items() if name in names)
            raise click.UsageError(f'--{name} is for --denoiser {users}')
    if kind in WINDOWED and 'patch' not in given:
        raise click.UsageError(f'--denoiser {kind} needs --patch')
    return given


def _names() -> list[str]:
    return list(dict.fromkeys(name for names in OPTIONS.values() for name in names))


def split_word(word: str) -> tuple[str | None, str]:
    """A denoiser's one word: kind and data set of KIND:DATASET; for a network None and the word."""
    kind, colon, path = word.partition(':')
    return (kind, path) if colon and kind in DENOISERS else (None, word)


def options_by_kind(words: Iterable[str], opts: dict) -> dict[str, dict]:
    """Those of a command's `options` that are given, by the kinds of closed forms among its words.

    Raises UsageError for an option that none of them takes, or that one needs.
    """
    kinds = list(dict.fromkeys(split_word(word)[0] for word in words))
    used = {name for kind in kinds for name in OPTIONS.get(kind, ())}
    own_options(None, {name: None if name in used else opts[name] for name in _names()})
    return {kind: own_options(kind, {name: opts[name] if name in OPTIONS.get(kind, ()) else None
                                     for name in _names()}) for kind in kinds if kind}
