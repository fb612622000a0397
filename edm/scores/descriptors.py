"""What images are compared by: vectors whose inner product is the similarity of two images."""

from typing import Protocol

import numpy as np
from PIL import Image

_BLOCK = 4096  # images at a time in float64


class Descriptor(Protocol):
    """What `scores.extraction` needs of a descriptor.

    kind: 'sscd' or 'pixel'. identity: what exactly it computes; those of equal identity can be compared.
    """

    kind: str
    identity: str

    def prepare(self, image: Image.Image) -> np.ndarray:
        """The uint8 array that `compute` takes, of an image of mode L or RGB. Called in several threads."""

    def compute(self, images: np.ndarray) -> np.ndarray:
        """float32 [N, D] of N prepared images, uint8 [N, ...]."""


class PixelDescriptor:
    """`pixel_descriptor` of images that are all of one size, and all grey or all RGB."""

    kind = 'pixel'
    identity = 'pixel: all channels, without their mean, at length 1'

    def prepare(self, image: Image.Image) -> np.ndarray:
        """uint8 [C, H, W]."""
        pixels = np.asarray(image)
        return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)

    def compute(self, images: np.ndarray) -> np.ndarray:
        """float32 [N, C*H*W] of uint8 [N, C, H, W]."""
        return pixel_descriptor(images)


def pixel_descriptor(images: np.ndarray) -> np.ndarray:
    """The pixels as a vector without their mean and of length 1: inner products are Pearson correlations.

    images: uint8 [N, C, H, W]; all channels count as one list of C*H*W numbers. Computed in float64.
    An image of one grey value has no correlation with anything. Its descriptor is the zero vector, so its
    similarity is 0 to every image, itself included.
    Returns float32 [N, C*H*W]. Raises ValueError for another dtype or rank, or images without pixels.
    """
    if images.dtype != np.uint8 or images.ndim != 4 or 0 in images.shape[1:]:
        raise ValueError(f'images must be uint8 [N, C, H, W], got {images.dtype} {list(images.shape)}')
    descriptors = np.empty((len(images), images[0].size if len(images) else 0), dtype=np.float32)
    for start in range(0, len(images), _BLOCK):
        pixels = images[start:start + _BLOCK].reshape(-1, descriptors.shape[1]).astype(np.float64)
        pixels -= pixels.mean(axis=1, keepdims=True)  # exactly 0 if the image is constant
        norms = np.linalg.norm(pixels, axis=1, keepdims=True)
        descriptors[start:start + _BLOCK] = pixels / np.where(norms > 0, norms, 1)
    return descriptors


DESCRIPTORS = ('sscd', 'pixel')

SIMILARITY = {  # what an inner product is, in words
    'sscd': 'the inner product of SSCD descriptors',
    'pixel': 'the Pearson correlation of the pixels'}
