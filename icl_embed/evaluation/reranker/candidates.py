"""What a reranker is measured on: queries with a first stage's passages, and how good a ranking is.

Gains are linear. What the first stage did not find counts against every ranking of its passages, so that
first stage, BM25 and rerankers are measured on one scale.

They come from scores of a first stage, or from a ``.jsonl`` file with one query per line::

    {"query": "…", "passages": ["…", "…"], "relevance": [0, 1], "query_id": "optional"}
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from icl_embed.errors import DataError, EvaluationError
from icl_embed.evaluation.scores import TOP_PASSAGES_NAME, EvaluationScores, read_scores

CUT = 10
NDCG = "ndcg_at_10"

Metric = Callable[[Sequence[int], ArrayLike, Sequence[int] | None], float]


def ranked_grades(relevance: Sequence[int], scores: ArrayLike) -> NDArray[np.float64]:
    """Grades of the ten best passages, best first; equal scores keep the order of the list."""
    grades = np.asarray(relevance, dtype=np.float64)
    ranked: NDArray[np.float64] = grades[np.argsort(-np.asarray(scores), kind="stable")][:CUT]
    return ranked


def ndcg_at_10(relevance: Sequence[int], scores: ArrayLike, judged: Sequence[int] | None = None) -> float:
    """nDCG@10 of candidates ranked by score; 0 for a query without a relevant passage.

    Parameters
        relevance: grade of each candidate.
        judged: grades of every passage known to be relevant, candidate or not; None: the candidates' own.
    """
    best = _discounted(np.sort(np.asarray(relevance if judged is None else judged, np.float64))[::-1][:CUT])
    return _discounted(ranked_grades(relevance, scores)) / best if best > 0 else 0.0


def reciprocal_rank_at_10(
    relevance: Sequence[int], scores: ArrayLike, _judged: Sequence[int] | None = None
) -> float:
    """One over the rank of the first relevant passage, 0 beyond the tenth."""
    hits = np.flatnonzero(ranked_grades(relevance, scores) > 0)
    return 1.0 / (1 + int(hits[0])) if len(hits) else 0.0


def recall_at_10(relevance: Sequence[int], scores: ArrayLike, judged: Sequence[int] | None = None) -> float:
    """Share of the relevant passages that are among the first ten."""
    known = int((np.asarray(relevance if judged is None else judged) > 0).sum())
    return int((ranked_grades(relevance, scores) > 0).sum()) / known if known else 0.0


def _discounted(grades: NDArray[np.float64]) -> float:
    return float(grades @ (1.0 / np.log2(np.arange(2, 2 + len(grades)))))


METRICS: Mapping[str, Metric] = {
    NDCG: ndcg_at_10,
    "mrr_at_10": reciprocal_rank_at_10,
    "recall_at_10": recall_at_10,
}


COLUMNS = ("query_id", "query", "passage", "rank", "relevance")
NUM_RELEVANT = "num_relevant"  # evaluations of earlier versions do not have it


@dataclass(frozen=True)
class RankedQuery:
    """A query with its candidates in first-stage order.

    Attributes
        relevance: grade of each candidate, 0 for none.
        judged: grades of every passage known to be relevant, whether it is a candidate or not.
    """

    query_id: str
    query: str
    passages: tuple[str, ...]
    relevance: tuple[int, ...]
    judged: tuple[int, ...]

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """The (query, passage) pairs to score."""
        return [(self.query, passage) for passage in self.passages]


@dataclass(frozen=True)
class Candidates:
    """The queries of one data set.

    Attributes
        split: ``dev`` or ``test``; empty for a file, which does not say.
    """

    dataset: str
    trained_on: bool
    queries: tuple[RankedQuery, ...]
    split: str = ""

    @property
    def reachable(self) -> float:
        """Share of queries with a relevant passage among the candidates: no reranker can serve the others."""
        return float(np.mean([any(query.relevance) for query in self.queries]))


def read_candidates(sources: Sequence[Path], *, top_k: int, max_queries: int, seed: int) -> list[Candidates]:
    """Candidates of every score of a search, and of ``.jsonl`` files; others are left out.

    Of a data set that was asked in several settings it is the one with the most examples.

    Parameters
        max_queries: queries kept per data set, sampled by hash.

    Raises
        EvaluationError: a file is damaged, none is a score of a search, or two are of one setting.
        DataError: a line of a ``.jsonl`` file is not a query with candidates.
    """
    found = [_read_file(source, top_k) for source in sources if source.suffix == ".jsonl"]
    found += [_read_score(folder, top_k) for folder in _with_most_examples(sources)]
    if not found:
        raise EvaluationError(
            f"none of the {len(sources)} scores has {TOP_PASSAGES_NAME}; reranking needs at least one "
            "retrieval or reranking data set"
        )
    name, count = Counter(candidates.dataset for candidates in found).most_common(1)[0]
    if count > 1:
        raise EvaluationError(f"the data set {name} is given {count} times; name one score of each")
    return [
        _sampled(candidates, max_queries, seed)
        for candidates in sorted(found, key=lambda candidates: candidates.dataset)
    ]


def first_stage_grades(folder: Path) -> dict[str, tuple[int, ...]]:
    """Grades of each query's passages, best first: another first stage to compare with, such as BM25.

    Raises
        EvaluationError: the score is not one of a search, or is damaged.
    """
    return {
        query_id: tuple(row["relevance"] for row in rows)
        for query_id, rows in _rows_by_query(folder / TOP_PASSAGES_NAME).items()
    }


def _with_most_examples(sources: Sequence[Path]) -> list[Path]:
    """The folders to read; two of one data set with equally many examples are both kept, to be refused."""
    scored = [(folder, read_scores(folder)) for folder in sources if (folder / TOP_PASSAGES_NAME).exists()]
    most: dict[str, int] = {}
    for _, scores in scored:
        most[scores.card] = max(most.get(scores.card, 0), _examples_of(scores))
    return [folder for folder, scores in scored if _examples_of(scores) == most[scores.card]]


def _examples_of(scores: EvaluationScores) -> int:
    return max((one.shots for one in scores.results), default=0)


def _read_score(folder: Path, top_k: int) -> Candidates:
    scores = read_scores(folder)
    by_query = _rows_by_query(folder / TOP_PASSAGES_NAME)
    queries = tuple(_ranked_query(rows, top_k) for _, rows in sorted(by_query.items()))
    return Candidates(scores.card, scores.trained_on, queries, scores.split)


def _rows_by_query(path: Path) -> dict[str, list[dict[str, Any]]]:
    import pyarrow as pa
    from pyarrow import parquet

    try:
        table = parquet.read_table(path)
        extra = [NUM_RELEVANT] if NUM_RELEVANT in table.column_names else []
        rows = table.select([*COLUMNS, *extra]).to_pylist()
    except (OSError, pa.ArrowException, KeyError) as error:
        raise EvaluationError(f"cannot read {path}: {error}") from error
    by_query: dict[str, list[dict[str, Any]]] = {}
    for row in sorted(rows, key=lambda row: row["rank"]):
        by_query.setdefault(row["query_id"], []).append(row)
    if not by_query:
        raise EvaluationError(f"{path} holds no query; score the embedder on this data set again")
    return by_query


def _ranked_query(rows: Sequence[Mapping[str, Any]], top_k: int) -> RankedQuery:
    found = [row["relevance"] for row in rows if row["relevance"]]
    unfound = rows[0].get(NUM_RELEVANT, len(found)) - len(found)
    return RankedQuery(
        rows[0]["query_id"],
        rows[0]["query"],
        tuple(row["passage"] for row in rows[:top_k]),
        tuple(row["relevance"] for row in rows[:top_k]),
        (*found, *[1] * unfound),
    )


def _sampled(candidates: Candidates, max_queries: int, seed: int) -> Candidates:
    def place(query: RankedQuery) -> bytes:
        return hashlib.sha256(f"{seed}:{query.query_id}".encode()).digest()

    kept = sorted(candidates.queries, key=place)[:max_queries]
    in_order = tuple(sorted(kept, key=lambda query: query.query_id))
    return Candidates(candidates.dataset, candidates.trained_on, in_order, candidates.split)


def _read_file(path: Path, top_k: int) -> Candidates:
    try:
        lines = path.read_bytes().decode("utf-8-sig").split("\n")
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 ({error.reason})") from error
    queries = [
        _query_of_line(path, number, line, top_k)
        for number, line in enumerate(lines, start=1)
        if line.strip()
    ]
    if not queries:
        raise DataError(f"{path} holds no query; expected one per line")
    name, count = Counter(query.query_id for query in queries).most_common(1)[0]
    if count > 1:
        raise DataError(f"{path} has the query_id {name!r} {count} times; expected one line per query")
    return Candidates(path.stem, False, tuple(queries))


def _query_of_line(path: Path, number: int, line: str, top_k: int) -> RankedQuery:
    try:
        found = _QueryLine.model_validate_json(line)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise DataError(
            f'{path}, line {number}: expected {{"query": "…", "passages": ["…"], "relevance": [0, …]}}, '
            f"found {line[:80]} ({f'{where}: ' if where else ''}{first['msg']})"
        ) from error
    if len(found.passages) != len(found.relevance):
        raise DataError(
            f"{path}, line {number}: {len(found.passages)} passages, but the relevance of "
            f"{len(found.relevance)}; expected a grade for each passage"
        )
    return RankedQuery(
        found.query_id or f"line-{number:06d}",
        found.query,
        tuple(found.passages[:top_k]),
        tuple(found.relevance[:top_k]),
        tuple(grade for grade in found.relevance if grade),
    )


class _QueryLine(BaseModel):
    """A line of a file of queries; other fields are the user's own."""

    model_config = ConfigDict(strict=True, extra="ignore")

    query: str
    passages: list[str] = Field(min_length=1)
    relevance: list[Annotated[int, Field(ge=0)]]
    query_id: str = ""
