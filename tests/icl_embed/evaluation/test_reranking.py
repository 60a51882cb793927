"""The second stage: a query's passages meet each other, however many pairs there are."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from icl_embed.evaluation import reranking
from icl_embed.evaluation.reranking import rerank, whole_queries


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 5)), max_size=12), st.integers(1, 7))
def test_slices_hold_every_pair_once_and_part_no_query(runs: list[tuple[str, int]], wanted: int) -> None:
    queries = [name for name, count in runs for _ in range(count)]
    slices = list(whole_queries(queries, wanted))
    assert [one for part in slices for one in queries[part]] == queries
    for left, right in pairwise(slices):
        assert queries[left][-1] != queries[right][0]
        assert left.stop - left.start >= wanted


class Places:
    """Scores a passage by its place among those of its query: what a cascade might do."""

    def score(self, pairs, /):
        seen: dict[str, int] = {}
        found = []
        for query, _ in pairs:
            seen[query] = seen.get(query, -1) + 1
            found.append(float(seen[query]))
        return np.array(found)


def test_a_scorer_sees_all_passages_of_a_query_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reranking.whole_queries, "__defaults__", (5,))
    ranking = {query: {f"p{n}": float(-n) for n in range(4)} for query in "abc"}
    passages = {f"p{n}": f"text {n}" for n in range(4)}
    found = rerank(ranking, Places(), queries={name: name for name in "abc"}, passages=passages)
    assert [list(found[query]) for query in "abc"] == [["p3", "p2", "p1", "p0"]] * 3
