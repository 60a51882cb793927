"""The mining benchmark runs from end to end, and its planted copies are what it says they are."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.bench import mine

TEXT = " ".join(f"word{n}" for n in range(30))


def shared(one: str, two: str) -> float:
    """Jaccard of their words."""
    first, second = set(one.split()), set(two.split())
    return len(first & second) / len(first | second)


def test_one_planted_copy_is_a_near_duplicate_and_the_other_is_not() -> None:
    assert shared(TEXT, mine.lightly(TEXT, 3)) > 0.8 > shared(TEXT, mine.heavily(TEXT, 3)) > 0.6
    assert mine.heavily(TEXT, 0).split()[0] != TEXT.split()[0]


@pytest.mark.slow
def test_every_contestant_mines_and_a_ceiling_lets_fewer_planted_ones_pass(tmp_path: Path) -> None:
    result = mine.main(["--quick", "--out", str(tmp_path / "mine.json")])
    quality, size = result["quality"], result["size"]
    assert quality["ours_top"]["planted_share"] < quality["sentence_transformers"]["planted_share"]
    assert quality["ours"]["planted_share"] <= quality["hn_mine"]["planted_share"]
    assert all(one["peak_mib"] > 0 for group in size.values() for one in group.values())
    assert size["30 queries"]["search_alone"]["faiss_recall_at_210"] > 0.9
