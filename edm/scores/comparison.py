"""From features to scores: which rows are compared, at which thresholds, and with what control."""

import itertools
from collections.abc import Sequence

import numpy as np

from scores.copy_scores import Share, pair_similarities
from scores.features import Features, check_comparable, check_length
from scores.score_table import SCORES, Row


def compare(name: str, samples: Features, others: Features, device, *, num_training: int | None = None,
            heldout_from: int | None = None) -> tuple[np.ndarray, np.ndarray | None, np.ndarray | None]:
    """Similarities of samples, as a kind of score measures them, and those of its control.

    name: key of SCORES. others: for pairs, the other model's samples, row by row; else training images, of
    which only the first `num_training` count. heldout_from: the first row that no model was trained on.
    device: of PyTorch.
    Returns similarities float64 [N]; the nearest training images int64 [N], None for pairs; and the control,
    float64 [M], or None: the samples with those of the next noise, or held-out with training images.
    """
    check_length('unit', 'a similarity', samples, others)
    check_comparable(samples, others)
    kind, target = SCORES[name], others.values[:num_training]
    similarity, nearest = kind.measure(samples.values, target, device)
    control = None
    if kind.paired and len(target) > 1:
        control = samples.values, np.roll(target, -1, axis=0)
    elif not kind.paired and heldout_from is not None and heldout_from < len(others.values):
        control = others.values[heldout_from:], target
    return similarity, nearest, kind.measure(*control, device)[0] if kind.control and control else None


def score_row(name: str, called: str, similarity: np.ndarray, threshold: float, models: tuple[str, ...],
              **more) -> Row:
    """The score `name` of similarities, as the kind `called` for the first of the models that it has."""
    share = SCORES[name].share(similarity, threshold)
    return Row(share.count, share.total, threshold=threshold, score=called,
               models=models[:SCORES[called].models], **more)


def rp_shares(features: Sequence[Features], threshold: float) -> dict[tuple[int, int], Share]:
    """RP scores of the models i <= j, from features whose row k is of the same noise in all."""
    check_length('unit', 'a similarity', *features)
    shares = {}
    for (i, a), (j, b) in itertools.combinations_with_replacement(enumerate(features), 2):
        check_comparable(a, b)
        shares[i, j] = Share.above(pair_similarities(a.values, b.values), threshold)
    return shares
