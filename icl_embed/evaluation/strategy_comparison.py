"""What each strategy is worth, and the record that is saved beside the winner's examples."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from icl_embed.config import ExampleStrategy
from icl_embed.evaluation.measurement import Bootstrap, Difference, Measurement, paired_difference
from icl_embed.evaluation.tasks.rows import query_texts
from icl_embed.evaluation.trials import Cost, Workbench, count_queries
from icl_embed.few_shot.files import ChosenExamples
from icl_embed.few_shot.settings import ZERO_SHOT
from icl_embed.few_shot.strategies import choose_setting
from icl_embed.model.cached_encoding import Setting

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Outcome:
    """One strategy on one task.

    Attributes
        metric: what the scores are.
        strategy: its name; ``none`` shows no examples, ``random`` is the mean over draws.
        setting: the way to ask that it chose; of ``random`` the first draw.
        num_sets: distinct example sets among the checked queries.
        search_score: on the queries that a search looks at; a winner is chosen by it.
        score: on the queries that are kept for checking.
        gain: ``score`` over the mean of the random draws, queries paired.
        cost: of choosing; vectors that an earlier strategy needed too cost nothing again.
    """

    metric: str
    strategy: str
    setting: Setting
    num_sets: int
    search_score: float
    score: float
    gain: Difference
    cost: Cost


def compare_strategies(bench: Workbench, *, draws: int, progress: Progress | None = None) -> list[Outcome]:
    """Every strategy that makes sense for the task, the search last.

    Raises
        ConfigError: options contradict each other.
        EvaluationError: a vector or a score cannot be used.
    """
    _tell(progress, f"{draws} random draws")
    random = [_random(bench, draw) for draw in range(draws)]
    on_search, baseline = (
        [bench.measure(setting, part) for setting in random]
        for part in (bench.split.search, bench.split.check)
    )
    searched, checked = (float(np.mean([one.point for one in part])) for part in (on_search, baseline))
    no_gain = Difference(0.0, 0.0, 0.0, 1.0)
    outcomes = [Outcome(bench.metric, "random", random[0], 1, searched, checked, no_gain, Cost())]
    for name, choose in _ways(bench).items():
        _tell(progress, name)
        outcomes.append(_measure(bench, name, choose, baseline))
    return outcomes


def winner(outcomes: Sequence[Outcome]) -> Outcome:
    """The best single example set by the search score; ties go to the cheaper strategy, which comes first."""
    single = [one for one in outcomes if one.setting.examples and one.strategy != "random"]
    return max(single, key=lambda one: one.search_score)


def gain_over(measured: Measurement, draws: Sequence[Measurement], how: Bootstrap) -> Difference:
    """A score less the mean score of random draws, with the interval over the queries that all were asked.

    The draws themselves are taken as given: the interval says nothing about other draws.
    """
    points = measured.point, float(np.mean([draw.point for draw in draws]))
    replicates = np.mean([draw.replicates(how) for draw in draws], axis=0)
    return paired_difference(points, (measured.replicates(how), replicates), how.confidence)


def _ways(bench: Workbench) -> dict[str, Callable[[], Setting]]:
    def plain(name: ExampleStrategy) -> Setting:
        return choose_setting(name, bench.candidates, bench.config, seed=bench.config.example_seed)

    ways: dict[str, Callable[[], Setting]] = {
        "none": lambda: Setting(ZERO_SHOT, bench.task.instruction),
        "fixed": lambda: plain("fixed"),
        "diverse": lambda: plain("diverse"),
        "balanced": lambda: plain("balanced"),
        "nearest": lambda: plain("nearest"),
        "search": lambda: bench.setting(bench.search().positions),
    }
    if not bench.candidates.has_labels:
        del ways["balanced"]
    return ways


def _measure(
    bench: Workbench, name: str, choose: Callable[[], Setting], baseline: Sequence[Measurement]
) -> Outcome:
    before = bench.meter.cost
    setting = choose()
    selection = setting.selection(query_texts(bench.split.check))
    cost = bench.meter.cost - before
    checked = bench.measure(setting, bench.split.check)
    return Outcome(
        bench.metric,
        name,
        setting,
        len(selection.sets),
        search_score=bench.measure(setting, bench.split.search).point,
        score=checked.point,
        gain=gain_over(checked, baseline, bench.bootstrap),
        cost=cost,
    )


def _random(bench: Workbench, draw: int) -> Setting:
    return choose_setting("random", bench.candidates, bench.config, seed=bench.seed + draw)


def _tell(progress: Progress | None, what: str) -> None:
    if progress:
        progress(what)


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
