"""A task as every benchmark shows it: what it asks, what examples may not show, and what scoring it gives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

from icl_embed.config import Kind
from icl_embed.evaluation.measurement import Measurement
from icl_embed.evaluation.reranking import PairScorer
from icl_embed.evaluation.tasks.rows import SearchData
from icl_embed.model.cached_encoding import CachingEncoder, Setting
from icl_embed.pool.examples import Candidate


@dataclass(frozen=True)
class EvaluatedModel:
    """A model to evaluate: its name in tables, its fingerprint, its folder."""

    name: str
    fingerprint: str
    folder: Path
    device: str = "auto"
    dtype: str = "auto"


@dataclass(frozen=True)
class TaskRun:
    """What one run gave.

    Attributes
        measurement: the values; their aggregate equals ``main_score``.
        main_score: as the benchmark's own package computes it.
        result: the benchmark's own result, as JSON types.
        ranking: query -> passage -> score (search tasks), else empty.
        notes: facts about how the score was made.
        searched: the texts that were searched, of tasks whose ranking a reranker is trained or measured on.
    """

    measurement: Measurement
    main_score: float
    result: dict[str, Any]
    ranking: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    notes: Mapping[str, Any] = field(default_factory=dict)
    searched: SearchData | None = None


@dataclass(frozen=True)
class Unjudged:
    """A run whose relevance judgements are not public: rankings to submit, no score.

    Attributes
        ranking: query -> passage -> score.
    """

    ranking: Mapping[str, Mapping[str, float]]
    notes: Mapping[str, Any] = field(default_factory=dict)


Family = Literal["mteb", "air-bench", "local"]


@dataclass(frozen=True)
class TaskFacts:
    """What names a task and the data that it is served from; equal facts give equal scores.

    Attributes
        name: as its benchmark calls it, e.g. ``SciFact`` or ``qa_wiki_en``.
        metric: its main score, e.g. ``ndcg_at_10``.
        instruction: the task's own, from its benchmark's metadata.
        split, subset: what is evaluated.
        data_fingerprint: hash of the data that were read, whatever they were read from.
        served_from: ``hub`` or ``mirror``, with how exact a mirror is, for tables and notes.
    """

    name: str
    family: Family
    kind: Kind
    metric: str
    instruction: str
    split: str
    subset: str
    data_fingerprint: str
    served_from: str
    language: str = "eng-Latn"


class BenchmarkTask(Protocol):
    """One task with its data loaded and checked."""

    @property
    def facts(self) -> TaskFacts:
        """What it is."""

    def described(self, *, served_from: str) -> BenchmarkTask:
        """The same task, saying that its data come from elsewhere than where they were read."""

    def query_texts(self) -> Sequence[str]:
        """Every text that is encoded as a query; symmetric tasks ask with all their texts."""

    def evaluated_texts(self) -> set[str]:
        """Texts that no example may show: evaluated queries, and the passages that answer them."""

    def training_examples(self) -> Sequence[Candidate]:
        """Candidate examples from the task's own training split, label texts as in training; may be none."""

    def run(self, encoder: CachingEncoder, setting: Setting, model: EvaluatedModel) -> TaskRun | Unjudged:
        """Score an encoder in one setting.

        Raises
            EvaluationError: a vector cannot be used, or the benchmark's score is not its values' aggregate.
        """

    def rerank(self, run: TaskRun | Unjudged, scorer: PairScorer, *, top_k: int) -> TaskRun | Unjudged:
        """Score the ranking of a run again, its first ``top_k`` passages ordered by a reranker.

        Raises
            EvaluationError: the task does not rank passages, or a score cannot be used.
        """

    def run_bm25(self) -> TaskRun:
        """Score BM25.

        Raises
            EvaluationError: the task does not rank passages.
        """
