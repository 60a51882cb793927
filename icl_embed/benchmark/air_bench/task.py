"""An AIR-Bench task behind the protocol of all benchmarks."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from icl_embed.benchmark.air_bench.catalogue import LANGUAGES
from icl_embed.benchmark.air_bench.data import AirData
from icl_embed.benchmark.air_bench.metrics import MAIN_SCORES, averaged, score_queries
from icl_embed.benchmark.air_bench.names import FAMILY, TaskName
from icl_embed.benchmark.air_bench.search import SEARCH_TOP_K, Ranking, search, search_bm25
from icl_embed.benchmark.task import TaskFacts
from icl_embed.errors import EvaluationError
from icl_embed.evaluate.encoding import CachingEncoder, Setting
from icl_embed.evaluate.evaluated import EvaluatedModel, TaskRun, Unjudged
from icl_embed.evaluate.measurement import Measurement
from icl_embed.evaluate.reranking import PairScorer, rerank
from icl_embed.examples import Example
from icl_embed.pool.choose import Candidate, compared_forms

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
