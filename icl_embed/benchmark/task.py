"""A benchmark's task as ``eval run`` sees it: what it asks, what examples may not show, its scoring."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from icl_embed.config import Kind
from icl_embed.evaluate.encoding import CachingEncoder, Setting
from icl_embed.evaluate.evaluated import EvaluatedModel, TaskRun, Unjudged
from icl_embed.evaluate.reranking import PairScorer
from icl_embed.pool.choose import Candidate

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
