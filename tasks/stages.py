"""The Prefect task of every stage: one function, and a table of what differs between stages."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from functools import cache
from typing import Any, NamedTuple, cast

from prefect import Task, task
from prefect.artifacts import create_link_artifact, create_markdown_artifact
from prefect.client.schemas.objects import State
from prefect.futures import PrefectFuture
from prefect.logging import get_run_logger

from icl_embed.pipeline.run import Run
from icl_embed.store import Artefact, StageKey
from tasks.policies import COMPUTE, FETCH, SCORE, TRAIN, accelerator_slot
from tasks.stage_log import built, stage_name


class StageTask(NamedTuple):
    """What the UI calls a stage's task, when it is tried again, and whether it needs an accelerator."""

    name: str
    description: str
    policy: Mapping[str, Any]
    on_accelerator: bool = False


STAGES: Mapping[str, StageTask] = {
    "base-model": StageTask("fetch-base-model", "Fetch, verify and convert the base model.", FETCH),
    "public-embedder": StageTask("fetch-public-embedder", "Fetch and verify a published embedder.", FETCH),
    "dataset": StageTask("build-dataset", "Fetch and verify a card's source, and read it into rows.", FETCH),
    "task-data": StageTask("fetch-task-data", "Fetch, verify and count a benchmark task's data.", FETCH),
    "pool": StageTask("build-pool", "Clean, deduplicate and decontaminate all data sets.", COMPUTE),
    "negatives": StageTask("mine-negatives", "Mine hard negatives for every training pair.", COMPUTE, True),
    "teacher-scores": StageTask("score-teacher", "Score the training pairs with the teacher.", TRAIN, True),
    "embedder": StageTask("train-embedder", "Train the embedder; resumes from its checkpoint.", TRAIN, True),
    "control": StageTask("train-control", "Train it once more without any example.", TRAIN, True),
    "reranker": StageTask("train-reranker", "Distil the lightweight reranker.", TRAIN, True),
    "checkpoint": StageTask("restore-checkpoint", "Make a model of a step that training kept.", COMPUTE),
    "score": StageTask("score", "Score one model on one task in one setting.", SCORE, True),
    "reranker-choice": StageTask("tune-reranker", "Choose how to rerank, on dev queries.", COMPUTE, True),
    "reranker-evaluation": StageTask(
        "evaluate-reranker", "Rerank the embedder's top passages at every depth and width.", COMPUTE, True
    ),
    "re-evaluation": StageTask(
        "compare-with-accepted", "Compare new scores with the last accepted ones, item by item.", COMPUTE
    ),
    "accepted-scores": StageTask("accept-scores", "Make new scores the accepted ones.", COMPUTE),
    "report": StageTask("write-report", "Write the report, and show it in the UI.", COMPUTE),
}


def build_stage(run: Run, key: StageKey) -> str:
    """Build the artefact of a key, whatever its stage; returns its reference."""
    with accelerator_slot() if STAGES[key.stage].on_accelerator else nullcontext():
        artefact = built(run, key)
    if key.stage == "report":
        _show_report(artefact)
    return artefact.reference


@cache
def task_of(stage: str) -> Task[Any, str]:
    """The Prefect task of a stage."""
    about = STAGES[stage]
    declare = cast(Any, task)  # its overloads take no mapping of options
    made = declare(build_stage, name=about.name, description=about.description, **about.policy)
    return cast(Task[Any, str], made)


def run_stage(run: Run, key: StageKey) -> str:
    """Build a stage as a Prefect task, here and now; returns its reference."""
    # the overload for submitted tasks is the typed one
    state = cast(State[str], cast(Any, prepared(run, key))(run, key, return_state=True))
    return reference_of(state, key)


def submit_stage(run: Run, key: StageKey) -> PrefectFuture[str]:
    """Build a stage beside others: for what waits for the network; ``reference_of`` takes its state."""
    return prepared(run, key).submit(run, key)


def prepared(run: Run, key: StageKey) -> Task[Any, str]:
    """The task with its cache rule settled by verification and its run named after the artefact.

    A missing or damaged artefact is built again, whatever Prefect remembers of it.
    """
    is_missing = not run.store.is_valid(key)
    return task_of(key.stage).with_options(refresh_cache=is_missing, task_run_name=stage_name(key))


def reference_of(state: State[Any], key: StageKey) -> str:
    """What a stage's task returned; the log tells when it did not have to run.

    Raises
        Exception: what the task raised.
    """
    if state.name == "Cached":
        get_run_logger().info("%s: cached, %s", stage_name(key), key.reference)
    return cast(str, state.result())  # a coroutine only for callers in an event loop


def _show_report(artefact: Artefact) -> None:
    markdown = (artefact.path / "report.md").read_text(encoding="utf-8")
    create_markdown_artifact(markdown, key="report", description=f"report {artefact.fingerprint}")
    page = (artefact.path / "index.html").resolve()
    create_link_artifact(page.as_uri(), link_text=str(page), key="report-page", description="the report")
