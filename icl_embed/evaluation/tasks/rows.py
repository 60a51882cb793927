"""A dataset artefact, read and checked for evaluation: plain Python, no mteb yet."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from icl_embed.config import Kind
from icl_embed.errors import EvaluationError

COLUMNS = ["row_id", "split", "query", "positives", "negatives", "label", "score"]
PREFIX = "data/"  # of the project's own data sets among the names of tasks
ALL_SPLITS = "all"  # a corpus that the card declares to be shared between splits


@dataclass(frozen=True)
class EvaluationInput:
    """One data set to evaluate on: the facts of its card and its artefact folder.

    Attributes
        name, kind, instruction: from the card.
        folder: the dataset artefact (``rows.parquet``, for retrieval ``corpus.parquet``).
        fingerprint: of the artefact; it becomes the revision of the mteb task.
        title, licence, homepage: from the card, for the task's metadata.
        language: BCP 47 language and script.
        split: what is evaluated; a checkpoint is chosen on ``dev``.
    """

    name: str
    kind: Kind
    instruction: str
    folder: Path
    fingerprint: str
    title: str = ""
    licence: str = ""
    homepage: str = ""
    language: str = "eng-Latn"
    split: str = "test"


@dataclass(frozen=True)
class SearchData:
    """Queries, passages and what is relevant (retrieval, reranking).

    ``candidates`` restricts each query to its own passages (reranking); None searches the whole corpus.
    """

    queries: dict[str, str]
    passages: dict[str, str]
    relevant: dict[str, tuple[str, ...]]
    candidates: dict[str, tuple[str, ...]] | None = None


@dataclass(frozen=True)
class LabelData:
    """Texts with labels (classification, clustering); ``train_*`` are empty for clustering."""

    ids: tuple[str, ...]
    texts: tuple[str, ...]
    labels: tuple[str, ...]
    train_texts: tuple[str, ...] = ()
    train_labels: tuple[str, ...] = ()


@dataclass(frozen=True)
class PairData:
    """Pairs of texts with a gold score (sts) or a 0/1 label (pair classification)."""

    ids: tuple[str, ...]
    first: tuple[str, ...]
    second: tuple[str, ...]
    scores: tuple[float, ...]


TaskData = SearchData | LabelData | PairData
Row = dict[str, Any]


def read_task_data(dataset: EvaluationInput) -> TaskData:
    """Read the evaluated split (and, for classification, the train split) of a dataset artefact.

    Raises
        EvaluationError: a file is missing or not readable, the split is empty, an identity appears
            twice, a row lacks what its kind needs.
    """
    rows = _read(dataset, "rows.parquet", COLUMNS)
    test = [row for row in rows if row["split"] == dataset.split]
    if not test:
        raise EvaluationError(
            f"{dataset.name}: no rows in the {dataset.split} split of {dataset.folder}; nothing to evaluate"
        )
    _refuse_duplicates(dataset, "row_id", (row["row_id"] for row in test))
    if dataset.kind == "retrieval":
        return _retrieval(dataset, test)
    if dataset.kind == "reranking":
        return _reranking(dataset, test)
    if dataset.kind in ("sts", "pair_classification"):
        return _pairs(dataset, test)
    train = [row for row in rows if row["split"] == "train"] if dataset.kind == "classification" else []
    return _labels(dataset, test, train)


def training_rows(dataset: EvaluationInput) -> list[Row]:
    """The rows of the train split, for examples; none for a data set that is only tested.

    Raises
        EvaluationError: a file is missing or not readable.
    """
    return [row for row in _read(dataset, "rows.parquet", COLUMNS) if row["split"] == "train"]


def query_texts(data: TaskData) -> list[str]:
    """Every text that is encoded as a query and evaluated; no example may equal one of them."""
    if isinstance(data, SearchData):
        return list(data.queries.values())
    if isinstance(data, LabelData):
        return list(data.texts)
    return [*data.first, *data.second]


def _retrieval(dataset: EvaluationInput, rows: Sequence[Row]) -> SearchData:
    corpus = _read(dataset, "corpus.parquet", ["passage_id", "split", "text"])
    passages = [row for row in corpus if row["split"] in (dataset.split, ALL_SPLITS)]
    if not passages:
        raise EvaluationError(
            f"{dataset.name}: corpus.parquet holds no passages of the {dataset.split} split; rebuild it"
        )
    _refuse_duplicates(dataset, "passage_id", (row["passage_id"] for row in passages))
    ids_of_text: dict[str, list[str]] = {}
    for row in passages:
        ids_of_text.setdefault(row["text"], []).append(row["passage_id"])
    relevant = {}
    for row in rows:
        missing = [text for text in row["positives"] if text not in ids_of_text]
        if missing or not row["positives"]:
            found = f"{missing[0][:60]!r} is not in the corpus" if missing else "it has no positives"
            raise EvaluationError(f"{dataset.name}: row {row['row_id']}: {found}; rebuild the data set")
        relevant[row["row_id"]] = tuple(name for text in row["positives"] for name in ids_of_text[text])
    queries = {row["row_id"]: row["query"] for row in rows}
    return SearchData(queries, {row["passage_id"]: row["text"] for row in passages}, relevant)


def _reranking(dataset: EvaluationInput, rows: Sequence[Row]) -> SearchData:
    id_of_text: dict[str, str] = {}
    relevant, candidates = {}, {}
    for row in rows:
        texts = list(dict.fromkeys([*row["positives"], *row["negatives"]]))
        if not row["positives"] or len(texts) == len(set(row["positives"])):
            raise EvaluationError(
                f"{dataset.name}: row {row['row_id']} needs a positive and a negative to rerank, found "
                f"{len(row['positives'])} and {len(row['negatives'])}"
            )
        names = [id_of_text.setdefault(text, neutral_id(text)) for text in texts]
        positives = set(row["positives"])
        relevant[row["row_id"]] = tuple(n for n, text in zip(names, texts, strict=True) if text in positives)
        candidates[row["row_id"]] = tuple(sorted(names))
    queries = {row["row_id"]: row["query"] for row in rows}
    return SearchData(queries, {name: text for text, name in id_of_text.items()}, relevant, candidates)


def neutral_id(text: str) -> str:
    """An identity that says nothing of relevance: the metric breaks tied scores by it.

    A running number would favour or punish positives.
    """
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _pairs(dataset: EvaluationInput, rows: Sequence[Row]) -> PairData:
    for row in rows:
        if len(row["positives"]) != 1 or row["score"] is None:
            raise EvaluationError(
                f"{dataset.name}: row {row['row_id']} needs one second text and a score, found "
                f"{len(row['positives'])} texts and score {row['score']}"
            )
    scores = tuple(float(row["score"]) for row in rows)
    if dataset.kind == "pair_classification" and set(scores) != {0.0, 1.0}:
        raise EvaluationError(
            f"{dataset.name}: scores must be 0 and 1, both present, found {sorted(set(scores))[:5]}"
        )
    if len(set(scores)) < 2:
        raise EvaluationError(
            f"{dataset.name}: all test pairs have the score {scores[0]}; nothing to correlate"
        )
    return PairData(
        tuple(row["row_id"] for row in rows),
        tuple(row["query"] for row in rows),
        tuple(row["positives"][0] for row in rows),
        scores,
    )


def _labels(dataset: EvaluationInput, rows: Sequence[Row], train: Sequence[Row]) -> LabelData:
    for row in [*rows, *train]:
        if not row["label"]:
            raise EvaluationError(f"{dataset.name}: {row['split']} row {row['row_id']} has no label")
    known = {row["label"] for row in train}
    if dataset.kind == "classification":
        if len(known) < 2:
            raise EvaluationError(
                f"{dataset.name}: classification trains a logistic regression on the train split, which has "
                f"{len(known)} labels, expected at least 2; give the card a train split"
            )
        unknown = sorted({row["label"] for row in rows} - known)
        if unknown:
            raise EvaluationError(f"{dataset.name}: the test label {unknown[0]!r} is not in the train split")
    elif len({row["label"] for row in rows}) < 2:
        raise EvaluationError(
            f"{dataset.name}: clustering needs at least 2 labels in its {dataset.split} split"
        )
    return LabelData(
        tuple(row["row_id"] for row in rows),
        tuple(row["query"] for row in rows),
        tuple(row["label"] for row in rows),
        tuple(row["query"] for row in train),
        tuple(row["label"] for row in train),
    )


def _read(dataset: EvaluationInput, name: str, columns: list[str]) -> list[Row]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = dataset.folder / name
    try:
        rows: list[Row] = pq.read_table(path, columns=columns).to_pylist()
    except (OSError, pa.ArrowException, KeyError) as error:
        raise EvaluationError(f"{dataset.name}: cannot read {path}: {error}; rebuild the data set") from error
    for row in rows:
        for column in ("positives", "negatives"):
            if column in row:
                row[column] = row[column] or []
    return rows


def _refuse_duplicates(dataset: EvaluationInput, column: str, names: Iterable[str]) -> None:
    name, count = Counter(names).most_common(1)[0]
    if count > 1:
        raise EvaluationError(f"{dataset.name}: the {column} {name!r} appears {count} times, expected once")
