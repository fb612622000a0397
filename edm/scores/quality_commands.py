"""The sub-commands of sscd.py that measure quality: fd, kid, prdc.

Imports no torch, so that --help answers at once.
"""

import click

from scores import results
from scores import score_options as options
from scores.score_table import SCORES, Row
from torch_utils import cli


def _command(name: str, *own, target: str) -> click.Command:
    """Decorator: the sub-command of a function of the loaded options, which returns rows of scores."""
    def decorate(measure):
        @click.command(name, cls=cli.ListCommand, help=measure.__doc__,
                       context_settings={'show_default': True, 'max_content_width': 100})
        @cli.options('Main options',
            click.option('--source', metavar='NPZ', required=True, help='Raw features of samples.'),
            click.option('--target', metavar='NPZ', required=True, help=target),
            *own)
        @cli.options('Output',
            options.json_option, options.table_option,
            click.option('--size', metavar='N', type=click.IntRange(min=1),
                         help='For --table: size of the training set.'),
            click.option('--width', 'widths', metavar='INT', type=click.IntRange(min=1), multiple=True,
                         help='For --table: width of the model.'),
            options.names_option)
        @cli.writes(['source', 'target'], json_path='scores', table=None)
        def command(source, target, json_path, table, size, widths, names, **more):
            labels = options.model_labels(1, widths, names, table)
            if (labels or size) and not (table or json_path):
                raise click.UsageError('--size, --width and --names are kept in --table or --json; neither '
                                       'is given')
            results.prepare(json=json_path, table=table)
            rows = measure(source, target, models=labels, size=size, **more)
            for row in rows:
                print(f'{SCORES[row.score].label} = ', row.value)
                print(_words(row))
            results.add_to_table(table, rows)
            results.write_scores(json_path, rows, source=source, target=target)
        return command
    return decorate


def _words(row: Row) -> str:
    if row.total is not None:
        return f'{row.count} of {row.total} {SCORES[row.score].says}; {results.interval_words(row)}'
    interval = '' if row.low is None else f'; 95 % interval {row.low:.6g} .. {row.high:.6g}'
    return SCORES[row.score].says + interval


@_command('fd', target='Raw features of real images; or published statistics: an .npz, or its URL, with mu '
                       'and sigma, as NVIDIA\'s fid-refs.')
def fd(source: str, target: str, **kept) -> list[Row]:
    """Frechet distance (FD) of samples from real images; with the inception descriptor, FID.

    Both sets count as Gaussians, so that each needs at least as many rows as a descriptor has numbers. Few
    rows bias it upwards: compare FDs of equally many rows only, below 10,000 with care.

    \b
    Example: FID of 50,000 samples
      python edm/sscd.py feature --descriptor=inception --images=evaluation/a --features=a.npz
      python edm/sscd.py fd --source=a.npz --target=https://nvlabs-fi-cdn.nvidia.com/edm/fid-refs/cifar10-32x32.npz
    """
    from scores.quality import frechet_rows, load_raw, load_real

    return frechet_rows(load_raw(source, '--source'), load_real(target, '--target'), **kept)


@_command('kid', cli.device_option, target='Raw features of real images.')
def kid(source: str, target: str, device: str, **kept) -> list[Row]:
    """Kernel distance of samples from real images; with the inception descriptor, KID.

    The unbiased estimate with the cubic kernel, by all pairs of rows instead of random subsets, and without
    the factor of 1,000 of some tables. It suits few samples, and is about 0, or just below, for samples as
    good as real images.

    Example: python edm/sscd.py kid --source=a.npz --target=heldout.npz
    """
    from scores.quality import kernel_rows, load_raw
    from torch_utils.distributed import pick_device

    return kernel_rows(load_raw(source, '--source'), load_raw(target, '--target'), pick_device(device),
                       **kept)


@_command('prdc', click.option('--k', metavar='INT', type=click.IntRange(min=1), default=5,
                               help='Balls reach up to the k-th nearest image of the same set. Published '
                                    'precision and recall have 3, density and coverage 5.'),
          cli.device_option, target='Raw features of real images.')
def prdc(source: str, target: str, k: int, device: str, **kept) -> list[Row]:
    """Precision, recall, density and coverage of samples, by balls around images.

    Precision and density are of quality: which samples lie in balls of real images, and in how many; recall
    and coverage of variety: which real images lie in balls of samples, and whose balls have samples. Copies
    of training images have 1 in all four if these are --target: compare with held-out images.

    Example: python edm/sscd.py prdc --source=a.npz --target=heldout.npz
    """
    from scores.quality import load_raw, manifold_rows
    from torch_utils.distributed import pick_device

    return manifold_rows(load_raw(source, '--source'), load_raw(target, '--target'), pick_device(device), k,
                         **kept)


COMMANDS = (fd, kid, prdc)
