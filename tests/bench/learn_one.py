"""Train one variant of a run and score it; ``tests.bench.learn`` starts several of these beside each other.

Everything goes through the store, so a score that is there is not made again.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from pathlib import Path
from typing import Any

from icl_embed.evaluation.request import ScoredModel
from icl_embed.evaluation.scores import read_scores
from icl_embed.pipeline.build import build
from icl_embed.pipeline.run import Run, open_run
from icl_embed.pipeline.stages.score import TRAINED, card_scores, scorings_of
from icl_embed.store import StageKey

logger = logging.getLogger(__name__)


def main(asked: Path) -> None:
    """Build what the file asks for: ``{"preset", "overrides", "own_sets", "out"}``; write references as they appear."""
    job: dict[str, Any] = json.loads(asked.read_text(encoding="utf-8"))
    logging.basicConfig(level=logging.WARNING)
    run = open_run(job["preset"], job["overrides"])
    out = Path(job["out"])
    build(run, run.keys.base_model)
    if run.keys.imitated is not None:
        build(run, run.keys.imitated)
    started = time.perf_counter()
    trained = build(run, run.keys.embedder)
    known: dict[str, Any] = {
        "overrides": job["overrides"],
        "training": {**trained.manifest.counts, "wall_seconds": round(time.perf_counter() - started, 1)},
        "scores": [],
    }
    out.write_text(json.dumps(known), encoding="utf-8")
    model = ScoredModel(TRAINED, run.keys.embedder.reference)
    for task, key in scores_of(run, model, own_sets=job["own_sets"]):
        known["scores"].append({"task": task, **score_of(run, key)})
        out.write_text(json.dumps(known), encoding="utf-8")


def score_of(run: Run, key: StageKey) -> dict[str, Any]:
    """One score, or why there is none: the others are wanted all the same."""
    began = time.perf_counter()
    said: dict[str, Any] = {
        "is_placebo": "placebo" in key.settings.get("examples", {}),
        "shots": int(key.settings["asked"]["shots"]),
        "artefact": key.reference,
    }
    try:
        scores = read_scores(build(run, key).path)
    except Exception as error:
        logger.exception("%s could not be made", key.label)
        return said | {"error": str(error)}
    score = scores.results[0].mean if scores.results else None
    return said | {"kind": scores.kind, "score": score, "seconds": round(time.perf_counter() - began, 1)}


def scores_of(run: Run, model: ScoredModel, *, own_sets: bool) -> list[tuple[str, StageKey]]:
    """The public tasks, which choices are made by, then a run's own cards that are not trained on."""
    found = []
    for scoring in scorings_of(run, [model]):
        build(run, scoring.data)
        found += [(scoring.task, key) for key in scoring.scores]
    for card in run.config.data.evaluate if own_sets else ():
        if card not in run.config.data.train:
            keys = card_scores(run.config, card, run.keys.datasets[card], run.keys.pool, model)
            found += [(card, key) for key in keys]
    return found


if __name__ == "__main__":
    main(Path(sys.argv[1]))
