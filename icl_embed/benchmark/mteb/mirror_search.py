"""A search task from a mirror folder: corpus, queries, relevance judgements and candidates, checked."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from typing import Any

from datasets import Dataset

from icl_embed.benchmark.mteb.mirror_columns import (
    Columns,
    columns_of,
    identity_of,
    optional_text_of,
    text_of,
    texts_of,
    whole_number_of,
)
from icl_embed.benchmark.mteb.mirror_folder import FolderSet
from icl_embed.corpus.records import Record, where
from icl_embed.errors import DataError
from icl_embed.evaluate.task_data import neutral_id

logger = logging.getLogger(__name__)


def search_rows(served: FolderSet, split: str) -> dict[str, Any]:
    """What one split of a task of mteb's holds: corpus, queries, relevant_docs, top_ranked.

    As from the hub, a judgement may name a query or passage that is not there, and a query may have none;
    ``content_of`` counts what concerns the split.

    Raises
        DataError: a record lacks a field, an identity appears twice, most judgements name what is not there,
            the corpus is empty.
    """
    return _retrieval(served, split) if served.kind == "retrieval" else _reranking(served.read(split))


def _retrieval(served: FolderSet, split: str) -> dict[str, Any]:
    fields = {"id": ("_id", identity_of), "text": ("text", text_of)}
    titled = {**fields, "title": ("title", optional_text_of)}
    passages = columns_of(served.read("corpus"), titled)
    queries = columns_of(served.read("queries"), fields)
    for name, columns in (("corpus", passages), ("queries", queries)):
        refuse_duplicates(f"{served.name}/{name}", columns["id"])
    if not passages["id"]:
        raise DataError(f"{served.name}: the corpus is missing or empty; expected corpus.jsonl with passages")
    judged: dict[str, dict[str, int]] = {}
    for record in served.read(f"qrels/{split}"):
        query, passage = identity_of(record, "query-id"), identity_of(record, "corpus-id")
        judged.setdefault(query, {})[passage] = whole_number_of(record, "score")
    _refuse_foreign(served, split, judged, queries["id"], passages["id"])
    asked = _judged_queries(served, split, queries, judged)
    return {
        "corpus": Dataset.from_dict(passages),
        "queries": Dataset.from_dict(asked),
        "relevant_docs": judged,
        "top_ranked": None,
    }


def _judged_queries(
    served: FolderSet, split: str, queries: Columns, judged: Mapping[str, Mapping[str, int]]
) -> Columns:
    """The queries of a split, in file order, as mteb's loader leaves them."""
    elsewhere = {
        identity_of(record, "query-id")
        for other in served.splits
        if other != split
        for record in served.read(f"qrels/{other}")
    }
    lost = [name for name in queries["id"] if name not in judged and name not in elsewhere]
    if lost:
        logger.warning(
            "%s: %d of %d queries have no relevance judgement in any split and are left out, e.g. %r",
            served.name,
            len(lost),
            len(queries["id"]),
            lost[0],
        )
    kept = [row for row, name in enumerate(queries["id"]) if name in judged]
    return {name: [values[row] for row in kept] for name, values in queries.items()}


def _reranking(records: Iterable[Record]) -> dict[str, Any]:
    passages: dict[str, str] = {}
    queries: Columns = {"id": [], "text": []}
    judged, candidates = {}, {}
    for number, record in enumerate(records):
        positives, negatives = (texts_of(record, name) for name in ("positive", "negative"))
        if not positives or not set(negatives) - set(positives):
            raise DataError(
                f"{where(record)}: a query to rerank needs a positive and a negative, found "
                f"{len(positives)} and {len(negatives)}"
            )
        name = f"{number:06d}"
        queries["id"].append(name)
        queries["text"].append(text_of(record, "query"))
        found = {neutral_id(text): text for text in (*positives, *negatives)}
        passages |= found
        judged[name] = {neutral_id(text): 1 for text in positives}
        candidates[name] = sorted(found)
    return {
        "corpus": Dataset.from_dict({"id": list(passages), "text": list(passages.values())}),
        "queries": Dataset.from_dict(queries),
        "relevant_docs": judged,
        "top_ranked": candidates,
    }


def refuse_duplicates(what: str, names: Iterable[str]) -> None:
    """Each identity once.

    Raises
        DataError: one appears twice.
    """
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise DataError(f"{what}: the identity {name!r} appears twice; each needs its own")
        seen.add(name)


def _refuse_foreign(
    served: FolderSet,
    split: str,
    judged: Mapping[str, Mapping[str, int]],
    queries: Iterable[str],
    passages: Iterable[str],
) -> None:
    """Some judgements may be of what is not there; when most are, they are of another set.

    Raises
        DataError: most are.
    """
    known_queries, known_passages = set(queries), set(passages)
    pairs = [(query, passage) for query, found in judged.items() for passage in found]
    foreign = [
        f"the query {query!r}" if query not in known_queries else f"the passage {passage!r}"
        for query, passage in pairs
        if query not in known_queries or passage not in known_passages
    ]
    if len(foreign) > len(pairs) / 2:
        raise DataError(
            f"{served.name}: {len(foreign)} of {len(pairs)} relevance judgements of {split} name what is not "
            f"in its files, e.g. {foreign[0]}; the files do not belong together"
        )
