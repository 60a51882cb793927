"""One process of an encoder pool: loads the model on its device, then embeds batches until told to stop."""

from __future__ import annotations

import logging
import os
import signal
import threading
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing import parent_process
from multiprocessing.connection import Connection, wait
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from icl_embed.errors import IclEmbedError
from icl_embed.model.compiled import CompiledTask
from icl_embed.model.settings import EmbedderSettings
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
    from icl_embed.model.recent import Recent

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
