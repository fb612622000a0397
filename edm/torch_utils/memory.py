"""What the C library does with memory that tensors and images leave."""

import ctypes
import functools

# Numbers of malloc.h. A block from MMAP_THRESHOLD on is asked of the system and given back; freed memory at
# the heap's end is given back from TRIM_THRESHOLD on.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
TRIM_THRESHOLD = 1 << 30
MMAP_THRESHOLDS = (1 << 26, 1 << 25)  # the second is the most that older versions of glibc take


@functools.cache
def keep_freed_memory() -> None:
    """Let a process keep, for its next tensors, up to 1 GiB that earlier ones left; with glibc alone.

    By default glibc returns most of it to the system after every layer of a network, or image, and the system
    has to hand out, and fill with zeros, the same pages for the next: of the time of a small network on a
    CPU up to a quarter. Processes that are forked later do alike.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # another C library, or Windows
        return
    if any(mallopt(M_MMAP_THRESHOLD, size) for size in MMAP_THRESHOLDS):
        mallopt(M_TRIM_THRESHOLD, TRIM_THRESHOLD)
