"""The data of one task's split, checked: nothing here trusts what it reads."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from icl_embed.errors import EvaluationError

Row = Mapping[str, Any]
Relevance = dict[str, dict[str, int]]


@dataclass(frozen=True)
class AirData:
    """Passages, queries and judgements, each in the order of its identities, however they were stored.

    Attributes
        passages, queries: identity -> text.
        relevance: query -> passage -> grade, 0 for a passage judged irrelevant; None where the judgements are
            not public.
    """

    passages: dict[str, str]
    queries: dict[str, str]
    relevance: Relevance | None

    @cached_property
    def fingerprint(self) -> str:
        """A hash of the content; equal for equal content in any order and any file format."""
        digest = hashlib.sha256()
        for part, rows in (("passages", self.passages), ("queries", self.queries)):
            _feed(digest, part, str(len(rows)))
            for key, text in rows.items():
                _feed(digest, key, text)
        for query, grades in (self.relevance or {}).items():
            for passage, grade in grades.items():
                _feed(digest, query, passage, str(grade))
        return digest.hexdigest()[:16]


def checked_data(
    task: str, passages: Iterable[Row], queries: Iterable[Row], judgements: Iterable[Row] | None
) -> AirData:
    """The data, if they can be trusted.

    Takes
        task: its name, for messages.
        passages, queries: rows with ``id`` and ``text``.
        judgements: rows with ``qid``, ``docid`` and ``relevance``, or None.

    Raises
        EvaluationError: nothing to search or to ask, an identity twice, a text that is empty or no text, a
            query without judgement, a judgement of an unknown query or passage, a grade that is no count.
    """
    corpus = _texts(task, "passage", passages)
    asked = _texts(task, "query", queries)
    relevance = None if judgements is None else _relevance(task, judgements)
    if relevance is not None:
        _refuse_unjudged(task, asked, relevance)
        _refuse_unknown(task, corpus, asked, relevance)
    return AirData(corpus, asked, relevance)


def _texts(task: str, what: str, rows: Iterable[Row]) -> dict[str, str]:
    found: dict[str, str] = {}
    for number, row in enumerate(rows, start=1):
        key, text = row.get("id"), row.get("text")
        if not isinstance(key, str) or not key:
            raise EvaluationError(f"{task}: {what} {number} has the id {key!r}, expected a text")
        if not isinstance(text, str) or not text.strip():
            raise EvaluationError(
                f"{task}: the {what} {key!r} is {text!r}, expected a text that is not empty"
            )
        if key in found:
            raise EvaluationError(f"{task}: the {what} id {key!r} appears more than once; ids must be unique")
        found[key] = text
    if not found:
        raise EvaluationError(f"{task}: there is no {what}; the file is empty, fetch or build it again")
    return dict(sorted(found.items()))


def _relevance(task: str, rows: Iterable[Row]) -> Relevance:
    found: Relevance = {}
    for number, row in enumerate(rows, start=1):
        query, passage = row.get("qid"), row.get("docid")
        if not isinstance(query, str) or not isinstance(passage, str):
            raise EvaluationError(
                f"{task}: judgement {number} has qid {query!r} and docid {passage!r}, expected two texts"
            )
        grade = _grade(row.get("relevance"))
        if grade is None:
            raise EvaluationError(
                f"{task}: the judgement of passage {passage!r} for query {query!r} is "
                f"{row.get('relevance')!r}, expected a whole number from 0"
            )
        known = found.setdefault(query, {}).setdefault(passage, grade)
        if known != grade:
            raise EvaluationError(
                f"{task}: passage {passage!r} is judged twice for query {query!r}, as {known} and {grade}"
            )
    return {query: dict(sorted(grades.items())) for query, grades in sorted(found.items())}


def _grade(value: Any) -> int | None:
    """The grade; other tools write whole numbers as floats, NaN and fractions are no grades."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return int(value) if value >= 0 and value == int(value) else None


def _refuse_unjudged(task: str, queries: Mapping[str, str], relevance: Relevance) -> None:
    unjudged = [key for key in queries if key not in relevance]
    if unjudged:
        raise EvaluationError(
            f"{task}: {len(unjudged)} of {len(queries)} queries have no judgement, the first is "
            f"{unjudged[0]!r}; a score would be over the others only"
        )


def _refuse_unknown(
    task: str, passages: Mapping[str, str], queries: Mapping[str, str], relevance: Relevance
) -> None:
    for query, grades in relevance.items():
        if query not in queries:
            raise EvaluationError(f"{task}: the judgements name the query {query!r}, which does not exist")
        # An irrelevant passage that is absent changes no score; a relevant one would cap it.
        missing = next((key for key, grade in grades.items() if grade and key not in passages), None)
        if missing is not None:
            raise EvaluationError(
                f"{task}: the passage {missing!r}, relevant to query {query!r}, is not in the corpus"
            )


def _feed(digest: Any, *texts: str) -> None:
    for text in texts:
        data = text.encode("utf-8", "surrogatepass")
        digest.update(len(data).to_bytes(8, "big"))
        digest.update(data)
