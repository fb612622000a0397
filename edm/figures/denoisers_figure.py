"""RP scores with the optimal denoiser (paper 1, arXiv 2310.05264, figure 4 left) and the Gaussian one."""

import matplotlib
from matplotlib.figure import Figure

from figures import style as figures
from figures.regimes_curves import Regimes
from figures.sizes_panel import caption_parts, draw_curves, finish_panel, name_regimes
from torch_utils.errors import UserError

TITLE = 'Similarity to the denoisers of the training set in closed form'
NAMES = {'optimal_rp': 'optimal', 'gaussian_rp': 'Gaussian'}  # of the other side, in the legends


def draw_denoisers(regimes: Regimes, width: float = figures.WIDTH) -> tuple[Figure, str]:
    """Draw the figure; returns it and its caption.

    Panels: RP score of each width with a, the optimal, and b, the Gaussian denoiser.
    Raises UserError if there are no such scores.
    """
    if not any(score in regimes.main for score in NAMES):
        raise UserError('--table: holds no RP scores with the optimal or the Gaussian denoiser, as sscd.py '
                        'rpscore --reference gives them')
    with matplotlib.rc_context(figures.STYLE):
        figure, panels = figures.new_panels(width, 2, 2.5)
        for axes, letter, (score, name) in zip(panels, 'ab', NAMES.items(), strict=True):
            for i, each in enumerate(regimes.widths(score)):
                draw_curves(axes, regimes, score, (each,), f'UNet-{each} vs {name}',
                            figures.series_style(i))
            finish_panel(axes, letter, 'RP score (reproducibility)', regimes)
        figure.draw_without_rendering()
        for axes in panels:
            name_regimes(axes)
    return figure, ' '.join(caption_parts(regimes, [
        f'(a) Share of noises from which a model makes the same image (similarity > {regimes.threshold:g}) '
        'as the optimal denoiser of its training set, the posterior mean under its empirical distribution.',
        '(b) The same with the posterior mean under a Gaussian that has the mean and the covariance of the '
        'training set.']))
