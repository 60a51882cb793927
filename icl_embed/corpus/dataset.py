"""The dataset stage: one card → ``rows.parquet`` (and ``corpus.parquet`` for retrieval), verified and capped.

A pure function of the card, its files and the caps: the same bytes on every machine. The data sets of a
collection, which may be larger than memory, go through ``streamed``.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from icl_embed.corpus.collect import collect
from icl_embed.corpus.layouts import mapping_of
from icl_embed.corpus.rows import Passage, stable_hash
from icl_embed.corpus.splits import SHARED_SPLIT, Split, check_disjoint, split_data
from icl_embed.corpus.written import write_corpus, write_rows
from icl_embed.sources.card import Card
from icl_embed.sources.card_rows import SPLIT_NAMES
from icl_embed.sources.collection import CollectionCard
from icl_embed.sources.fetch import fetch
from icl_embed.sources.fetched import Progress
from icl_embed.texts import compared_form, compared_forms

logger = logging.getLogger(__name__)


def build_dataset(
    card: Card,
    downloads: Path,
    output: Path,
    *,
    max_train_rows: int,
    max_test_queries: int,
    max_test_passages: int,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Fetch, read, map, split, cap and write one data set.

    The caps take the rows whose hashes are smallest, so a smaller cap gives a subset. Of a corpus, every
    positive of a kept row is kept, and others are added up to ``max_test_passages``.

    Returns
        ``rows`` and ``passages`` per split, ``available`` rows before the caps, ``labels``, ``rejected``.

    Raises
        SourceError: the files cannot be had.
        DataError: they are not what the card says.
    """
    if isinstance(card, CollectionCard):
        from icl_embed.corpus.streamed import build_streamed

        return build_streamed(card, downloads, output, max_train_rows=max_train_rows, progress=progress)
    files = fetch(card, downloads, progress=progress)
    collected = collect(card, files)
    mapping = mapping_of(card)
    shared = bool(mapping.corpus and mapping.corpus.shared)
    split = split_data(collected, mapping.splits, shared_corpus=shared)
    available = {name: len(rows) for name, rows in split.rows.items()}
    caps = {"train": max_train_rows, "dev": max_test_queries, "test": max_test_queries}
    split.rows = {
        name: sorted(rows, key=lambda row: (row.order, row.query))[: caps[name]]
        for name, rows in split.rows.items()
    }
    if card.kind == "retrieval":
        split.passages = _corpus(split, max_test_passages, shared=shared)
        check_disjoint(split, shared_corpus=shared)
        write_corpus(split.passages, output)
    write_rows(split.rows, output)
    counts: dict[str, Any] = {
        "rows": {name: len(rows) for name, rows in split.rows.items()},
        "available": available,
        "rejected": dict(sorted(collected.rejected.items())),
    }
    if card.kind == "retrieval":
        counts["passages"] = {name: len(passages) for name, passages in split.passages.items()}
    labels = {row.label for rows in split.rows.values() for row in rows if row.label}
    if labels:
        counts["labels"] = len(labels)
    logger.info("data set %s: %s", card.name, counts)
    return counts


def _corpus(split: Split, limit: int, *, shared: bool) -> dict[str, list[Passage]]:
    """Per split (or for all): the positives and negatives of its rows, then distractors by hash."""
    result: dict[str, list[Passage]] = {}
    for name in [SHARED_SPLIT] if shared else SPLIT_NAMES:
        rows = [row for part in SPLIT_NAMES if shared or part == name for row in split.rows[part]]
        needed = {text: None for row in rows for text in row.positives}
        foreign = _texts_of_others(split, name) if not shared else frozenset()
        offered = {text: None for row in rows for text in row.negatives if compared_form(text) not in foreign}
        offered |= {passage.text: None for passage in split.passages.get(name, ())}
        room = max(0, limit - len(needed))
        distractors = sorted((text for text in offered if text not in needed), key=stable_hash)[:room]
        result[name] = [Passage(text) for text in sorted((*needed, *distractors), key=stable_hash)]
    return result


def _texts_of_others(split: Split, name: str) -> frozenset[str]:
    others = [row for part in SPLIT_NAMES if part != name for row in split.rows[part]]
    texts = [text for row in others for text in (row.query, *row.positives)]
    parts = [part for part in SPLIT_NAMES if part != name]
    passages = [passage.text for part in parts for passage in split.passages.get(part, ())]
    return frozenset(compared_forms([*texts, *passages]))
