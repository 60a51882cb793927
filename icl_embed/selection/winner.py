"""The record that is saved beside a winner's examples."""

from __future__ import annotations

import datetime
from typing import Any

from icl_embed.selection.comparison import Outcome
from icl_embed.selection.dev_split import count_queries
from icl_embed.selection.saved import ChosenExamples
from icl_embed.selection.workbench import Workbench

FORMAT = 1


def describe_winner(best: Outcome, bench: Workbench, *, model_fingerprint: str, draws: int) -> ChosenExamples:
    """A strategy's examples, and what is known about their choice."""
    cost = bench.meter.cost
    origin: dict[str, Any] = {
        "format": FORMAT,
        "task": bench.task.name,
        "kind": bench.task.kind,
        "strategy": best.strategy,
        "model": model_fingerprint,
        "pool": bench.task.fingerprint,
        "seed": bench.seed,
        "shots": bench.config.shots,
        "options": bench.config.selection.model_dump(mode="json"),
        "dev": {
            "metric": best.metric,
            "search_queries": count_queries(bench.split.search),
            "search_score": best.search_score,
            "check_queries": count_queries(bench.split.check),
            "check_score": best.score,
            "gain_over_random": best.gain.mean,
            "low": best.gain.low,
            "high": best.gain.high,
            "confidence": bench.config.confidence,
            "random_draws": draws,
        },
        "cost": {
            "seconds": round(best.cost.seconds, 2),
            "tokens": best.cost.tokens,
            "comparison_seconds": round(cost.seconds, 2),
            "comparison_tokens": cost.tokens,
        },
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
    }
    return ChosenExamples(best.setting.instruction, best.setting.examples, origin)
