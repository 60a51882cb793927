"""How the driver talks to a worker: JSON lines over pipes, one request at a time.

A worker lives in its own process, and possibly in another environment: this file needs the standard library alone.
It loads once and times each call itself, so that starting Python and moving texts and vectors is nobody's time.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]


class WorkerError(RuntimeError):
    """A worker refused a request or died."""


class Worker:
    """A process that runs ``module`` under ``python`` and answers requests; use it as a context manager."""

    def __init__(self, python: Path, module: str) -> None:
        self.name = module.rpartition(".")[2]
        self._log = tempfile.TemporaryFile("w+", errors="replace")  # its last lines explain a death
        self.about: dict[str, Any] = {}
        self._process = subprocess.Popen(
            [str(python), "-m", module],
            cwd=ROOT,
            env={**os.environ, "HF_HUB_OFFLINE": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
        )

    def load(self, **arguments: Any) -> dict[str, Any]:
        """Let the worker load what it serves; its description of that is kept in ``about``."""
        self.about = self.ask("load", **arguments)
        return self.about

    def ask(self, operation: str, **arguments: Any) -> dict[str, Any]:
        """The worker's answer.

        Raises
            WorkerError: the worker raised, with its traceback, or ended.
        """
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin and stdout
        try:
            stdin.write(json.dumps({"operation": operation, **arguments}) + "\n")
            stdin.flush()
            line = stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise WorkerError(f"{self.name} ended with status {self._process.wait()}:\n{self._last_words()}")
        answer = json.loads(line)
        if "error" in answer:
            raise WorkerError(f"{self.name} could not {operation}:\n{answer['error']}")
        return dict(answer)

    def _last_words(self) -> str:
        self._log.seek(0)
        return "".join(self._log.readlines()[-20:])

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        """End the process: closing its input is the request to leave."""
        assert self._process.stdin
        self._process.stdin.close()
        try:
            self._process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            self._process.kill()


def serve(operations: Mapping[str, Callable[..., Mapping[str, Any]]]) -> None:
    """Answer requests until the input ends. What libraries print goes to the error stream."""
    import traceback

    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer = operations[request.pop("operation")](**request)
        except Exception:  # whatever it is, the driver must hear of it
            answer = {"error": traceback.format_exc()}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()
