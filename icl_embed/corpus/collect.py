"""From a card and its files to rows and passages: tables, joins, templates, relations."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from icl_embed.corpus.layouts import Mapping, mapping_of
from icl_embed.corpus.read import read_table
from icl_embed.corpus.records import Record, where
from icl_embed.corpus.rows import POSITIVE_SCORE, Collected, Passage, Row, checked_by_kind, stable_hash
from icl_embed.corpus.templates import (
    exploded,
    fulfils,
    joined,
    label_by_rules,
    number_of,
    scored_texts_of,
    text_of,
    texts_of,
)
from icl_embed.errors import DataError
from icl_embed.sources.card import Card
from icl_embed.sources.card_rows import SPLIT_NAMES, USUAL_SPLIT_NAMES, Rows
from icl_embed.sources.fetched import Fetched
from icl_embed.texts import compared_form, compared_forms


def collect(card: Card, files: Sequence[Fetched]) -> Collected:
    """The checked rows and passages of a data set, not yet split, in file order.

    Raises
        DataError: a file, record or field is not what the card says; the message names it.
        SourceError: a compressed file is damaged.
    """
    return _Collector(card, files).collect()


@dataclass
class _Collector:
    card: Card
    files: Sequence[Fetched]

    def collect(self) -> Collected:
        mapping = mapping_of(self.card)
        rejected: Counter[str] = Counter()
        tables: dict[str, list[Record]] = {}
        for name, table in mapping.tables.items():
            tables[name], malformed = read_table(self.files, table)
            if malformed:
                rejected["malformed record"] += malformed
        main = mapping.rows.table or next(iter(tables))
        selected = _selected(tables[main], mapping.rows, tables, rejected)
        keyed = [
            self._row(record, mapping, rejected) for record in _of_used_splits(selected, mapping, rejected)
        ]
        rows = [row for row, _ in keyed]
        if mapping.negatives is not None:
            relatives = tables[mapping.negatives.table or main]
            rows = _with_relations(self.card.kind, keyed, mapping, relatives, rejected)
        checked = checked_by_kind(self.card.kind, rows, rejected)
        passages = self._passages(mapping, tables, main) if mapping.corpus else []
        return Collected(checked, passages, +rejected)

    def _row(self, record: Record, mapping: Mapping, rejected: Counter[str]) -> tuple[Row, list[str]]:
        """The record's row, and the keys of its relations (if the card has any)."""
        rows, splits = mapping.rows, mapping.splits
        label = text_of(rows.label, record) if rows.label else label_by_rules(record, rows.label_rules)
        positives, positive_scores = scored_texts_of(
            "positive", rows.positives, rows.positive_scores, record, rejected
        )
        negatives, negative_scores = scored_texts_of(
            "negative", rows.negatives, rows.negative_scores, record, rejected
        )
        is_unscored = (
            self.card.layout == "flagembedding" and bool(rows.score) and not record.get("pos_scores")
        )
        row = Row(
            query=text_of(rows.query, record),
            positives=positives,
            negatives=negatives,
            label=rows.labels.get(label, label) or None,
            score=None if is_unscored else number_of(rows.score, record),
            positive_scores=positive_scores,
            negative_scores=negative_scores,
            groups=tuple(texts_of(splits.group, record)) if splits.method == "hash" else (),
            split=splits.split_of(text_of(splits.value, record)) if splits.method == "given" else None,
            place=where(record),
        )
        if is_unscored:
            given = tuple(
                texts_of("{neg?}", record)
            )  # a positive pair with negatives, as in STS and NLI triples
            row = replace(row, score=POSITIVE_SCORE, negatives=given)
        return row, texts_of(mapping.negatives.same, record) if mapping.negatives is not None else []

    def _passages(self, mapping: Mapping, tables: dict[str, list[Record]], main: str) -> list[Passage]:
        corpus, splits = mapping.corpus, mapping.splits
        assert corpus is not None  # noqa: S101 — the caller asked
        group = splits.group if splits.method == "hash" and not corpus.shared else ""
        given = splits.value if splits.method == "given" and not corpus.shared else ""
        found: dict[str, Passage] = {}
        for record in tables[corpus.table or main]:
            text = text_of(corpus.text, record) if fulfils(record, corpus.where) else ""
            if text and text not in found:
                split = splits.split_of(text_of(given, record)) if given else None
                found[text] = Passage(text, tuple(texts_of(group, record)), split)
        if not found:
            raise DataError(
                f"the corpus of {self.card.name} is empty; do [corpus] where and text fit the data?"
            )
        return list(found.values())


