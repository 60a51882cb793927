"""Which pairs go through the model together.

The candidates of a query share one copy of it, so they stay together while they fit. Only a query with more
candidates than that is cut into batches, whose rows then continue its states from outside.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

from icl_embed.model.batching import plan_batches
from icl_embed.rerank.pair_tokens import PairTokens


@dataclass(frozen=True)
class PairBatch:
    """Pairs that go through the model together.

    Attributes
        numbers: which pairs.
        num_tokens: how many tokens that is, a shared query counted once.
        query: the query of all of them, if other batches continue it as well; empty otherwise.
    """

    numbers: tuple[int, ...]
    num_tokens: int
    query: tuple[int, ...] = ()


def plan_pair_batches(
    tokens: Sequence[PairTokens], batch_tokens: int, *, share_queries: bool = True
) -> list[PairBatch]:
    """Batches of at most ``batch_tokens`` tokens (a longer pair is a batch of its own), longest pairs first.

    Batches of one query are neighbours.
    """
    by_query: dict[Hashable, list[int]] = {}
    for number, pair in enumerate(tokens):
        by_query.setdefault(tuple(pair.query) if share_queries else number, []).append(number)
    batches: list[PairBatch] = []
    whole: list[PairBatch] = []
    for numbers in by_query.values():
        query = tokens[numbers[0]].query
        lengths = [len(tokens[number]) - len(query) for number in numbers]
        if len(query) + sum(lengths) <= batch_tokens or len(numbers) == 1:
            whole.append(PairBatch(tuple(numbers), len(query) + sum(lengths)))
            continue
        for batch in plan_batches(lengths, batch_tokens):
            chosen = tuple(numbers[spot] for spot in batch)
            batches.append(PairBatch(chosen, sum(lengths[spot] for spot in batch), tuple(query)))
    return batches + _joined(whole, tokens, batch_tokens)


def plan_searches(searches: Sequence[Sequence[PairTokens]], batch_tokens: int) -> list[tuple[int, ...]]:
    """Which queries go through a cascade together, given the candidates of each: those that fit one batch."""
    owners = [number for number, search in enumerate(searches) for _ in search]
    pairs = [pair for search in searches for pair in search]
    together: dict[Hashable, dict[int, None]] = {}
    for number, batch in enumerate(plan_pair_batches(pairs, batch_tokens)):
        members = together.setdefault(batch.query or number, {})
        members.update(dict.fromkeys(owners[pair] for pair in batch.numbers))
    return [tuple(members) for members in together.values()]


def _joined(whole: Sequence[PairBatch], tokens: Sequence[PairTokens], batch_tokens: int) -> list[PairBatch]:
    """Whole queries put together while they fit, those with the longest pairs first."""

    def longest_first(batch: PairBatch) -> tuple[int, int]:
        return -max(len(tokens[number]) for number in batch.numbers), batch.numbers[0]

    joined: list[PairBatch] = []
    for batch in sorted(whole, key=longest_first):
        if joined and joined[-1].num_tokens + batch.num_tokens <= batch_tokens:
            last = joined[-1]
            joined[-1] = PairBatch(last.numbers + batch.numbers, last.num_tokens + batch.num_tokens)
        else:
            joined.append(batch)
    return joined
