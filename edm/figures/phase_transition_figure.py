"""Recovery of low-rank classes over samples per dimension, N / d: the phase transition of paper 2."""

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from figures import style as figures
from figures.style import GREY
from scores.copy_scores import Share
from scores.recovery import RECOVERED, Point

TITLE = 'Phase transition in learning a mixture of low-rank Gaussians'
_CONTROL = {'ls': '--', 'lw': 0.8, 'ms': 5.5, 'mfc': 'none', 'mew': 0.8}


def draw_transition(points: list[Point], settings: dict,
                    width: float = figures.WIDTH) -> tuple[Figure, str]:
    """Draw the figure; returns it and its caption.

    Axes: panel a, the recovery error; panel b, the share of trials in which all classes were found.
    """
    with matplotlib.rc_context(figures.STYLE):
        figure, (errors, successes) = figures.new_panels(width, 2, 2.5)
        ratio = np.linspace(0, 1, 200)
        errors.plot(ratio, np.sqrt(1 - ratio), color=GREY, lw=2.5, alpha=0.4, label=r'$\sqrt{1 - N/d}$',
                    zorder=1)
        for i, dim in enumerate(sorted({point.per_class_dim for point in points})):
            curve = sorted((point for point in points if point.per_class_dim == dim), key=lambda p: p.samples)
            _draw_curve(errors, successes, curve, figures.series_style(i))
        if any(point.closed_form is not None for point in points):
            for label, style in ('training', {}), ('closed form', _CONTROL):
                successes.plot([], color=GREY, marker='o', label=label, **style)
            successes.legend(loc='lower right')
        widest = max(point.samples / point.per_class_dim for point in points)
        for axes, letter, name in (errors, 'a', 'recovery error'), (successes, 'b', 'success rate'):
            _finish(axes, letter, name, widest)
        errors.legend(loc='upper right')
    return figure, caption(points, settings)


def caption(points: list[Point], settings: dict) -> str:
    """The text below the figure."""
    trials, class_num = points[0].errors.shape
    begin = 'from the closed form, ' if settings.get('start') == 'closed-form' else ''
    dim = 3 * settings['img_res']**2
    restarts = settings['restarts']
    return ' '.join([
        f'Low-rank denoisers trained on mixtures of {class_num} Gaussians, each on a subspace of d of {dim} '
        f'dimensions with N samples ({begin}{settings["steps"]} steps of {settings["batch"]} samples'
        + (f', the best in training loss of {restarts} starts)' if restarts > 1 else ')')
        + f'; {trials} trials per point.',
        '(a) Root mean square of the sines of the angles between true and found subspaces: median over '
        'trials and, shaded, the middle half. Grey: the error of the samples\' span, the best possible one '
        'for N < d.',
        f'(b) Share of trials in which all subspaces are found with an error of at most {RECOVERED:g}. '
        'Bands: Wilson 95 % intervals.', *_control_words(points)])


def _control_words(points: list[Point]) -> list[str]:
    known = [point for point in points if point.closed_form is not None]
    if not known:
        return []
    excess = np.concatenate([point.excess[~point.found] for point in known
                             if point.samples >= point.per_class_dim])
    words = ('Dashed: the closed form, which takes the blocks of the samples\' Gram matrix for the classes '
             'and their spans for the subspaces: what the data determine. That training needs more samples '
             'is due to the optimizer.')
    if len(excess):
        words += (f' Of the {len(excess)} trials with N >= d in which training fails, it ends at a higher '
                  f'training loss than the closed form has in {(excess > 0).sum()}.')
    return [words]


def _draw_curve(errors: Axes, successes: Axes, curve: list[Point], style: dict) -> None:
    ratios = [point.samples / point.per_class_dim for point in curve]
    means = [np.sqrt((point.errors**2).mean(axis=1)) for point in curve]
    low, median, high = np.array([np.quantile(mean, [0.25, 0.5, 0.75]) for mean in means]).T
    errors.fill_between(ratios, low, high, color=style['color'], alpha=0.18, lw=0)
    errors.plot(ratios, median, label=f'd = {curve[0].per_class_dim}', zorder=3, **style)
    rates = [Share(int(point.found.sum()), len(point.found)) for point in curve]
    successes.fill_between(ratios, [rate.low for rate in rates], [rate.high for rate in rates],
                           color=style['color'], alpha=0.18, lw=0)
    successes.plot(ratios, [rate.value for rate in rates], clip_on=False, zorder=3, **style)
    known = [point for point in curve if point.closed_form is not None]
    ratios = [point.samples / point.per_class_dim for point in known]
    for axes, value in ((errors, _median_error), (successes, _success_rate)) if known else ():
        axes.plot(ratios, [value(point.closed_form) for point in known], clip_on=False, zorder=2,
                  **style | _CONTROL)


def _median_error(errors: np.ndarray) -> float:
    return float(np.median(np.sqrt((errors**2).mean(axis=1))))


def _success_rate(errors: np.ndarray) -> float:
    return float((errors <= RECOVERED).all(axis=1).mean())


def _finish(axes: Axes, letter: str, name: str, widest: float) -> None:
    axes.axvline(1, color=GREY, lw=0.8, ls=':', zorder=0)
    axes.set_xlim(0, widest * 1.03)
    figures.scale_shares(axes)
    axes.set_xlabel('samples per class / dimension of class, N/d')
    axes.set_ylabel(name)
    figures.add_letter(axes, letter)