def _selected(
    records: Sequence[Record], rows: Rows, tables: dict[str, list[Record]], rejected: Counter[str]
) -> list[Record]:
    """Exploded, joined, then filtered."""
    stream: Iterator[Record] = iter(records)
    if rows.explode:
        stream = exploded(stream, rows.explode)
    for join in rows.joins:
        stream = joined(stream, join, tables[join.table], rejected)
    kept = []
    for record in stream:
        if fulfils(record, rows.where):
            kept.append(record)
        else:
            rejected["left out by where"] += 1
    if not kept:
        first = f"; the first was {where(records[0])}" if records else ""
        raise DataError(
            f"no record is left of {len(records)}: do explode, joins and where fit the data?{first}"
        )
    return kept


def _of_used_splits(records: Sequence[Record], mapping: Mapping, rejected: Counter[str]) -> Sequence[Record]:
    """Without the records of splits that the card does not use: they must not decide about the others.

    Raises
        DataError: the source has none of the names that the card gives for a split.
    """
    splits = mapping.splits
    if splits.method != "given":
        return records
    names = [text_of(splits.value, record) for record in records]
    found = Counter(names)
    for split in (*SPLIT_NAMES, None):
        asked = (
            splits.names_of(split)
            if split
            else [name for part in SPLIT_NAMES for name in splits.names_of(part)]
        )
        is_usual = split is not None and tuple(asked) == USUAL_SPLIT_NAMES[split]
        if asked and not is_usual and not any(name in found for name in asked):
            seen = ", ".join(f"{name!r} ({count} rows)" for name, count in found.most_common(12))
            raise DataError(
                f"no row belongs to a split called {' or '.join(map(repr, asked))}; the source has: {seen}. "
                f"Say in [splits] which of them is {split or 'train, dev or test'}"
            )
    kept = [record for record, name in zip(records, names, strict=True) if splits.split_of(name)]
    if len(kept) < len(records):
        rejected["of a split that the card does not use"] += len(records) - len(kept)
    return kept


def _with_relations(
    kind: str,
    rows: Sequence[tuple[Row, list[str]]],
    mapping: Mapping,
    records: Sequence[Record],
    rejected: Counter[str],
) -> list[Row]:
    """Rows with negatives from the records that share a key with them, chosen by hash.

    For pair_classification each row becomes two: (query, positive, 1) and (query, a negative, 0).
    """
    relation = mapping.negatives
    assert relation is not None  # noqa: S101 — the caller asked
    by_key: dict[str, list[str]] = {}
    for record in records:
        for key in texts_of(relation.same, record):
            by_key.setdefault(key, []).append(text_of(relation.text, record))
    positives: dict[str, set[str]] = {}
    for row, _ in rows:
        positives.setdefault(compared_form(row.query), set()).update(compared_forms(row.positives))
    result: list[Row] = []
    for row, keys in rows:
        forbidden = positives[compared_form(row.query)] | {compared_form(row.query)}
        related = (text for key in keys for text in by_key.get(key, ()))
        others = {text: None for text in related if text and compared_form(text) not in forbidden}
        chosen = sorted(others, key=lambda text: stable_hash(f"{row.query}\0{text}"))[: relation.limit]
        if len(chosen) < relation.minimum:
            rejected["too few related negatives"] += 1
        elif kind == "pair_classification":
            result.append(replace(row, score=1.0))
            result += [replace(row, positives=(text,), score=0.0) for text in chosen]
        else:
            result.append(replace(row, negatives=(*row.negatives, *chosen)))
    return result
