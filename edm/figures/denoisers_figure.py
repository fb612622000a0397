"""How far students are from the two denoisers that their training set has in closed form.

Paper 1 (arXiv 2310.05264), figure 4 left, beside the same comparison with the Gaussian denoiser.
"""

import matplotlib
from matplotlib.figure import Figure

from figures import style as figures
from figures.regimes_results import Results
from figures.sizes_panel import (
    FOOT,
    HEAD,
    PANEL_HEIGHT,
    add_panels,
    caption_parts,
    draw_curve,
    finish_panel,
    width_style,
)

TITLE = 'Similarity to the denoisers of the training set in closed form'
_GAP = 0.12  # inches


def draw_denoisers(results: Results) -> tuple[Figure, str]:
    """Draw the figure; returns it and its caption.

    Axes: panel a, RP score of each width with the optimal denoiser; panel b, with the Gaussian denoiser.
    """
    text = caption(results)
    wrapped, caption_height = figures.wrap_caption(text)
    bottom = figures.MARGIN + caption_height + _GAP + FOOT
    with matplotlib.rc_context(figures.STYLE):
        figure = figures.new_figure(bottom + PANEL_HEIGHT + HEAD)
        panels = add_panels(figure, bottom)
        for axes, letter, kind, name in zip(panels, 'ab', ('optimal_rp', 'gaussian_rp'),
                                            ('theory', 'Gaussian'), strict=True):
            for threshold, scores in results.scores.items():
                for i, width in enumerate(sorted(results.widths)):
                    curves = getattr(scores, kind)
                    if width in curves:
                        draw_curve(axes, results, curves[width], threshold, f'UNet-{width} vs {name}',
                                   *width_style(i))
            finish_panel(axes, letter, 'RP score (reproducibility)', results)
        figures.draw_caption(figure, wrapped, top=figures.MARGIN + caption_height)
    return figure, text


def caption(results: Results) -> str:
    """What the figure shows."""
    t = f'{results.threshold:g}'
    return ' '.join(caption_parts(results, [
        f'(a) Share of noises from which a model makes the same image (similarity > {t}) as the optimal '
        'denoiser of its training set, the posterior mean under its empirical distribution.',
        '(b) The same with the posterior mean under a Gaussian that has the mean and the covariance of the '
        'training set.']))
