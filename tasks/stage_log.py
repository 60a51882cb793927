"""What the log of a run says: every line of which stage it is, and of a typed error its message alone.

The UI, ``icl-embed run`` and the console all show the same lines, so the names are in the lines themselves.
"""

from __future__ import annotations

import atexit
import logging
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, cast

from prefect.client.schemas.objects import State
from prefect.logging import get_run_logger

from icl_embed.errors import IclEmbedError
from icl_embed.pipeline.build import build
from icl_embed.pipeline.run import Run
from icl_embed.store import Artefact, StageKey

STILL_SECONDS = 60.0  # a stage that says nothing else says that it goes on
_STAGE: ContextVar[str] = ContextVar("stage", default="")


def stage_name(key: StageKey) -> str:
    """What a stage is called in logs and in the UI."""
    return f"{key.stage} {key.label}".strip()


def built(run: Run, key: StageKey, on_line: Callable[[str], None] | None = None) -> Artefact:
    """The artefact of a stage; the log tells its start, that it goes on, and its end."""
    name, logger = stage_name(key), get_run_logger()
    began: list[float] = []

    def on_start() -> None:
        began.append(time.monotonic())
        logger.info("%s: starts, as %s", name, key.reference)

    with _lines_are_of(name), _still_there(name, began):
        artefact = build(run, key, on_line, on_start)
    if began:
        logger.info("%s: done in %.1f s", name, time.monotonic() - began[0])
    else:
        logger.info("%s: cached, %s", name, key.reference)
    return artefact


def reference_of(state: State[Any], key: StageKey) -> str:
    """What a stage's task returned; the log tells when it did not have to run.

    Raises
        Exception: what the task raised.
    """
    if state.name == "Cached":
        get_run_logger().info("%s: cached, %s", stage_name(key), key.reference)
    return cast(str, state.result())  # a coroutine only for callers in an event loop


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
