"""pace: the batch that fits."""

import pytest
import torch

from sampling import pace
from torch_utils.errors import UserError

CPU = torch.device('cpu')


class Hungry:
    """A denoiser whose device runs out of memory above `limit` images."""

    img_channels, img_resolution, label_dim = 3, 8, 2

    def __init__(self, limit):
        self.limit, self.tried = limit, []

    def __call__(self, x, sigma, class_labels):
        assert len(class_labels) == len(x)
        self.tried.append(len(x))
        if len(x) > self.limit:
            raise torch.OutOfMemoryError('too much')


def test_the_batch_is_halved_until_memory_suffices():
    net = Hungry(limit=100)
    assert pace.largest_that_fits(net, CPU, most=300) == 64
    assert net.tried == [512, 256, 128, 64]


def test_no_batch_is_tried_that_there_are_no_seeds_for():
    net = Hungry(limit=100)
    assert pace.largest_that_fits(net, CPU, most=5) == 8
    assert net.tried == [8]


def test_a_network_of_which_one_image_is_too_much_is_refused():
    with pytest.raises(UserError, match='--batch auto'):
        pace.largest_that_fits(Hungry(limit=0), CPU, most=4)


@pytest.mark.parametrize(('resolution', 'batch'), [(4, 256), (8, 256), (32, 16), (256, 4)])
def test_a_cpu_gets_a_batch_by_the_number_of_pixels(resolution, batch):
    net = Hungry(limit=0)
    net.img_resolution = resolution
    assert pace.auto_batch(net, CPU, most=10_000) == batch
