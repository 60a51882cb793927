"""The mapping of a card, and those of the layouts that need none in the card.

``folder``: ``corpus.jsonl``, ``queries.jsonl`` and ``qrels/<split>.tsv`` (BEIR's or TREC's) for retrieval;
``<split>.jsonl`` for the other kinds (text, label_text or label; sentence1, sentence2, score or label; query,
positive, negative). All may be compressed.
``flagembedding``: lines of query, pos, neg, and perhaps pos_scores, neg_scores, category; what ``prompt`` and
``type`` say is for the card to say.
"""

from __future__ import annotations

from dataclasses import dataclass

from icl_embed.config import Kind
from icl_embed.sources.card import Card
from icl_embed.sources.card_rows import (
    USUAL_SPLIT_NAMES,
    Condition,
    Corpus,
    Join,
    Negatives,
    Rows,
    Splits,
    Table,
)
from icl_embed.sources.fetched import COMPRESSED_ENDINGS

SPLIT_NAMES_OF_FILES = [name for names in USUAL_SPLIT_NAMES.values() for name in names]


@dataclass(frozen=True)
class Mapping:
    """How files become rows."""

    tables: dict[str, Table]
    rows: Rows
    corpus: Corpus | None
    negatives: Negatives | None
    splits: Splits


def mapping_of(card: Card) -> Mapping:
    """The card's own mapping, or that of its layout."""
    if card.layout == "records" and card.rows is not None:
        return Mapping(card.tables, card.rows, card.corpus, card.negatives, card.splits)
    if card.layout == "flagembedding":
        return _flagembedding(card)
    splits = card.splits if card.splits.method == "given" else Splits(method="given")
    if card.kind == "retrieval":
        return _retrieval_folder(splits, card.encoding)
    files = _packed(*(f"{name}.jsonl" for name in SPLIT_NAMES_OF_FILES))
    tables = {"rows": Table(files=files, format="jsonl", encoding=card.encoding)}
    return Mapping(tables, FOLDER_ROWS[card.kind], None, card.negatives, splits)


FOLDER_ROWS: dict[Kind, Rows] = {
    "classification": Rows(query="{text}", label="{label_text|label}"),
    "clustering": Rows(query="{text}", label="{label_text|label}"),
    "sts": Rows(query="{sentence1}", positives="{sentence2}", score="{score}"),
    "pair_classification": Rows(query="{sentence1}", positives="{sentence2}", score="{label|score}"),
    "reranking": Rows(query="{query}", positives="{positive}", negatives="{negative}"),
}
FLAG_FIELDS = {name: name for name in ("query", "pos", "neg", "pos_scores", "neg_scores", "category")}


def _packed(*names: str) -> tuple[str, ...]:
    """The names, plain and compressed."""
    return tuple(name + end for name in names for end in ("", *COMPRESSED_ENDINGS))


def _retrieval_folder(splits: Splits, encoding: str) -> Mapping:
    tables = {
        "qrels": Table(files=_packed("qrels/*.tsv"), format="qrels", encoding=encoding),
        "queries": Table(files=_packed("queries.jsonl"), format="jsonl", encoding=encoding),
        "corpus": Table(files=_packed("corpus.jsonl"), format="jsonl", encoding=encoding),
    }
    rows = Rows(
        table="qrels",
        where={"score": Condition(min=1e-9)},
        joins=(
            Join(table="queries", on="{query-id}", key="{_id}", prefix="query"),
            Join(table="corpus", on="{corpus-id}", key="{_id}", prefix="passage"),
        ),
        query="{query.text}",
        positives="{passage.title?} {passage.text}",
    )
    corpus = Corpus(table="corpus", text="{title?} {text}", shared=True)
    return Mapping(tables, rows, corpus, None, splits)


def _flagembedding(card: Card) -> Mapping:
    fields = {**FLAG_FIELDS, "first": "pos.0"}
    files = _packed("**/*.jsonl")
    tables = {"rows": Table(files=files, format="jsonl", fields=fields, encoding=card.encoding)}
    if card.kind in ("classification", "clustering"):
        rows = Rows(query="{query}", label="{category|first}")
    elif card.kind in ("sts", "pair_classification"):
        rows = Rows(query="{query}", positives="{pos}", score="{pos_scores}")
    else:
        rows = Rows(
            query="{query}",
            positives="{pos}",
            negatives="{neg?}",
            positive_scores="{pos_scores?}",
            negative_scores="{neg_scores?}",
        )
    return Mapping(tables, rows, card.corpus, card.negatives, card.splits)
