"""Choosing a checkpoint by its dev scores, and saying how sure the choice is."""

from __future__ import annotations

from pathlib import Path

import pytest

from icl_embed.errors import EvaluationError
from icl_embed.evaluation.measurement import Bootstrap, Measurement
from icl_embed.evaluation.scores import EvaluationScores, SettingScore, write_scores, write_values
from icl_embed.few_shot.settings import FEW_SHOT, ZERO_SHOT
from icl_embed.report.variants import choice_table, choose_best

HOW = Bootstrap(resamples=200)


def scored(folder: Path, dataset: str, **values: list[float]) -> Path:
    folder.mkdir(parents=True)
    settings = {name.replace("_", "-"): found for name, found in values.items()}
    results = tuple(
        SettingScore(name, 5 * (name == FEW_SHOT), sum(found) / len(found), 0.0, 1.0, len(found), 1.0)
        for name, found in settings.items()
    )
    write_scores(
        folder,
        EvaluationScores(dataset, "retrieval", "m", "f", "ndcg_at_10", "mean", False, 0.95, results),
    )
    ids = tuple(map(str, range(40)))
    write_values(
        folder, {name: Measurement(dataset, "mean", ids, tuple(found)) for name, found in settings.items()}
    )
    return folder


def folders(root: Path, means: dict[int, float]) -> dict[int, list[Path]]:
    return {
        step: [
            scored(
                root / f"{step}-{name}",
                name,
                zero_shot=[0.5] * 40,
                few_shot=[mean + 0.1 * (-1) ** number for number in range(40)],
            )
            for name in ("a", "b")
        ]
        for step, mean in means.items()
    }


def test_the_best_step_wins_by_its_few_shot_average_with_the_difference_to_the_last(tmp_path: Path) -> None:
    choice = choose_best(folders(tmp_path, {10: 0.3, 20: 0.6, 30: 0.5}), HOW)
    assert (choice.best, choice.setting) == (20, FEW_SHOT)
    assert choice.over_last.mean == pytest.approx(0.1)
    assert choice.over_last.is_significant
    assert "| 20 | **60.0 (" in choice_table(choice)
    assert "Step 20 is best, +10.0 (" in choice_table(choice)


def test_of_equals_the_earlier_step_wins_and_the_table_calls_it_chance(tmp_path: Path) -> None:
    choice = choose_best(folders(tmp_path, {20: 0.5, 10: 0.5}), HOW)
    assert choice.best == 10
    assert "that may be chance" in choice_table(choice)


def test_zero_shot_decides_where_a_set_has_no_examples(tmp_path: Path) -> None:
    found = folders(tmp_path, {1: 0.3, 2: 0.2})
    for step, mean in ((1, 0.1), (2, 0.9)):
        found[step].append(scored(tmp_path / f"{step}-c", "c", zero_shot=[mean] * 40))
    choice = choose_best(found, HOW)
    assert (choice.best, choice.setting) == (2, ZERO_SHOT)
    assert "The last step, 2, is the best." in choice_table(choice)


def test_nothing_to_choose_from_is_refused() -> None:
    with pytest.raises(EvaluationError, match="no checkpoint"):
        choose_best({}, HOW)
