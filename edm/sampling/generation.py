"""Images from seeds: what each seed draws, how processes share the seeds, and the folder of samples."""

import contextlib
import json
import math
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from sampling.denoiser import Denoiser, FiniteOutput
from sampling.noise import Noise
from sampling.pace import one_thread_per_operation
from sampling.sampler import generalized_sampler
from torch_utils import distributed, provenance
from torch_utils.cli import parse_int_list, shorten
from torch_utils.errors import UserError
from torch_utils.files import atomic_write, locked, try_lock, write_json
from torch_utils.images import is_whole_png, make_grid, to_uint8, write_png
from torch_utils.processes import map_ahead
from torch_utils.seeding import SampleGenerators

WRITERS = 4  # threads that write PNGs while the next batch is computed
RECORD = 'generation.json'
AT_WORK = '.generate.lock'  # locked by all processes that write images, removed by the last


@dataclass(frozen=True, kw_only=True)
class Samples:
    """A batch of samples.

    seeds: N integers. images: uint8 [N, C, H, W].
    sigma, x, denoised: with a trajectory, the noise level of each step, float64 [steps], the states before
        the steps, float64 [N, steps, C, H, W], and the denoised images there.
    """

    seeds: list[int]
    images: np.ndarray
    sigma: np.ndarray | None = None
    x: np.ndarray | None = None
    denoised: np.ndarray | None = None


def begin(net: Denoiser, seeds: Sequence[int], device: torch.device, class_idx: int | None = None,
          vectors: np.ndarray | None = None, classes: np.ndarray | None = None,
          ) -> tuple[SampleGenerators, torch.Tensor, torch.Tensor | None]:
    """What each seed draws first from its own generator on `device`.

    vectors: labels to draw from, [M, label_dim], for a network conditioned on vectors rather than classes.
    classes: int64 [N], in place of those that the seeds draw.
    Returns the generators for further draws, the latents [N, C, H, W], and, if `net` is conditional, labels
    [N, label_dim], one-hot for classes. A class is drawn also where `class_idx` overrides it.
    """
    draws = SampleGenerators(seeds, device)
    latents = draws.randn((net.img_channels, net.img_resolution, net.img_resolution))
    if not net.label_dim:
        return draws, latents, None
    if vectors is not None:
        return draws, latents, torch.as_tensor(vectors, device=device)[draws.randint(len(vectors))]
    drawn = draws.randint(net.label_dim)
    if class_idx is not None:
        drawn.fill_(class_idx)
    elif classes is not None:
        drawn = torch.as_tensor(classes, dtype=torch.int64, device=device)
    return draws, latents, torch.eye(net.label_dim, device=device)[drawn]


def draw_noise(net: Denoiser, seeds: Sequence[int], device: torch.device, class_idx: int | None = None,
               vectors: np.ndarray | None = None) -> Noise:
    """The latents and classes of `begin` as the contents of a file, without label vectors."""
    _, latents, labels = begin(net, seeds, device, class_idx, vectors)
    classes = None if labels is None or vectors is not None else labels.argmax(dim=1).cpu().numpy()
    generator = (f'torch.randn({list(latents.shape[1:])}) in float32 of torch.Generator({device.type!r})'
                 f'.manual_seed(seed % 2**32), PyTorch {torch.__version__}')
    return Noise(seeds=list(seeds), latents=latents.cpu().numpy(), classes=classes, generator=generator)


@torch.inference_mode()
def sample(net: Denoiser, seeds: Sequence[int], device: torch.device, *, class_idx: int | None = None,
           vectors: np.ndarray | None = None, noise: Noise | None = None, trajectory: bool = False,
           **options) -> Samples:
    """One image per seed.

    Each seed's own generator gives what `begin` draws, then noise at every step if the sampler churns, so
    that an image does not depend on its batch.
    class_idx, vectors: see `begin`. noise: latents, and classes if it has some, in place of drawn ones.
    options: those of `generalized_sampler`, whose errors these are.
    Raises UserError if the denoiser's output is not finite.
    """
    noise = noise.some(seeds) if noise is not None else None
    draws, latents, class_labels = begin(net, seeds, device, class_idx, vectors, noise and noise.classes)
    if noise is not None:
        latents = torch.as_tensor(noise.latents, device=device)
    output, steps = FiniteOutput(), []

    def on_step(i, sigma, x, denoised):
        output.note(sigma, denoised)
        if trajectory:
            steps.append((sigma, x.cpu().numpy(), denoised.cpu().numpy()))

    images = generalized_sampler(net, latents, class_labels, on_step=on_step,
                                 randn=lambda x: draws.randn(x.shape[1:], x.dtype), **options)
    output.check()
    kept = {}
    if trajectory:
        sigma, x, denoised = zip(*steps, strict=True)
        kept = {'sigma': np.array(sigma), 'x': np.stack(x, axis=1), 'denoised': np.stack(denoised, axis=1)}
    return Samples(seeds=list(seeds), images=to_uint8(images).cpu().numpy(), **kept)


