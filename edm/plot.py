"""Draw the papers' figures from files of numbers."""

import functools
import math
import re

import click

from torch_utils import cli


@click.group(cls=cli.Group, context_settings={'show_default': True, 'max_content_width': 100})
def main() -> None:
    """Draw the papers' figures from files of numbers."""


_table_option = click.option('--table', metavar='CSV', required=True,
                             help='Scores, as sscd.py --table and reproduce.py regimes write them.')

_about_option = click.option('--about', metavar='STR', default='',
                             help='A sentence for the caption, such as what the network was trained on.')


def _picture(*inputs: str):
    """Decorator: adds --out and --width, and writes the figure.

    inputs: parameters that name files. The function returns the title and `draw`, from the width to the
    figure and its caption.
    """
    def decorate(function):
        @cli.options('Output',
            click.option('--out', metavar='PNG|PDF', required=True,
                         help='Picture, in the format of its suffix; the caption goes to a .txt beside it.'),
            click.option('--width', metavar='INCHES', type=cli.FiniteRange(min=2, max=20), default=6.75,
                         help='Width: 3.25 for one column of a paper, 6.75 for two.'))
        @cli.writes(inputs, out='figure')
        @functools.wraps(function)
        def command(*, width: float, out: str, **kwargs) -> None:
            from figures.style import check_out, save_figure

            title, draw = function(**kwargs)
            check_out(out)
            figure, caption = draw(width=width)
            save_figure(figure, out, title=title, caption=caption)
            print(f'wrote {out}')
        return command
    return decorate


def _training_noise(ctx, param, value: str | None) -> tuple[str, float, float] | None:
    match = re.fullmatch(r'(.+)=(-?[\d.]+),([\d.]+)', value or '')
    try:
        if value is not None:
            return match[1], float(match[2]), float(match[3])
    except (TypeError, ValueError) as err:
        raise click.BadParameter(f'{value}: expected LABEL=MEAN,STD, such as U-Net=-1.2,1.2') from err


def _curves_options(function):
    """Of figures over training-set size."""
    return cli.options('Main options',
        _table_option,
        click.option('--data', metavar='STR', default='the data set',
                     help='Name of the data set, for the caption.'),
        click.option('--kimg', metavar='KIMG', type=cli.FiniteRange(min=0),
                     help='Thousands of images seen per model, for the caption.'),
        click.option('--threshold', metavar='FLOAT', type=cli.FiniteRange(min=-1, max=1),
                     help='Main threshold, if the table has several.'))(function)


def _denoising_option(use: str = ''):
    return click.option(
        '--denoising', metavar='CSV',
        help=f'Denoising errors, as denoise.py error writes them{use}; generalization is shaded only where '
             'they are at most those of the Gaussian denoiser among them.')


@main.command(cls=cli.ListCommand)
@_curves_options
@cli.options('Main options',
    click.option('--neighbors', metavar='NPZ ...', multiple=True,
                 help='Files of sscd.py mscore --neighbors, one per training-set size, whose first samples '
                      'are shown.'),
    click.option('--samples', metavar='DIR=N:NAME ...', multiple=True,
                 help='Folders of samples from the same seeds, with training-set size and name of the model; '
                      'their first samples are shown in a row per model.'),
    click.option('--repeats', metavar='CSV ...', multiple=True,
                 help='Tables of the same models trained from other seeds, for bars of their spread.'),
    _denoising_option(', for a panel of their ratio on held-out and training images'))
@_picture('table', 'neighbors', 'samples', 'repeats', 'denoising')
def regimes(neighbors: tuple[str, ...], samples: tuple[str, ...], repeats: tuple[str, ...],
            denoising: str | None, **options):
    """RP and GL scores over training-set size.

    The picture of paper 1 (arXiv 2310.05264), figure 2.

    \b
    Example:
      python edm/plot.py regimes --table=scores.csv --data=CIFAR-10 --out=regimes.pdf
    """
    from figures.regimes_figure import TITLE, draw_regimes, load_examples, load_same_noises
    from scores.score_table import read_table

    errors = _errors(denoising)
    curves = _curves(**options, errors=errors, repeats=[read_table(path, '--repeats') for path in repeats])
    same_noises = load_same_noises([cli.split_label(item) for item in samples])
    return TITLE, functools.partial(draw_regimes, curves, load_examples(neighbors), same_noises, errors)


