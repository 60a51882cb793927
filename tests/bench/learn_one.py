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


def main(asked: Path) -> None:
    """Build what the file asks for: ``{"preset", "overrides", "out"}``; write references as they appear."""
    job: dict[str, Any] = json.loads(asked.read_text(encoding="utf-8"))
    logging.basicConfig(level=logging.WARNING)
    run = open_run(job["preset"], job["overrides"])
    out = Path(job["out"])
    for key in (run.keys.base_model, *run.keys.datasets.values(), run.keys.pool, run.keys.negatives):
        build(run, key)
    if run.keys.imitated is not None:
        build(run, run.keys.imitated)
    started = time.perf_counter()
    trained = build(run, run.keys.embedder)
    known: dict[str, Any] = {
        "overrides": job["overrides"],
        "training": {**trained.manifest.counts, "wall_seconds": round(time.perf_counter() - started, 1)},
        "scores": [],
    }
    for task, key in scores_of(run, ScoredModel(TRAINED, run.keys.embedder.reference)):
        began = time.perf_counter()
        scores = read_scores(build(run, key).path)
        known["scores"].append(
            {
                "task": task,
                "kind": scores.kind,
                "is_placebo": "placebo" in key.settings.get("examples", {}),
                "shots": int(key.settings["asked"]["shots"]),
                "score": scores.results[0].mean if scores.results else None,
                "artefact": key.reference,
                "seconds": round(time.perf_counter() - began, 1),
            }
        )
        out.write_text(json.dumps(known), encoding="utf-8")


def scores_of(run: Run, model: ScoredModel) -> list[tuple[str, StageKey]]:
    """The public tasks of a run, then its own cards that are not trained on."""
    found = []
    for scoring in scorings_of(run, [model]):
        build(run, scoring.data)
        found += [(scoring.task, key) for key in scoring.scores]
    for card in run.config.data.evaluate:
        if card not in run.config.data.train:
            keys = card_scores(run.config, card, run.keys.datasets[card], run.keys.pool, model)
            found += [(card, key) for key in keys]
    return found


if __name__ == "__main__":
    main(Path(sys.argv[1]))
