"""Who is compared with whom, and what the comparison says."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from icl_embed.errors import EvaluationError
from icl_embed.evaluation.measurement import Bootstrap
from icl_embed.evaluation.results.compare import (
    Comparison,
    Entrant,
    Procedure,
    compare_entrants,
    find_entrants,
    pair_entrants,
    read_stored,
)
from icl_embed.evaluation.results.database import refresh
from icl_embed.evaluation.results.leaderboard import build_leaderboard, history_of
from icl_embed.evaluation.significance import Randomisation, holm
from tests.icl_embed.evaluation.results.scored_store import add_scores

HOW = Procedure(Bootstrap(200), Randomisation(300))


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two models on three tasks in two settings; the strong one has three draws of examples."""
    folder = tmp_path_factory.mktemp("store")
    generator = np.random.default_rng(0)
    for task in ("Alpha", "Beta", "Gamma"):
        base = generator.random(60)
        weak = {"zero-shot": base * 0.5, "5-shot": base * 0.5}
        strong = {
            name: np.clip(base * gain + generator.normal(0, 0.02, 60), 0, 1)
            for name, gain in {"zero-shot": 0.6, "5-shot": 0.7, "5-shot seed 1": 0.74}.items()
        }
        if task != "Gamma":
            add_scores(
                folder, "weak", task, {name: list(v) for name, v in weak.items()}, fingerprint="aaaa11"
            )
        add_scores(
            folder, "strong", task, {name: list(v) for name, v in strong.items()}, fingerprint="bbbb22"
        )
    add_scores(folder, "weak", "Delta", {"zero-shot": [0.5] * 5}, fingerprint="aaaa11", data="old")
    add_scores(folder, "strong", "Delta", {"zero-shot": [0.5] * 5}, fingerprint="bbbb22", data="new")
    add_scores(folder, "weak", "Eps", {"zero-shot": [0.5] * 5}, fingerprint="aaaa11")
    add_scores(folder, "strong", "Eps", {"zero-shot": [0.5] * 6}, fingerprint="bbbb22")
    for fingerprint in ("cccc33", "dddd44"):
        add_scores(folder, "twin", "Alpha", {"zero-shot": [0.5] * 60}, fingerprint=fingerprint)
    add_scores(folder, "lonely", "Omega", {"zero-shot": [0.5] * 5})
    return folder


def found(root: Path, text: str) -> list[Entrant]:
    return find_entrants(read_stored(refresh(root)), text)


def compared(root: Path, first: str, second: str) -> list[Comparison]:
    pairs = pair_entrants(found(root, first), found(root, second))
    return [compare_entrants(refresh(root), one, other, HOW) for one, other in pairs]


def test_equal_settings_are_compared_task_by_task(root: Path) -> None:
    few, zero = compared(root, "strong", "weak")
    assert (few.first, few.second) == ("strong@5-shot", "weak@5-shot")
    assert [row.task for row in zero.rows] == ["Alpha", "Beta"]
    for row in (*few.rows, *zero.rows):
        assert row.difference.low > 0
        assert row.difference.mean == pytest.approx(row.first - row.second)
        assert row.detectable is not None and 0 < row.detectable < row.difference.mean
    assert [row.p_holm for row in zero.rows] == holm([row.p_value for row in zero.rows])
    assert zero.average is not None
    assert zero.average.first == pytest.approx(np.mean([row.first for row in zero.rows]))


def test_draws_of_examples_are_averaged_unless_one_is_named(root: Path) -> None:
    few, _ = compared(root, "strong", "weak")
    assert few.rows[0].seeds == (2, 1)
    [one] = compared(root, "strong@5-shot seed 1", "weak@5-shot")
    assert one.rows[0].seeds == (1, 1)
    assert one.rows[0].first > few.rows[0].first


def test_one_model_in_two_settings_and_by_its_fingerprint(root: Path) -> None:
    [comparison] = compared(root, "bbbb22@5-shot", "strong@zero-shot")
    assert comparison.first == "strong@5-shot"
    assert comparison.average is not None and comparison.average.difference.low > 0


def test_what_cannot_be_paired_is_left_out_with_its_reason(root: Path) -> None:
    _, zero = compared(root, "strong", "weak")
    assert set(zero.skipped) == {"Gamma", "Delta", "Eps"}
    assert zero.skipped["Gamma"] == "only strong@zero-shot was measured on it"
    assert "data new and ndcg_at_10 of data old" in zero.skipped["Delta"]
    assert "not the same test items" in zero.skipped["Eps"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("stron", "no scores of a model 'stron'; did you mean strong"),
        ("strong@five", r"not scored in the setting 'five'; known are 5-shot, zero-shot"),
        ("strong@5shot", "did you mean 5-shot"),
        ("twin", r"'twin' is 2 models: .*cccc33.*; name one by its fingerprint"),
        ("aaa", "no scores of a model"),
        ("", "no scores of a model"),
    ],
)
def test_what_is_not_there_is_refused_with_near_names(root: Path, text: str, message: str) -> None:
    with pytest.raises(EvaluationError, match=message):
        found(root, text)