@main.command()
@_table_option
@click.option('--denoising', metavar='CSV', required=True,
              help='Denoising errors along training, as reproduce.py regimes --snapshots writes them.')
@click.option('--data', metavar='STR', default='the data set', help='Name of the data set, for the caption.')
@_picture('table', 'denoising')
def snapshots(table: str, denoising: str, data: str):
    """Scores along training, and when memorization begins.

    Example: python edm/plot.py snapshots --table snapshots.csv --denoising denoising.csv --out=snapshots.pdf
    """
    from figures.snapshots_figure import TITLE, draw_snapshots
    from scores.denoising_table import read_rows
    from scores.score_table import read_table

    return TITLE, functools.partial(draw_snapshots, read_table(table),
                                    read_rows(denoising, '--denoising'), data)


@main.command()
@_curves_options
@cli.options('Main options', _denoising_option())
@_picture('table', 'denoising')
def denoisers(denoising: str | None, **options):
    """RP scores with the denoisers that a training set has in closed form, over its size.

    The picture of paper 1 (arXiv 2310.05264), figure 4 left, and the same for the Gaussian denoiser.

    Example: python edm/plot.py denoisers --table=scores.csv --out=denoisers.pdf
    """
    from figures.denoisers_figure import TITLE, draw_denoisers

    return TITLE, functools.partial(draw_denoisers, _curves(**options, errors=_errors(denoising)))


def _errors(path: str | None):
    """The denoising errors of a file, if one is given."""
    from figures.denoising_figure import Errors
    from scores.denoising_table import read_rows

    return None if path is None else Errors(read_rows(path, '--denoising'), None, f'--denoising {path}')


def _curves(table: str, errors, **options):
    from figures.regimes_curves import collect_curves
    from scores.score_table import read_table

    return collect_curves(read_table(table), where=f'--table {table}',
                          errors=errors and errors.over_gaussian(), **options)


@main.command()
@cli.options('Main options',
    click.option('--neighbors', metavar='NPZ', required=True,
                 help='File of sscd.py mscore --neighbors.'),
    click.option('--samples', metavar='DIR|ZIP|NPZ',
                 help='Path of the samples.  [default: as in --neighbors]'),
    click.option('--training', metavar='DIR|ZIP|NPZ',
                 help='Path of the training images.  [default: as in --neighbors]'))
@cli.options('Choice of samples',
    click.option('--count', metavar='INT', type=click.IntRange(min=1), default=40,
                 help='Number of samples to show, evenly from all ranks of similarity.'),
    click.option('--top', is_flag=True, help='Show the most similar samples instead.'),
    click.option('--columns', metavar='INT', type=click.IntRange(min=1, max=40),
                 help='Samples side by side.  [default: one per 0.6 inches]'))
@_picture('neighbors', 'samples', 'training')
def neighbors(neighbors: str, samples: str | None, training: str | None, count: int, top: bool,
              columns: int | None):
    """Samples above their nearest training images, sorted by similarity.

    \b
    Example:
      python edm/sscd.py mscore --source=a.npz --target=train.npz --neighbors=neighbors.npz
      python edm/plot.py neighbors --neighbors=neighbors.npz --out=neighbors.png
    """
    from figures.neighbors_figure import TITLE, choose, draw_neighbors
    from scores.neighbors import load_neighbors, read_shown

    numbers = load_neighbors(neighbors)
    chosen = choose(numbers.similarity, count, most_similar=top)
    shown = read_shown(numbers, chosen, samples=samples, training=training)
    return TITLE, functools.partial(draw_neighbors, numbers, chosen, *shown, columns)


@main.command(cls=cli.ListCommand)
@_table_option
@click.option('--samples', metavar='DIR=NAME ...', multiple=True,
              help='Folders of samples from the same seeds, by the names in the table; the first ones are '
                   'shown in a row per model.')
