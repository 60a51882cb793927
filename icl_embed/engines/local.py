"""The engine of one machine: a process per device, each with a pipe to the caller.

(Not one queue for all: a worker that is killed while it holds the queue's lock would hang all others.)
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing import parent_process
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import Any

import torch

from icl_embed.engines.engine import Engine, Work
from icl_embed.errors import ConfigError, IclEmbedError, ModelError, how_it_ended

logger = logging.getLogger(__name__)

SECONDS_TO_LEAVE = 5.0


@dataclass(frozen=True)
class Failed:
    """Why a worker stops."""

    reason: str


def serve(connection: Connection, work: Work, device: str, threads: int) -> None:
    """Do jobs until the caller closes the connection, or dies."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the caller's to handle; it ends us
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        if threads:
            torch.set_num_threads(threads)
        do = work.open(device, threads)
        connection.send(None)  # ready
        while True:
            number, job = connection.recv()
            connection.send((number, do(job)))
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return  # the caller has closed the line
    except IclEmbedError as error:
        connection.send(Failed(str(error)))
    except Exception as error:
        logger.exception("the worker on %s failed", device)
        connection.send(Failed(f"{type(error).__name__}: {error}"))


def _end_with_parent() -> None:
    """A caller that was killed cannot say goodbye; a worker deep in a product would not hear it either."""
    parent = parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)


@dataclass(frozen=True, eq=False)
class _Worker:
    device: str
    process: SpawnProcess
    connection: Connection


class LocalEngine(Engine):
    """Processes of this machine; scripts start them under ``if __name__ == "__main__":``."""

    def __init__(self, work: Work, devices: Sequence[str]) -> None:
        """Raises ConfigError if no device is named, ModelError if a worker cannot open the work."""
        if not devices:
            raise ConfigError("expected a list of devices such as ['cuda:0', 'cuda:1'], found an empty one")
        self._work, self._owner = work, os.getpid()
        self._workers: list[_Worker] = []
        try:
            for device in devices:
                self._workers.append(self._start(device, num_cpu=sum(name == "cpu" for name in devices)))
            for worker in self._workers:
                self._hear(worker)
        except BaseException:
            self.close(at_once=True)
            raise

    def run(self, jobs: Iterable[Any]) -> Iterator[tuple[int, Any]]:
        """See ``Engine``; each worker has one job at a time."""
        if not self._workers:
            raise ModelError(f"the {self._work.name} workers are closed; start new ones")
        if os.getpid() != self._owner:
            raise ModelError(
                f"the {self._work.name} workers belong to the process that was forked; start new ones here"
            )
        numbered = enumerate(jobs)
        busy: dict[Any, _Worker] = {}  # by connection
        try:
            for worker, first in zip(self._workers, numbered, strict=False):
                self._tell(worker, first)
                busy[worker.connection] = worker
            while busy:
                for connection in wait(list(busy)):
                    worker = busy.pop(connection)
                    done = self._hear(worker)
                    if (job := next(numbered, None)) is not None:
                        self._tell(worker, job)
                        busy[worker.connection] = worker
                    yield done
        except BaseException:
            self.close(at_once=True)  # a worker may be in the middle of a job that nobody waits for
            raise

    def close(self, *, at_once: bool = False) -> None:
        """See ``Engine``."""
        workers, self._workers = self._workers, []
        if os.getpid() != self._owner:
            return  # in a fork: they are its parent's
        for worker in workers:
            if at_once:
                worker.process.kill()
            worker.connection.close()  # an idle worker reads the end of the line and leaves
        for worker in workers:
            worker.process.join(SECONDS_TO_LEAVE)
            if worker.process.is_alive():
                worker.process.kill()
                worker.process.join()

    def _start(self, device: str, *, num_cpu: int) -> _Worker:
        spawn = multiprocessing.get_context("spawn")
        here, there = spawn.Pipe()
        threads = max(1, torch.get_num_threads() // num_cpu) if device == "cpu" else 0
        arguments = (there, self._work, device, threads)
        process = spawn.Process(
            target=serve, args=arguments, name=f"{self._work.name} on {device}", daemon=True
        )
        process.start()
        there.close()  # now only the worker holds it, and its death ends the line
        return _Worker(device, process, here)

    def _tell(self, worker: _Worker, job: tuple[int, Any]) -> None:
        try:
            worker.connection.send(job)
        except OSError as error:
            raise self._death_of(worker) from error

    def _hear(self, worker: _Worker) -> Any:
        try:
            message = worker.connection.recv()
        except (EOFError, OSError) as error:
            raise self._death_of(worker) from error
        if isinstance(message, Failed):
            raise ModelError(f"the {self._work.name} on {worker.device} failed: {message.reason}")
        return message

    def _death_of(self, worker: _Worker) -> ModelError:
        worker.process.join(SECONDS_TO_LEAVE)
        code = worker.process.exitcode
        how = how_it_ended(code)
        why = "; a script must start workers under if __name__ == '__main__'" if code == 1 else ""
        return ModelError(
            f"the {self._work.name} on {worker.device} (process {worker.process.pid}) {how}{why}"
        )
