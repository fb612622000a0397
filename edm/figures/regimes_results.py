"""The file of numbers behind the regimes figure (regimes.json): read and checked, and what follows from it.

Layout: see `Results`; in the file, `scores` holds per threshold (as text) `rp` per pair of widths ('16-8'),
`gl` per width ('16'), and the controls `chance_rp` per pair and `heldout_gl`, both optional. A curve is a
list of {size, value, low, high}, one entry per training-set size; a control may be one entry for all sizes.
Also optional, per width: `optimal_rp` and `gaussian_rp`, RP scores with the denoisers that the training set
has in closed form.
"""

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from torch_utils.errors import UserError
from torch_utils.json_place import Place, load_json

MEMORIZES_BELOW = 0.05  # GL scores of all widths up to here: the memorization regime
GENERALIZES_ABOVE = 0.9  # GL scores of all widths from here on: the generalization regime


@dataclass(frozen=True)
class Curve:
    """A score over training-set sizes, with its 95 % interval; float64 [number of sizes] each, in 0..1."""

    value: np.ndarray
    low: np.ndarray
    high: np.ndarray


@dataclass(frozen=True)
class Scores:
    """The curves at one threshold: per pair of widths, per width, and the controls."""

    rp: dict[tuple[int, int], Curve]
    gl: dict[int, Curve]
    chance_rp: dict[tuple[int, int], Curve] = field(default_factory=dict)
    heldout_gl: Curve | None = None
    optimal_rp: dict[int, Curve] = field(default_factory=dict)
    gaussian_rp: dict[int, Curve] = field(default_factory=dict)


@dataclass(frozen=True)
class Column:
    """Samples of the model of training-set size `size`, each with its nearest training image."""

    size: int
    samples: list[Path]
    nearest: list[Path]
    similarity: list[float]


@dataclass(frozen=True, kw_only=True)
class Results:
    """Everything in the file.

    data: the data set's name. kimg: thousands of images each model saw, None if unknown. num_samples: noises
    per model. threshold: the main one of `thresholds`. sizes: training-set sizes, rising. example_width:
    whose samples `examples` shows; None if there are none. record: what made the numbers.
    """

    data: str
    kimg: float | None
    descriptor: str
    num_samples: int
    threshold: float
    thresholds: list[float]
    sizes: list[int]
    widths: list[int]
    scores: dict[float, Scores]
    example_width: int | None = None
    examples: list[Column] = field(default_factory=list)
    record: dict = field(default_factory=dict)


def load_results(path: str | os.PathLike, option: str = '--results') -> Results:
    """Read and check the file.

    Raises UserError naming `option`, the file and the place in it.
    """
    return _results(load_json(path, option), Path(path).parent)


def memorization_end(sizes: Sequence[int], curves: Sequence[np.ndarray]) -> float | None:
    """Up to which size all GL curves stay at or below MEMORIZES_BELOW, starting from the smallest size.

    Between two sizes the curves are taken to be straight over log2(size). None if a curve starts higher.
    """
    return _reach(sizes, np.max(curves, axis=0), MEMORIZES_BELOW)


def generalization_start(sizes: Sequence[int], curves: Sequence[np.ndarray]) -> float | None:
    """From which size on all GL curves stay at or above GENERALIZES_ABOVE, to the largest size; or None."""
    return _reach(sizes[::-1], 1 - np.min(curves, axis=0)[::-1], 1 - GENERALIZES_ABOVE)


def _reach(sizes: Sequence[int], values: np.ndarray, limit: float) -> float | None:
    beyond = np.flatnonzero(values > limit + 1e-12)
    if len(beyond) == 0:
        return float(sizes[-1])
    after = beyond[0]
    if after == 0:
        return None
    part = (limit - values[after - 1]) / (values[after] - values[after - 1])
    a, b = math.log2(sizes[after - 1]), math.log2(sizes[after])
    return 2 ** (a + part * (b - a))


