"""The machine that timings belong to, and the memory that a piece of work takes on it."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from icl_embed.model.heap import give_back_freed_memory
from icl_embed.store.manifest import processor

PROCESS = Path("/proc/self")


def describe_machine(device: torch.device) -> dict[str, Any]:
    """Facts that decide a timing, and the load that may have disturbed it."""
    has_affinity = hasattr(os, "sched_getaffinity")
    return {
        "processor": processor(),
        "cores": len(os.sched_getaffinity(0)) if has_affinity else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "torch": torch.__version__,
        "load_at_start": round(os.getloadavg()[0], 2),
    }


def peak_bytes(run: Callable[[], object], device: torch.device) -> int | None:
    """The most memory that ``run`` needs at once, above what was held before it.

    On a GPU what torch allocates, elsewhere the resident memory of the process (Linux); None where the
    system does not tell.
    """
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        run()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    give_back_freed_memory()  # without this, a second run would seem to need none
    try:
        (PROCESS / "clear_refs").write_text("5")  # the high-water mark starts anew (proc(5))
        before = _status("VmRSS")
        run()
        return max(0, _status("VmHWM") - before)
    except (OSError, KeyError):
        run()
        return None


def _status(name: str) -> int:
    lines = (PROCESS / "status").read_text(encoding="utf-8").splitlines()
    values = dict(line.split(":", 1) for line in lines if ":" in line)
    return int(values[name].split()[0]) * 1024