def own_batches(seeds: Sequence[int], batch: int, *, shared: bool = False, threads: int = 1,
                ) -> list[list[int]]:
    """This process's share of the seeds, in batches of nearly equal size and at most `batch`.

    shared: all processes work together on all seeds. threads: how many batches it computes side by side.
    """
    rank, world = (0, 1) if shared else (distributed.rank(), distributed.world_size())
    at_once = world * threads
    count = math.ceil(len(seeds) / (batch * at_once)) * at_once  # the same for every process and thread
    parts = np.array_split(np.asarray(seeds, dtype=np.int64), count or 1)
    return [part.tolist() for part in parts if len(part)][rank::world]


# The folder of samples.


def image_path(outdir: Path, seed: int, subdirs: bool) -> Path:
    """Where the image of a seed lies: {seed:06d}.png, with `subdirs` in a folder for each thousand seeds."""
    return (outdir / f'{seed - seed % 1000:06d}' if subdirs else outdir) / f'{seed:06d}.png'


@contextlib.contextmanager
def sample_folder(outdir: Path, settings: dict, seeds: Sequence[int], *, subdirs: bool, resume: bool,
                  overwrite: bool = False, inputs: Sequence[str] = ()) -> Iterator[list[int]]:
    """Record in `outdir`/generation.json what makes its images; yields the seeds to sample.

    Inside, other processes may add images of the same settings only.
    settings: all that decides the pixels. inputs: files, for the record. With `resume`, whole images of these
    settings are kept; without, those of `seeds` are replaced, also if an earlier run with other settings made
    them. With `overwrite` all further images of other settings or origin are removed.
    Raises UserError if there are such images, or a process is writing images of other settings.
    """
    # JSON has no infinity.
    settings = {name: str(value) if value == math.inf else value for name, value in settings.items()}
    with contextlib.ExitStack() as stack:
        with locked(outdir, 'starting in'):
            alone = stack.enter_context(_at_work(outdir))
            todo = _begin(outdir, settings, seeds, subdirs, resume, overwrite, inputs, alone)
        yield todo


@contextlib.contextmanager
def _at_work(outdir: Path) -> Iterator[bool]:
    """Count this process as one that writes images there; yields whether it is the only one.

    Enter it inside `locked(outdir)`, leave it outside.
    """
    lock = os.open(outdir / AT_WORK, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        alone = try_lock(lock)
        try_lock(lock, shared=True)
        yield alone
    finally:
        if outdir.is_dir():
            with locked(outdir, 'finishing in'):
                if try_lock(lock):  # this is the last one
                    (outdir / AT_WORK).unlink(missing_ok=True)
        os.close(lock)


def _begin(outdir: Path, settings: dict, seeds: Sequence[int], subdirs: bool, resume: bool, overwrite: bool,
           inputs: Sequence[str], alone: bool) -> list[int]:
    record = _read_record(outdir / RECORD)
    old = record.get('settings', settings)
    difference = next((f'{name}: {old.get(name)} there, {settings.get(name)} now'
                       for name in {**settings, **old} if old.get(name) != settings.get(name)), '')
    if difference and not alone:
        raise UserError(f'--outdir {outdir}: another process is writing images of other settings there '
                        f'({difference})')
    recorded = {image_path(outdir, seed, subdirs) for run in record.get('runs', [])
                for seed in parse_int_list(run['seeds'])}
    paths = {seed: image_path(outdir, seed, subdirs) for seed in seeds}
    there, asked = _images_in(outdir), set(paths.values())
    foreign = there if difference else there - recorded
    refused = foreign if resume else foreign - (asked & recorded)
    if refused and not overwrite:
        first = min(refused).relative_to(outdir).as_posix()
        why = f'made with other settings ({difference})' if difference else (
            f'made by something else ({first} is not in {RECORD})')
        raise UserError(f'{"--resume: " if resume else ""}--outdir {outdir} has images ({len(refused)}) that '
                        f'were {why}; --overwrite removes them')
    replaced = there & asked & foreign if resume else there & asked
    if replaced:
        print(f'{len(replaced)} of {len(seeds)} images are in {outdir} already and are replaced',
              file=sys.stderr)
    for path in foreign:  # so that no image is ever taken for one of these settings
        path.unlink()
    if foreign - asked:
        print(f'{len(foreign - asked)} further images in {outdir} are removed', file=sys.stderr)
    runs = [] if difference else record.get('runs', [])
    write_json(outdir / RECORD, {'settings': settings, 'runs': [
        *runs, {'seeds': shorten(seeds), **provenance.record(inputs=inputs)}]})
    return [seed for seed in seeds
            if not (resume and paths[seed] in there - foreign and is_whole_png(paths[seed]))]


def _images_in(outdir: Path) -> set[Path]:
    """All images in a folder named as samples are, with or without folders of thousands."""
    return {path for pattern in ('*.png', '*/*.png') for path in outdir.glob(pattern)
            if re.fullmatch(r'([0-9]{6,}/)?[0-9]{6,}\.png', path.relative_to(outdir).as_posix())}


def _read_record(path: Path) -> dict:
    """The record of a folder, with `settings` and `runs`; an empty one if there is none or it is damaged."""
    try:
        record = json.loads(path.read_text(encoding='utf-8'))
        for run in record['runs']:
            parse_int_list(run['seeds'])
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}
    return record if isinstance(record['runs'], list) and isinstance(record.get('settings'), dict) else {}


