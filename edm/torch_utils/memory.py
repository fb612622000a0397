"""How the C library keeps memory that tensors and images have freed."""

import ctypes
import functools

# Constants of malloc.h. Blocks of MMAP_THRESHOLD bytes and more are returned to the system when they are
# freed; free memory at the top of the heap is returned above TRIM_THRESHOLD.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
TRIM_THRESHOLD = 1 << 30
MMAP_THRESHOLDS = (1 << 26, 1 << 25)  # the second is the most that older versions of glibc take


@functools.cache
def keep_freed_memory() -> None:
    """Let a process keep up to 1 GiB of freed memory for its next tensors; with glibc only.

    By default glibc returns most of it to the system after every layer of a network, or image, and the system
    then hands out the same pages, filled with zeros, for the next: up to a quarter of the time of a small
    network on a CPU. Processes that are forked later inherit this.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # another C library, or Windows
        return
    if any(mallopt(M_MMAP_THRESHOLD, size) for size in MMAP_THRESHOLDS):
        mallopt(M_TRIM_THRESHOLD, TRIM_THRESHOLD)
