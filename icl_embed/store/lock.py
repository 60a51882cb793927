"""One builder per artefact: an advisory lock that the kernel drops when its holder dies."""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TextIO

from icl_embed.errors import StoreError
from icl_embed.store.files import refusal

logger = logging.getLogger(__name__)

POLL_SECONDS = 0.5
REPEAT_SECONDS = 300.0  # a waiter says again for whom it waits


@dataclass(frozen=True)
class Holder:
    """Who holds a lock, as the lock file says.

    Attributes
        pid: the process; empty when the file does not say.
        inputs: what it reads meanwhile, as role -> reference; nobody may delete that.
    """

    pid: str = ""
    inputs: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"process {self.pid or 'unknown'}"


@contextmanager
def exclusive(
    path: Path, what: str, *, wait_seconds: float = 0.0, inputs: Mapping[str, str] | None = None
) -> Iterator[None]:
    """Hold the lock file ``path`` for the duration of the block.

    ``flock`` belongs to the open file, so a killed holder never leaves a stale lock behind. Lock files are
    never deleted: a waiter on a deleted file and the maker of a new one would both hold "the" lock.

    Parameters
        wait_seconds: how long to wait for another holder; the log says for whom, now and then.
        inputs: what the holder reads, told to those who might delete it.

    Raises
        StoreError: somebody else holds it, still holds it after the wait, or the folder cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = path.open("a+", encoding="utf-8")
    except OSError as error:
        raise StoreError(f"cannot lock {what}: {refusal(error, path)}") from error
    with handle:
        _take(handle, what, wait_seconds)
        _sign(handle, json.dumps({"pid": os.getpid(), "inputs": dict(inputs or {})}))
        try:
            yield
        finally:
            _sign(handle, "")  # the next reader must not be told an old name


def _sign(handle: TextIO, text: str) -> None:
    """Write who holds the lock; on a full disk the lock holds without a name."""
    with contextlib.suppress(OSError):
        os.ftruncate(handle.fileno(), 0)
        os.write(handle.fileno(), text.encode())


def holder_of(path: Path) -> Holder | None:
    """Who holds a lock at this moment; None when nobody does."""
    try:
        with path.open(encoding="utf-8") as handle:
            return None if _try(handle, fcntl.LOCK_SH) else _read_holder(handle)
    except FileNotFoundError:
        return None


def _take(handle: TextIO, what: str, wait_seconds: float) -> None:
    started = time.monotonic()
    next_word = started
    while not _try(handle, fcntl.LOCK_EX):
        holder, now = _read_holder(handle), time.monotonic()
        waited = now - started
        if waited >= wait_seconds:
            after = f" still, after {waited / 60:.0f} minutes of waiting" if wait_seconds else ""
            raise StoreError(
                f"{what} is being built by {holder}{after}; wait for it, or stop it and run again"
            )
        if now >= next_word:
            logger.warning(
                "%s is being built by %s; waiting for it (%.0f of at most %.0f minutes)",
                what,
                holder,
                waited / 60,
                wait_seconds / 60,
            )
            next_word = now + REPEAT_SECONDS
        time.sleep(min(POLL_SECONDS, wait_seconds - waited))


def _try(handle: TextIO, kind: int) -> bool:
    try:
        fcntl.flock(handle, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _read_holder(handle: TextIO) -> Holder:
    handle.seek(0)
    text = handle.read()
    try:
        fields = json.loads(text)
        return Holder(str(fields["pid"]), fields["inputs"])
    except (ValueError, TypeError, KeyError):  # just taken, or written by an earlier version
        return Holder(text.strip())