def _results(top: Place, folder: Path) -> Results:
    sizes = [item.integer() for item in top.get('sizes').items()]
    if sorted(set(sizes)) != sizes:
        raise top.get('sizes').error('rising')
    widths = [item.integer() for item in top.get('widths').items()]
    threshold = top.get('threshold').number(-1, 1)
    thresholds = [item.number(-1, 1) for item in top.get('thresholds').items()]
    if threshold not in thresholds:
        raise top.get('thresholds').error(f'a list that holds the main threshold {threshold:g}')
    examples = top.get('examples') if 'examples' in top.mapping() and top.has('examples') else None
    return Results(
        data=top.get('data').text(), kimg=top.get('kimg').number(0), descriptor=top.get('descriptor').text(),
        num_samples=top.get('num_samples').integer(), threshold=threshold, thresholds=thresholds, sizes=sizes,
        widths=widths,
        scores={t: _scores(_at_threshold(top.get('scores'), t), sizes, widths) for t in thresholds},
        example_width=None if examples is None else examples.get('width').integer(),
        examples=[] if examples is None else _columns(examples.get('columns'), folder),
        record=top.get('record').mapping() if top.has('record') else {})


def _at_threshold(scores: Place, threshold: float) -> Place:
    for key in scores.mapping():
        try:
            if float(key) == threshold:
                return scores.get(key)
        except ValueError:
            pass
    return scores.get(f'{threshold:g}')  # says that it is missing


def _scores(place: Place, sizes: list[int], widths: list[int]) -> Scores:
    gl = place.get('gl')
    missing = {str(width) for width in widths} - set(gl.mapping())
    if missing:
        raise gl.error(f'curves of all widths, {sorted(missing)[0]} too')
    return Scores(
        rp=_pairs(place.get('rp'), sizes, widths),
        gl={width: _curve(gl.get(str(width)), sizes) for width in widths},
        chance_rp=_pairs(place.get('chance_rp'), sizes, widths) if place.has('chance_rp') else {},
        heldout_gl=_curve(place.get('heldout_gl'), sizes) if place.has('heldout_gl') else None,
        optimal_rp=_of_widths(place, 'optimal_rp', sizes, widths),
        gaussian_rp=_of_widths(place, 'gaussian_rp', sizes, widths))


def _of_widths(place: Place, key: str, sizes: list[int], widths: list[int]) -> dict[int, Curve]:
    """Curves of some or all widths; none where the key is absent."""
    curves = place.get(key).mapping() if place.has(key) else {}
    unknown = set(curves) - set(map(str, widths))
    if unknown:
        raise place.get(key).error(f'curves of `widths`, and {sorted(unknown)[0]} is none')
    return {int(width): _curve(place.get(key).get(width), sizes) for width in curves}


def _pairs(place: Place, sizes: list[int], widths: list[int]) -> dict[tuple[int, int], Curve]:
    pairs = {f'{a}-{b}': (a, b) for a in widths for b in widths if a != b}
    unknown = set(place.mapping()) - set(pairs)
    if unknown:
        raise place.error(f'curves of pairs of `widths`, such as 16-8, and {sorted(unknown)[0]} is none')
    return {pairs[key]: _curve(place.get(key), sizes) for key in place.value}


def _curve(place: Place, sizes: list[int]) -> Curve:
    """A list of entries, one per size; or a single one, which holds for all sizes."""
    entries = [place] * len(sizes) if isinstance(place.value, dict) else place.items()
    if isinstance(place.value, list):
        found = [entry.get('size').integer() for entry in entries]
        if found != sizes:
            raise UserError(f'{place.file}: {place.path} has the sizes {found}, expected {sizes}')
    points = []
    for entry in entries:
        value, low, high = (entry.get(key).number(0, 1) for key in ('value', 'low', 'high'))
        if not low <= value <= high:
            raise entry.error('a value between low and high')
        points.append((value, low, high))
    return Curve(*np.array(points, dtype=np.float64).T)


def _columns(place: Place, folder: Path) -> list[Column]:
    columns = []
    for item in place.items():
        samples = [_image(entry, folder) for entry in item.get('samples').items()]
        nearest = [_image(entry, folder) for entry in item.get('nearest').items()]
        similarity = [entry.number(-1.001, 1.001) for entry in item.get('similarity').items()]
        if not len(samples) == len(nearest) == len(similarity):
            raise item.error('as many samples as nearest images and similarities')
        columns.append(Column(item.get('size').integer(), samples, nearest, similarity))
    return columns


def _image(place: Place, folder: Path) -> Path:
    path = folder / place.text()
    try:
        with Image.open(path) as image:
            image.load()
    except (OSError, SyntaxError, ValueError, UnidentifiedImageError) as err:
        raise place.error('a readable image, relative to the file\'s folder') from err
    return path
