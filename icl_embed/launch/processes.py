"""Facts about processes that survive their parents: identity, death signals, orphans (Linux)."""

from __future__ import annotations

import ctypes
import logging
import os
import signal
import time
from collections.abc import Collection, Iterable
from contextlib import suppress
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


def environment_of(pid: int) -> dict[str, str]:
    """What a living process was started with; empty for a dead one and for another user's."""
    try:
        lines = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return {}
    pairs = (line.decode(errors="replace").partition("=") for line in lines)
    return {name: value for name, _, value in pairs}


def processes_with(name: str, value: str) -> list[int]:
    """The processes that were started with this environment variable, or inherited it."""
    pids = (int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit())
    return [pid for pid in pids if environment_of(pid).get(name) == value]


def children_of(pid: int) -> list[int]:
    """The processes that a process started, from whichever of its threads."""
    children: list[str] = []
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(OSError):  # a thread that ended meanwhile
            children += path.read_text(encoding="ascii").split()
    return [int(child) for child in children]


def end_processes(pids: Iterable[int], *, patience_seconds: float) -> int:
    """Ask processes to end, wait, and kill those that do not; returns how many there were."""
    living = {pid: started for pid in pids if (started := start_time_of(pid))}
    for number, seconds in ((signal.SIGTERM, patience_seconds), (signal.SIGKILL, 10.0)):
        still = [pid for pid, started in living.items() if start_time_of(pid) == started]
        for pid in still:
            with suppress(ProcessLookupError):
                os.kill(pid, number)
        deadline = time.monotonic() + (seconds if still else 0)
        while time.monotonic() < deadline and any(start_time_of(pid) == living[pid] for pid in still):
            time.sleep(0.05)
    return len(living)


def start_time_of(pid: int) -> str:
    """The kernel's start time of a living process; empty for a dead one. Tells a reused pid apart."""
    return _status(pid)[19]


def is_stopped(pid: int) -> bool:
    """Whether a signal or a debugger has stopped a process."""
    return _status(pid)[0] in ("T", "t")


def parent_of(pid: int) -> int:
    """The process that started a living one, or adopted it; 0 for a dead one."""
    return int(_status(pid)[1] or 0)


def _status(pid: int) -> list[str]:
    """What /proc/PID/stat says after the name: state, parent, …; empty fields for a dead process."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8")
    except OSError:
        return [""] * 50
    fields = stat.rsplit(")", 1)[1].split()
    return [""] * 50 if fields[0] == "Z" else fields


def register(work_dir: Path, name: str, pid: int) -> None:
    """Write down who works here, so that a later launch can find an orphan."""
    folder = work_dir / RANKS_DIR
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(f"{pid} {start_time_of(pid)}", encoding="utf-8")


def reap_orphans(work_dir: Path, names: Collection[str] = (), *, patience_seconds: float = 10.0) -> int:
    """Kill processes of an earlier launch that still run here; returns how many there were.

    Parameters
        names: of those that may be this machine's; none: all.
    """
    orphans = []
    for path in (work_dir / RANKS_DIR).glob("*"):
        if names and path.name not in names:
            continue
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