def test_one_of_two_models_with_one_name_is_found_by_its_fingerprint(root: Path) -> None:
    [entrant] = found(root, "dddd")
    assert (entrant.model, entrant.fingerprint) == ("twin", "dddd44")


def test_no_common_task_and_no_common_setting_are_refused(root: Path) -> None:
    with pytest.raises(EvaluationError, match=r"share no task: .*Omega: only lonely@zero-shot was measured"):
        compared(root, "strong@5-shot", "lonely")
    strong = found(root, "strong")
    others = [replace(entrant, setting=f"odd {entrant.setting}") for entrant in strong]
    with pytest.raises(EvaluationError, match=r"no setting in common: .*name them"):
        pair_entrants(strong, others)


def test_a_model_with_one_setting_is_compared_with_every_setting_of_the_other(root: Path) -> None:
    strong = found(root, "strong")
    only = replace(strong[0], model="bm25", setting="bm25")
    assert pair_entrants([only], strong) == [(only, strong[0]), (only, strong[1])]
    assert pair_entrants(strong, [strong[1]]) == [(strong[1], strong[1])]


def test_the_leaderboard_ranks_by_the_average_over_common_tasks(root: Path) -> None:
    path = refresh(root)
    scores = [one for one in read_stored(path) if one.task in ("Alpha", "Beta", "Gamma")]
    board = build_leaderboard(path, scores, Bootstrap(100))
    assert board.common == ("Alpha", "Beta")
    ranked = [(place.rank, place.model, place.setting) for place in board.places]
    assert ranked[:2] == [(1, "strong", "5-shot"), (2, "strong", "zero-shot")]
    twins = [place for place in board.places if place.model == "twin"]
    assert [place.rank for place in twins] == [None, None]
    assert twins[0].cells["Beta"].interval is None
    first = board.places[0]
    assert first.average is not None and first.average.low < first.average.mean < first.average.high
    assert first.cells["Alpha"].seeds == 2
    by_task = build_leaderboard(path, scores, Bootstrap(100), sort_by="Gamma")
    assert by_task.places[0].cells["Gamma"].interval is not None
    assert by_task.places[-1].rank is None


def test_an_average_below_zero_has_a_rank(tmp_path: Path) -> None:
    for model, values in (("worse", [-0.5, -0.3]), ("better", [-0.1, 0.05])):
        add_scores(tmp_path, model, "Alpha", {"zero-shot": values})
        add_scores(tmp_path, model, "Beta", {"zero-shot": values})
    path = refresh(tmp_path)
    places = build_leaderboard(path, read_stored(path), Bootstrap(50)).places
    assert [(place.model, place.rank) for place in places] == [("better", 1), ("worse", 2)]


def test_scores_on_an_older_version_of_the_data_have_no_place_and_say_why(tmp_path: Path) -> None:
    for number, (model, data) in enumerate([("before", "old"), ("after", "new")]):
        add_scores(tmp_path, model, "Alpha", {"zero-shot": [0.5, 0.7]}, data=data)
        rewrite_created(tmp_path, number)
    path = refresh(tmp_path)
    board = build_leaderboard(path, read_stored(path), Bootstrap(50))
    assert [(place.model, place.rank) for place in board.places] == [("after", 1)]
    add_scores(tmp_path, "before", "Beta", {"zero-shot": [0.5, 0.7]})
    path = refresh(tmp_path)
    cells = {
        place.model: place.cells["Alpha"]
        for place in build_leaderboard(path, read_stored(path), Bootstrap(50)).places
    }
    assert cells["before"].interval is None
    assert cells["before"].reason == "scored on another version of the data: old"


def test_an_unknown_task_on_the_board_is_refused_with_near_names(root: Path) -> None:
    path = refresh(root)
    with pytest.raises(EvaluationError, match="no scores of a task 'Alpa'; did you mean Alpha"):
        build_leaderboard(path, read_stored(path), Bootstrap(50), tasks=["Alpa"])


def test_the_history_says_what_was_new_each_time(tmp_path: Path) -> None:
    for number, (fingerprint, score) in enumerate([("one1", 0.4), ("one1", 0.5), ("two2", 0.7)]):
        add_scores(
            tmp_path, "ours", "Alpha", {"zero-shot": [score] * 3}, fingerprint=fingerprint, version=number
        )
        rewrite_created(tmp_path, number)
    moments = history_of(read_stored(refresh(tmp_path), all_times=True), "ours")
    assert [moment.change for moment in moments] == [None, pytest.approx(0.1), pytest.approx(0.2)]
    assert [moment.differs for moment in moments] == [(), (), ("weights",)]
    newest = read_stored(refresh(tmp_path))
    assert sorted(one.mean for one in newest) == pytest.approx([0.5, 0.7])  # one per model
    with pytest.raises(EvaluationError, match="models are ours"):
        history_of(newest, "theirs")


def rewrite_created(root: Path, number: int) -> None:
    """Artefacts of one second have no order of their own."""
    newest = max((root / "score").glob("*/manifest.json"), key=lambda path: path.stat().st_mtime_ns)
    text = newest.read_text()
    newest.write_text(re.sub(r'"created": "[^"]*"', f'"created": "2026-01-0{number + 1}T00:00:00Z"', text))
