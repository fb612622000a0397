"""Paper 1's MAE score: how many images of two models differ by little, pixel by pixel."""

import itertools
from collections.abc import Sequence

import numpy as np
from PIL import Image
from tqdm import tqdm

from data.image_stream import ImageStream
from scores.copy_scores import Share
from scores.pairing import comparable_name, numbers_in
from torch_utils.errors import UserError, note
from torch_utils.processes import map_ahead


def mean_absolute_error(first: Image.Image, second: Image.Image) -> float:
    """Mean of |first - second| over the pixels of both in RGB, on the scale 0..255.

    Raises ValueError if they differ in size.
    """
    if first.size != second.size:
        raise ValueError(f'{first.width}x{first.height} and {second.width}x{second.height} pixels')
    a, b = (np.asarray(image.convert('RGB'), dtype=np.int16) for image in (first, second))
    return float(abs(a - b).mean(dtype=np.float64))


def match_names(streams: Sequence[ImageStream]) -> list[tuple[int, ...]]:
    """The places in each stream of the images that all have, by `comparable_name`, in order of the names.

    Where that gives one name to two images of a stream, whole names are compared; where no name is common to
    all, the number in which a stream's names differ.
    """
    keys = [[comparable_name(name) for name in stream.names] for stream in streams]
    if any(len(set(names)) < len(names) for names in keys):
        keys = [stream.names for stream in streams]
    if not set.intersection(*map(set, keys)):
        keys = [numbers_in(stream.names) or [] for stream in streams]
        keys = [numbers if len(set(numbers)) == len(numbers) else [] for numbers in keys]
    places = [{name: place for place, name in enumerate(names)} for names in keys]
    common = set.intersection(*map(set, keys))
    return [tuple(place[name] for place in places) for name in keys[0] if name in common]


def pairwise_errors(streams: Sequence[ImageStream], matches: Sequence[tuple[int, ...]],
                    workers: int) -> np.ndarray:
    """`mean_absolute_error` of all pairs of streams, float64 [number of pairs, number of matches].

    Pairs are in the order of itertools.combinations. Every image is read once.
    Raises UserError naming the images if two that are compared differ in size.
    """
    pairs = list(itertools.combinations(range(len(streams)), 2))

    def errors(match: tuple[int, ...]) -> list[float]:
        images = [stream.read(place) for stream, place in zip(streams, match, strict=True)]
        row = []
        for i, j in pairs:
            try:
                row.append(mean_absolute_error(images[i], images[j]))
            except ValueError as err:
                raise UserError(f'{streams[i].where(match[i])} and {streams[j].where(match[j])} can\'t be '
                                f'compared: {err}') from err
        return row

    rows = map_ahead(errors, matches, workers, ahead=16 * workers)
    progress = tqdm(rows, total=len(matches), unit='pair' if len(pairs) == 1 else 'row')
    return np.array(list(progress)).reshape(len(matches), len(pairs)).T


def mae_shares(streams: Sequence[ImageStream], threshold: float,
               workers: int) -> dict[tuple[int, int], Share]:
    """MAE scores of the models i <= j: the share of same-named images whose error is below `threshold`.

    A note names images that not all models have. Raises UserError if they have no name in common, or two
    images that are compared differ in size.
    """
    matches = match_names(streams)
    if not matches:
        raise UserError(f'{streams[0].where(0)}: no file name is common to all models')
    for stream, places in zip(streams, zip(*matches, strict=True), strict=True):
        alone = sorted(set(range(len(stream.names))) - set(places))
        if alone:
            note(f'{stream.where(alone[0])}: {len(alone)} of {len(stream.names)} images such as this one '
                 'have no partner of the same name or number and do not count')
    pairs = itertools.combinations(range(len(streams)), 2)
    errors = dict(zip(pairs, pairwise_errors(streams, matches, workers), strict=True))
    return {(i, j): Share.below(errors.get((i, j), np.zeros(len(matches))), threshold)
            for i, j in itertools.combinations_with_replacement(range(len(streams)), 2)}
