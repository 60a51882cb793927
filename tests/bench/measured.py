"""Run a process to its end and say what it took."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from icl_embed.launch.processes import die_with_parent
from tests.bench.protocol import ROOT, WorkerError

LINES_SHOWN = 25


def run_measured(command: Sequence[str], environment: Mapping[str, str], log: Path) -> float:
    """Peak resident memory of the process in MiB, as the kernel counts it.

    Raises
        WorkerError: the process failed; the message ends with the last lines of its log.
    """
    with log.open("wb") as output:
        process = subprocess.Popen(
            list(command),
            cwd=ROOT,
            env={**os.environ, **environment},
            stdout=output,
            stderr=output,
            preexec_fn=die_with_parent,  # noqa: PLW1509 - one prctl call, safe between fork and exec
        )
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(
            status
        )  # or Popen would wait for a process that is gone
    if process.returncode:
        last = log.read_text(errors="replace").splitlines()[-LINES_SHOWN:]
        raise WorkerError(f"{' '.join(command)} ended with {process.returncode}:\n" + "\n".join(last))
    return usage.ru_maxrss / 1024
