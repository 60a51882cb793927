"""What the log of a run says: every line of which stage it is, and of a typed error its message alone.

The UI, ``icl-embed run`` and the console all show the same lines, so the names are in the lines themselves.
"""

from __future__ import annotations

import atexit
import logging
import re
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, cast
from uuid import UUID

from prefect.artifacts import create_progress_artifact, update_progress_artifact
from prefect.logging import get_run_logger

from icl_embed.errors import IclEmbedError
from icl_embed.pipeline.apart import build_apart
from icl_embed.pipeline.run import Run
from icl_embed.progress import listening
from icl_embed.store import Artefact, StageKey

Log = logging.Logger | logging.LoggerAdapter[logging.Logger]
STILL_SECONDS = 60.0  # a stage that says nothing else says that it goes on
_STAGE: ContextVar[str] = ContextVar("stage", default="")


STEP = re.compile(r"(?:step|shard) (\d+)/(\d+)")  # of a training's own lines
SAID_EACH = 10.0  # seconds between two lines about how far a stage is


@dataclass
class ShownProgress:
    """How far a stage is: a line now and then, and a bar in the UI for stages that take their time."""

    key: StageKey
    logger: Log
    said: float = field(default_factory=time.monotonic)
    percent: int = -1
    bar: UUID | None = None

    def hear(self, what: str, behind: int, total: int) -> None:
        """What the library tells: at most a line and a step of the bar in so many seconds."""
        if time.monotonic() - self.said >= SAID_EACH:
            self.said = time.monotonic()
            self.logger.info("%s: %s, %d of %d", stage_name(self.key), what, behind, total)
            self.update(what, behind, total)

    def update(self, what: str, behind: int, total: int) -> None:
        """Move the bar, if it moves by a hundredth."""
        percent = 100 * behind // max(total, 1)
        if percent == self.percent:
            return
        self.percent = percent
        text = f"{stage_name(self.key)}{', ' if what else ''}{what}"
        if self.bar is None:
            key = f"progress-{self.key.stage}-{self.key.fingerprint}"
            # coroutines only for callers in an event loop
            self.bar = cast(UUID, create_progress_artifact(float(percent), key=key, description=text))
        else:
            update_progress_artifact(self.bar, progress=float(percent), description=text)

    def finish(self) -> None:
        """Fill the bar, if there is one."""
        if self.bar is not None:
            update_progress_artifact(self.bar, progress=100.0, description=f"{stage_name(self.key)}, done")


def stage_name(key: StageKey) -> str:
    """What a stage is called in logs and in the UI."""
    return f"{key.stage} {key.label}".strip()


def built(run: Run, key: StageKey) -> Artefact:
    """The artefact of a stage; the log tells its start, how far it is, and its end."""
    name, logger = stage_name(key), get_run_logger()
    began: list[float] = []
    shown = ShownProgress(key, logger)

    def on_start() -> None:
        began.append(time.monotonic())
        logger.info("%s: starts, as %s", name, key.reference)

    def on_line(line: str) -> None:
        logger.info("%s: %s", name, line)
        if found := STEP.search(line):
            shown.update("", int(found[1]), int(found[2]))

    with _lines_are_of(name), _still_there(name, began), listening(shown.hear):
        artefact = build_apart(run, key, on_line, on_start)
    shown.finish()
    if began:
        logger.info("%s: done in %.1f s", name, time.monotonic() - began[0])
    else:
        logger.info("%s: cached, %s", name, key.reference)
    return artefact


@contextmanager
def _lines_are_of(name: str) -> Iterator[None]:
    """Lines of our library's own loggers begin with the stage's name."""
    token = _STAGE.set(name)
    try:
        yield
    finally:
        _STAGE.reset(token)


@contextmanager
def _still_there(name: str, began: list[float]) -> Iterator[None]:
    logger, over = get_run_logger(), threading.Event()

    def tell() -> None:
        while not over.wait(STILL_SECONDS):
            if began:
                logger.info("%s: still running, %.0f s", name, time.monotonic() - began[0])

    threading.Thread(target=tell, name=f"{name} goes on", daemon=True).start()
    try:
        yield
    finally:
        over.set()


class _OfWhat(logging.Filter):
    """Prefect's lines about how something ended say what ended; tracebacks are for errors nobody foresaw."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the line is shown; it is changed in place."""
        if record.exc_info and isinstance(record.exc_info[1], IclEmbedError):
            return False  # the state of the run tells the message
        message = record.getMessage()
        if message.startswith("Finished in state "):
            task = getattr(record, "task_run_name", None)
            if task and message.startswith(("Finished in state Completed", "Finished in state Cached")):
                return False  # `built` and `reference_of` have told it, with the name
            record.msg = f"{task or getattr(record, 'flow_name', 'the run')}: {message}"
            record.args = ()
        return True


def _install() -> None:
    for name in ("prefect.flow_runs", "prefect.task_runs", "prefect.engine"):
        logging.getLogger(name).addFilter(_OfWhat())
    logging.getLogger("icl_embed").setLevel(logging.INFO)  # its progress is part of the log
    plain = logging.getLogRecordFactory()

    def named(*arguments: Any, **more: Any) -> logging.LogRecord:
        record = plain(*arguments, **more)
        if _STAGE.get() and record.name.partition(".")[0] == "icl_embed":
            record.msg, record.args = f"{_STAGE.get()}: {record.getMessage()}", ()
        return record

    logging.setLogRecordFactory(named)
    atexit.register(_let_go)


def _let_go() -> None:
    """Forget the library and DuckDB, as the last act of the process.

    Prefect's threads outlive the interpreter, and with them all that loggers, flows and interrupted frames
    reach. When DuckDB's module is among it, its bindings print forty lines about leaks.
    """
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] in ("icl_embed", "duckdb", "_duckdb"):
            vars(module).clear()


_install()
