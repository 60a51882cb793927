"""What a process prints: lines as they come, and a copy of them in its log."""

from __future__ import annotations

import os
import select
import subprocess
import time
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

LINES_KEPT = 30
BLOCK = 1 << 16


class Output:
    """The output of the process that a job is followed by."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path) -> None:
        if process.stdout is None:
            raise ValueError("the process was started without a pipe")
        self._pipe = process.stdout
        self._log = log
        self._rest = b""
        self._poll = select.poll()
        self._poll.register(self._pipe, select.POLLIN)
        self._is_open = True
        self.has_more = True  # as far as the last look could tell

    def lines(self, patience: float) -> Iterator[str]:
        """The lines that arrive within ``patience`` seconds, at once when some are there."""
        if not self._is_open:
            time.sleep(patience)  # the process closed it, others may still run
        self.has_more = self._is_open and bool(self._poll.poll(1000 * patience))
        if not self.has_more:
            return
        data = os.read(self._pipe.fileno(), BLOCK)
        with suppress(OSError), self._log.open("ab") as log:  # a full disk is told by who needs it
            log.write(data)
        if not data:
            self._is_open = False
            data = b"\n" if self._rest else b""
        *whole, self._rest = (self._rest + data).split(b"\n")
        for line in whole:
            yield line.decode(errors="replace").rstrip().rpartition("\r")[2]


def tail_of(path: Path, count: int) -> list[str]:
    """The last lines of a log; none if it cannot be read."""
    try:
        with path.open(encoding="utf-8", errors="replace") as handle:
            return [line.rstrip() for line in deque(handle, maxlen=count)]
    except OSError:
        return []
