"""The dataset stage for a split of a collection: from shards to ``rows.parquet``, in two passes over batches.

The first pass checks every row and keeps three numbers of each; from these follows which rows are kept. The
second writes them, in the order of the files. Memory grows by 24 bytes a row, whatever the texts.

What the pool does anyway is left to it: negatives that are a positive of the same query, say.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from icl_embed.config import LABEL_KINDS
from icl_embed.corpus.read_batches import read_batches
from icl_embed.corpus.records import fault
from icl_embed.corpus.rows import PAIR_KINDS, POSITIVE_SCORE, stable_hash
from icl_embed.corpus.written import RowWriter, write_corpus
from icl_embed.errors import DataError
from icl_embed.progress import tell
from icl_embed.sources.collection import KINDS, USUAL_TYPE, CollectionCard
from icl_embed.sources.fetched import Fetched, Progress
from icl_embed.sources.shards import refuse_full_disk, shards_of
from icl_embed.texts import compared_form

logger = logging.getLogger(__name__)


def build_streamed(
    card: CollectionCard,
    downloads: Path,
    output: Path,
    *,
    max_train_rows: int,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Fetch, check, cap and write one split; see ``dataset.build_dataset``, whose results have the same form.

    All shards are read, whatever the cap: it takes the rows whose hashes are smallest.

    Raises
        SourceError: a shard cannot be had, or there is no room.
        DataError: a row is not what the card says; names file and record.
    """
    refuse_full_disk(card, downloads, output, max_train_rows)
    rejected: Counter[str] = Counter()
    shards: list[Fetched] = []
    facts = [np.empty((0, 3), np.uint64)]
    for shard in shards_of(card, downloads, progress):
        facts += [_facts_of(rows, card.kind) for rows in checked_batches(card, shard, rejected)]
        shards.append(shard)
    found = np.concatenate(facts)
    kept = _distinct(found[:, 0], found[:, 1], rejected)
    available = int(kept.sum())
    if not available:
        reasons = ", ".join(f"{reason} ({number})" for reason, number in rejected.most_common())
        raise DataError(f"{card.name}: no row is left; rejected: {reasons or 'none, the files are empty'}")
    _cap(kept, found[:, 2], max_train_rows)
    count = _write(card, shards, kept, output)
    counts: dict[str, Any] = {
        "rows": {"train": count, "dev": 0, "test": 0},
        "available": {"train": available, "dev": 0, "test": 0},
        "rejected": dict(sorted((+rejected).items())),
    }
    if card.kind in LABEL_KINDS:
        counts["labels"] = len(np.unique(found[kept, 1]))
    logger.info("data set %s: %s", card.name, counts)
    return counts


def _write(card: CollectionCard, shards: Sequence[Fetched], kept: np.ndarray, output: Path) -> int:
    writer, start = RowWriter(output), 0
    try:
        for done, shard in enumerate(shards):
            tell(f"writing {card.name}", done, len(shards))
            for rows in checked_batches(card, shard, Counter()):
                writer.add(rows.filter(pa.array(kept[start : start + rows.num_rows])))
                start += rows.num_rows
    finally:
        writer.close()
    if card.kind == "retrieval":  # nothing is searched here: the pool takes passages from the rows
        write_corpus({}, output)
    return writer.num_rows


def _facts_of(rows: pa.RecordBatch, kind: str) -> np.ndarray:
    """Per row, as hashes: what makes it the same as another, what then must not differ, and its order."""
    facts = np.empty((rows.num_rows, 3), np.uint64)
    names = ("query", "positives", "label", "score")
    columns = (rows.column(name).to_pylist() for name in names)
    for number, (query, positives, label, score) in enumerate(zip(*columns, strict=True)):
        texts = [compared_form(query)]
        if kind not in LABEL_KINDS:
            texts += map(compared_form, positives)
        if kind in PAIR_KINDS:
            texts.sort()
        order = "\0".join((query, *positives, label or "", repr(score)))
        facts[number] = (stable_hash("\0".join(texts)), stable_hash(label or ""), stable_hash(order))
    return facts


