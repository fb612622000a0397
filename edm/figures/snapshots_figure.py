"""Scores along training: generalization comes first, memorization after a time that grows with N."""

import math
from collections.abc import Sequence

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullLocator

from descriptors import similarity_words
from figures import style as figures
from figures.regimes_curves import only, totals
from figures.style import BLACK, GREY
from scores import denoising_table
from scores.memorization_time import Course, Times, collect_times, courses, fit_text, kimg_of
from scores.score_table import Row
from torch_utils.errors import UserError

TITLE = 'Generalization and memorization along training'


def draw_snapshots(rows: Sequence[Row], errors: Sequence[denoising_table.Row], data: str,
                   width: float = figures.WIDTH) -> tuple[Figure, str]:
    """Draw the figure; returns it and its caption.

    rows, errors: of scores and denoising errors whose models are called by their time. data: the data set's
    name. Panels: a, GL, and b, RP of disjoint training sets, over the images seen, a curve per N; c,
    denoising errors on training and held-out images; d, the memorization time over N, with its fit.
    Raises UserError if there are no GL scores along training.
    """
    gl, rp, times = courses(rows, 'gl'), courses(rows, 'disjoint_rp'), collect_times(rows)
    if not gl:
        raise UserError('--table: holds no GL scores along training, whose models are called by their time, '
                        'such as 2.048 kimg')
    scored = [row for row in rows if row.score == 'gl' and kimg_of(row.models[0]) is not None]
    colors = dict(zip(gl, matplotlib.colormaps['viridis'](np.linspace(0, 0.92, len(gl))), strict=True))
    with matplotlib.rc_context(figures.STYLE):
        rows_of_panels = 4 if figures.is_narrow(width) else 2
        figure = figures.new_figure(width, rows_of_panels * 2.2)
        panels = list(figure.subplots(rows_of_panels, 4 // rows_of_panels).flat)
        for axes, curves, name in zip(panels, (gl, rp), ('GL score (generalization)',
                                                         'RP score, disjoint sets'), strict=False):
            for size, course in curves.items():
                _draw_course(axes, course, colors[size], f'{size:,}')
            figures.scale_shares(axes)
            axes.set_ylabel(name)
        _draw_errors(panels[2], errors, colors)
        for axes in panels[:3]:
            axes.set_xscale('log', base=2)
            _number(axes.xaxis)
            axes.set_xlabel('training (kimg)')
        panels[0].legend(title='N', title_fontsize=7, loc='lower left')
        _draw_times(panels[3], times, colors)
        for axes, letter in zip(panels, 'abcd', strict=True):
            figures.add_letter(axes, letter)
    threshold, descriptor = max(row.threshold for row in scored), only(scored, 'descriptor', '--table')
    return figure, _caption(times, data, f'{threshold:g}', totals(scored), descriptor, errors)


def _draw_course(axes: Axes, course: Course, color, name: str) -> None:
    axes.fill_between(course.kimg, course.low, course.high, color=color, alpha=0.18, lw=0)
    axes.plot(course.kimg, course.value, 'o-', ms=2.5, lw=1.1, color=color, label=name, clip_on=False)


def _draw_errors(axes: Axes, errors: Sequence[denoising_table.Row], colors: dict) -> None:
    for (images, line), (size, color) in ((kind, each) for kind in (('heldout', '-'), ('train', '--'))
                                          for each in colors.items()):
        points = sorted((kimg_of(row.denoiser), row.mse) for row in errors
                        if (row.images, row.size) == (images, size) and kimg_of(row.denoiser) is not None)
        if points:
            kimg, mse = np.array(points).T
            axes.plot(kimg, 10 * np.log10(mse), line, lw=1.1 if line == '-' else 0.9, color=color)
    axes.plot([], [], '-', color=GREY, lw=1.1, label='held-out images')
    axes.plot([], [], '--', color=GREY, lw=0.9, label='training images')
    axes.set_ylabel('denoising error (dB)')
    axes.legend(loc='best')


def _draw_times(axes: Axes, times: Times, colors: dict) -> None:
    for size, value, low, high, end in zip(times.size, times.value, times.low, times.high, times.end,
                                           strict=True):
        color = colors[int(size)]
        if np.isfinite(value):
            top = high if np.isfinite(high) else end
            axes.errorbar(size, value, [[value - low], [top - value]], fmt='o', color=color, lw=1, zorder=3)
        else:  # later than the end of training
            axes.errorbar(size, end, 0.25 * end, lolims=True, fmt='_', color=color, lw=1)
    if not math.isnan(times.exponent):
        x = np.array([times.size.min(), times.size.max()])
        axes.plot(x, times.factor * x ** times.exponent, '-', color=BLACK, lw=0.8,
                  label=rf'$\tau_{{mem}} \propto N^{{\,{times.exponent:.2f}}}$')
        axes.legend(loc='upper left')
    for axis, scale in ((axes.xaxis, axes.set_xscale), (axes.yaxis, axes.set_yscale)):
        scale('log', base=2)
        _number(axis)
    axes.set_xlabel('number of training images N')
    axes.set_ylabel('memorization time (kimg)')


def _number(axis: Axis) -> None:
    """Write powers of 2 as numbers."""
    axis.set_major_formatter(FuncFormatter(lambda value, _: f'{value:g}'))
    axis.set_minor_locator(NullLocator())


def _caption(times: Times, data: str, threshold: str, noises: str, descriptor: str, errors) -> str:
    levels = ', '.join(f'{sigma:g}' for sigma in sorted({row.sigma for row in errors}))
    return ' '.join([
        f'Diffusion models trained on N images of {data}, scored along one training each on the same '
        f'{noises} noises; kimg: thousands of images seen.',
        f'(a) Share of samples that no training image resembles (similarity > {threshold}, '
        f'{similarity_words(descriptor)}).',
        '(b) Share of noises from which a model and one trained on N other images make the same image.',
        f'(c) Mean squared denoising error at sigma = {levels}, as 10 log10, of images in [-1, 1]. Until '
        'that on held-out images has come down, samples are noise, of which (a) and (b) say nothing.',
        '(d) Training after which half of the samples are copies; arrows: later than the end of training.',
        f'Line: {fit_text(times)}, by least squares of logarithms.',
        'Bands and bars: 95 % intervals, which cover the choice of noises, not of the training\'s seed.'])
