"""The stages that measure, and the report over all of them."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from icl_embed.config import EvaluateConfig, RerankConfig
from icl_embed.pipeline.run import Run
from icl_embed.store import StageKey

if TYPE_CHECKING:
    from icl_embed.evaluation.measurement import Bootstrap
    from icl_embed.evaluation.tasks.rows import EvaluationInput
    from icl_embed.report.facts import ReportDataset

logger = logging.getLogger(__name__)


def build_evaluation(run: Run, key: StageKey, out_dir: Path) -> Mapping[str, Any]:
    """Score one system on one data set."""
    from icl_embed.evaluation.asking import strategy_of
    from icl_embed.evaluation.stage import evaluate_bm25, evaluate_model
    from icl_embed.evaluation.tasks.task import EvaluatedModel

    config = EvaluateConfig(**key.settings["evaluate"])
    dataset = _evaluation_input(run, key)
    seed = key.settings["seed"]
    if "model" not in key.inputs:
        return evaluate_bm25(dataset, config, out_dir, seed=seed)
    model = run.input(key, "model")
    evaluated = EvaluatedModel(
        name=key.settings["system"],
        fingerprint=model.fingerprint,
        folder=model.path,
        dtype=key.settings["dtype"],
    )
    pool_dir = run.input(key, "pool").path
    strategy = strategy_of(config, seed=seed)
    return evaluate_model(
        dataset, evaluated, config, out_dir, pool_dir=pool_dir, seed=seed, strategy=strategy
    )


def _evaluation_input(run: Run, key: StageKey) -> EvaluationInput:
    from icl_embed.evaluation.tasks.rows import EvaluationInput

    card, artefact = run.card(key.settings["dataset"]), run.input(key, "dataset")
    return EvaluationInput(
        name=card.name,
        kind=card.kind,
        instruction=card.instruction,
        folder=artefact.path,
        fingerprint=artefact.fingerprint,
        trained_on=key.settings["trained_on"],
        title=card.title,
        licence=card.licence,
        homepage=card.homepage,
        split=key.settings["split"],
    )


def build_reranker_choice(run: Run, key: StageKey, out_dir: Path) -> Mapping[str, Any]:
    """Choose how to rerank, on the development queries of the embedder's dev evaluations."""
    from icl_embed.evaluation.reranker.tuning import tune_reranker

    return tune_reranker(
        run.input(key, "reranker").path,
        [run.input(key, role).path for role in key.inputs if role != "reranker"],
        RerankConfig(**key.settings["rerank"]),
        out_dir,
        seed=key.settings["seed"],
        bootstrap=_bootstrap(key),
        progress=_log,
        dtype=key.settings["dtype"],
    )


def build_reranker_evaluation(run: Run, key: StageKey, out_dir: Path) -> Mapping[str, Any]:
    """Rerank the embedder's top passages of every ranking task."""
    from icl_embed.evaluation.reranker.evaluate import evaluate_reranker

    by_system: dict[str, list[Path]] = {"trained": [], "bm25": []}
    for role in key.inputs:
        system, separator, _ = role.partition(" on ")
        if separator:
            by_system[system].append(run.input(key, role).path)
    return evaluate_reranker(
        run.input(key, "reranker").path,
        by_system["trained"],
        RerankConfig(**key.settings["rerank"]),
        out_dir,
        seed=key.settings["seed"],
        bootstrap=_bootstrap(key),
        progress=_log,
        bm25=by_system["bm25"],
        choice=run.input(key, "choice").path if "choice" in key.inputs else None,
        dtype=key.settings["dtype"],
    )


def _log(what: str, behind: int, total: int) -> None:
    if behind == total:
        logger.info("%s: %d queries reranked", what, total)


def _bootstrap(key: StageKey) -> Bootstrap:
    from icl_embed.evaluation.measurement import Bootstrap

    evaluate = EvaluateConfig(**key.settings["evaluate"])
    return Bootstrap(evaluate.bootstrap_resamples, evaluate.confidence, key.settings["seed"])


def build_report(run: Run, key: StageKey, out_dir: Path) -> Mapping[str, Any]:
    """One page about everything the run made."""
    from icl_embed.report.facts import ReportInputs
    from icl_embed.report.page import build_report as write_report

    keys = run.keys
    inputs = ReportInputs(
        config=key.settings["config"],
        datasets=tuple(_report_dataset(run, name) for name in keys.datasets),
        pool=run.artefact(keys.pool).path,
        negatives=run.artefact(keys.negatives).path,
        embedder=run.artefact(keys.embedder).path,
        evaluations=tuple(run.artefact(one).path for one in keys.evaluations.values()),
        reranker=run.artefact(keys.reranker).path,
        reranker_choice=run.artefact(keys.reranker_choice).path if keys.reranker_choice else None,
        reranker_evaluation=run.artefact(keys.reranker_evaluation).path,
        artefacts=tuple(run.artefact(one).path for one in keys if one != keys.report),
    )
    return write_report(inputs, out_dir)


def _report_dataset(run: Run, name: str) -> ReportDataset:
    from icl_embed.report.facts import ReportDataset

    card, data = run.card(name), run.config.data
    trained, evaluated = name in data.train, name in data.evaluate
    return ReportDataset(
        name=name,
        kind=card.kind,
        role="train and evaluate" if trained and evaluated else "train" if trained else "evaluate",
        folder=run.artefact(run.keys.datasets[name]).path,
        title=card.title,
        licence=card.licence,
        homepage=card.homepage,
    )
