"""A search task from a mirror folder: corpus, queries, relevance judgements and candidates, checked."""

from __future__ import annotations

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


def search_rows(served: FolderSet, split: str) -> dict[str, Any]:
    """What one split of a task of mteb's holds: corpus, queries, relevant_docs, top_ranked.

    Raises
        DataError: a record lacks a field, an identity appears twice, a judgement names what is not there, a
            query has no judgement, the corpus is empty.
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
    asked = _judged_queries(served, split, queries, judged)
    _refuse_unknown(served, "passage", {name for found in judged.values() for name in found}, passages["id"])
    return {
        "corpus": Dataset.from_dict(passages),
        "queries": Dataset.from_dict(asked),
        "relevant_docs": judged,
        "top_ranked": None,
    }


def _judged_queries(
    served: FolderSet, split: str, queries: Columns, judged: Mapping[str, Mapping[str, int]]
) -> Columns:
    """The queries of a split, in file order, as mteb's loader leaves them.

    Raises
        DataError: a judgement of an unknown query, or a query that no split judges.
    """
    _refuse_unknown(served, "query", set(judged), queries["id"])
    elsewhere = {
        identity_of(record, "query-id")
        for other in served.splits
        if other != split
        for record in served.read(f"qrels/{other}")
    }
    lost = [name for name in queries["id"] if name not in judged and name not in elsewhere]
    if lost:
        raise DataError(
            f"{served.name}: the query {lost[0]!r} has no relevance judgement in any split "
            f"({len(lost)} of {len(queries['id'])} queries); add its judgements or remove it"
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


def _refuse_unknown(served: FolderSet, what: str, named: set[str], known: list[str]) -> None:
    unknown = sorted(named - set(known))
    if unknown:
        raise DataError(
            f"{served.name}: a relevance judgement names the {what} {unknown[0]!r}, which is not in its file "
            f"({len(unknown)} such); the files do not belong together"
        )
