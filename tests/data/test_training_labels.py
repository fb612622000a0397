"""Which labels samples of a network take: classes, or vectors from the set that it was trained on."""

import numpy as np
import pytest

from data.training_labels import label_vectors
from image_sets import write
from torch_utils.errors import UserError

VECTORS, CLASSES = [[0.5, -1.0], [1.0, -1.0], [1.5, -1.0]], [0, 1, 1]


def data_set(path, labels):
    return str(write(path, {
        **{f'{i}.png': np.full((8, 8, 3), i, np.uint8) for i in range(len(labels))},
        'dataset.json': {'labels': [[f'{i}.png', label] for i, label in enumerate(labels)]}}))


def recorded(path, kind=None):
    return {'dataset_kwargs': {'path': path}, 'made_by': {} if kind is None else {'labels': kind}}


@pytest.mark.parametrize('kind', [None, 'vectors'])
def test_vectors_come_from_the_training_set(kind, tmp_path):
    found = label_vectors(recorded(data_set(tmp_path / 'a.zip', VECTORS), kind), 2, '--network x')
    assert (found.dtype, found.tolist()) == (np.float32, VECTORS)


@pytest.mark.parametrize('kind', [None, 'classes'])
def test_classes_need_no_vectors_and_no_word(kind, tmp_path, capsys):
    assert label_vectors(recorded(data_set(tmp_path / 'a.zip', CLASSES), kind), 2, '--network x') is None
    assert label_vectors(recorded('gone.zip', 'classes'), 2, '--network x') is None
    assert label_vectors(recorded('gone.zip'), 0, '--network x') is None
    assert capsys.readouterr().err == ''


def test_vectors_whose_data_set_is_gone_or_another_are_refused(tmp_path):
    for path in ('gone.zip', data_set(tmp_path / 'three.zip', [[1.0, 2.0, 3.0]])):
        with pytest.raises(UserError, match=r'--network x: .* vectors of 2 numbers, .*zip, is not here'):
            label_vectors(recorded(path, 'vectors'), 2, '--network x')


@pytest.mark.parametrize('record', [{}, recorded('gone.zip'), recorded(3), recorded('/dev/null'),
                                    {'dataset_kwargs': 'x', 'made_by': []}])
def test_where_nobody_can_tell_a_line_says_that_classes_are_assumed(record, capsys):
    assert label_vectors(record, 4, '--network x') is None
    assert 'one-hot labels of the classes 0 to 3' in capsys.readouterr().err
