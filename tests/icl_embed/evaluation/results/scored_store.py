"""Stores with real score artefacts, whose values are set by hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from icl_embed.evaluation.measurement import Bootstrap, Measurement
from icl_embed.evaluation.scores import (
    Absence,
    EvaluationScores,
    SettingScore,
    write_examples,
    write_scores,
    write_values,
)
from icl_embed.store import Artefact, StageKey, Store

KINDS = {"mean": "retrieval", "spearman": "sts", "replicates": "clustering"}


def add_scores(
    root: Path,
    model: str,
    task: str,
    values: Mapping[str, Sequence[float]],
    *,
    fingerprint: str = "",
    aggregation: str = "mean",
    targets: Sequence[float] | None = None,
    data: str = "data-1",
    absent: tuple[Absence, ...] = (),
    stage: str = "score",
    version: int = 1,
    more: Mapping[str, Any] | None = None,
) -> Artefact:
    """One artefact with a setting per entry of ``values``."""
    gold = None if targets is None else tuple(targets)
    measured = {
        setting: Measurement(task, aggregation, tuple(f"q{n}" for n in range(len(mine))), tuple(mine), gold)
        for setting, mine in values.items()
    }
    results = []
    for setting, one in measured.items():
        interval = one.interval(Bootstrap(50))
        shots = 0 if setting == "zero-shot" else 5
        results.append(
            SettingScore(setting, shots, interval.mean, interval.low, interval.high, len(one.ids), 1.0)
        )
    facts: dict[str, Any] = {
        "dataset": task,
        "kind": KINDS[aggregation],
        "model": model,
        "model_fingerprint": fingerprint or f"{model}-fingerprint",
        "metric": "ndcg_at_10",
        "aggregation": aggregation,
        "trained_on": False,
        "confidence": 0.95,
        "results": tuple(results),
        "absent": absent,
        "data_fingerprint": data,
    }
    scores = EvaluationScores(**{**facts, **(more or {})})

    def produce(folder: Path) -> Mapping[str, Any]:
        write_scores(folder, scores)
        write_values(folder, measured)
        shown = [{"query": "what [bold]is", "response": "an answer"}]
        write_examples(folder, {name: {"instruction": "", "examples": shown} for name in measured})
        return {}

    settings = {"model": model, "fingerprint": fingerprint, "task": task, "asked": list(values), "data": data}
    return Store(root).build(StageKey(stage, version, settings, {}, f"{model} on {task}"), produce)
