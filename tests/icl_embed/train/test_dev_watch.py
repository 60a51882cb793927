"""When training stops and whose weights are best, as functions of the scores alone."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from icl_embed.config import DevConfig
from icl_embed.train.dev_watch import BestWeights, DevHistory, DevScore, DevWatch, ShotScores
from icl_embed.train.distributed import Place

ALONE = Place(0, 1, torch.device("cpu"), torch.float32)
STEPS = 100


def history_of(scores: Sequence[float]) -> DevHistory:
    return DevHistory(tuple(DevScore(number, 0.0, score) for number, score in enumerate(scores, start=1)))


def stops_by_hand(scores: Sequence[float], patience: int) -> bool:
    """Count the measurements since the last one that was above all before it."""
    since, best = 0, float("-inf")
    for score in scores:
        since, best = (0, score) if score > best else (since + 1, best)
    return patience > 0 and since >= patience


@given(st.lists(st.integers(0, 4).map(float), max_size=12), st.integers(0, 4))
def test_patience_ends_when_the_best_is_old(scores: list[float], patience: int) -> None:
    assert history_of(scores).has_lost_patience(patience) == stops_by_hand(scores, patience)


def test_of_equals_the_first_is_best_and_few_shot_decides() -> None:
    assert DevHistory().best is None
    assert history_of([0.1, 0.5, 0.5, 0.2]).best == DevScore(2, 0.0, 0.5)
    few = DevHistory((DevScore(1, 0.9, 0.1), DevScore(2, 0.1, 0.2)))
    assert few.best == few.scores[1]


class Weights:
    """Folders of weights, as sets of steps."""

    def __init__(self) -> None:
        self.kept: set[int] = set()

    def as_best(self) -> BestWeights:
        return BestWeights(self.kept.add, self.kept.intersection_update)


def watch_over(scores: Sequence[float], weights: Weights, *, every: int = 1, patience: int = 0) -> DevWatch:
    remaining = iter(scores)
    config = DevConfig(every=every, patience=patience, keep="best")
    return DevWatch(
        config,
        lambda: {"one": ShotScores(0.0, score := next(remaining)), "two": ShotScores(0.5, score)},
        steps=STEPS,
        place=ALONE,
        best=weights.as_best(),
    )


def test_it_is_measured_when_it_is_time_once_and_after_the_last_step() -> None:
    watch = watch_over([0.1, 0.2, 0.3], Weights(), every=30)
    assert [step for step in (1, 30, 30, 45, 60, 100, 100) if watch.look(step)] == [30, 60, 100]


def test_a_line_has_averages_and_every_data_set() -> None:
    line = watch_over([0.25], Weights()).look(1)
    assert line is not None and line.pop("dev_seconds") >= 0
    assert line == {
        "step": 1,
        "dev_zero_shot": 0.25,
        "dev_few_shot": 0.25,
        "dev_zero_shot/one": 0.0,
        "dev_zero_shot/two": 0.5,
        "dev_few_shot/one": 0.25,
        "dev_few_shot/two": 0.25,
    }


@given(
    st.lists(st.integers(0, 3).map(float), min_size=6, max_size=12),
    st.integers(1, 4),
    st.integers(1, 11),
    st.integers(1, 3),
)
def test_a_killed_run_decides_what_a_whole_one_does(
    scores: list[float], save_every: int, killed_after: int, resumes_before: int
) -> None:
    """Killed after any step, resumed from any checkpoint that is kept: the best weights are there at the end."""
    whole = watch_over(scores, Weights(), patience=3)
    for step in range(1, len(scores) + 1):
        if not whole.is_over:
            whole.look(step)

    weights, saved = Weights(), [(0, {})]
    killed = watch_over(scores, weights, patience=3)

    def go_on(watch: DevWatch, first: int, last: int) -> None:
        for step in range(first + 1, last + 1):
            if watch.is_over:
                return
            watch.look(step)
            if step % save_every == 0:
                saved.append((step, watch.carried))
                watch.forget([at for at, _ in saved[-2:]])

    go_on(killed, 0, min(killed_after, len(scores)))
    first, carried = saved[-2:][-resumes_before if resumes_before <= len(saved[-2:]) else 0]
    resumed = watch_over(scores[first:], weights, patience=3)
    resumed.resume(carried)
    go_on(resumed, first, len(scores))
    assert resumed.history == whole.history
    assert whole.history.best and whole.history.best.step in weights.kept


@pytest.mark.parametrize("name", ["patience", "keep"])
def test_a_decision_without_measurements_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=r"need measurements, but every is 0; set every"):
        DevConfig(**{name: {"patience": 2, "keep": "best"}[name]})
