"""Every cache, retry and concurrency rule of the pipeline.

Caching. A stage's artefact lives in our store under its fingerprint. The fingerprint is also the Prefect
cache key, so the UI shows ``Cached`` exactly when the key is unchanged. A Prefect result is only a reference:
before it is believed the artefact is verified, and a missing or damaged one is rebuilt (``refresh_cache``).

Retrying. Only what a retry can mend: the network and lost workers. A config error fails at once.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from prefect import Task
from prefect.client.schemas.objects import State, TaskRun
from prefect.context import TaskRunContext
from prefect.task_runners import TaskRunner, ThreadPoolTaskRunner
from prefect.tasks import exponential_backoff

from icl_embed.errors import SourceError
from icl_embed.launch.launcher import WorkerLostError
from icl_embed.store import StageKey


def stage_cache_key(_context: TaskRunContext, parameters: dict[str, Any]) -> str:
    """The Prefect cache key of a stage: its name and fingerprint."""
    key: StageKey = parameters["key"]
    return f"{key.stage}-{key.fingerprint}"


def can_be_retried(_task: Task[Any, Any], _task_run: TaskRun, state: State[Any]) -> bool:
    """Whether trying again can help: a source that did not answer, or a rank that was lost."""
    error = state.result(raise_on_failure=False)
    if isinstance(error, SourceError):
        return bool(getattr(error, "is_transient", False))
    return isinstance(error, WorkerLostError | ConnectionError | TimeoutError)


CACHED: dict[str, Any] = {
    "cache_key_fn": stage_cache_key,
    "persist_result": True,
    "result_serializer": "json",  # a short reference; never pickle
}

# Sources answer again after seconds to minutes; jitter keeps parallel downloads from returning together.
FETCH: dict[str, Any] = {
    **CACHED,
    "retries": 3,
    "retry_delay_seconds": exponential_backoff(backoff_factor=5),
    "retry_jitter_factor": 0.5,
    "retry_condition_fn": can_be_retried,
}

# A lost rank resumes from its last checkpoint, so a retry costs little; a second loss needs a person.
TRAIN: dict[str, Any] = {
    **CACHED,
    "retries": 1,
    "retry_delay_seconds": 10,
    "retry_condition_fn": can_be_retried,
    "tags": ["accelerator"],
}

# Vectors are kept, so a score that lost its worker goes on where it was.
SCORE: dict[str, Any] = {**TRAIN, "tags": ["accelerator", "benchmark"]}

COMPUTE: dict[str, Any] = CACHED

# Submitted tasks are downloads, which wait for the network; everything else is called directly.
DOWNLOADS: TaskRunner[Any] = ThreadPoolTaskRunner(max_workers=4)


def accelerator_limit_name() -> str:
    """The name of this host's global concurrency limit for accelerator work."""
    return f"accelerator-{socket.gethostname()}"


@contextmanager
def accelerator_slot() -> Iterator[None]:
    """Hold one of this host's accelerator slots; without an accelerator there is nothing to hold.

    ``icl-embed ui`` creates the limit with one slot. The lease is short, so that the slot of a killed run is
    free again after a minute.
    """
    import torch

    if not torch.cuda.is_available():
        yield
        return
    from prefect.concurrency.sync import concurrency

    with concurrency(accelerator_limit_name(), occupy=1, lease_duration=60):
        yield
