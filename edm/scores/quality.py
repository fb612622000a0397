"""Quality of samples, from files of raw descriptors to rows of the score table."""

from descriptors.features import Features, check_comparable, check_length, load_features
from scores.copy_scores import Share
from scores.frechet import Moments, frechet_distance, is_statistics, load_statistics, moments
from scores.kernel_distance import kernel_distance
from scores.manifold_scores import manifold_scores
from scores.score_table import Row
from torch_utils.downloads import is_url, local_path
from torch_utils.errors import note


def load_raw(path: str, option: str) -> Features:
    """Features whose lengths mean something, as those of a file of other software are taken to."""
    features = load_features(path, option, unmarked='raw')
    check_length('raw', 'the quality of samples', features)
    for doubt in features.doubts():
        note(doubt)
    return features


def load_real(path: str, option: str) -> Features | Moments:
    """What `fd` compares samples with: features, or published statistics, also of a URL."""
    local = local_path(path, option) if is_url(path) else path
    where = f'{option} {path}'
    return load_statistics(local, where) if is_statistics(local, where) else load_raw(local, option)


def frechet_rows(samples: Features, real: Features | Moments, **kept) -> list[Row]:
    """The Frechet distance. It has no interval: its bias at few rows is more than its scatter."""
    if isinstance(real, Features):
        check_comparable(samples, real)
        real = moments(real.values, real.where)
    value = frechet_distance(moments(samples.values, samples.where), real)
    return [Row(score='fd', value=value, descriptor=samples.descriptor or '', **kept)]


def kernel_rows(samples: Features, real: Features, device, **kept) -> list[Row]:
    """The kernel distance."""
    check_comparable(samples, real)
    return [_row('kid', kernel_distance(samples.values, real.values, device), samples, kept)]


def manifold_rows(samples: Features, real: Features, device, k: int, **kept) -> list[Row]:
    """Precision, recall, density and coverage."""
    check_comparable(samples, real)
    scores = manifold_scores(samples.values, real.values, k, device)
    return [_row(name, getattr(scores, name), samples, kept)
            for name in ('precision', 'recall', 'density', 'coverage')]


def _row(name: str, found, samples: Features, kept: dict) -> Row:
    numbers = {'count': found.count, 'total': found.total} if isinstance(found, Share) else {
        'value': found.value, 'low': found.low, 'high': found.high}
    return Row(score=name, descriptor=samples.descriptor or '', **numbers, **kept)
