"""An AIR-Bench task behind the protocol of all benchmarks, opened by its name."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from icl_embed.errors import EvaluationError
from icl_embed.evaluation.air_bench.data import (
    AirData,
    Part,
    checked_data,
    corpus_part,
    has_part,
    judgements_part,
    queries_part,
    read_hub_part,
    read_part,
)
from icl_embed.evaluation.air_bench.names import FAMILY, LANGUAGES, LATEST, SPLITS, TaskName, unknown_name
from icl_embed.evaluation.air_bench.ranking import (
    MAIN_SCORES,
    SEARCH_TOP_K,
    Ranking,
    averaged,
    score_queries,
    search,
    search_bm25,
)
from icl_embed.evaluation.measurement import Measurement
from icl_embed.evaluation.reranking import PairScorer, rerank
from icl_embed.evaluation.tasks.task import EvaluatedModel, TaskFacts, TaskRun, Unjudged
from icl_embed.examples import Example
from icl_embed.model.cached_encoding import CachingEncoder, Setting
from icl_embed.pool.examples import Candidate
from icl_embed.texts import compared_forms

INSTRUCTION = "Given a question, retrieve passages that answer the question."
"""AIR-Bench ships none; this is the one that the bge-en-icl paper uses for all of its tasks."""

TOLERANCE = 6e-6  # AIR-Bench rounds to five decimals


@dataclass(frozen=True)
class AirBenchTask:
    """One split of one task, its data loaded and checked.

    Attributes
        served_from: ``hub``, or ``mirror`` with how exact it is.
        other_split: loads a split with judgements that is not evaluated; None where there is none.
        top_k: passages ranked per query.
    """

    name: TaskName
    split: str
    data: AirData
    served_from: str
    other_split: Callable[[], AirData | None] = lambda: None
    top_k: int = SEARCH_TOP_K

    @property
    def facts(self) -> TaskFacts:
        """What it is; AIR-Bench's version is the subset."""
        return TaskFacts(
            name=str(self.name),
            family=FAMILY,
            kind="retrieval",
            metric=MAIN_SCORES[self.name.type],
            instruction=INSTRUCTION,
            split=self.split,
            subset=self.name.config,
            data_fingerprint=self.data.fingerprint,
            served_from=self.served_from,
            language=LANGUAGES[self.name.language],
        )

    def described(self, *, served_from: str) -> AirBenchTask:
        """The same task with other words on where its data come from."""
        return replace(self, served_from=served_from)

    def query_texts(self) -> Sequence[str]:
        """The queries, in the order of their identities."""
        return list(self.data.queries.values())

    def evaluated_texts(self) -> set[str]:
        """The queries and, where judgements are known, the passages that answer them."""
        texts = set(self.data.queries.values())
        for grades in (self.data.relevance or {}).values():
            texts.update(self.data.passages[key] for key, grade in grades.items() if grade)
        return texts

    def training_examples(self) -> Sequence[Candidate]:
        """AIR-Bench has no training split: the dev queries while test is evaluated, else none.

        The response is the query's best passage, the first of equals. A query or passage that is evaluated
        is left out.
        """
        return self._training_examples

    @cached_property
    def _training_examples(self) -> tuple[Candidate, ...]:
        other = self.other_split()
        if other is None or other.relevance is None:
            return ()
        pairs = []
        for query, grades in other.relevance.items():
            best = max(grades, key=lambda key: grades[key])
            if grades[best] > 0:
                pairs.append((other.queries[query], other.passages[best]))
        evaluated = set(compared_forms(sorted(self.evaluated_texts())))
        forms = zip(*(compared_forms(side) for side in zip(*pairs, strict=True)), strict=True)
        return tuple(
            Candidate(Example(*pair), "")
            for pair, compared in zip(pairs, forms, strict=True)
            if not evaluated & set(compared)
        )

    def run(self, encoder: CachingEncoder, setting: Setting, model: EvaluatedModel) -> TaskRun | Unjudged:
        """Search with an encoder in one setting, and score the ranking if the judgements are known.

        Raises
            EvaluationError: a vector cannot be used.
        """
        data = self.data
        ranking = search(encoder, setting, queries=data.queries, passages=data.passages, top_k=self.top_k)
        return self.measure(ranking)

    def rerank(self, run: TaskRun | Unjudged, scorer: PairScorer, *, top_k: int) -> TaskRun | Unjudged:
        """Score the ranking of a run again, its first passages ordered by a reranker.

        Raises
            EvaluationError: a score cannot be used.
        """
        texts = {"queries": self.data.queries, "passages": self.data.passages}
        return self.measure(rerank(run.ranking, scorer, top_k=top_k, **texts))

    def run_bm25(self) -> TaskRun:
        """Score BM25.

        Raises
            EvaluationError: not an English task (its words are found by English rules), or the judgements
                are not public.
        """
        if self.name.language != "en":
            raise EvaluationError(f"{self.name}: BM25 here splits words and skips stop words as in English")
        run = self.measure(search_bm25(self.data.queries, self.data.passages, top_k=self.top_k))
        if isinstance(run, Unjudged):
            raise EvaluationError(f"{self.name}: the judgements of {self.split} are not public; no score")
        return run

    def measure(self, ranking: Ranking) -> TaskRun | Unjudged:
        """Score any ranking of the task's queries, e.g. a reranked one.

        Raises
            EvaluationError: AIR-Bench's average is not the mean of its values.
        """
        notes: dict[str, Any] = {
            "passages": len(self.data.passages),
            "top_k": self.top_k,
        }
        relevance = self.data.relevance
        if relevance is None:
            return Unjudged(ranking, notes)
        scores = score_queries(relevance, ranking)
        metric = MAIN_SCORES[self.name.type]
        ids = tuple(self.data.queries)
        measured = Measurement(str(self.name), "mean", ids, tuple(scores[query][metric] for query in ids))
        metrics = averaged(scores)
        if not math.isclose(measured.point, metrics[metric], rel_tol=0.0, abs_tol=TOLERANCE):
            raise EvaluationError(f"{self.name}: {metric} is {metrics[metric]}, its values {measured.point}")
        without = sum(not any(grades.values()) for grades in relevance.values())
        if without:
            notes["queries_without_relevant_passage"] = without  # AIR-Bench counts them as 0
        return TaskRun(measured, metrics[metric], self._result(metrics), ranking, notes)

    def _result(self, metrics: Mapping[str, float]) -> dict[str, Any]:
        return {
            "benchmark_version": self.name.config,
            "task_type": self.name.type,
            "domain": self.name.domain,
            "language": self.name.language,
            "dataset_name": self.name.dataset,
            "split": self.split,
            "metrics": dict(metrics),
        }


