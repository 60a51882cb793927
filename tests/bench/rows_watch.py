"""The memory of a process and of its batch workers, watched from outside while they live."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from icl_embed.launch.processes import children_of

POLL_SECONDS = 0.03


class Watched:
    """Peaks of a process, and of the largest of its batch workers."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.peaks: dict[str, float] = {}

    def until(self, is_over: Callable[[], bool]) -> dict[str, float]:
        """Watch; returns the peaks in MiB: resident as the kernel remembers it, and anonymous as it was seen."""
        while not is_over():
            self._look("", self.pid)
            for child in filter(_is_worker, children_of(self.pid)):
                self._look("child_", child)
            time.sleep(POLL_SECONDS)
        return self.peaks

    def _look(self, prefix: str, pid: int) -> None:
        found = memory_of(pid)
        for name, kind in (("peak_mib", "VmHWM"), ("peak_own_mib", "RssAnon")):
            self.peaks[prefix + name] = max(self.peaks.get(prefix + name, 0.0), found.get(kind, 0.0))


def _is_worker(pid: int) -> bool:
    """Whether a child is a batch worker: one that is only being started still shares its parent's memory."""
    try:
        return b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


def memory_of(pid: int) -> dict[str, float]:
    """What the kernel says of a process's memory in MiB, by its own names; nothing of one that is gone."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines()
    except OSError:
        return {}
    fields = (line.split() for line in lines if line.endswith(" kB"))
    return {name.rstrip(":"): int(value) / 1024 for name, value, _ in fields}
