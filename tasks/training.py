"""Prefect tasks that train.

They must be called directly, not submitted: the kernel ties the life of the training processes to the thread
that starts them.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import cast
from uuid import UUID

from prefect import task
from prefect.artifacts import create_progress_artifact, update_progress_artifact
from prefect.logging import get_run_logger

from icl_embed.pipeline.run import Run
from icl_embed.store import StageKey
from tasks import policies
from tasks.stage_log import built, stage_name

STEP = re.compile(r"(?:step|shard) (\d+)/(\d+)")


@task(name="train-embedder", **policies.TRAIN)
def train_embedder(run: Run, key: StageKey) -> str:
    """Train the embedder with DeepSpeed; resumes from the last checkpoint of a killed run."""
    with policies.accelerator_slot():
        return built(run, key, follow_log(key)).reference


@task(name="score-teacher", **policies.TRAIN)
def score_teacher(run: Run, key: StageKey) -> str:
    """Score the training pairs with the teacher; takes over the finished shards of a killed run."""
    with policies.accelerator_slot():
        return built(run, key, follow_log(key)).reference


@task(name="train-reranker", **policies.TRAIN)
def train_reranker(run: Run, key: StageKey) -> str:
    """Distil the lightweight reranker with DeepSpeed."""
    with policies.accelerator_slot():
        return built(run, key, follow_log(key)).reference


@task(name="restore-checkpoint", **policies.COMPUTE)
def restore_checkpoint(run: Run, key: StageKey) -> str:
    """Make a model folder of a step that training kept."""
    return built(run, key).reference


def follow_log(key: StageKey) -> Callable[[str], None]:
    """A listener that passes a job's lines to the run's log and its steps to a progress bar in the UI."""
    logger = get_run_logger()
    artifact = cast(
        UUID,  # a coroutine only for callers in an event loop
        create_progress_artifact(
            progress=0.0, key=f"{key.stage}-progress", description=f"{key.stage} {key.fingerprint}"
        ),
    )
    shown = 0

    def on_line(line: str) -> None:
        nonlocal shown
        logger.info("%s: %s", stage_name(key), line)
        found = STEP.search(line)
        if found is None:
            return
        percent = 100 * int(found[1]) // int(found[2])
        if percent > shown:  # at most a hundred updates per run
            shown = percent
            update_progress_artifact(artifact, progress=float(percent))

    return on_line