@_picture('table', 'samples')
def similarity(table: str, samples: tuple[str, ...]):
    """Heat maps of RP and MAE scores, and PFD, of all pairs of models.

    The picture of paper 1 (arXiv 2310.05264), figures 6 and 12.

    Example: python edm/plot.py similarity --table=similarity.csv --out=similarity.pdf
    """
    from figures.similarity_figure import TITLE, collect_matrices, draw_similarity, load_samples
    from scores.score_table import read_table

    names, matrices = collect_matrices(read_table(table), f'--table {table}')
    shown = load_samples([cli.split_label(item) for item in samples], names)
    return TITLE, functools.partial(draw_similarity, names, matrices, samples=shown)


@main.command()
@click.argument('run_dirs', metavar='RUN_DIR...', nargs=-1, required=True)
@_picture('run_dirs')
def training(run_dirs: tuple[str, ...]):
    """Loss, learning rate and images per second of training runs.

    RUN_DIR: run folders of train.py or trainMoLRG.py, finished or not.

    Example: python edm/plot.py training training/00000-* training/00001-* --out=training.png
    """
    from figures.training_curves import load_curves
    from figures.training_figure import TITLE, draw_training

    return TITLE, functools.partial(draw_training, [load_curves(run_dir) for run_dir in run_dirs])


@main.command(cls=cli.ListCommand)
@cli.options('Main options',
    click.option('--ranks', metavar='NPZ[=LABEL] ...', multiple=True, required=True,
                 help='Files of jacobian.py, with a label in the legend.'),
    click.option('--references', metavar='NPZ[=LABEL] ...', multiple=True,
                 help='Further files, drawn as broad grey lines, such as those of a true denoiser.'),
    click.option('--axis', type=click.Choice(['log', 'categorical']), default='log',
                 help='Scale of 1/sigma; categorical: all noise levels at equal distances.'),
    click.option('--max_snr', metavar='FLOAT', type=cli.FiniteRange(min=0, min_open=True),
                 help='Largest 1/sigma to show.'),
    click.option('--trained', metavar='LABEL=FLOAT,FLOAT', callback=_training_noise,
                 help='Mean and standard deviation of ln(sigma) in training of the network LABEL (--P_mean, '
                      '--P_std); noise levels beyond two standard deviations are shaded.'),
    click.option('--scale', type=click.Choice(['linear', 'log']), default='linear',
                 help='Scale of rank/dim. log, as published for real images, leaves out ranks of 0.'),
    click.option('--falling', is_flag=True, help='Draw 1/sigma from high to low, as published.'),
    _about_option)
@_picture('ranks', 'references')
def jacobian(ranks: tuple[str, ...], references: tuple[str, ...], axis: str, max_snr: float | None,
             trained: tuple[str, float, float] | None, **options):
    """Numerical rank of Jacobians over noise levels.

    The picture of paper 2 (arXiv 2409.02426), figure 3.

    Example: python edm/plot.py jacobian --ranks a.npz=CIFAR-10 b.npz=FFHQ --out=jacobian.pdf
    """
    from figures.jacobian_figure import TITLE, draw_ranks
    from jacobians.rank_file import load_ranks

    series = {'--ranks': {}, '--references': {}}
    for option, items in ('--ranks', ranks), ('--references', references):
        for label, path in map(cli.split_label, items):
            if label in {**series['--ranks'], **series['--references']}:
                raise click.UsageError(f'{option} {path}: two curves have the label {label}')
            series[option][label] = load_ranks(path, option)
    if trained and trained[0] not in series['--ranks']:
        raise click.UsageError(f'--trained {trained[0]}: no curve of --ranks has this label')
    return TITLE, functools.partial(draw_ranks, series['--ranks'], axis, max_snr or math.inf,
                                    references=series['--references'], trained=trained, **options)


@main.command('jacobian-vectors')
@cli.options('Main options',
    click.option('--ranks', metavar='NPZ', required=True, help='File of jacobian.py --save_vectors.'),
    click.option('--levels', metavar='INT', type=click.IntRange(min=1), default=7,
                 help='Noise levels to show, evenly from all.'),
    _about_option)
