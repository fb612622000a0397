"""Copies by similarity and by the ratio of distances, beside held-out images."""

import numpy as np
import pytest
from scipy.stats import mannwhitneyu

from descriptors.features import Features
from helpers import golden
from scores.memorization import measure_closeness, measure_memorization
from torch_utils.errors import UserError

KEPT = {'models': ('8',), 'size': 4, 'descriptor': 'l2'}


def raw(values, where='f.npz'):
    return Features(values=np.float32(values), length='raw', where=where)


def golden_features(name):
    return Features(values=golden(f'features-{name}')['features'], where=name)


def test_a_copy_is_nearer_than_a_third_of_the_distance_to_the_second_nearest():
    training = [[0, 0], [12, 0], [0, 400]]
    samples = [[0, 0], [2.9, 0], [3, 0], [3.1, 0], [6, 0], [12, 0], [-6, 0]]
    measured = measure_memorization(raw(samples), raw(training), criterion='ratio')
    ratios = [0, 2.9 / 9.1, 1 / 3, 3.1 / 8.9, 1, 0, 1 / 3]
    np.testing.assert_allclose(-measured.samples.values, ratios, rtol=1e-6)
    ((row,),) = measured.rows([1 / 3], **KEPT)
    assert (row.score, row.count, row.total, row.threshold) == ('ratio_gl', 4, 7, 1 / 3)
    ((row,),) = measured.rows([0.35], **KEPT)
    assert row.count == 1


def test_a_duplicate_in_the_training_set_hides_copies_which_is_said(capsys):
    training = [[0, 0], [9, 0], [0, 0], [0, 9]]
    samples = raw([[0, 0], [9, 0], [0.1, 0]])
    measured = measure_memorization(samples, raw(training, 'train.npz'), criterion='ratio')
    np.testing.assert_array_equal(-measured.samples.values, [1, 0, 1])
    assert measured.samples.num_hidden == 2
    told = capsys.readouterr().err
    assert 'train.npz: 2 of 4 training images equal another one' in told
    assert 'nearest of 2 of 3 samples' in told


def test_held_out_images_are_the_control(capsys):
    samples, training, heldout = (golden_features(name) for name in ('source', 'train', 'target'))
    measured = measure_memorization(samples, training, heldout)
    product = [a.values.astype(float) @ training.values.T.astype(float) for a in (samples, heldout)]
    similarity = [each.max(axis=1) for each in product]
    distance = [np.sqrt(((each.values - training.values[p.argmax(axis=1)]).astype(float) ** 2).sum(axis=1))
                for each, p in zip((samples, heldout), product, strict=True)]
    first, second = measured.rows([0.6, 0.9], 0.3, **KEPT)
    assert [row.score for row in first] == ['gl', 'heldout_gl', 'gl_difference', 'calibrated_gl', 'ct']
    assert [row.score for row in second] == ['gl', 'heldout_gl', 'gl_difference']
    gl, control, difference, calibrated, ct = first
    assert (gl.count, control.count) == tuple(int((each <= 0.6).sum()) for each in similarity) == (254, 205)
    assert difference.value == pytest.approx(49 / 300)
    assert difference.low < 49 / 300 < difference.high
    assert calibrated.threshold == pytest.approx(np.sort(similarity[1])[-91], rel=1e-13)
    assert calibrated.count == (similarity[0] <= calibrated.threshold).sum()
    u = mannwhitneyu(*distance).statistic
    assert ct.value == pytest.approx((u - 45000) / np.sqrt(90000 * 601 / 12), rel=1e-3)  # few ties
    assert ct.threshold is None
    told = capsys.readouterr().err
    assert 'target: 90 of 300 held-out images equal a training image; they are kept' in told


@pytest.mark.parametrize('criterion', ['similarity', 'ratio'])
def test_held_out_images_of_the_training_set_are_counted_and_left_out(criterion, capsys):
    rng = np.random.default_rng(0)
    values = rng.normal(size=(30, 8)).astype(np.float32)
    values /= np.linalg.norm(values, axis=1, keepdims=True)
    values[29] = 0
    length = {'similarity': 'unit', 'ratio': 'raw'}[criterion]
    training, heldout = (Features(values=part, length=length, where=name) for part, name in (
        (values[:20], 'train'), (values[[3, 25, 7, 28, 29]] * np.float32(1 + 1e-6), 'held')))
    kept = measure_memorization(training, training, heldout, criterion=criterion)
    assert len(kept.heldout.values) == 5
    assert 'held: 2 of 5 held-out images equal' in capsys.readouterr().err
    dropped = measure_memorization(training, training, heldout, criterion=criterion, drop_equal=True)
    np.testing.assert_array_equal(dropped.heldout.values, kept.heldout.values[[1, 3, 4]])
    told = capsys.readouterr().err
    assert 'left out' in told
    assert 'held: only 3 held-out images, so the calibrated threshold is uncertain' in told
    with pytest.raises(UserError, match='held: all 2 held-out images equal'):
        measure_memorization(training, training, heldout.part(slice(0, 3, 2)), criterion=criterion,
                             drop_equal=True)


def test_features_of_other_kinds_are_refused():
    unit = Features(values=np.eye(3, dtype=np.float32), where='unit.npz')
    for criterion, first in (('similarity', raw(np.eye(3))), ('ratio', unit)):
        with pytest.raises(UserError, match=f'the {criterion} criterion needs'):
            measure_memorization(first, first, criterion=criterion)
    with pytest.raises(UserError, match=r'f.npz and unit.npz: the descriptors differ, raw and unit'):
        measure_memorization(unit, unit, raw(np.eye(3)))


def test_distances_are_those_of_the_nearest_image():
    rng = np.random.default_rng(0)
    a, b = (rng.normal(size=(n, 5)).astype(np.float32) for n in (7, 9))
    known = np.linalg.norm(a[:, None] - b, axis=2)
    np.testing.assert_allclose(measure_closeness(a, b, 'ratio').distance, known.min(axis=1), rtol=1e-6)


def test_fewer_than_100_held_out_images_are_few(capsys):
    training, heldout = raw([[0], [1000]]), raw(np.arange(1, 101)[:, None], 'held')
    measure_memorization(training, training, heldout, criterion='ratio')
    assert 'uncertain' not in capsys.readouterr().err
    measure_memorization(training, training, heldout.part(slice(99)), criterion='ratio')
    assert 'only 99 held-out images' in capsys.readouterr().err
