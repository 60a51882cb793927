"""The stages that measure, and the report over all of them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from icl_embed.config import RerankConfig
from icl_embed.evaluation.scores import STAGE
from icl_embed.pipeline.run import Run
from icl_embed.progress import tell
from icl_embed.store import Artefact, StageKey

if TYPE_CHECKING:
    from icl_embed.evaluation.measurement import Bootstrap
    from icl_embed.report.facts import ReportDataset


def build_reranker_choice(run: Run, key: StageKey, out_dir: Path) -> Mapping[str, Any]:
    """Choose how to rerank, on the development queries of the embedder's dev scores."""
    from icl_embed.evaluation.reranker.tuning import tune_reranker

    return tune_reranker(
        run.input(key, "reranker").path,
        [run.input(key, role).path for role in key.inputs if role != "reranker"],
        RerankConfig(**key.settings["rerank"]),
        out_dir,
        seed=key.settings["seed"],
        bootstrap=_bootstrap(key),
        progress=tell,
        dtype=key.settings["dtype"],
    )


def build_reranker_evaluation(run: Run, key: StageKey, out_dir: Path) -> Mapping[str, Any]:
    """Rerank the embedder's top passages of every ranking task."""
    from icl_embed.evaluation.reranker.evaluate import evaluate_reranker
    from icl_embed.evaluation.scores import BM25, read_scores

    scored = [run.input(key, role).path for role in key.inputs if role not in ("reranker", "choice")]
    bm25 = [path for path in scored if read_scores(path).model == BM25]
    return evaluate_reranker(
        run.input(key, "reranker").path,
        [path for path in scored if path not in bm25],
        RerankConfig(**key.settings["rerank"]),
        out_dir,
        seed=key.settings["seed"],
        bootstrap=_bootstrap(key),
        progress=tell,
        bm25=bm25,
        choice=run.input(key, "choice").path if "choice" in key.inputs else None,
        dtype=key.settings["dtype"],
    )


def _bootstrap(key: StageKey) -> Bootstrap:
    from icl_embed.evaluation.measurement import Bootstrap

    evaluate = key.settings["evaluate"]
    return Bootstrap(evaluate["bootstrap_resamples"], evaluate["confidence"], key.settings["seed"])


def build_report(run: Run, key: StageKey, out_dir: Path) -> Mapping[str, Any]:
    """One page about everything that the key names; nothing else of the run is looked at."""
    from icl_embed.evaluation.models import shown_name
    from icl_embed.report.facts import ReportInputs
    from icl_embed.report.page import build_report as write_report

    found = [run.input(key, role) for role in key.inputs]
    by_stage: dict[str, list[Artefact]] = {}
    for one in found:
        by_stage.setdefault(one.stage, []).append(one)

    def only(stage: str) -> Artefact | None:
        return by_stage.get(stage, [None])[-1]

    def folder(stage: str) -> Path | None:
        one = only(stage)
        return one.path if one else None

    config, base, trained = key.settings["config"], only("base-model"), only("embedder")
    scores = by_stage.get(STAGE, [])
    inputs = ReportInputs(
        config=config,
        datasets=tuple(_report_dataset(run, one, config["data"]) for one in by_stage.get("dataset", [])),
        pool=folder("pool"),
        negatives=folder("negatives"),
        embedder=folder("embedder"),
        scores=tuple(one.path for one in scores if _is_of_own_card(one)),
        benchmarks=tuple(one.path for one in scores if "task-data" in one.manifest.key["inputs"]),
        missing=tuple(key.settings.get("missing", {}).items()),
        base_model=shown_name(base) if base else "base",
        trained_model=shown_name(trained) if trained else "trained",
        reranker=folder("reranker"),
        reranker_choice=folder("reranker-choice"),
        reranker_evaluation=folder("reranker-evaluation"),
        artefacts=tuple(one.path for one in found),
    )
    return write_report(inputs, out_dir)


def _is_of_own_card(score: Artefact) -> bool:
    """Scores that a reader is shown; those on dev splits are what choices were made by."""
    return bool(score.manifest.key["settings"].get("split") == "test")


def _report_dataset(run: Run, artefact: Artefact, data: Mapping[str, Any]) -> ReportDataset:
    from icl_embed.report.facts import ReportDataset

    card = run.card(artefact.manifest.label)
    trained, evaluated = card.name in data["train"], card.name in data["evaluate"]
    return ReportDataset(
        name=card.name,
        kind=card.kind,
        role="train and evaluate" if trained and evaluated else "train" if trained else "evaluate",
        folder=artefact.path,
        title=card.title,
        licence=card.licence,
        homepage=card.homepage,
    )
