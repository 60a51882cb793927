"""A development split made of a task's training side: queries to choose examples by, and queries to check
with.

Everything comes from the pool's kept training rows, so the test split cannot be reached from here: there is
no path to a data set folder in this room, and the pool refuses rows that show an evaluated text.

Rows that share an answer form one family, and a family lies on one side only: a development query never meets
itself or its positive among the candidate examples (design: example rules). Queries for checking are kept
apart from those the search looks at, so the gain that is reported was not searched for.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby

from icl_embed.config import LABEL_KINDS, RANKING_KINDS
from icl_embed.errors import PoolError
from icl_embed.evaluate.task_data import LabelData, PairData, SearchData, TaskData
from icl_embed.pool.training_rows import TrainingRow, TrainingSide

LABELLED_PER_CLASS = 16  # texts that mteb's classifiers may draw from; it shows each of them 8
MIN_QUERIES = 8


@dataclass(frozen=True)
class DevSplit:
    """Two disjoint sets of development queries in the form of an evaluation's data.

    Attributes
        search: what a search may look at.
        check: what its result is measured on.
        texts: every text of the split that no example may show.
    """

    search: TaskData
    check: TaskData
    texts: frozenset[str]


def split_training_side(side: TrainingSide, *, max_queries: int, seed: int) -> DevSplit:
    """Take up to ``2 · max_queries`` rows, at most half of all, as development queries.

    A retrieval query searches the positives of the whole training side; a reranking query ranks its positives
    among its own negatives; classifiers are fitted on a few labelled rows that are neither queries nor
    candidates.

    Raises
        PoolError: too few rows for a split that could tell anything.
    """
    rows = [row for row in side.rows if row.negatives] if side.kind == "reranking" else list(side.rows)
    rows = sorted(rows, key=lambda row: _draw(seed, row.row_id))
    families = _families(rows, seed) if side.kind not in LABEL_KINDS else [[row] for row in rows]
    labelled = _labelled(rows, seed) if side.kind == "classification" else []
    taken = {row.row_id for row in labelled}
    queries = _take(families, taken, min(2 * max_queries, len(rows) // 2))
    half = len(queries) // 2
    parts = [
        sorted(part, key=lambda row: _draw(seed, row.row_id)) for part in (queries[:half], queries[half:])
    ]
    search, check = (_task_data(side, part[:max_queries], labelled) for part in parts)
    for data in (search, check):
        _refuse_useless(side, data)
    return DevSplit(search, check, frozenset(_texts(side, [*queries, *labelled])))


def first_queries(data: TaskData, count: int) -> TaskData:
    """The same data with its first ``count`` queries only."""
    if isinstance(data, SearchData):
        names = list(data.queries)[:count]
        candidates = data.candidates and {name: data.candidates[name] for name in names}
        queries = {name: data.queries[name] for name in names}
        relevant = {name: data.relevant[name] for name in names}
        return SearchData(queries, data.passages, relevant, candidates)
    if isinstance(data, PairData):
        return PairData(data.ids[:count], data.first[:count], data.second[:count], data.scores[:count])
    return LabelData(
        data.ids[:count],
        data.texts[:count],
        data.labels[:count],
        data.train_texts,
        data.train_labels,
    )


def count_queries(data: TaskData) -> int:
    """How many queries (or texts, or pairs) the data asks."""
    return len(data.queries) if isinstance(data, SearchData) else len(data.ids)


def _families(rows: Sequence[TrainingRow], seed: int) -> list[list[TrainingRow]]:
    """Rows connected by a shared query or positive, families in hash order (union-find over texts)."""
    parent: dict[str, str] = {}

    def root(text: str) -> str:
        while parent.setdefault(text, text) != text:
            parent[text] = parent[parent[text]]
            text = parent[text]
        return text

    for row in rows:
        for positive in row.positives:
            parent[root(positive)] = root(row.query)
    ordered = sorted(rows, key=lambda row: (_draw(seed, root(row.query)), root(row.query)))
    return [list(family) for _, family in groupby(ordered, key=lambda row: root(row.query))]


def _labelled(rows: Iterable[TrainingRow], seed: int) -> list[TrainingRow]:
    """Some rows of each label, at most half of them, so that some are left to be asked and shown.

    They are drawn apart from the queries: the first of each label would take a rare one out of the queries.
    """
    by_label: dict[str, list[TrainingRow]] = {}
    for row in sorted(rows, key=lambda row: _draw(seed, f"labelled:{row.row_id}")):
        by_label.setdefault(row.positives[0], []).append(row)
    return [
        row
        for label in sorted(by_label)
        for row in by_label[label][: min(LABELLED_PER_CLASS, max(1, len(by_label[label]) // 2))]
    ]


def _take(families: Sequence[Sequence[TrainingRow]], taken: set[str], count: int) -> list[TrainingRow]:
    chosen: list[TrainingRow] = []
    for family in families:
        fresh = [row for row in family if row.row_id not in taken]
        if len(chosen) + len(fresh) <= count:
            chosen += fresh
    return chosen


def _task_data(side: TrainingSide, rows: Sequence[TrainingRow], labelled: Sequence[TrainingRow]) -> TaskData:
    if side.kind in RANKING_KINDS:
        return _search_data(side, rows)
    names = tuple(row.row_id for row in rows)
    queries, seconds = tuple(row.query for row in rows), tuple(row.positives[0] for row in rows)
    if side.kind in LABEL_KINDS:
        train = tuple(row.query for row in labelled), tuple(row.positives[0] for row in labelled)
        return LabelData(names, queries, seconds, *train)
    return PairData(names, queries, seconds, tuple(row.score or 0.0 for row in rows))


def _search_data(side: TrainingSide, rows: Sequence[TrainingRow]) -> SearchData:
    queries = {row.row_id: row.query for row in rows}
    relevant = {row.row_id: tuple(map(_name, row.positives)) for row in rows}
    if side.kind == "retrieval":
        texts = {text for row in side.rows for text in row.positives}
        return SearchData(queries, {_name(text): text for text in sorted(texts)}, relevant)
    ranked = {row.row_id: [*row.positives, *row.negatives] for row in rows}
    passages = {_name(text): text for texts in ranked.values() for text in texts}
    candidates = {name: tuple(sorted(map(_name, texts))) for name, texts in ranked.items()}
    return SearchData(queries, passages, relevant, candidates)


def _texts(side: TrainingSide, rows: Iterable[TrainingRow]) -> Iterable[str]:
    for row in rows:
        yield row.query
        if side.kind not in LABEL_KINDS:
            yield from row.positives


def _refuse_useless(side: TrainingSide, data: TaskData) -> None:
    found = count_queries(data)
    one_target = len(_targets(data)) == 1
    if found < MIN_QUERIES or one_target:
        raise PoolError(
            f"{side.dataset}: {len(side.rows)} training rows give a development split of {found} queries"
            f"{' with one label or score' if one_target else ''}, at least "
            f"{MIN_QUERIES} are needed to tell example sets apart; use another strategy than search"
        )


def _targets(data: TaskData) -> set[str] | set[float]:
    """The distinct labels or scores; none for ranking, where every query has its own answer."""
    if isinstance(data, LabelData):
        return set(data.labels)
    return set(data.scores) if isinstance(data, PairData) else set()


def _name(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _draw(seed: int, text: str) -> str:
    return hashlib.blake2b(f"{seed}:dev:{text}".encode(), digest_size=16).hexdigest()
