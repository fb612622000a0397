"""Draw the papers' figures from files of numbers."""

import math

import click

from torch_utils import cli


@click.group(cls=cli.Group, context_settings={'show_default': True, 'max_content_width': 100})
def main() -> None:
    """Draw the papers' figures from files of numbers."""


_out_option = cli.options('Output', click.option('--out', metavar='PNG|PDF', required=True,
                                                 help='Picture; its name decides the format.'))


@main.command(cls=cli.ListCommand)
@click.option('--results', metavar='JSON', help='Scores, as reproduce.py regimes writes them.')
@click.option('--scores', metavar='JSON ...', multiple=True,
              help='Instead: single scores, as sscd.py rpscore and mscore --json write them. Training-set '
                   'size and widths come from their --size and --width or, failing that, from the files\' '
                   'names: rp-n1024-w64-w128.json, gl-n1024-w64.json.')
@click.option('--data', metavar='STR', default='the data set', help='With --scores: the data set\'s name.')
@click.option('--kimg', metavar='KIMG', type=cli.FiniteRange(min=0),
              help='With --scores: how many images each model saw.')
@click.option('--threshold', metavar='FLOAT', type=cli.FiniteRange(min=-1, max=1),
              help='With --scores at several thresholds: the main one.')
@_out_option
@cli.writes(['results', 'scores'], out='figure')
def regimes(results: str | None, scores: tuple[str, ...], data: str, kimg: float | None,
            threshold: float | None, out: str) -> None:
    """RP and GL scores over training-set size.

    The picture of paper 1 (arXiv 2310.05264), figure 2.

    \b
    Examples:
      python edm/plot.py regimes --results=regimes.json --out=regimes.pdf
      python edm/plot.py regimes --scores evaluation/rp-n*.json evaluation/gl-n*.json \\
          --data=CIFAR-10 --out=regimes.pdf
    """
    if (results is None) == (not scores):
        raise click.UsageError('expected either --results or --scores')
    from figures import regimes_figure
    from figures import style as figures
    from figures.regimes_collect import collect_scores
    from figures.regimes_results import load_results

    numbers = load_results(results) if results else collect_scores(scores, data=data, kimg=kimg,
                                                                   threshold=threshold)
    figures.check_out(out)
    figure, caption = regimes_figure.draw_regimes(numbers)
    figures.save_figure(figure, out, title=regimes_figure.TITLE, caption=caption)
    print(f'wrote {out}')


@main.command()
@click.option('--results', metavar='JSON', required=True, help='Scores, as reproduce.py regimes writes them.')
@_out_option
@cli.writes(['results'], out='figure')
def denoisers(results: str, out: str) -> None:
    """RP scores with the denoisers that a training set has in closed form, over its size.

    The picture of paper 1 (arXiv 2310.05264), figure 4 left, and the same for the Gaussian denoiser.

    Example: python edm/plot.py denoisers --results=regimes.json --out=denoisers.pdf
    """
    from figures import denoisers_figure
    from figures import style as figures
    from figures.regimes_results import load_results

    numbers = load_results(results)
    if not numbers.scores[numbers.threshold].optimal_rp:
        raise click.UsageError(f'--results {results}: holds no RP scores with the optimal denoiser')
    figures.check_out(out)
    figure, caption = denoisers_figure.draw_denoisers(numbers)
    figures.save_figure(figure, out, title=denoisers_figure.TITLE, caption=caption)
    print(f'wrote {out}')


@main.command()
@cli.options('Main options',
    click.option('--neighbors', metavar='NPZ', required=True,
                 help='File that sscd.py mscore --neighbors wrote.'),
    click.option('--samples', metavar='DIR|ZIP|NPZ',
                 help='Where the samples lie.  [default: where they were]'),
    click.option('--training', metavar='DIR|ZIP|NPZ',
                 help='Where the training images lie.  [default: where they were]'))
@cli.options('Choice of samples',
    click.option('--count', metavar='INT', type=click.IntRange(min=1), default=40,
                 help='How many samples to show, evenly from all ranks of similarity.'),
    click.option('--top', is_flag=True, help='Show the most similar ones instead.'),
    click.option('--columns', metavar='INT', type=click.IntRange(min=1, max=40), default=10,
                 help='Samples side by side.'))
