"""Descriptors that are the pixels: at length 1 without their mean, or as they are."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    import torch

_BLOCK = 4096  # images at a time in float64


class PixelDescriptor:
    """`pixel_descriptor` of images that are all of one size, and all grey or all RGB.

    A new descriptor is a class with these attributes and its place in `descriptors.DESCRIPTORS`. identity:
    what exactly it computes; features of equal identity can be compared. similarity: the inner product of
    two, in words. length: 'unit' if that is a similarity because all have length 1, 'raw' if lengths mean
    something. takes: options of sscd.py feature that are for it; `make` takes those that are given.
    """

    kind = 'pixel'
    identity = 'pixel: all channels, without their mean, at length 1'
    similarity = 'the Pearson correlation of the pixels'
    length = 'unit'
    takes = ()

    @classmethod
    def make(cls, device: torch.device) -> PixelDescriptor:
        """The descriptor on a device; this one runs on the CPU."""
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


class L2Descriptor(PixelDescriptor):
    """The pixels as they are, from 0 to 255: distances are Euclidean distances of images."""

    kind = 'l2'
    identity = 'l2: all channels, from 0 to 255'
    similarity = 'the inner product of the pixels'
    length = 'raw'

    def compute(self, images: np.ndarray) -> np.ndarray:
        """float32 [N, C*H*W] of N prepared images, uint8 [N, C, H, W]; exact."""
        return images.reshape(len(images), -1).astype(np.float32)
