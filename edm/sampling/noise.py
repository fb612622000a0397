"""Files of unit noise that samples start from, so that any software can start from the same.

An `.npz` with `latents`, float32 [N, C, H, W]; `seeds`, int64 [N], which name the samples; `generator`, what
drew them, in words; for a conditional network `classes`, int64 [N]; and `provenance`, JSON text.
"""

import json
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import PurePath

import numpy as np

from sampling.denoiser import Denoiser
from torch_utils import provenance
from torch_utils.errors import UserError, note, shown
from torch_utils.files import atomic_write
from torch_utils.npz import open_npz

USUAL_STD = (0.5, 2)  # of latents; those of unusual images may lie outside


@dataclass(frozen=True, kw_only=True)
class Noise:
    """The noise that samples start from.

    seeds: N different integers of at least 0. latents: unit noise, float32 [N, C, H, W]. generator: what made
    them, in words. classes: int64 [N], or None where each seed draws its own.
    """

    seeds: list[int]
    latents: np.ndarray
    generator: str
    classes: np.ndarray | None = None

    @cached_property
    def _places(self) -> dict[int, int]:
        return {seed: row for row, seed in enumerate(self.seeds)}

    def some(self, seeds: Sequence[int]) -> 'Noise':
        """The noise of these seeds. Raises UserError naming --seeds if one is not there."""
        if missing := [seed for seed in seeds if seed not in self._places]:
            raise UserError(f'--seeds: {missing[0]} is none of the {len(self.seeds):,} seeds in --latents')
        rows = [self._places[seed] for seed in seeds]
        classes = None if self.classes is None else self.classes[rows]
        return replace(self, seeds=list(seeds), latents=self.latents[rows], classes=classes)


def write_noise(path: str | os.PathLike, noise: Noise, *, settings: dict,
                inputs: Iterable[str | None] = ()) -> None:
    """Write an `.npz` of noise. settings, inputs: for its provenance."""
    record = json.dumps(provenance.record(inputs=inputs, settings=settings))
    classes = {} if noise.classes is None else {'classes': noise.classes}
    with atomic_write(path) as file:
        np.savez(file, latents=noise.latents, seeds=np.array(noise.seeds, dtype=np.int64), **classes,
                 generator=np.array(noise.generator), provenance=np.array(record))


def read_noise(path: str | os.PathLike, net: Denoiser, option: str = '--latents') -> Noise:
    """The noise in an `.npz` of ours or of other software, where only `latents` must be there.

    Without `seeds`, the rows are numbered from 0. Raises UserError naming `option` if the file is damaged or
    does not fit the images or classes of `net`.
    """
    where, shape = f'{option} {path}', (net.img_channels, net.img_resolution, net.img_resolution)
    if not os.path.isfile(path):
        raise UserError(f'{where}: no such file')
    with open_npz(path, where) as arrays:
        if 'latents' not in arrays:
            raise UserError(f'{where}: expected an array `latents`, found {", ".join(arrays) or "nothing"}')
        found, dtype = arrays.headers['latents']
        if found[1:] != shape or dtype.kind != 'f' or found[0] == 0:
            raise UserError(f'{where}: latents are {dtype} {list(found)}, expected floats '
                            f'[N, {", ".join(map(str, shape))}], the shape of the denoiser\'s images')
        with np.errstate(over='ignore'):  # infinite ones are refused below
            latents = arrays['latents'].astype(np.float32)
        seeds = arrays.get('seeds', np.arange(len(latents)))
        classes, generator = arrays.get('classes'), str(arrays.get('generator', 'unknown'))
    for name, array in (('seeds', seeds), ('classes', classes)):
        if array is not None and (array.shape != latents.shape[:1] or array.dtype.kind not in 'iu'
                                  or array.min() < 0 or array.max() >= 1 << 63):
            raise UserError(f'{where}: {name} are {array.dtype} {list(array.shape)}, expected {len(latents)} '
                            'integers of at least 0 and below 2^63')
    if len(np.unique(seeds)) < len(seeds):
        raise UserError(f'{where}: has a seed twice')
    if not np.isfinite(latents).all():
        raise UserError(f'{where}: latents are NaN or infinite')
    if classes is not None and net.label_dim and classes.max() >= net.label_dim:
        raise UserError(f'{where}: has the class {classes.max()}, and the network the classes 0 to '
                        f'{net.label_dim - 1}')
    std = latents.std(dtype=np.float64)
    if not USUAL_STD[0] <= std <= USUAL_STD[1]:
        note(f'note: {where}: the standard deviation of the latents is {std:.3g}, and of unit noise 1')
    generator = shown(generator, 500)[1:-1]
    return Noise(seeds=seeds.tolist(), latents=latents, classes=classes, generator=generator)


def seeds_in_names(names: Sequence[str]) -> list[int]:
    """The seeds in the names of samples, such as 000012.png or samples.npz[12]; else 0, 1, 2, .."""
    found = [re.fullmatch(r'(?:.*\.npz\[)?(\d{1,18})(?:\]|\.\w+)?', PurePath(name).name) for name in names]
    seeds = [int(match[1]) if match else None for match in found]
    return list(range(len(names))) if None in seeds or len(set(seeds)) < len(seeds) else seeds
