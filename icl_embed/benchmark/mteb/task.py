"""A task with its data, as ``eval run`` sees it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from icl_embed.benchmark.mteb.content import Content
from icl_embed.benchmark.mteb.examples import training_candidates
from icl_embed.benchmark.mteb.mirror import Source
from icl_embed.benchmark.mteb.official import Template
from icl_embed.benchmark.task import TaskFacts
from icl_embed.config import RANKING_KINDS
from icl_embed.errors import EvaluationError
from icl_embed.evaluate.bm25 import VERSION
from icl_embed.evaluate.encoding import CachingEncoder, Setting
from icl_embed.evaluate.evaluated import EvaluatedModel, TaskRun, Unjudged
from icl_embed.evaluate.mteb_reranker import second_stage_for_mteb
from icl_embed.evaluate.mteb_run import bm25_for_mteb, encoder_for_mteb, quiet_datasets, run_task
from icl_embed.evaluate.reranking import PairScorer
from icl_embed.pool.choose import Candidate


@dataclass(frozen=True)
class MtebTask:
    """A task of mteb, or a local set scored as mteb scores its kind; see ``BenchmarkTask``."""

    facts: TaskFacts
    template: Template
    content: Content
    source: Source | None

    def query_texts(self) -> Sequence[str]:
        """Every evaluated text that is encoded as a query."""
        return self.content.asked

    def evaluated_texts(self) -> set[str]:
        """Texts that no example may show: what is asked, and the passages that answer."""
        return {*self.content.asked, *self.content.answers}

    def training_examples(self) -> Sequence[Candidate]:
        """Candidates of the task's own training split; that none is evaluated is for the caller to check."""
        return self._candidates

    @cached_property
    def _candidates(self) -> tuple[Candidate, ...]:
        with quiet_datasets():
            return tuple(training_candidates(self.template, self.source))

    def run(self, encoder: CachingEncoder, setting: Setting, model: EvaluatedModel) -> TaskRun:
        """Score an encoder in one setting, on a task object of its own.

        Raises
            EvaluationError: a vector cannot be used, or mteb's score is not the aggregate of its values.
        """
        named = {"model_name": model.name, "model_fingerprint": model.fingerprint}
        return self._run(encoder_for_mteb(encoder, setting, **named))

    def rerank(self, run: TaskRun | Unjudged, scorer: PairScorer, *, top_k: int) -> TaskRun:
        """Score the ranking of a run again, its first passages ordered by a reranker.

        Raises
            EvaluationError: the task does not rank passages, or a score cannot be used.
        """
        return self._run(second_stage_for_mteb(run.ranking, scorer, task=self.facts.name, top_k=top_k))

    def run_bm25(self) -> TaskRun:
        """Score BM25.

        Raises
            EvaluationError: the task does not rank passages.
        """
        if self.facts.kind not in RANKING_KINDS:
            raise EvaluationError(f"{self.facts.name}: BM25 ranks passages; it cannot do {self.facts.kind}")
        return self._run(bm25_for_mteb(self.facts.instruction, version=VERSION))

    def _run(self, model: Any) -> TaskRun:
        facts = self.facts
        run = run_task(
            self.template.fresh(), model, self.content.items, split=facts.split, subset=facts.subset
        )
        return replace(run, notes={**self.content.notes, **run.notes})
