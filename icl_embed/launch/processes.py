"""Facts about processes that survive their parents: identity, death signals, orphans (Linux)."""

from __future__ import annotations

import ctypes
import logging
import os
import signal
import time
from pathlib import Path

logger = logging.getLogger(__name__)

PR_SET_PDEATHSIG = 1
RANKS_DIR = "ranks"


def die_with_parent(number: int = signal.SIGTERM, *, parent: int = 0) -> None:
    """Ask the kernel to signal this process when its parent dies, however the parent dies.

    The signal is tied to the parent's *thread*: launch from a thread that lives as long as the job.

    Parameters
        parent: the pid of the parent, if it may have died before it could be asked for.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_PDEATHSIG, number) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")
    if parent and os.getppid() != parent:
        os.kill(os.getpid(), number)


def start_time_of(pid: int) -> str:
    """The kernel's start time of a living process; empty for a dead one. Tells a reused pid apart."""
    state, *fields = _stat(pid)
    return "" if state in ("", "Z") else fields[18]


def is_stopped(pid: int) -> bool:
    """Whether a signal or a debugger has stopped a process."""
    return _stat(pid)[0] in ("T", "t")


def _stat(pid: int) -> list[str]:
    """State and further fields of a process; an empty state when there is none."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8")
    except OSError:
        return [""]
    return stat.rsplit(")", 1)[1].split()


def register(work_dir: Path, name: str, pid: int) -> None:
    """Write down who works here, so that a later launch can find an orphan."""
    folder = work_dir / RANKS_DIR
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(f"{pid} {start_time_of(pid)}", encoding="utf-8")


def reap_orphans(work_dir: Path, *, patience_seconds: float = 10.0) -> int:
    """Kill processes of an earlier launch that still run here; returns how many there were."""
    orphans = []
    for path in (work_dir / RANKS_DIR).glob("*"):
        pid, _, started = path.read_text(encoding="utf-8").partition(" ")
        if pid.isdigit() and started and start_time_of(int(pid)) == started:
            logger.warning("rank %s of an earlier run is still alive (process %s); ending it", path.name, pid)
            os.kill(int(pid), signal.SIGKILL)
            orphans.append((int(pid), started))
        path.unlink()
    deadline = time.monotonic() + patience_seconds
    while any(start_time_of(pid) == started for pid, started in orphans) and time.monotonic() < deadline:
        time.sleep(0.05)
    return len(orphans)
