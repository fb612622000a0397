"""How many samples copy a training image, by one of two criteria, beside held-out images as control."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from descriptors.features import Features, check_comparable, check_length
from scores.calibration import FEW, CopyTest, calibrated_threshold, data_copying_test, difference_interval
from scores.copy_scores import Share, nearest_neighbors, pair_distances
from scores.score_table import Row
from scores.two_nearest import two_nearest
from torch_utils.errors import UserError, note

_EQUAL = 1e-5  # relative difference of one image's descriptors between batch sizes


@dataclass(frozen=True, kw_only=True)
class Criterion:
    """When a sample is a copy: if its closeness to the training set is above `sign` * threshold.

    gl: the kind of score that counts all others. length: of the descriptors that it needs.
    """

    gl: str
    length: str
    sign: int


CRITERIA = {  # by --criterion
    'similarity': Criterion(gl='gl', length='unit', sign=1),
    'ratio': Criterion(gl='ratio_gl', length='raw', sign=-1),
}


@dataclass(frozen=True)
class Closeness:
    """Of images: closeness float64 [N], nearest training image int64 [N], its distance float64 [N].

    Closeness is the largest similarity; by the ratio criterion -(distance of the nearest / that of the second
    nearest training image), from -1 to 0. num_hidden: images of which these two are equal, so that no copy of
    them counts.
    """

    values: np.ndarray
    nearest: np.ndarray
    distance: np.ndarray
    num_hidden: int = 0


def _by_processes(search: Callable, images: np.ndarray, training: np.ndarray, device) -> Iterator[np.ndarray]:
    """What `search` finds for each row of `images`, of which every process takes a share; on all of them."""
    from torch_utils import distributed  # here, as most scores need no PyTorch

    rank, world_size = distributed.rank(), distributed.world_size()
    start, stop = (len(images) * part // world_size for part in (rank, rank + 1))
    found = distributed.gather(search(images[start:stop], training, device))
    return map(np.concatenate, zip(*found, strict=True))


def measure_closeness(images: np.ndarray, training: np.ndarray, criterion: str, device='cpu') -> Closeness:
    """The closeness of float32 [N, D] images to float32 [M, D] training images; processes share the images.

    ratio: Yoon et al. 2023, "Diffusion Probabilistic Models Generalize when They Fail to Memorize", and Gu et
    al. 2023, arXiv 2310.02664: a copy is nearer to its nearest training image than 1/3 of the distance to the
    second nearest. If both distances are 0, their ratio is 1.
    """
    if criterion == 'similarity':
        values, nearest = _by_processes(nearest_neighbors, images, training, device)
        return Closeness(values, nearest, pair_distances(images, training, columns=nearest))
    distance, index = _by_processes(two_nearest, images, training, device)
    ratio = np.divide(distance[:, 0], distance[:, 1], out=np.ones(len(images)), where=distance[:, 1] > 0)
    hidden = np.count_nonzero(pair_distances(training, training, *index.T) == 0)
    return Closeness(-ratio, index[:, 0], distance[:, 0], hidden)


@dataclass(frozen=True, kw_only=True)
class Memorization:
    """Closeness of samples and of held-out images, if there are any, to N = `num_training` images."""

    criterion: str
    samples: Closeness
    heldout: Closeness | None
    num_training: int

    def share(self, closeness: Closeness, threshold: float) -> Share:
        """The share of images that are no copies: the generalization score."""
        return Share.above(closeness.values, CRITERIA[self.criterion].sign * threshold).rest()

    def copy_test(self) -> CopyTest:
        """C_T of samples against held-out images."""
        return data_copying_test(self.samples.distance, self.heldout.distance)

    def rows(self, thresholds: Sequence[float], false_positives: float = 0.01,
             **kept) -> Iterator[list[Row]]:
        """For each threshold the rows of the score table: GL first, then those of held-out images.

        The first threshold has, besides, GL at the calibrated threshold and C_T, which need none.
        kept: models, size and descriptor.
        """
        gl, models = CRITERIA[self.criterion].gl, kept.pop('models')[:1]
        for place, threshold in enumerate(thresholds):
            score = self.share(self.samples, threshold)
            own = {'models': models, 'threshold': threshold, **kept}
            found = [Row(score.count, score.total, score=gl, **own)]
            if self.heldout is not None:
                control = self.share(self.heldout, threshold)
                value, low, high = difference_interval(score, control)
                found += [Row(control.count, control.total, score=f'heldout_{gl}', **own | {'models': ()}),
                          Row(value=value, low=low, high=high, score=f'{gl}_difference', **own)]
                found += [] if place else self._calibrated(false_positives, gl, models=models, **kept)
            yield found

    def _calibrated(self, false_positives: float, gl: str, **kept) -> list[Row]:
        sign, test = CRITERIA[self.criterion].sign, self.copy_test()
        threshold = sign * calibrated_threshold(self.heldout.values, false_positives)
        share = self.share(self.samples, threshold)
        return [Row(share.count, share.total, score=f'calibrated_{gl}', threshold=threshold, **kept),
                Row(value=test.z, low=test.low, high=test.high, score='ct', **kept)]


def measure_memorization(samples: Features, training: Features, heldout: Features | None = None, *,
                         criterion: str = 'similarity', device='cpu',
                         drop_equal: bool = False) -> Memorization:
    """Measure samples, and held-out images, against training images.

    heldout: real images of the same kind as the training images, on which no model was trained. Those that
    equal a training image are counted in a note, and left out if `drop_equal`.
    Raises UserError if the features can't be compared, or have not the length that the criterion needs.
    """
    check_length(CRITERIA[criterion].length, f'the {criterion} criterion', samples, training)
    check_comparable(samples, training)
    target = training.values
    measured = measure_closeness(samples.values, target, criterion, device)
    if criterion == 'ratio':
        _mention_duplicates(training, measured)
    if heldout is not None:
        check_comparable(heldout, training)
        heldout = _unseen(heldout, measure_closeness(heldout.values, target, criterion, device), drop_equal)
    return Memorization(criterion=criterion, samples=measured, heldout=heldout, num_training=len(target))


def _mention_duplicates(training: Features, samples: Closeness) -> None:
    counts = Counter(hash(row.tobytes()) for row in training.values)
    equal = sum(count for count in counts.values() if count > 1)
    if equal:
        note(f'{training.where}: {equal} of {len(training.values)} training images equal another one, which '
             f'hides copies of them: such two are the nearest of {samples.num_hidden} of '
             f'{len(samples.values)} samples, whose ratio is 1')


def _unseen(heldout: Features, measured: Closeness, drop_equal: bool) -> Closeness:
    """The closeness of held-out images, without those that equal a training image if `drop_equal`."""
    lengths = np.sqrt(np.einsum('nd,nd->n', heldout.values, heldout.values, dtype=np.float64))
    seen = measured.distance <= _EQUAL * lengths
    equal, total = int(seen.sum()), len(seen)
    if equal:
        note(f'{heldout.where}: {equal} of {total} held-out images equal a training image; they are ' + (
            'left out' if drop_equal else 'kept, and --drop-equal leaves them out'))
    if equal and drop_equal:
        measured = Closeness(*(values[~seen] for values in (
            measured.values, measured.nearest, measured.distance)))
    left = len(measured.values)
    if left == 0:
        raise UserError(f'{heldout.where}: all {total} held-out images equal a training image')
    if left < FEW:
        note(f'{heldout.where}: only {left} held-out images, so the calibrated threshold is uncertain; '
             f'{FEW} or more are better')
    return measured
