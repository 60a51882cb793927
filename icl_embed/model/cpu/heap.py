"""What glibc does with the memory of freed tensors; with other C libraries nothing is done here."""

from __future__ import annotations

import contextlib
import ctypes
import os

# mallopt(3)
TRIM_THRESHOLD, NEVER = -1, 2**31 - 1
MMAP_THRESHOLD, LARGEST_ON_HEAP = -3, 32 * 2**20  # as far as glibc raises its own threshold
VARIABLES = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES")


def keep_freed_memory() -> None:
    """Let this process keep the memory of freed tensors for its next ones, unless the environment says how.

    Otherwise glibc hands the end of the heap back whenever a few tensors were freed, if by chance nothing
    lives behind them, and the next layer asks for it again page by page: up to a third of the time of a
    forward pass on a virtual machine. The process stays as large as it ever was; ``give_back_freed_memory``
    makes it smaller.
    """
    if any(name in os.environ for name in VARIABLES):
        return
    with contextlib.suppress(OSError, AttributeError):
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(MMAP_THRESHOLD, LARGEST_ON_HEAP)
        libc.mallopt(TRIM_THRESHOLD, NEVER)


def give_back_freed_memory() -> None:
    """Return the pages of what was freed, so that the process does not grow with the number of its tensors.

    glibc keeps them, and tensors of unequal sizes leave holes between the living ones that the next tensor
    does not fit (malloc_trim(3)).
    """
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)
