"""Encoding on several devices: one process per device, each batch goes to whoever is free.

The parent tokenises, plans the same batches as a single process would, and hands them out one at a time over
a pipe per worker, so the results are those of one process, to rounding. (Not over one shared queue: a worker
that is killed while it holds the queue's lock would hang all others.)
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from multiprocessing import parent_process
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from icl_embed.errors import ConfigError, IclEmbedError, ModelError
from icl_embed.examples import Example
from icl_embed.model.backbone import load_description
from icl_embed.model.compiled import CompiledTask, plan_task
from icl_embed.model.dtype import resolve_device, resolve_dtype
from icl_embed.model.fingerprints import Fingerprints
from icl_embed.model.settings import EmbedderSettings, build_prompts, read_settings
from icl_embed.model.text_encoder import TextEncoder
from icl_embed.prompts import Tokens

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class WorkerPlan:
    """What a worker needs to begin."""

    folder: Path
    device: str
    dtype: str
    settings: EmbedderSettings
    num_threads: int  # of torch on a CPU; 0 leaves torch's own choice


@dataclass(frozen=True)
class Job:
    """One batch: token lists, and the task (without states) whose prefix they continue."""

    number: int
    rows: list[Tokens]
    task: CompiledTask | None


@dataclass(frozen=True)
class Done:
    """The vectors [R, D] of a job."""

    number: int
    vectors: NDArray[np.float32]


@dataclass(frozen=True)
class Ready:
    """The model is loaded."""


@dataclass(frozen=True)
class Failed:
    """Why a worker stops."""

    reason: str


def work(connection: Connection, plan: WorkerPlan) -> None:
    """Serve jobs until the parent closes the connection, or dies."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle; it ends us
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        _serve(connection, plan)
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return  # the parent has closed the line
    except IclEmbedError as error:
        connection.send(Failed(str(error)))
    except Exception as error:
        logger.exception("the worker on %s failed", plan.device)
        connection.send(Failed(f"{type(error).__name__}: {error}"))


def _serve(connection: Connection, plan: WorkerPlan) -> None:
    import torch

    from icl_embed.model.embedder import Embedder
    from icl_embed.model.memory import Recent

    if plan.num_threads:
        torch.set_num_threads(plan.num_threads)
    embedder = Embedder.load(plan.folder, device=plan.device, dtype=plan.dtype, settings=plan.settings)
    tasks: Recent[CompiledTask] = Recent(embedder.task_cache_bytes, lambda task: task.num_bytes)
    connection.send(Ready())
    while True:
        job: Job = connection.recv()
        task = job.task
        if task is not None:
            key = (tuple(task.prefix.tokens), task.prefix.demonstrations)
            task = tasks.get(key, partial(embedder.with_states, task))
        connection.send(Done(job.number, embedder.embed_batch(job.rows, task).cpu().numpy()))


def without_states(task: CompiledTask) -> CompiledTask:
    """What a worker needs to know of a task: it encodes the prefix itself, sooner than megabytes arrive."""
    return replace(task, states=None)


def _end_with_parent() -> None:
    """A parent that was killed cannot say goodbye; a worker deep in a product would not hear it either."""
    parent = parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)


SECONDS_TO_LEAVE = 5.0


@dataclass(frozen=True, eq=False)
class _Worker:
    device: str
    process: SpawnProcess
    connection: Connection


