"""Compare images by descriptors: `feature` computes them, `rpscore` and `mscore` compare two files."""

import math
import os
import sys
from pathlib import Path

import click

from torch_utils import cli


@click.group(cls=cli.Group, context_settings={'show_default': True, 'max_content_width': 100})
def main():
    """Reproducibility (RP) and generalization (GL) scores of samples.

    \b
    Example: are the samples of two models alike, and are they new?
      python edm/sscd.py feature --images=evaluation/a --features=evaluation/a.npz
      python edm/sscd.py feature --images=evaluation/b --features=evaluation/b.npz
      python edm/sscd.py feature --images=datasets/train.zip --features=evaluation/train.npz
      python edm/sscd.py rpscore --source=evaluation/a.npz --target=evaluation/b.npz --t=0.97
      python edm/sscd.py mscore --source=evaluation/a.npz --target=evaluation/train.npz --t=0.97
    """


def _npz_name(ctx, param, value: str) -> str:
    if not value.lower().endswith('.npz') or os.path.isdir(value):
        raise click.BadParameter(f'{value} must name a file that ends with .npz')
    return value


def _finite(ctx, param, value: float) -> float:
    if not math.isfinite(value):
        raise click.BadParameter(f'{value} is not a finite number')
    return value


def _score_options(function):
    options = (
        click.option('--source', metavar='NPZ', required=True, help='Features of samples.'),
        click.option('--target', metavar='NPZ', required=True,
                     help='rpscore: features of the other model\'s samples from the same noises, in the same '
                          'order. mscore: features of the training images.'),
        click.option('--t', 'threshold', metavar='FLOAT', type=float, default=0.6, callback=_finite,
                     help='Images are the same if their similarity is above this. 0.6 suits SSCD '
                          'descriptors; pixel descriptors need more, such as 0.97.'),
        click.option('--json', 'json_path', metavar='FILE', help='Write the numbers there as well.'),
        cli.device_option,
    )
    for option in reversed(options):
        function = option(function)
    return function


@main.command()
@click.option('--images', metavar='ZIP|DIR|NPZ', required=True,
              help='Images of one size; they are taken in the order of their names.')
@click.option('--features', metavar='NPZ', required=True, callback=_npz_name, help='File to write.')
@click.option('--descriptor', type=click.Choice(['pixel']), default='pixel',
              help='pixel: the pixels without their mean, at length 1, so that a similarity is the Pearson '
                   'correlation of two images; its thresholds are not those of SSCD.')
@cli.device_option
def feature(images, features, descriptor, device):
    """Compute one descriptor per image.

    They become the array `features`, float32 [N, D], of an .npz file; other software reads and writes such
    files, too.
    """
    import numpy as np

    from evaluation.descriptors import DESCRIPTORS
    from evaluation.scores import save_features
    from torch_utils.distributed import pick_device
    from torch_utils.files import make_output_dir
    from training.dataset import ImageDataset

    pick_device(device)  # the pixel descriptor is computed on the CPU whatever the device
    dataset = ImageDataset(images, cache=False, option='--images')
    make_output_dir(Path(features).parent, '--features')
    blocks = [DESCRIPTORS[descriptor](dataset.images(slice(start, start + 1024)))
              for start in range(0, len(dataset), 1024)]
    values = np.concatenate(blocks)
    constant = int((~values.any(axis=1)).sum())
    if constant:
        print(f'{constant} of {len(values)} images are one grey value: they are similar to none, not even '
              'to themselves', file=sys.stderr)
    verb = 'replaced' if Path(features).exists() else 'wrote'
    save_features(features, values, file_names=dataset.file_names, descriptor=descriptor, images=images)
    print(f'{verb} {features}: {values.shape[0]} descriptors of {values.shape[1]} numbers')


