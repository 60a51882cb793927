"""Flow: score the newest published model again, and fail when its scores fell beyond chance."""

from __future__ import annotations

from prefect.artifacts import create_markdown_artifact
from prefect.logging import get_run_logger
from prefect.runtime import deployment

from flows.build_pool import prepare_pool
from flows.declaring import Override, Preset, pipeline_flow
from icl_embed.evaluation.results.regression import RegressionError
from icl_embed.pipeline.run import Run, open_run
from icl_embed.pipeline.stages.re_evaluation import (
    TABLE_NAME,
    ReEvaluation,
    accepted_key,
    comparison_key,
    plan_re_evaluation,
)
from tasks.stages import run_stage


@pipeline_flow("re-evaluate")
def re_evaluate(
    preset: Preset = "demo",
    overrides: list[Override] | None = None,
    accept: bool = False,
    level: float = 0.05,
) -> str:
    """Compare the newest model's scores of today with the last accepted ones; returns what was found.

    The run fails when a score fell. Without a fall today's scores become the accepted ones.

    Parameters
        preset: a name from icl_embed/config/presets, or the path of a TOML file.
        overrides: settings on top of the preset.
        accept: make today's scores the accepted ones although they fell.
        level: chance that a run without any change fails.
    """
    run = open_run(preset, overrides or [])
    plan = plan_re_evaluation(run)
    if not plan.changes:
        found = f"nothing changed since the accepted scores of {plan.model.reference}; nothing was scored"
        get_run_logger().info(found)
        return found
    prepare_pool(run)
    for key in plan.scores.values():
        run_stage(run, key)
    if plan.reference is None:
        run_stage(run, accepted_key(run, plan, "first run"))
        return f"the scores of {plan.model.reference} are the first accepted ones"
    return compare(run, plan, accept=accept, level=level)


def compare(run: Run, plan: ReEvaluation, *, accept: bool, level: float) -> str:
    """Compare, show the table, and accept or fail.

    Raises
        RegressionError: a score fell and ``accept`` was not asked for.
    """
    key = comparison_key(run, plan, level)
    run_stage(run, key)
    artefact = run.artefact(key)
    changes = "\n".join(f"- {change}" for change in plan.changes)
    table = (artefact.path / TABLE_NAME).read_text(encoding="utf-8")
    found = table.splitlines()[0].strip("*")
    create_markdown_artifact(f"{table}\n{changes}\n", key="re-evaluation", description=found[:200])
    is_regression = bool(artefact.manifest.counts["fell"] or artefact.manifest.counts["lost"])
    if is_regression and not accept:
        here = "" if deployment.id else " --here"
        raise RegressionError(
            f"{found}. Changed: {'; '.join(plan.changes)}. The table is in {artefact.path / TABLE_NAME}; "
            f"if the fall is meant: icl-embed run re-evaluate {run.options} --accept{here}"
        )
    reason = "a fall accepted on purpose" if is_regression else "no fall"
    run_stage(run, accepted_key(run, plan, reason))
    return f"{found}; accepted ({reason})"
