"""What a result must say about where and when it was measured."""

from __future__ import annotations

import os
import platform
import time
from typing import Any

from icl_embed.store.manifest import git_commit, processor


def describe_machine(threads: int) -> dict[str, Any]:
    """Processor, memory, load, date and commit."""
    return {
        "date": time.strftime("%Y-%m-%d"),
        "commit": git_commit(),
        "processor": processor(),
        "cores": os.cpu_count(),
        "threads": threads,
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "load_at_start": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
    }
