"""Denoising errors on training and held-out images over the noise level (arXiv 2310.02557, figure 1)."""

from collections.abc import Sequence

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from figures import style as figures
from figures.regimes_curves import OverGaussian
from figures.sizes_panel import scale_sizes
from figures.style import BLACK, GREY
from scores.denoising_table import CLEAN, Row
from torch_utils.errors import UserError

TITLE = 'Denoising error on training and held-out images'
LEVELS = (0.1, 0.3, 1.0)  # noise levels of panel c, for images in [-1, 1]
_Z = 1.96  # standard errors in a 95 % interval
_BELOW = 6  # dB that the axis reaches below the lowest error of a network


class Errors:
    """The errors of one denoiser, and of the closed forms, by training-set size.

    name: of the denoiser. sizes: all N, rising. names: those in the table.
    """

    def __init__(self, rows: Sequence[Row], name: str | None, where: str):
        rows = [row for row in rows if row.target == CLEAN and row.images in ('train', 'heldout')]
        closed = ('optimal', 'gaussian')
        self.names = list(dict.fromkeys(row.denoiser for row in rows if row.denoiser not in closed))
        if not self.names:
            raise UserError(f'{where}: holds no denoising errors of a network, as denoise.py error writes '
                            'them')
        self.name = name or self.names[0]
        if self.name not in self.names:
            raise UserError(f'--name {self.name}: the denoisers in {where} are {", ".join(self.names)}')
        self.sizes = sorted({row.size for row in rows if row.denoiser == self.name})
        self.counts = sorted({row.count for row in rows})
        self._rows = {}
        for row in rows:
            key = row.denoiser, row.images, row.size, row.sigma
            if self._rows.setdefault(key, row) != row:
                raise UserError(f'{where}: two tables have other errors of {row.denoiser} at N = {row.size}, '
                                f'sigma = {row.sigma:g} on {row.images} images')

    def curve(self, images: str, size: int, name: str | None = None) -> tuple[np.ndarray, ...]:
        """sigma, rising, mse and stderr of a denoiser, by default the one of this figure; float64 [L]."""
        found = sorted((row.sigma, row.mse, row.stderr) for (whose, kind, of, _), row in self._rows.items()
                       if (whose, kind, of) == (name or self.name, images, size))
        return tuple(np.array(found, dtype=float).reshape(-1, 3).T)

    def gap(self, sigma: float) -> tuple[np.ndarray, ...]:
        """N, and the held-out over the training error in dB with its standard error, at a noise level."""
        found = []
        for size in self.sizes:
            train, other = (self._rows.get((self.name, kind, size, sigma)) for kind in ('train', 'heldout'))
            if train and other and train.mse > 0 and other.mse > 0:
                relative = np.hypot(train.stderr / train.mse, other.stderr / other.mse)
                found.append((size, _decibels(other.mse / train.mse), 10 / np.log(10) * relative))
        return tuple(np.array(found, dtype=float).reshape(-1, 3).T)

    def over_gaussian(self) -> OverGaussian | None:
        """Held-out errors over those of the Gaussian denoiser of the largest training set, if it is there."""
        sigmas, found = self.nearest_levels(), {}
        for size in self.sizes:
            pairs = [[self._rows.get((name, 'heldout', of, sigma)) for name, of in (
                (self.name, size), ('gaussian', self.sizes[-1]))] for sigma in sigmas]
            if all(ours and affine and affine.mse > 0 for ours, affine in pairs):
                found[size] = float(max(_decibels(ours.mse / affine.mse) for ours, affine in pairs))
        return OverGaussian(self.name, sigmas, found) if found else None

    def nearest_levels(self) -> list[float]:
        """The noise levels of the table next to LEVELS, without repeats."""
        levels = np.array(sorted({sigma for whose, *_, sigma in self._rows if whose == self.name}))
        return sorted({float(levels[np.abs(np.log(levels / level)).argmin()]) for level in LEVELS})


def _decibels(error) -> np.ndarray:
    return 10 * np.log10(error)


