"""Pairs as one packed sequence: a query that several pairs share stands in it once.

Every change to the rows of a sequence is one operation, ``rearrange``: passages become shorter (compression),
or pairs leave (a cascade). It says for each token of the new sequence which tokens of the old one it is made
of, so only states have to be moved, by ``compress.merge``. All of it is worked out on the CPU from lengths
alone; an accelerator is never waited for.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from icl_embed.model.groups import Group
from icl_embed.model.packing import Layout, PrefixStates, pack
from icl_embed.prompts import Tokens
from icl_embed.rerank.pair_tokens import PairTokens


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