@main.command()
@_score_options
def rpscore(source, target, threshold, json_path, device):
    """Reproducibility (RP) score of two models.

    The share of rows i in which source and target show the same image.
    """
    from evaluation.scores import Share, load_pair, pair_similarities

    first, second = load_pair(source, target, rows_match=True)
    _prepare(json_path, device)
    _mention_threshold(first, second)
    if first.file_names and second.file_names:
        _mention_names(first.file_names, second.file_names)
    share = Share.above(pair_similarities(first.values, second.values), threshold)
    print('RP score = ', share.value)
    print(f'{share.count} of {share.total} pairs have a similarity above {threshold:g}; 95 % interval '
          f'{share.low:.4f} .. {share.high:.4f} (Wilson)')
    _write(json_path, source, target, threshold, first.descriptor or second.descriptor,
           rp_score=share.value, **_interval(share))


@main.command()
@_score_options
def mscore(source, target, threshold, json_path, device):
    """Generalization (GL) score of samples.

    The share of source rows that no target row resembles. It is 1 - memorized fraction, and printed as the
    M score, as in the papers' software.
    """
    from evaluation.scores import Share, load_pair, nearest_neighbors

    first, second = load_pair(source, target, rows_match=False)
    device = _prepare(json_path, device)
    _mention_threshold(first, second)
    memorized = Share.above(nearest_neighbors(first.values, second.values, device)[0], threshold)
    new, score = memorized.rest(), 1 - memorized.value
    print('M score = ', score)
    print(f'This is the generalization score: {new.count} of {new.total} samples have no training image of '
          f'similarity above {threshold:g}; 95 % interval {new.low:.4f} .. {new.high:.4f} (Wilson). '
          f'Memorized fraction: {memorized.value} ({memorized.count} of {memorized.total}, '
          f'{len(second.values)} training images)')
    _write(json_path, source, target, threshold, first.descriptor or second.descriptor,
           generalization_score=score, memorized_fraction=memorized.value, **_interval(new))


def _prepare(json_path: str | None, device: str):
    """The device; whether `--json` can be written is known before the work."""
    from torch_utils.distributed import pick_device
    from torch_utils.files import make_output_dir

    if json_path is not None:
        if os.path.isdir(json_path):
            raise click.UsageError(f'--json {json_path}: is a folder, expected the name of a file')
        make_output_dir(Path(json_path).parent, '--json')
    return pick_device(device)


def _mention_threshold(first, second) -> None:
    """Say it if the threshold was left at SSCD's and the descriptors are pixels."""
    given = click.get_current_context().get_parameter_source('threshold')
    if 'pixel' in (first.descriptor, second.descriptor) and given == click.core.ParameterSource.DEFAULT:
        print('--t is left at 0.6, which suits SSCD; these are pixel descriptors, whose similarities are '
              'higher', file=sys.stderr)


def _mention_names(first: list[str], second: list[str]) -> None:
    """Say it if files that are compared have different names, so perhaps different seeds."""
    pairs = [(Path(a).name, Path(b).name) for a, b in zip(first, second, strict=True)]
    different = [row for row, (a, b) in enumerate(pairs) if a != b]
    if different:
        a, b = pairs[different[0]]
        print(f'{len(different)} of {len(pairs)} pairs are files of different names, first {a} and {b}; were '
              'both made from the same seeds?', file=sys.stderr)


def _interval(share) -> dict:
    return {'low': share.low, 'high': share.high, 'count': share.count, 'total': share.total}


def _write(json_path: str | None, source: str, target: str, threshold: float, descriptor: str | None,
           **numbers) -> None:
    """`--json`: the numbers, what they were computed from, and what computed them."""
    from torch_utils import provenance
    from torch_utils.files import sha256_file, write_json

    if json_path is None:
        return
    files = {name: {'path': str(path), 'sha256': sha256_file(path)}
             for name, path in (('source', source), ('target', target))}
    write_json(json_path, {**numbers, 'threshold': threshold, 'descriptor': descriptor, **files,
                           'record': provenance.record()})


if __name__ == '__main__':
    main()
