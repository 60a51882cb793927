"""Stages that run a model, in a process apart from the flow's.

A flow runs for hours and starts trainings. What a model took of a GPU's memory would stay taken beside them,
and a fault of the device would end the flow. So those stages are built by a child: one for as long as they
follow each other, as the scores of a model do, and gone before a training starts, or after an idle minute.
"""

from __future__ import annotations

import atexit
import copy
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from typing import Any

from icl_embed.errors import IclEmbedError, how_it_ended
from icl_embed.launch.launcher import WorkerLostError
from icl_embed.launch.processes import end_processes
from icl_embed.pipeline.build import LAUNCHING_STAGES, build
from icl_embed.pipeline.run import Run
from icl_embed.pipeline.stages import base_model, embedder, reranking, score, teacher_scores, training_data
from icl_embed.pipeline.stages.training_jobs import OnLine
from icl_embed.progress import listening, tell
from icl_embed.store import Artefact, StageKey

MODEL_STAGES = frozenset(
    {
        base_model.STAGE,
        embedder.CHECKPOINT,
        training_data.NEGATIVES,
        teacher_scores.STAGE,
        score.STAGE,
        reranking.CHOICE,
        reranking.EVALUATION,
    }
)
IDLE_SECONDS = 60.0
SECONDS_TO_NOTICE = 0.5  # that nobody is there any more
SECONDS_TO_LEAVE = 10.0
MODULE = "icl_embed.pipeline.apart"

logger = logging.getLogger(__name__)


def build_apart(
    run: Run, key: StageKey, on_line: OnLine | None = None, on_start: Callable[[], None] | None = None
) -> Artefact:
    """``build``, but a stage that runs a model does so in a child process.

    Raises
        WorkerLostError: the child ended without a word; trying again goes on where it was.
        IclEmbedError: as ``build``.
    """
    if key.stage in LAUNCHING_STAGES:
        end_child()
    if not runs_model(key) or run.store.is_valid(key):
        return build(run, key, on_line, on_start)
    hear: dict[str, Callable[..., None]] = {
        "start": on_start or _nothing,
        "line": on_line or logger.info,
        "progress": tell,
        "log": _log,
    }
    with _one_stage_at_a_time:
        _served((replace(run), key), hear)  # a copy without what the run has cached
    return run.artefact(key)


def runs_model(key: StageKey) -> bool:
    """Whether building it loads a model; negatives by BM25 alone do not."""
    return key.stage in MODEL_STAGES and (key.stage != training_data.NEGATIVES or "base-model" in key.inputs)


@dataclass(frozen=True)
class _Child:
    process: subprocess.Popen[bytes]
    connection: Connection

    @classmethod
    def started(cls) -> _Child:
        here, there = socket.socketpair()
        with there:
            process = subprocess.Popen(
                [sys.executable, "-m", MODULE, str(there.fileno()), str(os.getpid())],
                stdin=subprocess.DEVNULL,
                pass_fds=[there.fileno()],
                process_group=0,  # a terminal's Ctrl-C is for us
            )
        return cls(process, Connection(here.detach()))

    def tell(self, message: Any) -> None:
        """Raises EOFError if it is gone."""
        try:
            self.connection.send(message)
        except OSError as error:
            raise EOFError from error

    def hear(self) -> Any:
        """What it says next; raises EOFError if it is gone."""
        try:
            return self.connection.recv()
        except OSError as error:
            raise EOFError from error

    @property
    def has_left(self) -> bool:
        """Whether it found nothing to do for too long; it may be about to."""
        return self.process.poll() is not None or self.connection.poll()

    def end(self) -> None:
        """End it, whatever it is doing; where it has left already, its exit code stays."""
        self.connection.close()
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(SECONDS_TO_NOTICE)
        end_processes([self.process.pid], patience_seconds=SECONDS_TO_LEAVE)
        self.process.wait()


_children: list[_Child] = []  # at most one
_one_stage_at_a_time = threading.RLock()


def end_child() -> None:
    """Let the child go, and with it the memory of its models."""
    with _one_stage_at_a_time:
        while _children:
            _children.pop().end()


def _kill(children: list[_Child]) -> None:
    # without the lock, which a thread that waits for the child may hold for ever, and without the names of
    # this module, which a flow's process forgets before it ends
    for child in children:
        child.process.kill()


atexit.register(_kill, _children)


def _served(request: tuple[Run, StageKey], hear: dict[str, Callable[..., None]]) -> None:
    """Have the child build a key, and pass on what it says meanwhile."""
    if _children and _children[0].has_left:
        end_child()
    if not _children:
        _children.append(_Child.started())
    child = _children[0]
    try:
        child.tell(request)
        while (message := child.hear())[0] not in ("done", "failed"):
            hear[message[0]](*message[1:])
    except EOFError as error:
        raise _loss_of(child, request[1]) from error
    except BaseException:
        end_child()  # nobody waits for what it does
        raise
    if message[0] == "failed":
        if not isinstance(message[1], IclEmbedError):
            end_child()  # a device's fault may stay
        raise message[1]


def _loss_of(child: _Child, key: StageKey) -> WorkerLostError:
    end_child()
    return WorkerLostError(
        f"the process that built {key.reference} {how_it_ended(child.process.returncode)} before it was "
        "done. Run again: what it had made is kept"
    )


def _nothing() -> None:
    """Nobody wants to know."""


def _log(name: str, level: int, message: str) -> None:
    logging.getLogger(name).log(level, "%s", message)


class _Telling(logging.Handler):
    """Log records, told to the flow."""

    def __init__(self, say: Callable[..., None]) -> None:
        super().__init__()
        self._say = say

    def emit(self, record: logging.LogRecord) -> None:
        """Say its text; where the flow is gone nobody needs it."""
        try:
            self._say("log", record.name, record.levelno, self.format(record))
        except OSError:
            self.handleError(record)


def serve(connection: Connection) -> None:
    """Build what comes over the line until the flow closes it, or has had nothing to do for a while."""
    at_a_time = threading.Lock()

    def say(*message: Any) -> None:
        with at_a_time:
            connection.send(message)

    logging.basicConfig(level=logging.WARNING, handlers=[_Telling(say)])
    logging.getLogger("icl_embed").setLevel(logging.INFO)
    while connection.poll(IDLE_SECONDS):
        try:
            run, key = connection.recv()
        except EOFError:
            return
        try:
            with listening(lambda *about: say("progress", *about)):
                build(run, key, lambda line: say("line", line), lambda: say("start"))
        except Exception as error:
            say("failed", _portable(error))
        else:
            say("done")


def _portable(error: Exception) -> Exception:
    """The error itself if it can travel; one that nobody foresaw takes its traceback along."""
    if not isinstance(error, IclEmbedError):
        error.add_note("in the stage's own process:\n" + traceback.format_exc())
    try:
        copy.copy(error)  # as pickle would make it
    except Exception:  # its constructor may ask for anything
        kind = IclEmbedError if isinstance(error, IclEmbedError) else RuntimeError
        return kind("\n".join([str(error), *getattr(error, "__notes__", [])]))
    return error


def _end_with(parent: int) -> None:
    """A flow that was killed cannot say goodbye, and a stage deep in a product would not hear it."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)


def main() -> None:
    """``python -m icl_embed.pipeline.apart DESCRIPTOR PARENT``: the child."""
    descriptor, parent = map(int, sys.argv[1:])
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    serve(Connection(descriptor))


if __name__ == "__main__":
    main()
