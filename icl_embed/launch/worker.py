"""The rank's side of a job: report who runs, die with the launcher, say how it ended."""

from __future__ import annotations

import json
import os
import signal
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

from icl_embed.errors import IclEmbedError
from icl_embed.launch.processes import die_with_parent, register
from icl_embed.store.files import write_atomically

OUTCOME_NAME = "outcome.json"
EXIT_USER_ERROR = 2
EXIT_STOPPED = 3  # asked to stop: everything is saved, run again to go on


def run_rank(work_dir: Path, work: Callable[[], bool]) -> int:
    """Run ``work`` as one rank and return the process's exit code.

    ``work`` returns whether the job is complete. A typed error is written to ``outcome.json``, because
    torchrun does not pass exit codes or messages on to whoever started it.
    """
    rank = int(os.environ.get("RANK", "0"))
    if "TORCHELASTIC_RUN_ID" in os.environ:
        die_with_parent(signal.SIGKILL)
    register(work_dir, rank)
    warnings.filterwarnings("ignore", category=FutureWarning)  # libraries talking to each other
    try:
        complete = work()
    except IclEmbedError as error:
        sys.stderr.write(f"{type(error).__name__}: {error}\n")
        _write_outcome(work_dir, type(error).__name__, str(error))
        return EXIT_USER_ERROR
    if complete:
        return 0
    if rank == 0:
        _write_outcome(work_dir, "Stopped", "asked to stop; the state is saved, run again to go on")
    return EXIT_STOPPED


def _write_outcome(work_dir: Path, kind: str, message: str) -> None:
    write_atomically(work_dir / OUTCOME_NAME, json.dumps({"kind": kind, "message": message}).encode())
