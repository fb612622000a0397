"""Descriptors of images: vectors by which images are compared, and their files. Imports no torch."""

from descriptors.inception import InceptionDescriptor
from descriptors.pixel_descriptors import L2Descriptor, PixelDescriptor
from descriptors.sscd_model import SscdDescriptor
from descriptors.torchscript import TorchScriptDescriptor

DESCRIPTORS = {kind.kind: kind for kind in (  # by --descriptor
    SscdDescriptor, PixelDescriptor, L2Descriptor, InceptionDescriptor, TorchScriptDescriptor)}


def similarity_words(kind: str | None) -> str:
    """The inner product of two descriptors, in words."""
    return DESCRIPTORS[kind].similarity if kind in DESCRIPTORS else 'the inner product of descriptors'
