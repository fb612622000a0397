"""What images are compared by: vectors whose inner product is the similarity of two images."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import numpy as np
from PIL import Image

from scores.sscd_model import SscdDescriptor

if TYPE_CHECKING:
    import torch

_BLOCK = 4096  # images at a time in float64


class Descriptor(Protocol):
    """What a descriptor has; a new one is a class with this and its place in DESCRIPTORS.

    kind: its name. identity: what exactly it computes; those of equal identity can be compared. similarity:
    what an inner product of two is, in words. takes_model: whether the network of `--model` computes it.
    """

    kind: str
    identity: str
    similarity: str
    takes_model: bool

    @classmethod
    def make(cls, model: str | None, device: torch.device) -> Descriptor:
        """The descriptor of a path, a URL or None, on a device."""

    def prepare(self, image: Image.Image) -> np.ndarray:
        """The uint8 array that `compute` takes, of an image of mode L or RGB. Called in several threads."""

    def compute(self, images: np.ndarray) -> np.ndarray:
        """float32 [N, D] of N prepared images, uint8 [N, ...]."""


class PixelDescriptor:
    """`pixel_descriptor` of images that are all of one size, and all grey or all RGB."""

    kind = 'pixel'
    identity = 'pixel: all channels, without their mean, at length 1'
    similarity = 'the Pearson correlation of the pixels'
    takes_model = False

    @classmethod
    def make(cls, model: str | None, device: torch.device) -> PixelDescriptor:
        """Without a model, and computed on the CPU whatever the device."""
        return cls()

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


DESCRIPTORS = {kind.kind: kind for kind in (SscdDescriptor, PixelDescriptor)}  # by --descriptor


def similarity_words(kind: str | None) -> str:
    """What the inner product of two descriptors is."""
    return DESCRIPTORS[kind].similarity if kind in DESCRIPTORS else 'the inner product of descriptors'
