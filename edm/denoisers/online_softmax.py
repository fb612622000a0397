"""A softmax over a stream of images, all in float64.

Float32 would not do: roundings of sums that all go one way reach 4e-6 of the sum for 64 images.
"""

from collections.abc import Sequence

import torch

from denoisers.softmax_sums import SMALLEST, Sums

RISE = 8.0  # how far scores may exceed the top
SEEN = 0.5  # less than the sum of weights of any image
LEFT_OUT = -1e300  # score of an image that a sample leaves out


def empty(shape: Sequence[int], num_values: int, device: torch.device) -> Sums:
    """For `add` to begin with, for `shape` samples and images of `num_values`."""
    return Sums(*(torch.zeros(*shape, size, dtype=torch.float64, device=device)
                  for size in (1, 1, num_values)))


def add(sums: Sums, scores: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
    """A step of an online softmax: from the scores of some images to their weights, [..., n], made in `out`.

    scores: less `sums.top`, which seldom needs to change then: where scores exceed it by more than RISE, and
    where it is not yet one. All sums follow, in place, but for the images that have these weights, which
    `sums.weighted` lacks then. out: may be `scores`.
    """
    if scores.amax() > RISE or sums.total.amin() < SEEN:
        unseen, rise = sums.total < SEEN, scores.amax(dim=-1, keepdim=True)
        rise.masked_fill_((rise <= RISE) & ~unseen | (rise < LEFT_OUT / 2), 0)
        shrink = (-rise).exp_()
        shrink.masked_fill_(unseen | (shrink < 1e-30), 0)  # numbers that leave float64's range are slow, too
        sums.top.add_(rise)
        sums.total.mul_(shrink)
        sums.weighted.mul_(shrink)
        scores = torch.sub(scores, rise, out=out)
    weights = torch.clamp(scores, min=SMALLEST, out=out).exp_()
    sums.total.add_(weights.sum(dim=-1, keepdim=True))
    return weights


def finished(sums: Sums) -> Sums:
    """What `add` made, as `merge` takes it: the top of samples that saw no image is minus infinity."""
    sums.top.masked_fill_(sums.total < SEEN, -torch.inf)
    return sums
