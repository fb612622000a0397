from itertools import islice

import numpy as np
import pytest
import torch

from data.batches import Batches
from data.data_order import InfiniteSampler

CPU = torch.device('cpu')


class Numbered:
    """Image i has the value i everywhere, and the label i."""

    def __len__(self):
        return 37

    def images(self, indices):
        return np.tile(np.uint8(indices)[:, None, None, None], (1, 1, 2, 2))

    def labels(self, indices):
        return np.float32(indices)[:, None]


def batches(workers=0, seed=5):
    return Batches(Numbered(), size=4, seed=seed, device=CPU, workers=workers)


@pytest.mark.parametrize('workers', [0, 3])
def test_batches_follow_the_data_order(workers):
    source = batches(workers)
    images, labels = zip(*islice(source, 20), strict=True)
    source.close()
    expected = torch.tensor(list(islice(InfiniteSampler(37, seed=5), 80)), dtype=torch.float32)
    assert torch.equal(torch.cat(labels).flatten(), expected)
    assert torch.equal(torch.cat(images)[:, 0, 0, 0], expected / 127.5 - 1)
    assert images[0].dtype == labels[0].dtype == torch.float32
    assert images[0].is_contiguous()


@pytest.mark.parametrize('workers', [0, 3])
def test_state_is_that_of_the_last_batch_handed_out(workers):
    source, other = batches(workers), batches(seed=99)
    list(islice(source, 7))
    other.load_state_dict(source.state_dict())
    for _ in range(12):
        assert torch.equal(next(source)[1], next(other)[1])
    source.close()


def test_a_broken_image_stops_the_reader(monkeypatch):
    def broken(self, indices):
        raise ValueError('broken')

    monkeypatch.setattr(Numbered, 'images', broken)
    source = batches(workers=1)
    with pytest.raises(ValueError, match='broken'):
        next(source)
    source.close()
