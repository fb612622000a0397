"""The order in which training visits images, against the reference's and across a restart."""

import itertools
import re

import pytest
import torch

from data.data_order import InfiniteSampler
from helpers import golden

ORDERS = {name: order for name, order in golden('orders').items() if name.startswith('infinite/')}


def take(sampler, count):
    return list(itertools.islice(sampler, count))


@pytest.mark.parametrize('name', ORDERS)
def test_order_is_the_references(name):
    n, seed, rank, replicas = map(int, re.findall(r'\d+', name))
    sampler = InfiniteSampler(n, rank=rank, num_replicas=replicas, seed=seed)
    assert take(sampler, len(ORDERS[name])) == ORDERS[name].tolist()


@pytest.mark.parametrize(('n', 'window'), [(1, 0.5), (2, 0.5), (12, 0), (14, 0.1)])
def test_a_window_below_two_places_repeats_the_first_pass(n, window):
    order = take(InfiniteSampler(n, seed=4, window=window), 20 * n)
    assert sorted(order[:n]) == list(range(n))
    assert order == order[:n] * 20


def test_half_a_place_rounds_to_even_so_three_images_are_swapped():
    order = take(InfiniteSampler(3, seed=4), 60)
    assert order != order[:3] * 20


def test_processes_share_one_walk():
    alone = take(InfiniteSampler(10, seed=2), 60)
    ranks = [take(InfiniteSampler(10, rank=rank, num_replicas=3, seed=2), 20) for rank in range(3)]
    assert [index for turn in zip(*ranks, strict=True) for index in turn] == alone


@pytest.mark.parametrize('replicas_after', [1, 2, 4])
def test_saved_state_continues_exactly_with_any_number_of_processes(tmp_path, replicas_after):
    whole = take(InfiniteSampler(37, seed=5), 160)
    before = InfiniteSampler(37, rank=1, num_replicas=2, seed=5)
    take(before, 40)
    torch.save(before.state_dict(), tmp_path / 'state.pt')
    take(before, 3)  # must not reach into what was saved
    state = torch.load(tmp_path / 'state.pt', weights_only=True)
    ranks = []
    for rank in range(replicas_after):
        after = InfiniteSampler(37, rank=rank, num_replicas=replicas_after, seed=99)
        after.load_state_dict(state)
        ranks.append(take(after, 80 // replicas_after))
    assert [index for turn in zip(*ranks, strict=True) for index in turn] == whole[80:]


def test_state_is_a_copy():
    sampler = InfiniteSampler(10)
    state = sampler.state_dict()
    order = state['order'].tolist()
    first = take(sampler, 30)
    assert state['order'].tolist() == order
    sampler.load_state_dict(state)
    assert take(sampler, 30) == first
    assert state['order'].tolist() == order


def test_state_of_another_data_set_is_refused():
    with pytest.raises(ValueError, match='of 10 images, the data set has 11'):
        InfiniteSampler(11).load_state_dict(InfiniteSampler(10).state_dict())