@_picture('ranks')
def jacobian_vectors(ranks: str, levels: int, about: str):
    """Leading right singular vectors of a Jacobian as pictures, a row per noise level.

    After Kadkhodaie et al. 2024 (arXiv 2310.02557), who find patterns that oscillate along the contours of
    the image and between them.

    Example: python edm/plot.py jacobian-vectors --ranks=ranks.npz --out=vectors.pdf
    """
    from figures.jacobian_vectors_figure import TITLE, draw_vectors
    from jacobians.rank_file import load_ranks

    return TITLE, functools.partial(draw_vectors, load_ranks(ranks, '--ranks'), f'--ranks {ranks}', levels,
                                    about)


@main.command(cls=cli.ListCommand)
@click.option('--table', 'tables', metavar='CSV ...', multiple=True, required=True,
              help='Denoising errors, as denoise.py error writes them, of one or several training sets.')
@click.option('--name', metavar='STR', help='Denoiser to draw.  [default: the first network in --table]')
@_picture('tables')
def denoising(tables: tuple[str, ...], name: str | None):
    """Denoising error on training and held-out images over the noise level.

    After figure 1 of Kadkhodaie et al. 2024 (arXiv 2310.02557); a curve per training-set size.

    Example: python edm/plot.py denoising --table errors.csv --out=denoising.pdf
    """
    from figures.denoising_figure import TITLE, Errors, draw_denoising
    from scores.denoising_table import read_rows

    rows = [row for table in tables for row in read_rows(table)]
    return TITLE, functools.partial(draw_denoising, Errors(rows, name, f'--table {" ".join(tables)}'))


_note_option = click.option('--note', metavar='STR', default='',
                            help='Sentences that end the caption, such as what the networks are.')


@main.command(cls=cli.ListCommand)
@click.option('--tables', metavar='CSV ...', multiple=True, required=True,
              help='Distances from one network, as denoise.py distance --size writes them.')
@_note_option
@_picture('tables')
def theory(tables: tuple[str, ...], note: str):
    """Distance of closed-form denoisers from a network over the noise level, a column per training-set size.

    Other networks among them, called second and disjoint, tell how close two trainings come.

    Example: python edm/plot.py theory --tables n64.csv n896.csv --out=theory.pdf
    """
    from figures.theory_curves import Distances
    from figures.theory_figure import TITLE, draw_theory
    from scores.denoising_table import read_rows

    found = Distances([row for table in tables for row in read_rows(table, '--tables')],
                      f'--tables {" ".join(tables)}')
    return TITLE, functools.partial(draw_theory, found, note)


@main.command('theory-samples', cls=cli.ListCommand)
@cli.options('Main options',
    _table_option,
    click.option('--network', metavar='STR', default='network',
                 help='Name in --table of the network that the others are compared with.'),
    click.option('--samples', metavar='DIR=N:NAME ...', multiple=True, required=True,
                 help='Folders of samples from the same seeds, with training-set size and model.'),
    _note_option)
@_picture('table', 'samples')
def theory_samples(table: str, network: str, samples: tuple[str, ...], note: str):
    """Samples of a network and of other denoisers from the same noises, and how alike they are.

    \b
    Example:
      python edm/plot.py theory-samples --table samples.csv --samples a=64:network b=64:patch \\
          --out=samples.pdf
    """
    from figures.regimes_figure import load_same_noises
    from figures.theory_samples_figure import TITLE, PairScores, draw_samples
    from scores.score_table import read_table

    scores = PairScores(read_table(table), network, f'--table {table}')
    columns, names = load_same_noises([cli.split_label(item) for item in samples])
    return TITLE, functools.partial(draw_samples, scores, columns, names, note)


@main.command('phase-transition', cls=cli.ListCommand)
@click.option('--results', metavar='JSON ...', multiple=True, required=True,
              help='Files of reproduce.py phase-transition.')
@_picture('results')
def phase_transition(results: tuple[str, ...]):
    """Recovery of low-rank classes over the number of their samples.

    The picture of the phase transition of paper 2 (arXiv 2409.02426).

    Example: python edm/plot.py phase-transition --results=transition.json --out=transition.pdf
    """
    from figures.phase_transition_figure import TITLE, draw_transition
    from scores.recovery import load_points

    return TITLE, functools.partial(draw_transition, *load_points(results))


if __name__ == '__main__':
    main()
