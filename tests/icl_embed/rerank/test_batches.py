from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from icl_embed.rerank.pairs import PairTokens, plan_pair_batches, plan_searches

PAIRS = st.lists(st.tuples(st.integers(0, 4), st.integers(1, 30)), max_size=20)


def pair(query: int, length: int) -> PairTokens:
    return PairTokens([query] * (query + 2), [9] * length, [7, 8])


@settings(max_examples=100, deadline=None)
@given(PAIRS, st.integers(1, 200), st.booleans())
def test_every_pair_goes_once_and_no_batch_is_too_large(
    drawn: list[tuple[int, int]], limit: int, share: bool
) -> None:
    pairs = [pair(*one) for one in drawn]
    batches = plan_pair_batches(pairs, limit, share_queries=share)
    assert sorted(number for batch in batches for number in batch.numbers) == list(range(len(pairs)))
    for batch in batches:
        mine = [pairs[number] for number in batch.numbers]
        assert batch.num_tokens <= limit or len(mine) == 1
        if batch.query:
            assert {tuple(one.query) for one in mine} == {batch.query}
        queries = {tuple(one.query) for one in mine} if share else set()
        rows = sum(len(one) - (len(one.query) if share else 0) for one in mine)
        assert batch.num_tokens == rows + (0 if batch.query else sum(map(len, queries)))


def test_candidates_of_a_query_stay_together_while_they_fit() -> None:
    pairs = [pair(number % 3, 5) for number in range(9)]
    [whole] = plan_pair_batches(pairs, 1000)
    assert len(whole.numbers) == 9
    assert [sorted(batch.numbers) for batch in plan_pair_batches(pairs, 26)] == [
        [2, 5, 8],
        [1, 4, 7],
        [0, 3, 6],
    ]
    cut = plan_pair_batches([pair(1, 5) for _ in range(4)], 14)
    assert [(batch.num_tokens, batch.query) for batch in cut] == [(14, (1, 1, 1))] * 2
    assert all(not batch.query for batch in plan_pair_batches(pairs, 26, share_queries=False))


def test_searches_run_together_when_they_fit_one_batch() -> None:
    short, long = [pair(0, 5) for _ in range(2)], [pair(1, 30) for _ in range(3)]
    other, same = [pair(2, 6) for _ in range(2)], [pair(0, 4)]
    searches = [short, long, other, same]
    assert plan_searches(searches, 60) == [(1,), (2, 0, 3)]
    assert sorted(map(sorted, plan_searches(searches, 1000))) == [[0, 1, 2, 3]]
    assert plan_searches([], 60) == []
