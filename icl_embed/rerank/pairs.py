"""(query, passage) pairs as token ids, in batches, as one packed sequence where a query stands once.

The string is the paper's (appendix D): ``A: {query}\nB: {passage}\n{prompt}``. Or the prompt goes first,
``{prompt}\nA: {query}\nB: {passage}\n``: then it is computed once per query, with all that precedes the
passage, and every candidate is shorter by its length. Segments are tokenised on their own, so all that
precedes the passage is the same for every candidate of a query, and the passage's tokens, the only ones that
compression may touch, are known exactly. Truncation cuts the query to three quarters of the room, then the
passage; the prompt is never cut.

Every change to the rows of a sequence is one operation, ``rearrange``: passages become shorter (compression),
or pairs leave (a cascade). It says for each token of the new sequence which tokens of the old one it is made
of, so only states have to be moved, by ``compress.merge``. All of it is worked out on the CPU from lengths
alone; an accelerator is never waited for.

The candidates of a query share one copy of it, so they stay together while they fit. Only a query with more
candidates than that is cut into batches, whose rows then continue its states from outside.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from icl_embed.config import PAIR_PROMPTS, PromptConfig, PromptPlace
from icl_embed.errors import ConfigError, DataError
from icl_embed.model.batching import Group, plan_batches
from icl_embed.model.packing import Layout, PrefixStates, pack
from icl_embed.prompts import PromptBuilder, Tokens

CONTAINS_ANSWER = PAIR_PROMPTS["answer"]

MAX_QUERY_SHARE = 0.75

Pair = tuple[str, str]


@dataclass(frozen=True)
class PairTokens:
    """One pair: the query with all that precedes the passage, the passage, what follows it."""

    query: Tokens
    passage: Tokens
    after: Tokens

    def __len__(self) -> int:
        return len(self.query) + len(self.passage) + len(self.after)


class PairBuilder:
    """Builds pairs for one tokenizer and length limit, with the prompt after the texts or before them."""

    def __init__(
        self, tokenizer: Any, max_tokens: int, prompt: str, prompt_place: PromptPlace = "after"
    ) -> None:
        self._text = PromptBuilder(tokenizer, PromptConfig())
        head, separator, between, sentence = self._text.tokenize(["A:", "\n", "B:", prompt])
        is_first = prompt_place == "before"
        self._before = self._text.bos + (sentence + separator if is_first else []) + head
        self._between = separator + between
        self._after: Tokens = separator + ([] if is_first else sentence)
        self._room = max_tokens - len(self._before) - len(self._between) - len(self._after)
        if self._room < 4:
            raise ConfigError(
                f"max_tokens is {max_tokens}, but the prompt alone takes {max_tokens - self._room}; "
                "raise rerank.max_tokens"
            )

    def queries(self, queries: Sequence[str]) -> list[Tokens]:
        """Everything before the passage, for each query.

        Raises
            DataError: a query is empty.
        """
        for number, query in enumerate(queries):
            if not query.strip():
                raise DataError(f"query {number} of {len(queries)} is empty; there is nothing to score")
        longest = int(self._room * MAX_QUERY_SHARE)
        texts = self._text.tokenize([" " + query for query in queries])
        return [self._before + text[:longest] + self._between for text in texts]

    def pairs(self, pairs: Sequence[Pair]) -> list[PairTokens]:
        """Tokens of (query, passage) pairs; each distinct text is tokenised once.

        Raises
            DataError: a query is empty.
        """
        queries = list(dict.fromkeys(query for query, _ in pairs))
        passages = list(dict.fromkeys(passage for _, passage in pairs))
        before = dict(zip(queries, self.queries(queries), strict=True))
        texts = dict(zip(passages, self._text.tokenize([" " + text for text in passages]), strict=True))
        fixed = len(self._before) + len(self._between)
        return [
            PairTokens(
                before[query],
                texts[passage][: self._room - (len(before[query]) - fixed)],
                self._after,
            )
            for query, passage in pairs
        ]


def distinct_pairs(pairs: Sequence[Pair]) -> tuple[list[Pair], list[int]]:
    """The different pairs in order of appearance, and for each pair its place among them.

    Raises
        DataError: an item is not a pair of texts.
    """
    places: dict[Pair, int] = {}
    place_of = []
    for number, pair in enumerate(pairs):
        is_pair = isinstance(pair, tuple | list) and len(pair) == 2
        if not is_pair or not all(isinstance(text, str) for text in pair):
            raise DataError(f"pairs[{number}] must be (query, passage), two texts; found {str(pair)[:80]!r}")
        place_of.append(places.setdefault((pair[0], pair[1]), len(places)))
    return list(places), place_of


@dataclass(frozen=True)
class PairRow:
    """Where one pair lies in a packed sequence.

    Attributes
        start: its first token; of what follows the query, if that is shared.
        before, passage, after: tokens before, of, and after its passage.
        query_start, query_length: the shared query that it continues; of length 0 if it has its own or if
            the query's states come from outside.
    """

    start: int
    before: int
    passage: int
    after: int
    query_start: int = 0
    query_length: int = 0

    @property
    def stop(self) -> int:
        """Its last token, plus one."""
        return self.start + self.before + self.passage + self.after


@dataclass(frozen=True)
class PackedPairs:
    """N pairs as one packed sequence of T tokens.

    Attributes
        tokens, positions: [T] token ids and their places in the sequence they belong to.
        layout: for attention.
        rows: where each pair lies, in the caller's order.
        last: [N] the last token of each pair, where scores are read.
    """

    tokens: Tensor
    positions: Tensor
    layout: Layout
    rows: tuple[PairRow, ...]
    last: Tensor


@dataclass(frozen=True)
class Merge:
    """Of which old tokens each of M new ones is made: ``count`` of them, from ``first`` on; both [M]."""

    first: Tensor
    count: Tensor


@dataclass(frozen=True)
class _Parts:
    """A pair as numbers: token ids, or places of states. Pairs of one key share their query."""

    key: Hashable
    query: Tokens
    before: Tokens
    passage: Tokens
    after: Tokens


def pack_pairs(
    tokens: Sequence[PairTokens],
    *,
    share_queries: bool = True,
    shared: PrefixStates | None = None,
    device: torch.device | None = None,
) -> PackedPairs:
    """Pack pairs. Those with the same query tokens share one copy of it, with gradient.

    Parameters
        share_queries: False packs every pair whole.
        shared: the states of the one query that all these pairs have; only what follows it is packed.
    """
    parts = []
    for number, pair in enumerate(tokens):
        key: Hashable = tuple(pair.query) if share_queries else number
        query = [] if shared is not None else pair.query
        parts.append(_Parts(key, query, [], pair.passage, pair.after))
    return _packed(parts, shared, device)


def rearrange(
    rows: Sequence[PairRow], ratio: int = 1, *, shared: PrefixStates | None = None, device: torch.device
) -> tuple[Merge, PackedPairs]:
    """Pack rows of another sequence anew, each run of ``ratio`` passage tokens as one; the rest stays.

    The last run of a passage may be shorter. Positions count on without gaps.

    Parameters
        shared: as in ``pack_pairs``.

    Returns
        how to make the new states, and the new rows in the order of the old ones. There the place of
        ``tokens`` is taken by ``merge``: there are no token ids any more.
    """
    first: list[int] = []
    count: list[int] = []

    def take(start: int, stop: int, step: int = 1) -> Tokens:
        begin = len(first)
        first.extend(range(start, stop, step))
        count.extend(min(step, stop - spot) for spot in range(start, stop, step))
        return list(range(begin, len(first)))

    queries: dict[Hashable, Tokens] = {}
    parts = []
    for number, row in enumerate(rows):
        key: Hashable = row.query_start if row.query_length else (number,)
        if key not in queries:
            queries[key] = take(row.query_start, row.query_start + row.query_length)
        passage, after = row.start + row.before, row.start + row.before + row.passage
        parts.append(
            _Parts(
                key,
                queries[key],
                take(row.start, passage),
                take(passage, after, ratio),
                take(after, row.stop),
            )
        )
    packed = _packed(parts, shared, None)
    merge = Merge(
        torch.tensor(first)[packed.tokens].to(device), torch.tensor(count)[packed.tokens].to(device)
    )
    return merge, _moved(packed, device)


def _packed(parts: Sequence[_Parts], shared: PrefixStates | None, device: torch.device | None) -> PackedPairs:
    by_key: dict[Hashable, list[int]] = {}
    for number, part in enumerate(parts):
        by_key.setdefault(part.key, []).append(number)
    groups, order, own = [], [], {}
    for numbers in by_key.values():
        # a query of one pair is shared with nobody: it is the beginning of the row
        query = parts[numbers[0]].query
        mine = query if len(numbers) == 1 else []
        bodies = [mine + parts[one].before + parts[one].passage + parts[one].after for one in numbers]
        groups.append(Group(bodies, () if mine else query))
        order += numbers
        own.update(dict.fromkeys(numbers, len(mine)))
    packed = pack(groups, shared=shared)
    queries = _query_spans(packed.layout)
    rows: list[PairRow] = [PairRow(0, 0, 0, 0)] * len(parts)
    for number, start in zip(order, packed.starts.tolist(), strict=True):
        part = parts[number]
        lengths = (own[number] + len(part.before), len(part.passage), len(part.after))
        rows[number] = PairRow(start, *lengths, *queries.get(start, (0, 0)))
    last = torch.tensor([row.stop - 1 for row in rows])
    made = PackedPairs(packed.tokens, packed.positions, packed.layout, tuple(rows), last)
    return made if device is None else _moved(made, device)


def _query_spans(layout: Layout) -> dict[int, tuple[int, int]]:
    """First token and length of the shared query, by the first token of each row that continues one."""
    spans = {}
    for segment in layout.segments:
        if segment.prefix is None:
            continue
        query = layout.segments[segment.prefix]
        start = segment.start
        for length in segment.lengths:
            spans[start] = (query.start, query.stop - query.start)
            start += length
    return spans


def _moved(pairs: PackedPairs, device: torch.device) -> PackedPairs:
    return PackedPairs(
        pairs.tokens.to(device),
        pairs.positions.to(device),
        pairs.layout.to(device),
        pairs.rows,
        pairs.last.to(device),
    )


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
