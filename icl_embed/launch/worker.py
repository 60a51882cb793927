"""The rank's side of a job: report who runs and where it stands, say how it ended."""

from __future__ import annotations

import faulthandler
import json
import logging
import os
import signal
import sys
import traceback
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

from icl_embed.errors import IclEmbedError, StoreError
from icl_embed.launch.processes import register
from icl_embed.store.files import write_atomically

OUTCOME_NAME = "outcome.json"
BEAT_NAME = "beat"  # touched by the first rank whenever it has come further
MEETING = "ICL_EMBED_MEETING"  # the variable that names the file where the ranks of one machine meet
DUMP_SIGNAL = signal.SIGUSR1  # asks a rank where it stands
EXIT_USER_ERROR = 2
EXIT_STOPPED = 3  # asked to stop: everything is saved, run again to go on

_beat: Path | None = None


def run_rank(work_dir: Path, work: Callable[[], bool]) -> NoReturn:
    """Run ``work`` as one rank and end this process with the code that says how it went.

    ``work`` returns whether the job is complete. A typed error is written to ``outcome.json``, because
    who launched this rank may not be who launched the first.

    The interpreter is not taken down: DeepSpeed keeps its process groups, so Gloo's threads outlive them, and
    one that lets go of its last tensor meanwhile aborts a process that has done its work (pytorch PR 179291).
    """
    code = 1
    try:
        code = _end_of(work_dir, work)
    except BaseException:
        traceback.print_exc()
    finally:
        logging.shutdown()
        with suppress(OSError):  # a full disk, or whoever read this is gone
            sys.stdout.flush()
        os._exit(code)


def _end_of(work_dir: Path, work: Callable[[], bool]) -> int:
    rank = int(os.environ.get("RANK", "0"))
    register(work_dir, str(rank), os.getpid())
    _answer_where(work_dir, rank)
    warnings.filterwarnings("ignore", category=FutureWarning)  # libraries talking to each other
    try:
        complete = work()
    except IclEmbedError as error:
        _write_outcome(work_dir, type(error).__name__, str(error))
        sys.stderr.write(f"{type(error).__name__}: {error}\n")
        return EXIT_USER_ERROR
    if complete:
        return 0
    if rank == 0:
        _write_outcome(work_dir, "Stopped", "asked to stop; the state is saved, run again to go on")
    return EXIT_STOPPED


def beat() -> None:
    """Tell the launcher that this rank has come further: call it where work is done, never from a timer."""
    if _beat is not None:
        with suppress(OSError):
            _beat.touch()


def stack_path(work_dir: Path, name: str) -> Path:
    """Where a rank writes its stack when it is asked."""
    return work_dir / "logs" / f"{name}.stack"


def _answer_where(work_dir: Path, rank: int) -> None:
    global _beat  # noqa: PLW0603 - one rank per process, and whoever computes may report
    if rank == 0:
        _beat = work_dir / BEAT_NAME
        beat()
    path = stack_path(work_dir, str(rank))
    path.parent.mkdir(parents=True, exist_ok=True)
    # Open for life: a rank that hangs can be asked from outside, whatever it waits for.
    faulthandler.register(DUMP_SIGNAL, file=path.open("w", encoding="utf-8"))


def _write_outcome(work_dir: Path, kind: str, message: str) -> None:
    with suppress(StoreError):  # a full disk: the launcher looks for itself
        write_atomically(work_dir / OUTCOME_NAME, json.dumps({"kind": kind, "message": message}).encode())
