"""Steps prepared ahead by worker processes, while the model computes.

A step is a pure function of its number, so it does not matter who prepares it: with any number of workers,
or after a resume, the same steps arrive. Worker ``w`` of ``n`` prepares every n-th step, a few ahead at most.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection
from typing import NamedTuple, NoReturn

from icl_embed import errors
from icl_embed.errors import IclEmbedError
from icl_embed.launch.launcher import WorkerLostError
from icl_embed.launch.processes import die_with_parent
from icl_embed.train.embedder.prepare import PreparedStep, StepBuilder

logger = logging.getLogger(__name__)

STEPS_AHEAD = 2  # per worker, beside the one it works on
PATIENCE_SECONDS = 10.0


class _Failure(NamedTuple):
    kind: str
    message: str


@contextmanager
def prepare_ahead(builder: StepBuilder, workers: int) -> Iterator[Callable[[int], PreparedStep]]:
    """A function that gives the prepared step of a number; steps must be asked for one after the other.

    Without workers, steps are prepared when asked for. Workers start with the first step asked for, ignore
    the signals that stop a job (their rank finishes its step), and die with their rank.

    Raises
        WorkerLostError: a worker died, e.g. was killed for its memory.
        IclEmbedError: what went wrong in a worker, as its own type.
    """
    if not workers:
        yield builder.build
        return
    crew = _Crew(builder, workers)
    try:
        yield crew.take
    finally:
        crew.dismiss()


class _Crew:
    def __init__(self, builder: StepBuilder, size: int) -> None:
        self._builder = builder
        self._size = size
        self._first = -1
        self._members: list[tuple[multiprocessing.process.BaseProcess, Connection]] = []

    def take(self, step: int) -> PreparedStep:
        if not self._members:
            self._start(step)
        number = (step - self._first) % self._size
        process, results = self._members[number]
        try:
            found, prepared = results.recv()
        except (EOFError, OSError):
            self._report_death(number, process)
        with suppress(OSError):  # a worker that died meanwhile is met when its next step is due
            results.send(None)
        if isinstance(prepared, _Failure):
            raise getattr(errors, prepared.kind, IclEmbedError)(prepared.message)
        if found != step or not isinstance(prepared, PreparedStep):
            raise WorkerLostError(f"batch worker {number} sent step {found} when step {step} was due")
        return prepared

    def dismiss(self) -> None:
        """End all workers; they hold nothing worth saving."""
        for process, results in self._members:
            results.close()
            process.kill()
            process.join(PATIENCE_SECONDS)
        self._members = []

    def _start(self, first: int) -> None:
        # A fresh interpreter: forking a process with CUDA, NCCL and thread pools is undefined.
        context = multiprocessing.get_context("spawn")
        self._first = first
        for number in range(self._size):
            ours, theirs = context.Pipe()
            process = context.Process(
                target=_work,
                args=(self._builder, first + number, self._size, theirs, os.getpid()),
                daemon=True,
            )
            process.start()
            theirs.close()  # so that the end of the worker is the end of the pipe
            self._members.append((process, ours))
        logger.info("%d batch workers prepare the steps", self._size)

    def _report_death(self, number: int, process: multiprocessing.process.BaseProcess) -> NoReturn:
        process.join(PATIENCE_SECONDS)
        raise WorkerLostError(
            f"batch worker {number} died (exit code {process.exitcode}); it may have been killed or out of "
            "memory. Run again to resume from the last checkpoint, or set train.tokenizer_workers=0"
        ) from None


def _work(builder: StepBuilder, first: int, stride: int, results: Connection, parent: int) -> None:
    """Prepare every ``stride``-th step until the last, never more than a few ahead of what was taken."""
    die_with_parent(signal.SIGKILL)
    if os.getppid() != parent:
        return
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        for count, step in enumerate(range(first, builder.num_steps, stride)):
            if count > STEPS_AHEAD:
                results.recv()  # one was taken
            results.send((step, _build(builder, step)))
        while True:  # the pipe stays open until the rank closes it
            results.recv()
    except (EOFError, OSError):
        return


def _build(builder: StepBuilder, step: int) -> PreparedStep | _Failure:
    try:
        return builder.build(step)
    except IclEmbedError as error:
        return _Failure(type(error).__name__, str(error))
