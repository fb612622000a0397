"""Descriptors of images: vectors whose inner product is the similarity of two images."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from scores.sscd_model import SscdDescriptor

if TYPE_CHECKING:
    import torch

_BLOCK = 4096  # images at a time in float64


class PixelDescriptor:
    """`pixel_descriptor` of images that are all of one size, and all grey or all RGB.

    A new descriptor is a class with these attributes and its place in DESCRIPTORS. identity: what exactly it
    computes; features of equal identity can be compared. similarity: the inner product of two, in words.
    takes_model: whether --model is for it.
    """

    kind = 'pixel'
    identity = 'pixel: all channels, without their mean, at length 1'
    similarity = 'the Pearson correlation of the pixels'
    takes_model = False

    @classmethod
    def make(cls, model: str | None, device: torch.device) -> PixelDescriptor:
        """The descriptor of a path or URL of a network, or None, on a device; this one runs on the CPU."""
        return cls()

    def prepare(self, image: Image.Image) -> np.ndarray:
        """What `compute` takes, uint8 [C, H, W], of an image of mode L or RGB; called in several threads."""
        pixels = np.asarray(image)
        return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)

    def compute(self, images: np.ndarray) -> np.ndarray:
        """float32 [N, C*H*W] of N prepared images, uint8 [N, C, H, W]."""
        return pixel_descriptor(images)


def pixel_descriptor(images: np.ndarray) -> np.ndarray:
    """The pixels as a vector without their mean and of length 1: inner products are Pearson correlations.

    images: uint8 [N, C, H, W]. Computed in float64 over all C*H*W numbers.
    An image of one grey value has no correlation with anything: its descriptor is the zero vector, and its
    similarity is 0 to every image, itself included.
    Returns float32 [N, C*H*W].
    """
    descriptors = np.empty((len(images), images[0].size), dtype=np.float32)
    for start in range(0, len(images), _BLOCK):
        pixels = images[start:start + _BLOCK].reshape(-1, descriptors.shape[1]).astype(np.float64)
        pixels -= pixels.mean(axis=1, keepdims=True)  # exactly 0 if the image is constant
        norms = np.linalg.norm(pixels, axis=1, keepdims=True)
        descriptors[start:start + _BLOCK] = pixels / np.where(norms > 0, norms, 1)
    return descriptors


DESCRIPTORS = {kind.kind: kind for kind in (SscdDescriptor, PixelDescriptor)}  # by --descriptor


def similarity_words(kind: str | None) -> str:
    """The inner product of two descriptors, in words."""
    return DESCRIPTORS[kind].similarity if kind in DESCRIPTORS else 'the inner product of descriptors'
