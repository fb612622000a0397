"""A softmax over a stream of images: exponents and weights are rounded to float32, sums are float64."""

from collections.abc import Sequence

import torch

from denoisers.softmax_sums import SMALLEST, Sums

RISE = 8.0  # how far scores may exceed the top: float32 rounds such exponents by 2.4e-7 at most
SEEN = 0.5  # less than the sum of weights of any image
LEFT_OUT = -1e300  # score of an image that a sample leaves out


def empty(shape: Sequence[int], num_values: int, device: torch.device) -> Sums:
    """For `add` to begin with, for `shape` samples and images of `num_values`."""
    return Sums(*(torch.zeros(*shape, size, dtype=torch.float64, device=device)
                  for size in (1, 1, num_values)))


def add(sums: Sums, scores: torch.Tensor, room: torch.Tensor) -> torch.Tensor:
    """A step of an online softmax, in place: from `scores` of some images to their weights, [..., n].

    scores: float64, less `sums.top`, so that float32 holds what is near 0. The top then seldom needs to
    change: where scores exceed it by more than RISE, and where it is not yet one. All sums follow, but for
    the images that have these weights, which `sums.weighted` lacks then. room: for float32 [..., n].
    Returns float64, for in float32 the roundings of sums would add up.
    """
    weights = room.copy_(scores)
    if weights.amax(dim=-1).amax() > RISE or sums.total.amin() < SEEN:
        unseen, rise = sums.total < SEEN, scores.amax(dim=-1, keepdim=True)
        rise.masked_fill_((rise <= RISE) & ~unseen | (rise < LEFT_OUT / 2), 0)
        shrink = (-rise).exp_()
        shrink.masked_fill_(unseen | (shrink < 1e-30), 0)  # numbers that leave float64's range are slow, too
        sums.top.add_(rise)
        sums.total.mul_(shrink)
        sums.weighted.mul_(shrink)
        weights.copy_(scores - rise)
    weights = weights.clamp_(min=SMALLEST).exp_().to(torch.float64)
    sums.total.add_(weights.sum(dim=-1, keepdim=True))
    return weights


def finished(sums: Sums) -> Sums:
    """What `add` made, as `merge` takes it: the top of samples that saw no image is minus infinity."""
    sums.top.masked_fill_(sums.total < SEEN, -torch.inf)
    return sums