logger = logging.getLogger(__name__)

Read = Callable[[Part], Iterable[Mapping[str, Any]]]


def open_air_bench_task(
    name: str, *, folder: Path | None = None, version: str = LATEST, split: str = "dev"
) -> AirBenchTask:
    """Load and check one split of a task.

    A local folder may also hold data of one's own, named like a data set of AIR-Bench's that does not exist
    (``air-bench/qa_healthcare_mine_en``), and judgements that are not public.

    Parameters
        name: as ``names.resolve`` returns it; a version in it goes before ``version``.
        folder: repositories in AIR-Bench's layout, or a Hugging Face cache; None asks the hub.
        split: ``dev`` (judged) or ``test``.

    Raises
        MissingTaskError: the folder does not hold the task, or the hub cannot give it.
        EvaluationError: an unknown task, version or split, data that break a rule, or a folder whose sizes
            are not those that AIR-Bench published.
        DataError, SourceError: a file cannot be read.
    """
    task = TaskName.parse(name, version=version)
    _check_split(task, split, folder)
    data = _read(task, split, folder, with_corpus=None)
    return AirBenchTask(
        name=task,
        split=split,
        data=data,
        served_from=_served_from(task, split, data, folder),
        other_split=partial(_judged_dev, task, folder, data.passages) if split == "test" else _nothing,
    )


def _check_split(task: TaskName, split: str, folder: Path | None) -> None:
    published = task.published
    if published is not None:
        known: Iterable[str] = published.queries
    elif folder is None:
        raise unknown_name(str(task), task.version)  # only a folder holds data of one's own
    else:
        known = SPLITS if task.version != "24.04" else ("test",)
    if split not in known:
        raise EvaluationError(
            f"{task} has no split {split!r} in AIR-Bench {task.version}; it has: {', '.join(known)}"
        )


def _read(
    task: TaskName, split: str, folder: Path | None, *, with_corpus: Mapping[str, str] | None
) -> AirData:
    """A split; ``with_corpus`` saves reading the passages twice."""
    read: Read = read_hub_part if folder is None else partial(read_part, folder)
    judgements = judgements_part(task, split)
    judged = split == "dev" or (folder is not None and has_part(folder, judgements))
    passages = (
        read(corpus_part(task))
        if with_corpus is None
        else ({"id": key, "text": text} for key, text in with_corpus.items())
    )
    return checked_data(
        f"{task} ({split})",
        passages,
        read(queries_part(task, split)),
        read(judgements) if judged else None,
    )


def _judged_dev(task: TaskName, folder: Path | None, passages: Mapping[str, str]) -> AirData | None:
    """The dev split beside an evaluated test split, if there is one."""
    published = task.published
    if published is not None and "dev" not in published.queries:
        return None
    if task.version == "24.04" or (folder is not None and not has_part(folder, judgements_part(task, "dev"))):
        return None
    return _read(task, "dev", folder, with_corpus=passages)


def _nothing() -> None:
    return None


def _served_from(task: TaskName, split: str, data: AirData, folder: Path | None) -> str:
    published = task.published
    if published is None:
        return "mirror (own data in AIR-Bench's layout)"
    found = (len(data.passages), len(data.queries))
    expected = (published.passages, published.queries[split])
    differs = (
        f"{task} ({split}) has {found[0]} passages and {found[1]} queries, the table of AIR-Bench "
        f"{task.version} says {expected[0]} and {expected[1]}"
    )
    if folder is None:
        if found != expected:  # the hub is the original; our table may be behind it
            logger.warning("%s; scores may not compare with older ones", differs)
        return "hub"
    if found != expected:
        raise EvaluationError(
            f"{folder}: {differs}; fetch it again, or give data of your own another data set name, like "
            f"{task.type}_{task.domain}_mine_{task.language}"
        )
    return "mirror (sizes as published)"
