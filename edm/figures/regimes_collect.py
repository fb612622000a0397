"""The numbers of the regimes figure from single scores, as `sscd.py rpscore|mscore --json` writes them.

A score's file says its training-set size N and its widths (`size`, `widths`), as --size and --width gave
them; where it doesn't, its name does, as in rp-n1024-w64-w128.json.
"""

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from figures.regimes_results import Curve, Results, Scores
from torch_utils.errors import UserError
from torch_utils.json_place import Place, load_json

# The key in the file -> the score and of how many widths it is.
_KINDS = {'rp_score': ('rp', 2), 'generalization_score': ('gl', 1)}


@dataclass(frozen=True, kw_only=True)
class _Point:
    """One file. kind: 'rp' or 'gl'; widths: two or one, the larger first; total: samples."""

    path: str
    kind: str
    widths: tuple[int, ...]
    size: int
    threshold: float
    value: float
    low: float
    high: float
    total: int
    descriptor: str


def collect_scores(paths: Sequence[str], *, data: str, kimg: float | None, threshold: float | None,
                   option: str = '--scores') -> Results:
    """Put the scores of these files together.

    data: the data set's name. kimg: what each model saw, None if unknown. threshold: the main one of those in
    the files, needed only if there are several.
    Raises UserError naming `option` and the file if one is no score, or they don't make a whole figure: each
    width needs its GL score, and each pair that there is its RP score, at every size and threshold.
    """
    points = [_load_point(path, option) for path in paths]
    descriptor, total = (_common(points, name, option) for name in ('descriptor', 'total'))
    thresholds = sorted({point.threshold for point in points})
    if threshold is None and len(thresholds) > 1:
        raise UserError(f'{option}: there are scores at the thresholds {_listed(thresholds)}; say with '
                        '--threshold which one is the main one')
    main = thresholds[0] if threshold is None else threshold
    if main not in thresholds:
        raise UserError(f'--threshold {main:g}: the scores are at {_listed(thresholds)}')
    sizes = sorted({point.size for point in points})
    curves = _curves(points, sizes, thresholds, option)
    return Results(
        data=data, kimg=kimg, descriptor=descriptor, num_samples=total,
        threshold=main, thresholds=[main, *(t for t in thresholds if t != main)], sizes=sizes,
        widths=sorted({width for point in points for width in point.widths}, reverse=True),
        scores={t: Scores(rp={widths: curve for (at, kind, widths), curve in curves.items()
                              if (at, kind) == (t, 'rp')},
                          gl={widths[0]: curve for (at, kind, widths), curve in curves.items()
                              if (at, kind) == (t, 'gl')}) for t in thresholds})


def _load_point(path: str, option: str) -> _Point:
    place = load_json(path, option)
    key = next((key for key in _KINDS if place.has(key)), None)
    if key is None:
        raise UserError(f'{option} {path}: has neither rp_score nor generalization_score, which sscd.py '
                        'rpscore and mscore --json write')
    kind, num_widths = _KINDS[key]
    sizes = [place.get('size').integer()] if place.has('size') else _numbers_after('n', path)
    widths = ([item.integer() for item in place.get('widths').items()] if place.has('widths')
              else _numbers_after('w', path))
    if len(sizes) != 1 or len(widths) != num_widths or len(set(widths)) != num_widths:
        wanted = 'two different widths' if kind == 'rp' else 'one width'
        example = 'rp-n1024-w64-w128.json' if kind == 'rp' else 'gl-n1024-w64.json'
        raise UserError(f'{option} {path}: expected one training-set size and {wanted}, in the file (sscd.py '
                        f'--size and --width) or in its name, such as {example}; found {sizes} and {widths}')
    value, low, high = (place.get(name).number(0, 1) for name in (key, 'low', 'high'))
    return _Point(path=path, kind=kind, widths=tuple(sorted(widths, reverse=True)), size=sizes[0],
                  threshold=place.get('threshold').number(-1, 1), value=value, low=low, high=high,
                  total=place.get('total').integer(), descriptor=_descriptor(place))


def _numbers_after(letter: str, path: str) -> list[int]:
    """In a file's name, the numbers above 0 that follow this letter at the start of a word."""
    return [int(digits) for digits in re.findall(rf'(?<![a-z]){letter}0*([1-9]\d*)', Path(path).stem)]


def _descriptor(place: Place) -> str:
    return place.get('descriptor').text() if place.has('descriptor') else 'unknown'


def _common(points: list[_Point], name: str, option: str):
    """The value that all files share."""
    by_value = {getattr(point, name): point.path for point in points}
    if len(by_value) > 1:
        (a, first), (b, second) = list(by_value.items())[:2]
        raise UserError(f'{option}: the files differ in `{name}`, {a} in {first} and {b} in {second}')
    return next(iter(by_value))


def _curves(points: list[_Point], sizes: list[int], thresholds: list[float],
            option: str) -> dict[tuple[float, str, tuple[int, ...]], Curve]:
    """By threshold, kind and widths."""
    found = defaultdict(dict)
    for point in points:
        other = found[point.threshold, point.kind, point.widths].setdefault(point.size, point)
        if other is not point:
            raise UserError(f'{option}: {other.path} and {point.path} are the same score')
    widths = sorted({width for point in points for width in point.widths})
    wanted = {('gl', (width,)) for width in widths} | {(kind, widths) for _, kind, widths in found}
    for kind, models in sorted(wanted):
        for t in thresholds:
            missing = [size for size in sizes if size not in found.get((t, kind, models), {})]
            if missing:
                raise UserError(f'{option}: the {kind.upper()} score of width {_listed(models)} at the '
                                f'threshold {t:g} is missing for N = {_listed(missing)}')
    return {key: _curve([by_size[size] for size in sizes])
            for key, by_size in sorted(found.items(), reverse=True)}


def _curve(points: list[_Point]) -> Curve:
    return Curve(*(np.array([getattr(point, name) for point in points]) for name in ('value', 'low', 'high')))


def _listed(numbers: Sequence[float]) -> str:
    return ', '.join(f'{number:g}' for number in numbers)
