"""Rows of any lengths as one long sequence without padding, and the map of who attends to whom.

A batch is one packed sequence of T tokens: linear layers, norms and activations see real tokens only.
Attention alone needs rows; the *layout* tells it where they lie. Rows are grouped into segments of about
equal length, so that attention pads little. A prefix is packed once, before the rows that continue it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from icl_embed.model.batching import Group
from icl_embed.model.gpu.attention import Plan, Prefixes, Spans
from icl_embed.prompts import Tokens

SHORTEST_OF_SEGMENT = 0.75  # of its longest row: attention pads by at most a third


@dataclass(frozen=True)
class PrefixStates:
    """Keys and values of an encoded prefix, one [1, K, P, D] pair per layer (K key heads of width D).

    They may be lists that grow while the prefix goes through the layers beside the rows that continue it.
    """

    keys: Sequence[Tensor]
    values: Sequence[Tensor]

    @property
    def num_tokens(self) -> int:
        """Length of the prefix."""
        return int(self.keys[0].shape[2])


@dataclass(frozen=True)
class Segment:
    """Neighbouring rows of a packed sequence that attention handles together.

    Attributes
        start, stop: its tokens in the packed sequence.
        lengths: tokens of each row.
        prefix: number of the segment that is the prefix which its rows continue.
        gather: [R · L] places among its tokens of the rows padded to L; None when all are equal.
        scatter: [stop - start] positions in R · L of the real tokens; None when all are equal.
    """

    start: int
    stop: int
    lengths: tuple[int, ...]
    prefix: int | None = None
    gather: Tensor | None = None
    scatter: Tensor | None = None

    @property
    def length(self) -> int:
        """L, the longest row."""
        return max(self.lengths)


@dataclass(frozen=True)
class Layout:
    """What attention must know of a packed sequence."""

    segments: tuple[Segment, ...]
    causal: bool
    shared: PrefixStates | None = None  # an encoded prefix that every row continues
    longest: int = 0  # tokens that the farthest-seeing token can see
    recorded: list[tuple[Tensor, Tensor]] | None = field(default=None, compare=False)  # keys, values by layer
    looks: list[Tensor] | None = field(default=None, compare=False)  # of ``last_looks`` [T], by layer
    plan: Plan | None = field(default=None, compare=False)  # for a GPU's kernel

    def to(self, device: torch.device | None) -> Layout:
        """The layout with its index tensors on a device, and a plan for a GPU."""
        if device is None or device.type == "cpu":
            return self
        segments = tuple(
            replace(
                one,
                gather=None if one.gather is None else one.gather.to(device),
                scatter=None if one.scatter is None else one.scatter.to(device),
            )
            for one in self.segments
        )
        return replace(self, segments=segments, plan=plan_kernel(self, device) if self.causal else None)


def plan_kernel(layout: Layout, device: torch.device | None) -> Plan:
    """All rows as sequences, and all that continue a prefix as one sequence per prefix."""
    rows = Spans.of([length for segment in layout.segments for length in segment.lengths], device)
    if layout.shared is not None:
        total = layout.segments[-1].stop
        seen = Spans.of([layout.shared.num_tokens], device)
        return Plan(rows, Prefixes(None, None, Spans.of([total], device), seen))
    groups: dict[int, list[int]] = {}  # tokens that continue each prefix
    for segment in layout.segments:
        if segment.prefix is not None:
            groups.setdefault(segment.prefix, []).extend(range(segment.start, segment.stop))
    if not groups:
        return Plan(rows, None)
    heads = [layout.segments[number] for number in groups]
    places = [place for head in heads for place in range(head.start, head.stop)]
    prefixes = Prefixes(
        torch.tensor([token for tokens in groups.values() for token in tokens], device=device),
        torch.tensor(places, device=device),
        Spans.of(map(len, groups.values()), device),
        Spans.of([head.stop - head.start for head in heads], device),
    )
    return Plan(rows, prefixes)


@dataclass(frozen=True)
class Pack:
    """A packed batch of R rows and T tokens.

    Attributes
        tokens, positions: [T] token ids, and their places in the sequence they belong to.
        layout: for attention.
        starts, lengths: [R] first token and number of tokens of each row, in the order the caller gave.
    """

    tokens: Tensor
    positions: Tensor
    layout: Layout
    starts: Tensor
    lengths: Tensor


@dataclass(frozen=True)
class _Row:
    index: int  # in the caller's order; -1 for a prefix
    tokens: Tokens
    first_position: int = 0
    head: int = 0  # leading tokens that belong to its prefix (bidirectional attention packs them again)


def pack(
    groups: Sequence[Group],
    *,
    causal: bool = True,
    shared: PrefixStates | None = None,
    device: torch.device | None = None,
) -> Pack:
    """Pack all rows of all groups.

    With causal attention the prefix that rows share is packed once; with bidirectional attention it would see
    the rows, so each row gets a copy.

    Parameters
        shared: an encoded prefix that every row continues; the groups' own prefixes must then be empty.
    """
    layout, rows = _Builder(causal, shared).build(groups)
    tokens = [token for row in rows for token in row.tokens]
    positions = [row.first_position + offset for row in rows for offset in range(len(row.tokens))]
    ends, total = {}, 0
    for row in rows:
        total += len(row.tokens)
        ends[row.index] = (total - len(row.tokens) + row.head, len(row.tokens) - row.head)
    places = [ends[index] for index in range(sum(len(group.rows) for group in groups))]
    starts, lengths = zip(*places, strict=True)
    return Pack(
        torch.tensor(tokens, device=device),
        torch.tensor(positions, device=device),
        layout.to(device),
        torch.tensor(starts, device=device),
        torch.tensor(lengths, device=device),
    )


class _Builder:
    """Lays rows out one after the other."""

    def __init__(self, causal: bool, shared: PrefixStates | None) -> None:
        self.causal, self.shared = causal, shared
        self.segments: list[Segment] = []
        self.rows: list[_Row] = []
        self.end = 0

    def build(self, groups: Sequence[Group]) -> tuple[Layout, list[_Row]]:
        offset = self.shared.num_tokens if self.shared else 0
        alone: list[_Row] = []
        index = 0
        for group in groups:
            # a prefix of one row is shared with nobody: attention is cheapest over both as one row
            shares = self.causal and len(group.rows) > 1
            copied = () if shares else tuple(group.prefix)
            rows = [
                _Row(index + number, [*copied, *row], offset, len(copied))
                for number, row in enumerate(group.rows)
            ]
            index += len(rows)
            if shares and group.prefix:
                self._continue_prefix(list(group.prefix), rows)
            else:
                alone += rows
        self._add_in_buckets(alone)
        longest = max(row.first_position + len(row.tokens) for row in self.rows)
        return Layout(tuple(self.segments), self.causal, self.shared, longest), self.rows

    def _continue_prefix(self, prefix: Tokens, rows: list[_Row]) -> None:
        self._add([_Row(-1, prefix)])
        where = len(self.segments) - 1
        self._add_in_buckets([_Row(row.index, row.tokens, len(prefix)) for row in rows], where)

    def _add_in_buckets(self, rows: list[_Row], prefix: int | None = None) -> None:
        for bucket in buckets([len(row.tokens) for row in rows]):
            self._add([rows[number] for number in bucket], prefix)

    def _add(self, rows: list[_Row], prefix: int | None = None) -> None:
        lengths = tuple(len(row.tokens) for row in rows)
        start, self.end = self.end, self.end + sum(lengths)
        gather, scatter = _padding(lengths) if len(set(lengths)) > 1 else (None, None)
        self.segments.append(Segment(start, self.end, lengths, prefix, gather, scatter))
        self.rows += rows


def buckets(lengths: Sequence[int]) -> Iterator[list[int]]:
    """Numbers of rows from longest to shortest, cut where one is much shorter than the first of its bucket.

    Rows of a bucket become one segment: attention computes each as if it were as long as the longest.
    """
    bucket: list[int] = []
    for number in sorted(range(len(lengths)), key=lambda number: (-lengths[number], number)):
        if bucket and lengths[number] < SHORTEST_OF_SEGMENT * lengths[bucket[0]]:
            yield bucket
            bucket = []
        bucket.append(number)
    if bucket:
        yield bucket


def _padding(lengths: Sequence[int]) -> tuple[Tensor, Tensor]:
    """(gather [R · L], scatter [tokens]) of rows that are padded on the right with their own last token."""
    lengths_R = torch.tensor(lengths)
    firsts_R = lengths_R.cumsum(0) - lengths_R
    columns = torch.arange(int(lengths_R.max()))
    gather = firsts_R[:, None] + torch.minimum(columns, lengths_R[:, None] - 1)
    scatter = (columns < lengths_R[:, None]).flatten().nonzero().squeeze(1)
    return gather.flatten(), scatter
