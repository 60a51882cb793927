"""Prefect tasks that measure, and the report."""

from __future__ import annotations

from prefect import task
from prefect.artifacts import create_markdown_artifact

from icl_embed.pipeline.run import Run
from icl_embed.store import StageKey
from tasks import policies
from tasks.stage_log import built


@task(name="evaluate", **policies.COMPUTE)
def evaluate(run: Run, key: StageKey) -> str:
    """Score one system on one data set, zero-shot and few-shot."""
    with policies.accelerator_slot():
        return built(run, key).reference


@task(name="score", **policies.SCORE)
def score(run: Run, key: StageKey) -> str:
    """Score one model on one benchmark task in one setting."""
    with policies.accelerator_slot():
        return built(run, key).reference


@task(name="tune-reranker", **policies.COMPUTE)
def tune_reranker(run: Run, key: StageKey) -> str:
    """Choose the cheapest way to rerank that loses little on development queries."""
    with policies.accelerator_slot():
        return built(run, key).reference


@task(name="evaluate-reranker", **policies.COMPUTE)
def evaluate_reranker(run: Run, key: StageKey) -> str:
    """Rerank the embedder's top passages at every depth and width."""
    with policies.accelerator_slot():
        return built(run, key).reference


@task(name="compare-with-accepted", **policies.COMPUTE)
def compare_with_accepted(run: Run, key: StageKey) -> str:
    """Compare new scores with the last accepted ones, item by item."""
    return built(run, key).reference


@task(name="accept-scores", **policies.COMPUTE)
def accept_scores(run: Run, key: StageKey) -> str:
    """Make new scores the reference of the next re-evaluation."""
    return built(run, key).reference


@task(name="write-report", **policies.COMPUTE)
def write_report(run: Run, key: StageKey) -> str:
    """Write the report, and show its Markdown in the UI."""
    artefact = built(run, key)
    markdown = (artefact.path / "report.md").read_text(encoding="utf-8")
    create_markdown_artifact(markdown, key="report", description=f"report {artefact.fingerprint}")
    return artefact.reference
