"""Moving sums against sums of what they are over."""

import pytest
import torch

from denoisers.moving_sum import MovingSum


@pytest.mark.parametrize('size', [1, 2, 5])
@pytest.mark.parametrize('length', [1, 4, 5, 6, 13])
def test_it_is_the_sum_of_the_latest(size, length):
    tensors = torch.arange(2.0 * length).square().reshape(length, 2)
    around = torch.cat([torch.zeros(size - 1, 2), tensors, torch.zeros(size - 1, 2)])
    expected = [around[i:i + size].sum(dim=0) for i in range(length + size - 1)]
    moving, out = MovingSum(tensors[0].shape, size, torch.device('cpu')), torch.empty(2)
    for _ in range(2):
        moving.restart()
        found = []
        for tensor in tensors:
            moving.room().copy_(tensor)
            found.append(moving.next(out=out).clone())
        found += [of.clone() for of in moving.rest(out=out)]
        assert torch.equal(torch.stack(found), torch.stack(expected))
