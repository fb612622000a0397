"""MoLRG data: samples of a mixture of low-rank Gaussians (paper 2, arXiv 2409.02426), kept in a file.

Class k of K owns d columns of a random orthonormal basis of the space of all images; its samples are standard
normal in these d dimensions and zero in all others. Values are unbounded, with mean zero.
"""

import os
import pickle
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from torch_utils.errors import UserError
from torch_utils.files import atomic_write, locked, make_output_dir

CHANNELS = 3
_OPTIONS = {'resolution': '--img_res', 'class_num': '--class_num', 'per_class_dim': '--per_class_dim',
            'sample_per_class': '--sample_per_class'}


@dataclass(frozen=True, kw_only=True)
class MoLRGShape:
    """How large a data set is: K = class_num classes of d = per_class_dim dimensions each.

    There are sample_per_class samples of each, as square images of width `resolution` with 3 channels.

    Raises UserError, naming trainMoLRG.py's options, if a number is below 1 or the classes don't fit.
    """

    resolution: int
    class_num: int
    per_class_dim: int
    sample_per_class: int

    def __post_init__(self):
        for name, option in _OPTIONS.items():
            if getattr(self, name) < 1:
                raise UserError(f'{option} must be at least 1, got {getattr(self, name)}')
        if self.class_num * self.per_class_dim > self.dim:
            raise UserError(f'--class_num {self.class_num} times --per_class_dim {self.per_class_dim} is '
                            f'{self.class_num * self.per_class_dim}, more than the {self.dim} dimensions of '
                            f'images with --img_res {self.resolution}')

    @property
    def dim(self) -> int:
        """n, the number of values in an image."""
        return CHANNELS * self.resolution**2

    @property
    def num_samples(self) -> int:
        """K N, samples of all classes together."""
        return self.class_num * self.sample_per_class

    @property
    def name(self) -> str:
        """The name of the data file without its suffix, and of the folder of its runs."""
        return (f'MoLRG_dataset_resolution{self.resolution}_classnum{self.class_num}'
                f'_perclassdim{self.per_class_dim}_sample{self.sample_per_class}')


def make_molrg(shape: MoLRGShape, seed: int) -> dict:
    """Draw the data set of a seed; the contents of its file.

    `basis` U_k [K, n, d], `space_basis` [n, n], whose first K d columns these are, `data` [K N, r, r, 3],
    all float32; `conds` [K N], the samples' classes, int64 and rising; the numbers of `shape`, and data_seed.
    """
    generator = torch.Generator().manual_seed(seed)
    square = torch.randn(shape.dim, shape.dim, generator=generator, dtype=torch.float64)
    space_basis = torch.linalg.svd(square).U
    owned = space_basis[:, :shape.class_num * shape.per_class_dim]
    basis = owned.reshape(shape.dim, shape.class_num, shape.per_class_dim).permute(1, 0, 2)
    size = (shape.sample_per_class, shape.per_class_dim)
    # Class by class: all of them in float64 would take twice the memory of the result.
    samples = [(torch.randn(size, generator=generator, dtype=torch.float64) @ columns.T).float()
               for columns in basis]
    return {
        'basis': basis.float().contiguous(), 'space_basis': space_basis.float().contiguous(),
        'data': torch.cat(samples).reshape(-1, shape.resolution, shape.resolution, CHANNELS),
        'class_num': shape.class_num, 'sample_per_class': shape.sample_per_class,
        'per_class_dim': shape.per_class_dim, 'resolution': shape.resolution,
        'conds': torch.arange(shape.class_num).repeat_interleave(shape.sample_per_class), 'data_seed': seed}


