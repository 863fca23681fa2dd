"""What the C library does with memory that a training step frees."""

import ctypes
import sys

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # malloc.h of glibc
LARGEST = 2**31 - 1  # bytes; both are ints


def keep_freed_memory() -> None:
    """Keep freed memory for the next step, where glibc would give blocks of many megabytes back to the system.

    Each step allocates what the one before has freed, and getting new pages from the system takes time, most of all for
    large recurrent layers. In return, the process holds on to the most memory that it has ever needed.
    """
    if sys.platform != "linux":
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # musl has none
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, LARGEST)
        mallopt(M_TRIM_THRESHOLD, LARGEST)