@_out_option
@cli.writes(['neighbors', 'samples', 'training'], out='figure')
def neighbors(neighbors: str, samples: str | None, training: str | None, count: int, top: bool, columns: int,
              out: str) -> None:
    """Samples above their nearest training images, sorted by similarity.

    \b
    Example:
      python edm/sscd.py mscore --source=a.npz --target=train.npz --neighbors=neighbors.npz
      python edm/plot.py neighbors --neighbors=neighbors.npz --out=neighbors.png
    """
    from figures import neighbors_figure
    from figures import style as figures
    from scores.neighbors import load_neighbors, read_shown

    numbers = load_neighbors(neighbors)
    figures.check_out(out)
    chosen = neighbors_figure.choose(numbers.similarity, count, most_similar=top)
    figure, caption = neighbors_figure.draw_neighbors(
        numbers, chosen, *read_shown(numbers, chosen, samples=samples, training=training), columns)
    figures.save_figure(figure, out, title=neighbors_figure.TITLE, caption=caption)
    print(f'wrote {out}')


@main.command()
@click.option('--matrix', metavar='JSON', required=True, help='File that sscd.py matrix wrote.')
@_out_option
@cli.writes(['matrix'], out='figure')
def similarity(matrix: str, out: str) -> None:
    """Heat maps of RP and MAE scores of all pairs of models.

    The picture of paper 1 (arXiv 2310.05264), figures 6 and 12.

    Example: python edm/plot.py similarity --matrix=similarity.json --out=similarity.pdf
    """
    from figures import similarity_figure
    from figures import style as figures
    from scores.similarity import load_similarity

    numbers = load_similarity(matrix)
    figures.check_out(out)
    figure, caption = similarity_figure.draw_similarity(numbers)
    figures.save_figure(figure, out, title=similarity_figure.TITLE, caption=caption)
    print(f'wrote {out}')


@main.command()
@click.argument('run_dirs', metavar='RUN_DIR...', nargs=-1, required=True)
@_out_option
@cli.writes(['run_dirs'], out='figure')
def training(run_dirs: tuple[str, ...], out: str) -> None:
    """Loss, learning rate and images per second of training runs.

    RUN_DIR: folders that train.py or trainMoLRG.py made, finished or not.

    Example: python edm/plot.py training training/00000-* training/00001-* --out=training.png
    """
    from figures import style as figures
    from figures import training_figure
    from figures.training_curves import load_curves

    runs = [load_curves(run_dir) for run_dir in run_dirs]
    figures.check_out(out)
    figure, caption = training_figure.draw_training(runs)
    figures.save_figure(figure, out, title=training_figure.TITLE, caption=caption)
    print(f'wrote {out}')


@main.command(cls=cli.ListCommand)
@click.option('--ranks', metavar='NPZ[=LABEL] ...', multiple=True, required=True,
              help='Files that jacobian.py wrote, each with the name of its curve.')
@click.option('--axis', type=click.Choice(['log', 'linear']), default='log', help='Scale of 1/sigma.')
@click.option('--max_snr', metavar='FLOAT', type=cli.FiniteRange(min=0, min_open=True),
              help='Show 1/sigma up to here only.')
@_out_option
@cli.writes(['ranks'], out='figure')
def jacobian(ranks: tuple[str, ...], axis: str, max_snr: float | None, out: str) -> None:
    """Numerical rank of Jacobians over noise levels.

    The picture of paper 2 (arXiv 2409.02426), figure 3.

    Example: python edm/plot.py jacobian --ranks a.npz=CIFAR-10 b.npz=FFHQ --out=jacobian.pdf
    """
    from figures import jacobian_figure
    from figures import style as figures
    from jacobians.rank_file import load_ranks

    series = {}
    for item in ranks:
        label, path = cli.split_label(item)
        if label in series:
            raise click.UsageError(f'--ranks {item}: two curves are called {label}; give LABELs that differ')
        series[label] = load_ranks(path)
    figures.check_out(out)
    figure, caption = jacobian_figure.draw_ranks(series, axis, max_snr or math.inf)
    figures.save_figure(figure, out, title=jacobian_figure.TITLE, caption=caption)
    print(f'wrote {out}')


@main.command('phase-transition', cls=cli.ListCommand)
@click.option('--results', metavar='JSON ...', multiple=True, required=True,
              help='Files that reproduce.py phase-transition wrote.')
@_out_option
@cli.writes(['results'], out='figure')
def phase_transition(results: tuple[str, ...], out: str) -> None:
    """Recovery of low-rank classes over the number of their samples.

    The picture of the phase transition of paper 2 (arXiv 2409.02426).

    Example: python edm/plot.py phase-transition --results=transition.json --out=transition.pdf
    """
    from figures import phase_transition_figure
    from figures import style as figures
    from scores.recovery import load_points

    points, settings = load_points(results)
    figures.check_out(out)
    figure, caption = phase_transition_figure.draw_transition(points, settings)
    figures.save_figure(figure, out, title=phase_transition_figure.TITLE, caption=caption)
    print(f'wrote {out}')


if __name__ == '__main__':
    main()