def _distinct(keys: np.ndarray, values: np.ndarray, rejected: Counter[str]) -> np.ndarray:
    """True for the first row of every key; keys with two values are dropped altogether."""
    order = np.lexsort((values, keys))  # stable: equal rows stay in their order
    is_new = np.ones(len(keys), bool)
    is_new[1:] = keys[order][1:] != keys[order][:-1]
    differs = ~is_new
    differs[1:] &= values[order][1:] != values[order][:-1]
    group = np.cumsum(is_new) - 1
    in_conflict = np.isin(group, group[differs])
    kept = np.zeros(len(keys), bool)
    kept[order[is_new & ~in_conflict]] = True
    rejected["same text with two labels"] += int(in_conflict.sum())
    rejected["duplicate"] += int((~is_new & ~in_conflict).sum())
    return kept


def _cap(kept: np.ndarray, order: np.ndarray, limit: int) -> None:
    """Keep the rows that come first by their hash."""
    candidates = np.flatnonzero(kept)
    if len(candidates) > limit:
        kept[candidates[np.argsort(order[candidates], kind="stable")[limit:]]] = False


def checked_batches(card: CollectionCard, shard: Fetched, rejected: Counter[str]) -> Iterator[pa.RecordBatch]:
    """The useful rows of a shard in the columns of ``rows.parquet``; the others are counted by reason.

    Raises
        DataError: a score too many or not finite, or a row of another type or prompt than the split's.
    """
    for start, batch in read_batches(shard):
        _refuse_others(card, batch, shard.name, start)
        rows = _rows_of(card.kind, batch, shard.name, start)
        useless = np.zeros(len(batch), bool)
        for reason, mask in _reasons(card.kind, rows):
            rejected[reason] += int((mask & ~useless).sum())
            useless |= mask
        yield rows.filter(pa.array(~useless))


def _reasons(kind: str, rows: pa.RecordBatch) -> Iterator[tuple[str, np.ndarray]]:
    yield "empty query", _true_where(pc.equal(rows.column("query"), ""))
    if kind in LABEL_KINDS:
        yield "no label", _true_where(pc.equal(pc.fill_null(rows.column("label"), ""), ""))
        return
    yield "no positive", _true_where(pc.equal(pc.list_value_length(rows.column("positives")), 0))
    if kind == "reranking":
        yield "no negative", _true_where(pc.equal(pc.list_value_length(rows.column("negatives")), 0))


def _true_where(column: pa.Array) -> np.ndarray:
    return np.asarray(column.to_numpy(zero_copy_only=False), bool)


def _refuse_others(card: CollectionCard, batch: pa.RecordBatch, name: str, start: int) -> None:
    """See that rows have the split's type and prompt, unless the collection's card says them itself.

    Raises
        DataError: one has another.
    """
    split = card.name.partition("/")[2]
    for what, said, usual, setting in (
        ("type", card.type, USUAL_TYPE, f'kinds = {{ "{split}" = KIND }}'),
        ("prompt", card.prompt, "", f'instructions = {{ "{split}" = "…" }}'),
    ):
        column = pc.utf8_trim_whitespace(pc.fill_null(batch.column(what), ""))
        column = pc.if_else(pc.equal(column, ""), usual, column)
        if said is None:
            continue
        others = np.flatnonzero(_true_where(pc.not_equal(column, said)))
        if len(others):
            found = column[int(others[0])].as_py()
            unknown = what == "type" and found not in KINDS
            hint = f", which is not known; known are {', '.join(KINDS)}" if unknown else ""
            raise fault(
                name,
                start + int(others[0]) + 1,
                f"its {what} is {found!r}{hint}; the first row of {card.name} has {said!r}, and a data set "
                f"has one. To take all rows for the same, say in the collection's card: {setting}",
            )


