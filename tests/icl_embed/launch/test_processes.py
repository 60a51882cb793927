"""Processes found by what they inherited, and ended politely first."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

from icl_embed.launch.processes import (
    children_of,
    end_processes,
    environment_of,
    processes_with,
    start_time_of,
)

POLITE = "import time; print(1, flush=True); time.sleep(60)"
DEAF = "import signal, time; signal.signal(15, signal.SIG_IGN); print(1, flush=True); time.sleep(60)"


def start(code: str, mark: str) -> subprocess.Popen[bytes]:
    process = subprocess.Popen(
        [sys.executable, "-c", code], env={**os.environ, "ICL_EMBED_MARK": mark}, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    process.stdout.readline()
    return process


def test_a_process_is_found_by_its_environment_and_among_its_parents_children() -> None:
    mark = f"found-{os.getpid()}"
    process = start(POLITE, mark)
    assert processes_with("ICL_EMBED_MARK", mark) == [process.pid]
    assert process.pid in children_of(os.getpid())
    process.kill()
    process.wait()
    assert processes_with("ICL_EMBED_MARK", mark) == []
    assert environment_of(process.pid) == {}


def test_who_does_not_end_when_asked_is_killed() -> None:
    polite, deaf = start(POLITE, "polite"), start(DEAF, "deaf")
    begun = time.monotonic()
    assert end_processes([polite.pid, deaf.pid], patience_seconds=0.5) == 2
    assert time.monotonic() - begun < 5
    assert (polite.wait(1), deaf.wait(1)) == (-signal.SIGTERM, -signal.SIGKILL)
    assert start_time_of(deaf.pid) == ""


def test_nobody_to_end_takes_no_time() -> None:
    process = start(POLITE, "ended")
    process.kill()
    process.wait()
    begun = time.monotonic()
    assert end_processes([process.pid], patience_seconds=10) == 0
    assert time.monotonic() - begun < 0.5
