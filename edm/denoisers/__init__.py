"""Closed-form denoisers, with the interface of networks. Imports no torch."""

import click

DENOISERS = {  # --denoiser: those of a data set, each a `data_denoiser.DataDenoiser`
    'optimal': 'denoisers.optimal_denoiser:OptimalDenoiser',
    'gaussian': 'denoisers.gaussian_denoiser:GaussianDenoiser',
    'patch': 'denoisers.patch_denoiser:PatchDenoiser',
}
MEANINGS = {
    'optimal': 'posterior mean if all images of the data set are equally likely',
    'gaussian': 'that of the Gaussian with its mean and covariance',
    'patch': 'mean over all P x P patches of their posterior means (Niedoba et al. 2024)',
}
NEEDS = {'patch': ('patch',)}  # options without which a denoiser has no meaning

choice = click.option(
    '--denoiser', type=click.Choice(list(DENOISERS)),
    help='; '.join(f'{name}: {meaning}' for name, meaning in MEANINGS.items()) + '.')
options = (
    click.option('--patch', metavar='INT', type=click.IntRange(min=1),
                 help='Window of P x P pixels for --denoiser=patch.'),
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
