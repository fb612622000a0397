"""Closed-form denoisers, with the interface of networks. Imports no torch."""

from collections.abc import Iterable

import click

from torch_utils import cli

DENOISERS = {  # --denoiser: those of a data set, each a `data_denoiser.DataDenoiser`
    'optimal': 'denoisers.optimal_denoiser:OptimalDenoiser',
    'gaussian': 'denoisers.gaussian_denoiser:GaussianDenoiser',
    'patch': 'denoisers.patch_denoiser:PatchDenoiser',
    'local': 'denoisers.local_denoiser:LocalDenoiser',
    'equivariant': 'denoisers.equivariant_denoiser:EquivariantDenoiser',
    'linear': 'denoisers.linear_denoiser:LinearDenoiser',
}
MEANINGS = {
    'optimal': 'posterior mean if all images of the data set are equally likely',
    'gaussian': 'that of the Gaussian with its mean and covariance',
    'patch': 'mean over all P x P patches of their posterior means (Niedoba et al. 2024)',
    'local': 'for each pixel, that by the P x P window around it (LS of Kamb & Ganguli 2024)',
    'equivariant': 'the same among the windows of all places (ELS)',
    'linear': 'for each pixel, the best affine function of its window',
}
WINDOWED = ('patch', 'local', 'equivariant', 'linear')
NEEDS = {kind: ('patch',) for kind in WINDOWED}  # the options that define a denoiser

choice = click.option(
    '--denoiser', type=click.Choice(list(DENOISERS)),
    help='; '.join(f'{name}: {meaning}' for name, meaning in MEANINGS.items()) + '.')
options = (
    click.option('--patch', metavar='INT|auto', type=cli.IntOrAuto(),
                 help='P, the width of windows in pixels, odd but for patch; auto: for each noise level, the '
                      'one of the lowest denoising error on images that the denoiser does without.'),
)


def own_options(kind: str | None, opts: dict) -> dict:
    """Those of a command's `options` that are given, for `open_denoiser.open_denoiser`.

    kind: key of DENOISERS, None for a network.
    Raises UsageError for an option that the denoiser has no use for, or lacks.
    """
    given = {name: opts[name] for name in ('patch',) if opts[name] is not None}
    needed = NEEDS.get(kind, ())
    for name in given:
        if name not in needed:
            users = ', '.join(user for user, names in NEEDS.items() if name in names)
            raise click.UsageError(f'--{name} is for --denoiser {users}')
    for name in needed:
        if name not in given:
            raise click.UsageError(f'--denoiser {kind} needs --{name}')
    return given


def split_word(word: str) -> tuple[str | None, str]:
    """A denoiser's one word: kind and data set of KIND:DATASET; for a network None and the word."""
    kind, colon, path = word.partition(':')
    return (kind, path) if colon and kind in DENOISERS else (None, word)


def options_by_kind(words: Iterable[str], opts: dict) -> dict[str, dict]:
    """Those of a command's `options` that are given, by the kinds of closed forms among its words.

    Raises UsageError for an option that none of them has a use for, or that one lacks.
    """
    kinds = list(dict.fromkeys(split_word(word)[0] for word in words))
    names = [name for needed in NEEDS.values() for name in needed]
    used = {name for kind in kinds for name in NEEDS.get(kind, ())}
    own_options(None, {name: None if name in used else opts[name] for name in names})
    return {kind: own_options(kind, {name: opts[name] if name in NEEDS.get(kind, ()) else None
                                     for name in names}) for kind in kinds if kind}
