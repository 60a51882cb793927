"""The judgement over accepted scores, on values of a real evaluation (our trained model, two settings)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from icl_embed.errors import EvaluationError
from icl_embed.evaluation.measurement import Bootstrap, Measurement
from icl_embed.evaluation.results.compare import Procedure
from icl_embed.evaluation.results.regression import (
    PACKAGE,
    Scored,
    judge,
    scoring_code,
    summary,
    verdict_table,
)
from icl_embed.evaluation.significance import Randomisation

REAL: dict[str, dict[str, Any]] = json.loads((Path(__file__).parent / "real_values.json").read_text())
HOW = Procedure(Bootstrap(300), Randomisation(400))


def scored(task: str, setting: str, values: Any, targets: Any = None, data: str = "v1") -> Scored:
    facts = REAL[task]
    ids = tuple(f"item {place}" for place in range(len(values)))
    gold = None if targets is None else tuple(map(float, targets))
    measured = Measurement(task, facts["aggregation"], ids, tuple(map(float, values)), gold)
    return Scored(task, setting, facts["metric"], data, measured)


def two_equally_good_runs(generator: np.random.Generator) -> tuple[list[Scored], list[Scored]]:
    """Items drawn anew from the real ones, the two real values of each in random order."""
    before, now = [], []
    for task, facts in REAL.items():
        for setting in ("first", "second"):
            values = np.array([facts["zero-shot"], facts["few-shot"]])
            drawn = values[:, generator.integers(values.shape[1], size=values.shape[1])]
            targets = None
            if "targets" in facts:
                chosen = generator.permutation(values.shape[1])[: max(30, values.shape[1] // 2)]
                drawn, targets = values[:, chosen], np.array(facts["targets"])[chosen]
            swap = generator.random(drawn.shape[1]) < 0.5
            if facts["aggregation"] == "replicates":
                # sets are not exchangeable one by one: two runs that scatter around one score
                spread = drawn.std(axis=1).mean() / 2
                drawn = drawn[:1] + generator.normal(0, spread, size=(2, 1)) + 0 * drawn
                drawn = drawn + generator.normal(0, spread, size=drawn.shape)
            before.append(scored(task, setting, np.where(swap, drawn[0], drawn[1]), targets))
            now.append(scored(task, setting, np.where(swap, drawn[1], drawn[0]), targets))
    return before, now


def share_flagged(repeats: int) -> float:
    generator = np.random.default_rng(1)
    return sum(judge(*two_equally_good_runs(generator), HOW).is_regression for _ in range(repeats)) / repeats


def test_a_null_change_is_not_flagged_in_20_repeats_more_often_than_the_level() -> None:
    assert share_flagged(20) <= HOW.level


@pytest.mark.slow
def test_a_null_change_is_not_flagged_in_300_repeats_more_often_than_the_level() -> None:
    assert 0 < share_flagged(300) <= HOW.level  # never flagging anything would be no test


def real(setting: str, **more: Any) -> list[Scored]:
    return [
        scored(task, "zero-shot", facts[setting], facts.get("targets"), **more)
        for task, facts in REAL.items()
    ]


def mean_task() -> str:
    return next(task for task, facts in REAL.items() if facts["aggregation"] == "mean")


def test_a_fall_on_one_task_is_found_and_named() -> None:
    before = real("zero-shot")
    task = mean_task()
    generator = np.random.default_rng(0)
    # every third item that was right is now wrong
    values = np.array(REAL[task]["zero-shot"]) * (generator.random(len(REAL[task]["zero-shot"])) > 0.33)
    now = [scored(task, "zero-shot", values) if one.task == task else one for one in before]
    verdict = judge(before, now, HOW)
    assert [row.task for row in verdict.rows if verdict.fell(row)] == [now[list(REAL).index(task)].name]
    assert verdict.is_regression
    assert f"{task}, zero-shot" in summary(verdict)
    table = verdict_table(verdict)
    assert "| **fell** |" in table.split("\n")[4]
    assert table.count("\n| ") == len(verdict.rows) + len(verdict.averages) + 1


def test_a_rise_is_no_regression() -> None:
    before = real("zero-shot")
    task = mean_task()
    lowered = [
        scored(task, "zero-shot", 0.5 * np.array(REAL[task]["zero-shot"])) if one.task == task else one
        for one in before
    ]
    verdict = judge(lowered, before, HOW)
    assert not verdict.is_regression
    assert "| rose |" in verdict_table(verdict)


def test_equal_scores_have_no_fall_and_no_difference() -> None:
    verdict = judge(real("zero-shot"), real("zero-shot"), HOW)
    assert not verdict.is_regression
    assert {row.p_value for row in verdict.rows if row.metric != "v_measure"} == {1.0}
    assert summary(verdict) == f"no score fell beyond chance ({len(REAL)} compared)"


def test_a_setting_that_is_not_measured_any_more_is_a_regression_and_a_dropped_task_is_not() -> None:
    task = mean_task()
    before = real("zero-shot")
    few = scored(task, "few-shot", REAL[task]["few-shot"])
    lost = judge([*before, few], before, HOW)
    assert lost.lost == (few.name,)
    assert lost.is_regression
    assert "is not measured any more" in summary(lost)
    dropped = judge([*before, few], [one for one in before if one.task != task], HOW)
    assert dropped.dropped == (task,)
    assert not dropped.is_regression
    new = judge(before, [*before, few], HOW)
    assert new.new == (few.name,)
    assert not new.is_regression


def test_changed_data_are_two_samples_and_stay_out_of_the_average() -> None:
    task = mean_task()
    before = real("zero-shot")
    facts = REAL[task]
    same_items = [
        scored(task, "zero-shot", facts["few-shot"], data="v2") if one.task == task else one for one in before
    ]
    verdict = judge(before, same_items, HOW)
    [row] = [row for row in verdict.rows if not row.same_items]
    assert row.task.startswith(task)
    assert row.detectable is None
    assert f"average of {len(REAL) - 1}" in verdict.averages[0].task
    fewer = [scored(task, "zero-shot", facts["zero-shot"][:50], data="v2")]
    [row] = judge([one for one in before if one.task == task], fewer, HOW).rows
    assert row.num_items == 50
    collapsed = [scored(task, "zero-shot", np.zeros(100), data="v2")]
    assert judge([one for one in before if one.task == task], collapsed, HOW).is_regression


def test_nothing_in_common_is_told_and_a_score_without_definition_is_refused() -> None:
    task = next(task for task, facts in REAL.items() if "targets" in facts)
    one = real("zero-shot")[list(REAL).index(task)]
    other = next(item for item in real("zero-shot") if item.task != task)
    verdict = judge([one], [other], HOW)
    assert (verdict.rows, verdict.dropped, verdict.new) == ((), (task,), (other.name,))
    constant = scored(task, "zero-shot", np.ones(len(one.measured.ids)), REAL[task]["targets"])
    if REAL[task]["aggregation"] == "spearman":
        with pytest.raises(EvaluationError, match="not defined"):
            judge([one], [constant], HOW)


def test_the_code_hash_follows_what_decides_scores_and_nothing_else(tmp_path: Path) -> None:
    import shutil

    package = tmp_path / "icl_embed"
    shutil.copytree(PACKAGE, package, ignore=shutil.ignore_patterns("__pycache__"))
    assert scoring_code(package) == scoring_code()
    (package / "report" / "page.py").write_text("# another page")
    assert scoring_code(package) == scoring_code()
    (package / "prompts.py").write_text("# another prompt")
    assert scoring_code(package)["source"] != scoring_code()["source"]
    assert set(scoring_code()) == {"source", "torch", "transformers", "mteb"}
