"""Freed memory of this process, handed back to the system."""

from __future__ import annotations

import contextlib
import ctypes


def give_back_freed_memory() -> None:
    """Return the pages of what was freed, so that the process does not grow with the number of its tensors.

    glibc keeps them, and tensors of unequal sizes leave holes between the living ones that the next tensor
    does not fit (malloc_trim(3)). Other C libraries have no such call; nothing is done there.
    """
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)