def _rows_of(kind: str, batch: pa.RecordBatch, name: str, start: int) -> pa.RecordBatch:
    """The columns of ``rows.parquet`` but for the id and the split."""
    query = pc.utf8_trim_whitespace(pc.fill_null(batch.column("query"), ""))
    positives, positive_scores = _scored(batch, "pos", "positive", name, start)
    negatives, negative_scores = _scored(batch, "neg", "negative", name, start)
    _refuse_nul(query, np.arange(len(batch)), "query", name, start)
    label = pa.nulls(len(batch), pa.string())
    if kind == "classification":
        label = _first(positives)
    elif kind == "clustering":  # the response is the category; scores are those of the texts, which it is not
        label = pc.utf8_trim_whitespace(batch.column("category"))
        positive_scores = pa.nulls(len(batch), positive_scores.type)
    score = (
        pa.array(np.full(len(batch), POSITIVE_SCORE))
        if kind in PAIR_KINDS
        else pa.nulls(len(batch), pa.float64())
    )
    return pa.RecordBatch.from_pydict(
        {
            "query": query,
            "positives": positives,
            "negatives": negatives,
            "label": label,
            "score": score,
            "positive_scores": positive_scores,
            "negative_scores": negative_scores,
        }
    )


def _scored(
    batch: pa.RecordBatch, column: str, what: str, name: str, start: int
) -> tuple[pa.ListArray, pa.ListArray]:
    """The texts of a list column without the empty ones, and the score of each; null where a row has none.

    Raises
        DataError: not as many scores as texts, or a score that is no finite number.
    """
    lists, scores = batch.column(column), batch.column(f"{column}_scores")
    lengths, score_lengths = _lengths(lists), _lengths(scores)
    has_scores = score_lengths > 0
    wrong = np.flatnonzero(has_scores & (lengths != score_lengths))
    if len(wrong):
        row = int(wrong[0])
        raise fault(name, start + row + 1, f"{score_lengths[row]} {what} scores for {lengths[row]} {what}s")
    numbers = scores.flatten()
    values = numbers.to_numpy(zero_copy_only=False)  # a null is a NaN here
    if not np.isfinite(values).all():
        at = int(np.flatnonzero(~np.isfinite(values))[0])
        row = int(np.repeat(np.arange(len(batch)), score_lengths)[at])
        raise fault(name, start + row + 1, f"a {what} score is no finite number: {values[at]}")
    texts = pc.utf8_trim_whitespace(pc.fill_null(lists.flatten(), ""))
    row_of = np.repeat(np.arange(len(batch)), lengths)
    _refuse_nul(texts, row_of, what, name, start)
    filled = _true_where(pc.not_equal(texts, ""))
    kept_lengths = np.bincount(row_of[filled], minlength=len(batch))
    kept = pa.ListArray.from_arrays(_offsets(kept_lengths), texts.filter(pa.array(filled)))
    kept_scores = pa.ListArray.from_arrays(
        _offsets(np.where(has_scores, kept_lengths, 0)),
        numbers.filter(pa.array(filled[has_scores[row_of]])),
        mask=pa.array(~has_scores),
    )
    return kept, kept_scores


def _lengths(lists: pa.ListArray) -> np.ndarray:
    return np.asarray(pc.fill_null(pc.list_value_length(lists), 0).to_numpy(zero_copy_only=False), np.int64)


def _offsets(lengths: np.ndarray) -> pa.Array:
    return pa.array(np.concatenate([[0], np.cumsum(lengths)]), pa.int32())


def _first(lists: pa.ListArray) -> pa.Array:
    """The first text of each list; null of an empty one."""
    is_filled = pc.greater(pc.list_value_length(lists), 0)
    return lists.values.take(pc.if_else(is_filled, lists.offsets[:-1], None))


def _refuse_nul(texts: pa.Array, row_of: np.ndarray, what: str, name: str, start: int) -> None:
    found = np.flatnonzero(_true_where(pc.match_substring(texts, "\0")))
    if len(found):
        raise fault(name, start + int(row_of[found[0]]) + 1, f"a {what} holds a NUL character")
