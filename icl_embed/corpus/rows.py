"""Rows and passages: what the records of a data set mean, by kind."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from icl_embed.errors import DataError
from icl_embed.sources.card_rows import SplitName
from icl_embed.texts import compared_form

PAIR_KINDS = ("sts", "pair_classification")
POSITIVE_SCORE = 1.0  # of a pair that its publisher calls positive without a gold score


def stable_hash(text: str) -> int:
    """64 bits that are the same on every machine and in every run."""
    return int.from_bytes(hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:8], "big")


@dataclass(frozen=True, slots=True)
class Row:
    """A row of the contract, before it has an id. ``groups`` and ``split`` (what the source's own name of its
    split means in the card) serve the split only; ``place`` says where it comes from, for messages."""

    query: str
    positives: tuple[str, ...] = ()
    negatives: tuple[str, ...] = ()
    label: str | None = None
    score: float | None = None
    positive_scores: tuple[float, ...] | None = None
    negative_scores: tuple[float, ...] | None = None
    groups: tuple[str, ...] = ()
    split: SplitName | None = None
    place: str = field(default="", compare=False)

    @property
    def published(self) -> bool:
        """Whether it is a dev or test row of somebody else's benchmark."""
        return self.split in ("dev", "test")

    @property
    def order(self) -> int:
        """Where the row comes in its split: by hash, so that a cap takes a random and stable sample."""
        return stable_hash("\0".join((self.query, *self.positives, self.label or "", repr(self.score))))


@dataclass(frozen=True, slots=True)
class Passage:
    """A passage of a retrieval corpus."""

    text: str
    groups: tuple[str, ...] = ()
    split: SplitName | None = None


@dataclass
class Collected:
    """Rows and passages of a data set, and why records were left out."""

    rows: list[Row]
    passages: list[Passage] = field(default_factory=list)
    rejected: Counter[str] = field(default_factory=Counter)


def checked_by_kind(kind: str, rows: Iterable[Row], rejected: Counter[str]) -> list[Row]:
    """Drop and count the rows that are no use for their kind, and merge duplicates.

    Labelled texts and pairs of a *published* test split are left as they are, duplicates, contradictions and
    all, so that scores stay comparable.

    Raises
        DataError: a pair label other than 0 and 1; names file and record.
    """
    kept = []
    for row in rows:
        reason = _why_useless(kind, row)
        if reason:
            rejected[reason] += 1
        else:
            kept.append(_without_false_negatives(row, rejected))
    if kind in ("classification", "clustering"):
        return _consistent_labels(kept, rejected)
    if kind in ("retrieval", "reranking"):
        kept = _merged_by_query(kept, rejected)
        return [row for row in kept if kind == "retrieval" or _has_negatives(row, rejected)]
    return _distinct_pairs(kept, rejected)


def _why_useless(kind: str, row: Row) -> str:
    if not row.query:
        return "empty query"
    if kind in ("classification", "clustering"):
        return "" if row.label else "no label"
    if not row.positives:
        return "no positive"
    pair = kind in PAIR_KINDS
    if pair and row.score is None:
        return "no score"
    if kind == "pair_classification" and row.score not in (0.0, 1.0):
        raise DataError(
            f"{row.place}: a pair's score must be 0 or 1, found {row.score} for {row.query[:60]!r}; if it "
            'is of a teacher, the card needs layout = "collection"'
        )
    same = {compared_form(row.query)} >= {compared_form(text) for text in row.positives}
    return "query equals its positive" if same and not pair else ""


def _without_false_negatives(row: Row, rejected: Counter[str]) -> Row:
    """Without negatives that equal the query or a positive, or come twice; scores stay aligned."""
    forbidden = {compared_form(text) for text in (row.query, *row.positives)}
    kept = []
    for index, negative in enumerate(row.negatives):
        form = compared_form(negative)
        if form in forbidden or not form:
            rejected["negative equals query, positive or another negative"] += 1
        else:
            forbidden.add(form)
            kept.append(index)
    if len(kept) == len(row.negatives):
        return row
    scores = row.negative_scores
    return replace(
        row,
        negatives=tuple(row.negatives[i] for i in kept),
        negative_scores=None if scores is None else tuple(scores[i] for i in kept),
    )


def _consistent_labels(rows: Sequence[Row], rejected: Counter[str]) -> list[Row]:
    """One row per text; a text with two labels teaches nothing and is dropped."""
    facts = [((compared_form(row.query),), row.label) for row in rows]
    return _distinct(rows, facts, rejected, conflict="same text with two labels")


def _distinct(
    rows: Sequence[Row],
    facts: Sequence[tuple[tuple[str, ...], str | float | None]],
    rejected: Counter[str],
    *,
    conflict: str,
) -> list[Row]:
    """The first row of every key; keys that were given two values are dropped. Published rows all stay.

    Parameters
        facts: of each row, what makes it the same as another, and what then must not differ.
        conflict: the reason counted for a key with two values.
    """
    values: dict[tuple[str, ...], set[str | float | None]] = {}
    for row, (key, value) in zip(rows, facts, strict=True):
        if not row.published:
            values.setdefault(key, set()).add(value)
    seen: set[tuple[str, ...]] = set()
    kept = []
    for row, (key, _) in zip(rows, facts, strict=True):
        if row.published:
            kept.append(row)
        elif len(values[key]) > 1:
            rejected[conflict] += 1
        elif key in seen:
            rejected["duplicate"] += 1
        else:
            seen.add(key)
            kept.append(row)
    return kept


def _merged_by_query(rows: Sequence[Row], rejected: Counter[str]) -> list[Row]:
    """One row per query, with all its positives and negatives.

    The same query in two splits of the source stays two rows: the split rule decides between them.
    """
    merged: dict[tuple[str | None, str], Row] = {}
    for row in rows:
        form = (row.split, compared_form(row.query))
        first = merged.get(form)
        merged[form] = row if first is None else _merge(first, row)
    rejected["merged into a row with the same query"] += len(rows) - len(merged)
    return [_without_false_negatives(row, rejected) for row in merged.values()]


def _merge(first: Row, second: Row) -> Row:
    positives = tuple(dict.fromkeys((*first.positives, *second.positives)))
    negatives = tuple(dict.fromkeys((*first.negatives, *second.negatives)))
    return replace(
        first, positives=positives, negatives=negatives, positive_scores=None, negative_scores=None
    )


def _has_negatives(row: Row, rejected: Counter[str]) -> bool:
    if not row.negatives:
        rejected["no negative"] += 1
    return bool(row.negatives)


def _distinct_pairs(rows: Sequence[Row], rejected: Counter[str]) -> list[Row]:
    """One row per unordered pair of texts; pairs with two scores are dropped."""
    facts = [(_pair_key(row), row.score) for row in rows]
    return _distinct(rows, facts, rejected, conflict="same pair with two scores")


def _pair_key(row: Row) -> tuple[str, ...]:
    return tuple(sorted(compared_form(text) for text in (row.query, *row.positives)))
