"""The project's own data sets as benchmark tasks: ``--tasks data/cwe-examples`` asks any model for them."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from icl_embed.config import LABEL_KINDS, POSITIVE_SHARE, EvaluateConfig
from icl_embed.errors import EvaluationError, MissingTaskError
from icl_embed.evaluation.leaks import evaluated_texts
from icl_embed.evaluation.mteb.local_tasks import MAIN_SCORES, build_task
from icl_embed.evaluation.mteb.run import items_of, run_bm25, run_encoder, run_task
from icl_embed.evaluation.mteb.second_stage import second_stage_for_mteb
from icl_embed.evaluation.reranking import PairScorer
from icl_embed.evaluation.tasks.rows import (
    PREFIX,
    EvaluationInput,
    SearchData,
    TaskData,
    query_texts,
    read_task_data,
    training_rows,
)
from icl_embed.evaluation.tasks.task import EvaluatedModel, TaskFacts, TaskRun, Unjudged
from icl_embed.examples import Example
from icl_embed.model.cached_encoding import CachingEncoder, Setting
from icl_embed.pool.examples import Candidate
from icl_embed.store import Artefact, Store


@dataclass(frozen=True)
class LocalBenchmarkTask:
    """A dataset artefact as a ``BenchmarkTask``.

    Attributes
        dataset: the facts of its card and its folder.
        config: how many classifiers and cluster sets its kind is scored with.
    """

    dataset: EvaluationInput
    config: EvaluateConfig

    @cached_property
    def data(self) -> TaskData:
        """The evaluated split, checked."""
        return read_task_data(self.dataset)

    @property
    def facts(self) -> TaskFacts:
        """What it is."""
        return TaskFacts(
            name=f"{PREFIX}{self.dataset.name}",
            family="local",
            kind=self.dataset.kind,
            metric=MAIN_SCORES[self.dataset.kind],
            instruction=self.dataset.instruction,
            split=self.dataset.split,
            subset="default",
            data_fingerprint=self.dataset.fingerprint,
            served_from="store",
            language=self.dataset.language,
        )

    def described(self, *, served_from: str) -> LocalBenchmarkTask:
        """The same task: a data set of the store is served from there, whatever is said."""
        return self

    def query_texts(self) -> Sequence[str]:
        """Every text that is encoded as a query."""
        return query_texts(self.data)

    def evaluated_texts(self) -> set[str]:
        """Texts that no example may show."""
        return evaluated_texts(self.data)

    def training_examples(self) -> Sequence[Candidate]:
        """The train split: labels, positives, or the second text of pairs that mean the same."""
        rows = training_rows(self.dataset)
        if self.dataset.kind in LABEL_KINDS:
            return [Candidate(Example(row["query"], row["label"]), row["label"]) for row in rows]
        if self.dataset.kind in ("sts", "pair_classification"):
            scored = [row for row in rows if row["score"] is not None]
            top = max((row["score"] for row in scored), default=0.0)
            rows = [row for row in scored if row["score"] >= POSITIVE_SHARE * top > 0.0]
        return [Candidate(Example(row["query"], row["positives"][0]), "") for row in rows if row["positives"]]

    def run(self, encoder: CachingEncoder, setting: Setting, model: EvaluatedModel) -> TaskRun:
        """Score an encoder in one setting."""
        run = run_encoder(
            self.dataset,
            self.data,
            encoder,
            setting,
            model_name=model.name,
            model_fingerprint=model.fingerprint,
            config=self.config,
        )
        return replace(run, searched=self.data if isinstance(self.data, SearchData) else None)

    def rerank(self, run: TaskRun | Unjudged, scorer: PairScorer, *, top_k: int) -> TaskRun:
        """Score the ranking of a run again, its first passages ordered by a reranker.

        Raises
            EvaluationError: the task does not rank passages, or a score cannot be used.
        """
        model = second_stage_for_mteb(run.ranking, scorer, task=self.dataset.name, top_k=top_k)
        task = build_task(self.dataset, self.data, self.config)
        return run_task(task, model, items_of(self.dataset.name, self.data, task))

    def run_bm25(self) -> TaskRun:
        """Score BM25.

        Raises
            EvaluationError: the task does not rank passages.
        """
        from icl_embed.bm25 import DESCRIPTION, VERSION

        if not isinstance(self.data, SearchData):
            raise EvaluationError(
                f"{self.dataset.name}: BM25 ranks passages; it cannot do {self.dataset.kind}"
            )
        run = run_bm25(self.dataset, self.data, version=VERSION, config=self.config)
        return replace(run, searched=self.data, notes={**run.notes, "method": DESCRIPTION})


def find_dataset(name: str, store: Store) -> Artefact:
    """The newest dataset artefact of a card.

    Parameters
        name: ``data/`` and the card's name.

    Raises
        MissingTaskError: the store holds no such data set; the nearest is suggested.
        StoreError: it is damaged.
    """
    found = {one.manifest.label: one for one in store.artefacts() if one.stage == "dataset"}
    card = name.removeprefix(PREFIX)
    if card not in found:
        near = difflib.get_close_matches(card, found, n=1, cutoff=0.0)
        hint = f"; did you mean {PREFIX}{near[0]}?" if near else ""
        raise MissingTaskError(name, f"the store {store.root} holds no data set {card!r}{hint}")
    return store.get("dataset", found[card].fingerprint)


def open_dataset(artefact: Artefact, config: EvaluateConfig, split: str = "") -> LocalBenchmarkTask:
    """A dataset artefact as a task.

    Parameters
        split: what is evaluated; "" is test.

    Raises
        EvaluationError: its rows cannot be evaluated.
    """
    card: Mapping[str, Any] = artefact.manifest.key["settings"]["card"]
    dataset = EvaluationInput(
        name=card["name"],
        kind=card["kind"],
        instruction=card["instruction"],
        folder=artefact.path,
        fingerprint=artefact.fingerprint,
        split=split or "test",
    )
    task = LocalBenchmarkTask(dataset, config)
    _ = task.data  # what is wrong with it is said before a model is loaded
    return task