def write_samples(batches: Sequence[Sequence[int]], make: Callable[[Sequence[int]], Samples], outdir: Path, *,
                  subdirs: bool, threads: int = 1) -> Iterator[Samples]:
    """Make each batch of seeds, write its images while the next is made, and yield it.

    threads: how many batches are made side by side; if several, each by one of PyTorch's threads.
    The progress bar shows rank 0's share.
    """
    def write(seed, image):
        path = image_path(outdir, seed, subdirs)
        if path.parent != outdir:  # don't make a removed folder again, without its record
            path.parent.mkdir(exist_ok=True)
        write_png(path, image.transpose(1, 2, 0), durable=False)

    one_thread = one_thread_per_operation() if threads > 1 else contextlib.nullcontext()
    with (ThreadPoolExecutor(WRITERS) as pool, one_thread,
          tqdm(total=sum(map(len, batches)), unit='img', disable=distributed.rank() != 0) as progress):
        made = map_ahead(make, batches, threads, ahead=threads) if threads > 1 else map(make, batches)
        writing = iter(())
        for samples in made:
            list(writing)  # raises what writing the last batch raised
            writing = pool.map(write, samples.seeds, samples.images)
            yield samples
            progress.update(len(samples.seeds))
        list(writing)


def write_sheet(path: Path, outdir: Path, seeds: Sequence[int], *, subdirs: bool) -> None:
    """Write one PNG with the images of all seeds, in their order, on a nearly square grid."""
    images = []
    for seed in seeds:
        with Image.open(image_path(outdir, seed, subdirs)) as image:
            images.append(np.atleast_3d(image).transpose(2, 0, 1))
    write_png(path, make_grid(np.stack(images), columns=math.ceil(math.sqrt(len(images)))),
              title=f'Samples of the seeds {shorten(seeds)}')


def write_trajectory(path: Path, parts: Sequence[Samples], seeds: Sequence[int], settings: dict, *,
                     inputs: Sequence[str] = ()) -> None:
    """Write the trajectories of all processes to an `.npz`; called on each, rank 0 writes.

    Arrays, in the order of `seeds`: `seeds` int64 [N], and as in `Samples` `sigma`, `x`, `denoised` and
    `images`; and `provenance`, JSON text. inputs: files, for the latter.
    """
    parts = [part for share in distributed.gather(list(parts)) for part in share]
    if distributed.rank() != 0:
        return
    made = [seed for part in parts for seed in part.seeds]
    order = [made.index(seed) for seed in seeds]
    arrays = {name: np.concatenate([getattr(part, name) for part in parts])[order]
              for name in ('x', 'denoised', 'images')}
    record = json.dumps(provenance.record(inputs=inputs, settings=settings))
    with atomic_write(path) as file:
        np.savez(file, seeds=np.array(seeds), sigma=parts[0].sigma, provenance=np.array(record), **arrays)
