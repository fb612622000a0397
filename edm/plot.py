"""Draw the papers' figures from files of numbers."""

import click

from torch_utils import cli


@click.group(cls=cli.Group, context_settings={'show_default': True, 'max_content_width': 100})
def main():
    """Draw the papers' figures from files of numbers."""


@main.command()
@click.option('--results', metavar='JSON', required=True, help='Scores, as reproduce.py regimes writes them.')
@click.option('--out', metavar='PNG|PDF', required=True, help='Picture; its name decides the format.')
def regimes(results, out):
    """RP and GL scores over training-set size.

    The picture of paper 1 (arXiv 2310.05264), figure 2.

    Example: python edm/plot.py regimes --results=regimes.json --out=regimes.pdf
    """
    from evaluation import figures, regimes_figure
    from evaluation.regimes_results import load_results

    numbers = load_results(results)
    figures.check_out(out)
    figure, caption = regimes_figure.draw_regimes(numbers)
    figures.save_figure(figure, out, title=regimes_figure.TITLE, caption=caption)
    print(f'wrote {out}')


@main.command()
@click.option('--results', metavar='JSON', required=True, help='Scores, as reproduce.py regimes writes them.')
@click.option('--out', metavar='PNG|PDF', required=True, help='Picture; its name decides the format.')
def denoisers(results, out):
    """RP scores with the denoisers that a training set has in closed form, over its size.

    The picture of paper 1 (arXiv 2310.05264), figure 4 left, and the same for the Gaussian denoiser.

    Example: python edm/plot.py denoisers --results=regimes.json --out=denoisers.pdf
    """
    from evaluation import denoisers_figure, figures
    from evaluation.regimes_results import load_results

    numbers = load_results(results)
    if not numbers.scores[numbers.threshold].optimal_rp:
        raise click.UsageError(f'--results {results}: holds no RP scores with the optimal denoiser')
    figures.check_out(out)
    figure, caption = denoisers_figure.draw_denoisers(numbers)
    figures.save_figure(figure, out, title=denoisers_figure.TITLE, caption=caption)
    print(f'wrote {out}')


if __name__ == '__main__':
    main()
