"""From images to a file of descriptors: threads decode ahead, all processes compute, rank 0 writes."""

import hashlib
import itertools
import json
import os
from collections.abc import Iterator

import numpy as np
from tqdm import tqdm

from data.image_names import refuse_images
from data.image_stream import ImageStream
from descriptors.features import save_features
from torch_utils import distributed
from torch_utils.errors import UserError, note
from torch_utils.processes import map_ahead

_TASK = 8  # images that a thread prepares at a time


def extract(images: ImageStream, descriptor, path: str | os.PathLike, *, batch: int, workers: int,
            provenance: dict) -> np.ndarray | None:
    """Write the descriptors of all images to `path`, an `.npz` as `descriptors.features` describes.

    descriptor: of a class of `descriptors`. batch: images at a time. The processes take batches in
    turns and rank 0 writes, so that the file doesn't depend on their number. workers: threads per process
    that decode. provenance: goes into the file, with `images_sha256`, the hash of all pixels and names, and
    `images_of_one_colour`, the number of images whose pixels are all equal, such as black ones.
    Returns the descriptors, float32 [N, D], on rank 0, None on the others. Raises UserError if an image is
    broken, or of another shape than the first where the descriptor can't have that.
    """
    rows = _rows_in_order(images, descriptor, batch, workers)
    if distributed.rank() > 0:
        for _ in rows:
            pass
        return None
    hashes, values, filled, num_plain = hashlib.sha256(), None, 0, 0
    with tqdm(total=len(images.names), unit='image') as progress:
        for part, digests, plain in rows:
            if values is None:
                values = np.empty((len(images.names), part.shape[1]), np.float32)
            if part.shape[1] != values.shape[1]:
                raise UserError(f'--descriptor {descriptor.kind}: gives {values.shape[1]} numbers for some '
                                f'images and {part.shape[1]} for others, expected the same number for all')
            values[filled:filled + len(part)] = part
            filled += len(part)
            hashes.update(digests)
            num_plain += plain
            progress.update(len(part))
    hashes.update('\n'.join(images.names).encode('utf-8', 'surrogateescape'))
    if num_plain:
        note(f'{_path(images)}: {num_plain} of {len(values)} images are of one colour; black ones are what a '
             'network leaves whose output is NaN. A pixel descriptor of one grey value is similar to none')
    provenance = provenance | {'images_sha256': hashes.hexdigest(), 'images_of_one_colour': num_plain}
    save_features(path, values, images.names, descriptor=descriptor.kind, length=descriptor.length,
                  identity=descriptor.identity, provenance=json.dumps(provenance))
    return values


def _path(images: ImageStream) -> str:
    """What messages call all images."""
    return images.where(0).removesuffix(f': {images.names[0]}')


def _rows_in_order(images: ImageStream, descriptor, batch: int,
                   workers: int) -> Iterator[tuple[np.ndarray, bytes, int]]:
    """Per batch, on every process: descriptors float32 [n, D], the images' SHA-256 one after another, and how
    many images are of one colour.
    """
    total, rank, world_size = len(images.names), distributed.rank(), distributed.world_size()
    own = [range(start, min(start + batch, total)) for start in range(0, total, batch)][rank::world_size]
    rounds = -(-total // (batch * world_size))
    with distributed.shared_errors():
        shape = descriptor.prepare(images.read(0)).shape

    def prepare_all(indices: range) -> list[tuple[np.ndarray, bytes, bool]]:
        return [prepare(index) for index in indices]

    def prepare(index: int) -> tuple[np.ndarray, bytes, bool]:
        image = images.read(index)
        pixels = descriptor.prepare(image)
        if pixels.shape != shape:
            raise UserError(f'{images.where(index)} is {list(pixels.shape)} (channels, height, width), and '
                            f'{images.names[0]} is {list(shape)}; all must be alike for this descriptor')
        header = f'{image.mode} {image.width} {image.height} '.encode()
        raw = image.tobytes()
        return pixels, hashlib.sha256(header + raw).digest(), raw == raw[:len(image.mode)] * (
            image.width * image.height)

    def refuse_all() -> None:
        where, faults = _path(images), []
        for index in range(total):
            try:
                prepare(index)
            except UserError as err:
                faults.append(str(err).removeprefix(f'{where}: '))
        refuse_images(faults, total, where)

    parts = (indices[start:start + _TASK] for indices in own for start in range(0, len(indices), _TASK))
    prepared = itertools.chain.from_iterable(
        map_ahead(prepare_all, parts, workers, ahead=max(2 * batch // _TASK, 2 * workers)))
    for number in range(rounds):
        part = None
        with distributed.shared_errors():
            if number < len(own):
                try:
                    pixels, digests, plain = zip(*itertools.islice(prepared, len(own[number])), strict=True)
                except UserError:
                    refuse_all()
                    raise
                part = descriptor.compute(np.stack(pixels)), b''.join(digests), sum(plain)
        yield from (part for part in distributed.gather(part) if part is not None)
