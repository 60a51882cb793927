"""Stage ``report``: one page about everything that a run made."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from icl_embed.config import RunConfig, untouched
from icl_embed.evaluation import scores
from icl_embed.pipeline.stages import public_embedder
from icl_embed.pipeline.stages.embedder import CONTROL
from icl_embed.pipeline.stages.score import mean_pooled
from icl_embed.store import Artefact, StageKey

if TYPE_CHECKING:
    from icl_embed.pipeline.run import Run
    from icl_embed.report.facts import ReportDataset


STAGE, VERSION = "report", 2


def report_key(config: RunConfig, made: Iterable[StageKey]) -> StageKey:
    """The page over some artefacts, and the config that it prints."""
    left_out: dict[str, Any] = {"paths": True, "teacher": {"folder"}, "model": _where(config)}
    left_out["train"] = untouched(config.train) | {"start_from"}
    left_out["rerank"] = untouched(config.rerank) | {"base"}  # the base model's key knows what it is
    settings = {"config": config.model_dump(mode="json", exclude=left_out)}
    inputs = {_role(config, key): key.reference for key in made}
    return StageKey(STAGE, VERSION, settings, inputs, config.preset)


def _where(config: RunConfig) -> set[str]:
    """What says only where a model lies; the base model's key knows what it is."""
    return {"name", "version", "filename", "sha256", "member"} if config.model.source == "local" else set()


def _role(config: RunConfig, key: StageKey) -> str:
    """What a stage is to the report; the name of a local folder is no part of it."""
    is_folder = key.stage == "base-model" and config.model.source == "local"
    return key.stage if is_folder else f"{key.stage}:{key.label}"


def build_report(run: Run, key: StageKey, out_dir: Path) -> Mapping[str, Any]:
    """One page about everything that the key names; nothing else of the run is looked at."""
    from icl_embed.evaluation.models import shown_name
    from icl_embed.report.facts import ReportInputs
    from icl_embed.report.page import build_report as write_report
    from icl_embed.report.score_table import Systems

    found = [run.input(key, role) for role in key.inputs]
    by_stage: dict[str, list[Artefact]] = {}
    for one in found:
        by_stage.setdefault(one.stage, []).append(one)

    def only(stage: str) -> Artefact | None:
        return by_stage.get(stage, [None])[-1]

    def folder(stage: str) -> Path | None:
        one = only(stage)
        return one.path if one else None

    def name_of(stage: str) -> str:
        one = only(stage)
        return shown_name(one) if one else ""

    config, base, trained = key.settings["config"], only("base-model"), only("embedder")
    scored = by_stage.get(scores.STAGE, [])
    inputs = ReportInputs(
        config=config,
        datasets=tuple(_report_dataset(run, one, config["data"]) for one in by_stage.get("dataset", [])),
        pool=folder("pool"),
        negatives=folder("negatives"),
        embedder=folder("embedder"),
        scores=tuple(one.path for one in scored if _is_of_own_card(one)),
        benchmarks=tuple(one.path for one in scored if "task-data" in one.manifest.key["inputs"]),
        missing=tuple(key.settings.get("missing", {}).items()),
        systems=Systems(
            base=shown_name(base) if base else "base",
            trained=shown_name(trained) if trained else "trained",
            base_mean=mean_pooled(base.manifest.label) if base else "",
            public=name_of(public_embedder.STAGE),
            no_examples=name_of(CONTROL),
        ),
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