class MoLRG:
    """The data set of a file, for `data.batches.Batches`.

    Images are float32 [C, H, W] on the 0..255 scale, which stands for -1..1 as with uint8 images, but the
    values are neither whole nor bounded.

    folder: where the file lies, or is made if it does not exist: once, whole, however many processes ask.
    seed: of the data, None for that of an existing file, or 0.
    use_labels: labels are one-hot vectors of the classes, else label_dim is 0.
    make: False does without the file if it does not exist: only sizes are known then.
    Raises UserError if there is a file that contradicts these arguments, or is none.
    """

    name = 'MoLRG'
    num_channels = CHANNELS

    def __init__(self, folder: str | os.PathLike, shape: MoLRGShape, *, seed: int | None = None,
                 use_labels: bool = False, make: bool = True, option: str = '--path'):
        self.shape = shape
        self.path = str(Path(folder, f'{shape.name}.pt'))
        self.resolution = shape.resolution
        self.label_dim = shape.class_num if use_labels else 0
        self._data = self._classes = self._basis = None
        if make:
            _make_once(Path(self.path), shape, seed, option)
        if Path(self.path).exists():
            contents = load_molrg(self.path, shape, seed, option)
            self._basis, self._classes = contents['basis'], contents['conds'].numpy()
            self._data = contents['data'].permute(0, 3, 1, 2).numpy()

    def __len__(self) -> int:
        return self.shape.num_samples

    def samples(self) -> torch.Tensor:
        """All samples as they are, float32 [N, C, H, W]."""
        return torch.from_numpy(np.ascontiguousarray(self._data))

    def bases(self) -> torch.Tensor:
        """The true U_k, float32 [K, n, d], n in a network's order [C, H, W]; the file's is [H, W, C]."""
        return reordered(self._basis)

    def images(self, indices: Sequence[int] | slice | None) -> np.ndarray:
        """Samples at `indices`, on the 0..255 scale; float32 [N, C, H, W], a new array."""
        return (np.ascontiguousarray(self._data[np.asarray(indices)]) + np.float32(1)) * np.float32(127.5)

    def labels(self, indices: Sequence[int] | slice | None) -> np.ndarray:
        """Labels float32 [N, label_dim] at `indices`."""
        return np.eye(self.shape.class_num, self.label_dim, dtype=np.float32)[
            self._classes[np.asarray(indices)]]


def reordered(bases: torch.Tensor) -> torch.Tensor:
    """Bases [K, n, d] of a file, with n in the order [H, W, C], in a network's order [C, H, W]."""
    return bases.reshape(len(bases), -1, CHANNELS, bases.shape[2]).transpose(1, 2).reshape(bases.shape)


def _make_once(path: Path, shape: MoLRGShape, seed: int | None, option: str) -> None:
    if path.exists():
        return
    make_output_dir(path.parent, option)
    with locked(path, doing='making'):
        if not path.exists():  # another process may have been faster
            with atomic_write(path) as file:
                torch.save(make_molrg(shape, seed or 0), file)


def load_molrg(path: str | os.PathLike, shape: MoLRGShape | None, seed: int | None, option: str) -> dict:
    """Read a data file, ours or of the paper's software; runs no code from it. Contents as of `make_molrg`.

    shape, seed: what the file must say; None for anything.
    Raises UserError naming `option` and the file if it is none, or says other things than shape and seed.
    """
    where = f'{option} {path}'
    try:
        contents = torch.load(path, map_location='cpu', weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError) as err:
        raise UserError(f'{where}: no MoLRG data set, or a damaged one; without this file a new one is '
                        'made') from err
    if not isinstance(contents, dict):
        raise UserError(f'{where}: no MoLRG data set; it holds a {type(contents).__name__}')
    missing = [key for key in ('basis', 'space_basis', 'data', 'conds') if key not in contents]
    missing += [key for key in _OPTIONS if type(contents.get(key)) is not int]
    if missing:
        raise UserError(f'{where}: no MoLRG data set; it lacks {", ".join(missing)}')
    wrong = [f'{key} is {contents[key]} ({option} {getattr(shape, key)})'
             for key, option in _OPTIONS.items() if shape and contents[key] != getattr(shape, key)]
    if seed is not None and contents.get('data_seed') != seed:
        wrong.append(f'its seed is {contents.get("data_seed", "not recorded")} (--data_seed {seed})')
    if wrong:
        raise UserError(f'{where}: contradicts the options: {"; ".join(wrong)}')
    _check_tensors(contents, MoLRGShape(**{key: contents[key] for key in _OPTIONS}), where)
    return contents


def _check_tensors(contents: dict, shape: MoLRGShape, where: str) -> None:
    for key, size in {'basis': (shape.class_num, shape.dim, shape.per_class_dim),
                      'space_basis': (shape.dim, shape.dim),
                      'data': (shape.num_samples, shape.resolution, shape.resolution, CHANNELS),
                      'conds': (shape.num_samples,)}.items():
        tensor = contents[key]
        if not isinstance(tensor, torch.Tensor) or tensor.shape != size:
            found = list(tensor.shape) if isinstance(tensor, torch.Tensor) else type(tensor).__name__
            raise UserError(f'{where}: {key} is {found}, expected a tensor {list(size)}')
        if key != 'conds' and (tensor.dtype != torch.float32 or not tensor.isfinite().all()):
            raise UserError(f'{where}: {key} is {tensor.dtype}, expected finite numbers of torch.float32')
    if not torch.equal(contents['conds'].long(), torch.arange(shape.num_samples) // shape.sample_per_class):
        raise UserError(f'{where}: conds are not the classes 0 to {shape.class_num - 1}, one after another')