class EncoderPool(TextEncoder):
    """An encoder that works on several devices; the model is loaded once on each.

    Use it in a ``with`` block, in one thread, in a script under ``if __name__ == "__main__":`` (each worker
    imports the script). After an error the pool is closed: no worker is left behind, start a new one.

    Examples::

        with EncoderPool(folder, ["cuda:0", "cuda:1"]) as pool:
            vectors = pool.encode_passages(passages)
    """

    def __init__(
        self,
        folder: Path | str,
        devices: Sequence[str],
        *,
        dtype: str = "auto",
        settings: EmbedderSettings | None = None,
    ) -> None:
        """Start a process per device and wait until every one has loaded the model.

        Raises
            ConfigError: no device is named.
            ModelError: the folder cannot be loaded, or a worker dies.
        """
        if isinstance(devices, str) or not devices:
            raise ConfigError(f"expected a list of devices such as ['cuda:0', 'cuda:1'], found {devices!r}")
        self.folder = Path(folder)
        self._config, tokenizer = load_description(self.folder)
        self.settings = settings or read_settings(self.folder)
        self.prompts = build_prompts(tokenizer, self.settings, self._config)
        self.dtype = _common_dtype(dtype, devices)
        self._workers: list[_Worker] = []
        self._owner = os.getpid()
        try:
            for device in devices:
                self._workers.append(self._start(device, num_cpu=sum(name == "cpu" for name in devices)))
            for worker in self._workers:
                _hear(worker)
        except BaseException:
            self.close(at_once=True)
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, error: object, *_: object) -> None:
        self.close(at_once=error is not None)

    def __getstate__(self) -> dict[str, Any]:
        """Raises ModelError: processes cannot be copied."""
        raise ModelError(
            "an encoder pool holds processes and cannot be pickled or copied; start one where it is needed, "
            "from its folder"
        )

    @property
    def dimension(self) -> int:
        """Length of a vector."""
        return int(self._config.hidden_size)

    @property
    def device(self) -> torch.device:
        """Vectors of several devices meet in main memory."""
        return torch.device("cpu")

    @cached_property
    def fingerprints(self) -> Fingerprints:
        """Of the model's files; read when first needed."""
        return Fingerprints.of_folder(self.folder)

    def close(self, *, at_once: bool = False) -> None:
        """End the workers: after their batch, or at once."""
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
        plan = WorkerPlan(self.folder, device, self.dtype, self.settings, threads)
        process = spawn.Process(target=work, args=(there, plan), name=f"encoder on {device}", daemon=True)
        process.start()
        there.close()  # now only the worker holds it, and its death ends the line
        return _Worker(device, process, here)

    def _checked_task(self, task: CompiledTask) -> CompiledTask:
        bare = without_states(task)
        bare.refuse_other_model(self.fingerprints, self.settings, dtype=self.dtype, config=self._config)
        return bare

    def _recent_task(self, instruction: str, examples: Sequence[Example]) -> CompiledTask:
        # Each worker keeps what it encoded; here it is a matter of tokens.
        return plan_task(
            self.prompts,
            instruction,
            examples,
            Fingerprints.unsaved(),
            settings=self.settings,
            dtype=self.dtype,
        )

    def _embed_batches(
        self, batches: Iterable[list[Tokens]], task: CompiledTask | None
    ) -> Iterator[tuple[int, Tensor]]:
        if not self._workers:
            raise ModelError("the encoder pool is closed; start a new one")
        if os.getpid() != self._owner:
            raise ModelError("the encoder pool belongs to the process that was forked; start a new one here")
        jobs = (Job(number, rows, task) for number, rows in enumerate(batches))
        busy: dict[Any, _Worker] = {}  # by connection
        try:
            for worker, first in zip(self._workers, jobs, strict=False):
                _tell(worker, first)
                busy[worker.connection] = worker
            while busy:
                for connection in wait(list(busy)):
                    worker = busy.pop(connection)
                    done = _hear(worker)
                    if (job := next(jobs, None)) is not None:
                        _tell(worker, job)
                        busy[worker.connection] = worker
                    yield done.number, torch.from_numpy(done.vectors)
        except BaseException:
            self.close(at_once=True)  # a worker may be in the middle of a batch that nobody waits for
            raise


def _tell(worker: _Worker, job: Job) -> None:
    try:
        worker.connection.send(job)
    except OSError as error:
        raise _death_of(worker) from error


def _hear(worker: _Worker) -> Any:
    try:
        message = worker.connection.recv()
    except (EOFError, OSError) as error:
        raise _death_of(worker) from error
    if isinstance(message, Failed):
        raise ModelError(f"the encoder on {worker.device} failed: {message.reason}")
    return message


def _death_of(worker: _Worker) -> ModelError:
    worker.process.join(SECONDS_TO_LEAVE)
    code = worker.process.exitcode
    how = f"was killed by signal {-code}" if code is not None and code < 0 else f"ended with code {code}"
    why = "; signal 9 is often the system's answer to memory running out" if code == -9 else ""
    if code == 1:
        why = "; a script must start a pool under if __name__ == '__main__'"
    return ModelError(f"the encoder on {worker.device} (process {worker.process.pid}) {how}{why}")


def _common_dtype(name: str, devices: Sequence[str]) -> str:
    """One number format for all devices, so that a vector does not depend on who made it."""
    found = {resolve_dtype(name, resolve_device(device)) for device in devices}
    return str(found.pop()).removeprefix("torch.") if len(found) == 1 else "float32"
