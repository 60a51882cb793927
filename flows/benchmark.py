"""Flow: any model on any benchmark tasks in any settings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from prefect.artifacts import create_table_artifact
from prefect.logging import get_run_logger

from flows.build_pool import prepare_pool
from flows.declaring import Override, Preset, pipeline_flow
from icl_embed.config import RANKING_KINDS
from icl_embed.errors import ConfigError, EvaluationError, MissingTaskError
from icl_embed.evaluation.grid import NotMeasured
from icl_embed.evaluation.summary import markdown_rows, plain_rows
from icl_embed.evaluation.tasks.rows import PREFIX
from icl_embed.pipeline.benchmarks import named_models, named_reranker, overrides_of, summaries_of
from icl_embed.pipeline.run import Run, open_run
from icl_embed.pipeline.stages.score import ScoredModel, Scoring, scorings_of
from icl_embed.store import StageKey
from tasks.stages import reference_of, run_stage, submit_stage


@pipeline_flow("benchmark")
def benchmark(
    tasks: list[str] | None = None,
    models: list[str] | None = None,
    shots: list[int] | None = None,
    seeds: list[int] | None = None,
    strategies: list[str] | None = None,
    mirror: str | None = None,
    air_bench: str | None = None,
    example_files: str | None = None,
    reranker: str | None = None,
    preset: Preset = "demo",
    overrides: list[Override] | None = None,
) -> str:
    """Score models on benchmark tasks; returns the table as Markdown.

    Parameters
        tasks: of MTEB or AIR-Bench, or whole benchmarks: ``SciFact``, ``MTEB(eng, v2)``,
            ``air-bench/24.04/qa``; unset: those of the preset.
        models: ``bm25``, a folder, an artefact of the store (``embedder/1f0c``, a label), or
            ``hub:org/name@commit``; unset: the newest embedder of the store.
        shots: examples before each query; unset: none, and as many as the preset evaluates with.
        seeds: draws of examples.
        strategies: random, fixed, nearest, diverse, balanced, search.
        mirror: a folder that MTEB's tasks are served from; unset: the hub.
        air_bench: a folder in AIR-Bench's layout; unset: the hub.
        example_files: a file of examples, or a folder with one per task; unset: the tasks' training splits.
        reranker: a folder or an artefact: every search is scored as it is, and once more in its order.
        preset: a name from icl_embed/config/presets, or the path of a TOML file.
        overrides: settings on top of the preset.
    """
    asked = {"tasks": tasks, "mirror": mirror, "air_bench": air_bench, "example_files": example_files}
    ways = {"settings.shots": shots, "settings.seeds": seeds, "settings.strategies": strategies}
    run = open_run(preset, [*overrides_of({**asked, **ways}), *(overrides or [])])
    if not run.config.evaluate.tasks:
        raise ConfigError("no benchmark task was named; set evaluate.tasks, e.g. ['SciFact', 'STSBenchmark']")
    found = named_models(run, models or [""])
    if reranker is None:
        return show(run, measure(run, found))
    second = named_reranker(run, reranker)
    run = replace(run, folders={second.fingerprint: second.folder})
    return show(run, measure(run, [*found, *(replace(model, second=second.scored) for model in found)]))


@dataclass(frozen=True)
class Found:
    """The scores that were made, and the tasks that could not be had."""

    scores: list[StageKey] = field(default_factory=list)
    missing: list[NotMeasured] = field(default_factory=list)


NOTHING = Found()


def measure(run: Run, models: Sequence[ScoredModel]) -> Found:
    """Every model on every benchmark task of a run in every setting.

    Raises
        EvaluationError: a task cannot be had, and ``evaluate.on_missing`` is ``fail``.
    """
    folders = {model.fingerprint: model.folder for model in models if model.folder is not None}
    run = replace(run, folders={**run.folders, **folders})
    scorings = scorings_of(run, models)
    missing = fetch(run, scorings)
    if missing and run.config.evaluate.on_missing == "fail":
        reasons = "; ".join(f"{one.task}: {one.reason}" for one in missing)
        raise EvaluationError(f"{len(missing)} of {len(scorings)} benchmark tasks cannot be had: {reasons}")
    lost = {one.task for one in missing}
    keys = [key for one in scorings if one.task not in lost for key in _askable(run, one)]
    if any("pool" in key.inputs for key in keys):  # own cards among the tasks
        prepare_pool(run)
    # scores of one model follow each other, so that it is loaded once
    for key in sorted(keys, key=lambda key: (key.inputs.get("model", ""), str(key.settings.get("model")))):
        run_stage(run, key)
    return Found(keys, missing)


def _askable(run: Run, scoring: Scoring) -> list[StageKey]:
    """The scores of a task; where nothing is searched, no reranker is asked."""
    if scoring.task.startswith(PREFIX):
        kind = run.card(scoring.task.removeprefix(PREFIX)).kind
    else:
        kind = run.artefact(scoring.data).manifest.counts["kind"]
    return [key for key in scoring.scores if kind in RANKING_KINDS or "reranker" not in key.settings]


def fetch(run: Run, scorings: Sequence[Scoring]) -> list[NotMeasured]:
    """The data of all tasks, several at once; returns the tasks that cannot be had, and why."""
    waiting = [(one.task, one.data, submit_stage(run, one.data)) for one in scorings]
    missing = []
    for task, key, future in waiting:
        future.wait()
        try:
            reference_of(future.state, key)
        except MissingTaskError as error:
            get_run_logger().warning("%s is missing: %s", task, error.reason)
            missing.append(NotMeasured(task, error.reason))
    return missing


def show(run: Run, found: Found) -> str:
    """Put scores into the UI as a table; returns them as Markdown, with what is missing below."""
    summaries = summaries_of(run, found.scores, found.missing)
    rows = [row for summary in summaries for row in plain_rows(summary)]
    if rows:
        create_table_artifact(rows, key="scores", description=f"scores of {run.config.preset}, in %")
    lines = [f"- {one.task} is missing: {one.reason}" for one in found.missing]
    lines += [
        f"- {summary.model} on {one.task}, {one.setting}, is not measured: {one.reason}"
        for summary in summaries
        for one in summary.absent
    ]
    return "\n".join([markdown_rows(rows), *lines])