def draw_denoising(errors: Errors, width: float = figures.WIDTH) -> tuple[Figure, str]:
    """Draw the figure; returns it and its caption.

    Panels: error over sigma, a curve per N, a on training and b on held-out images, with closed forms; c the
    ratio of both over N.
    """
    with matplotlib.rc_context(figures.STYLE):
        figure, (train, heldout, gap) = figures.new_panels(width, 3, 2.4)
        colors = matplotlib.colormaps['viridis'](np.linspace(0, 0.92, len(errors.sizes)))
        lowest, highest = np.inf, -np.inf
        for axes, kind in ((train, 'train'), (heldout, 'heldout')):
            for size, color in zip(errors.sizes, colors, strict=True):
                sigma, mse, stderr = errors.curve(kind, size)
                if len(sigma):
                    _draw(axes, sigma, mse, stderr, color, f'{size:,}')
                    lowest = min(lowest, _decibels(mse[mse > 0]).min())
                    highest = max(highest, _decibels(mse).max())
        for size, color in zip(errors.sizes, colors, strict=True):
            sigma, mse, _ = errors.curve('train', size, 'optimal')
            train.plot(sigma, _decibels(np.maximum(mse, 1e-300)), '--', lw=0.7, color=color, label='_optimal')
        sigma, mse, _ = errors.curve('heldout', errors.sizes[-1], 'gaussian')
        heldout.plot(sigma, _decibels(mse), '--', lw=0.9, color=BLACK, label='_gaussian')
        for axes, letter, name in ((train, 'a', 'training images'), (heldout, 'b', 'held-out images')):
            axes.set_xscale('log')
            axes.set_ylim(lowest - _BELOW, highest + _BELOW / 2)
            axes.set_xlabel(r'noise level $\sigma$')
            axes.set_ylabel(f'error on {name} (dB)')
            figures.add_letter(axes, letter)
        heldout.legend(title='N', title_fontsize=7, ncols=1 + (len(errors.sizes) > 5), loc='lower right')
        draw_gap(gap, errors)
        figures.add_letter(gap, 'c')
    return figure, caption(errors)


def _draw(axes: Axes, sigma, mse, stderr, color, name: str) -> None:
    low = np.maximum(mse - _Z * stderr, mse / 1e3)
    axes.fill_between(sigma, _decibels(low), _decibels(mse + _Z * stderr), color=color, alpha=0.2, lw=0)
    axes.plot(sigma, _decibels(mse), '-', color=color, lw=1.1, label=name)


def draw_gap(axes: Axes, errors: Errors) -> None:
    """A panel of the ratio of held-out and training error over N, a curve per noise level."""
    for i, level in enumerate(errors.nearest_levels()):
        size, value, stderr = errors.gap(level)
        style = figures.series_style(i)
        axes.fill_between(size, value - _Z * stderr, value + _Z * stderr, color=style['color'], alpha=0.18,
                          lw=0)
        axes.plot(size, value, label=rf'$\sigma$ = {level:.2g}', clip_on=False, **style)
    axes.axhline(0, color=GREY, lw=0.8, ls=':')
    scale_sizes(axes, errors.sizes)
    axes.set_ylabel('held-out over training error (dB)')
    axes.legend(loc='best')


def caption(errors: Errors) -> str:
    """The text below the figure."""
    noises = ' to '.join(f'{count:,}' for count in sorted({errors.counts[0], errors.counts[-1]}))
    floor = any(len(errors.curve('train', size, 'optimal')[0]) for size in errors.sizes)
    affine = len(errors.curve('heldout', errors.sizes[-1], 'gaussian')[0]) > 0
    return ' '.join([
        f'Mean squared error of the denoised images of {errors.name} trained on N images, per pixel of '
        f'images in [-1, 1], as 10 log10; {noises} noisy images per point, the same noise in (a) and (b).',
        '(a) On training images.' + (' Dashed: the optimal denoiser of these N images, whose error on them '
                                     'is the lowest possible.' if floor else ''),
        '(b) On held-out images.' + (f' Dashed: the Gaussian denoiser of the {errors.sizes[-1]:,} training '
                                     'images, the best affine one.' if affine else ''),
        '(c) The ratio of both, 0 dB where training images are denoised no better than others, at the noise '
        'levels given. Bands: 95 % intervals over noises and images, not over trainings.'])
