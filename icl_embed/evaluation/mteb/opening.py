"""Opening a task of mteb: found by name, loaded from a mirror or the hub, checked, ready to be scored."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from mteb.abstasks import AbsTaskRetrieval

from icl_embed.bm25 import VERSION
from icl_embed.config import RANKING_KINDS, Kind
from icl_embed.errors import ConfigError, DataError, EvaluationError, MissingTaskError
from icl_embed.evaluation.mteb.content import Content, content_of, fingerprint_of, training_candidates
from icl_embed.evaluation.mteb.mirror import (
    FolderSet,
    HubFolder,
    Source,
    contents_of,
    find_source,
    served_from,
)
from icl_embed.evaluation.mteb.names import AskedTask, parse, resolve, task_class, usual_split, usual_subset
from icl_embed.evaluation.mteb.official import (
    Template,
    from_folder,
    from_hub,
    from_local_set,
    judged_splits,
    new_task,
    point_to,
)
from icl_embed.evaluation.mteb.run import bm25_for_mteb, encoder_for_mteb, quiet_datasets, run_task
from icl_embed.evaluation.mteb.second_stage import second_stage_for_mteb
from icl_embed.evaluation.reranking import PairScorer
from icl_embed.evaluation.tasks.task import EvaluatedModel, TaskFacts, TaskRun, Unjudged
from icl_embed.model.cached_encoding import CachingEncoder, Setting
from icl_embed.pool.examples import Candidate


@dataclass(frozen=True)
class MtebTask:
    """A task of mteb, or a local set scored as mteb scores its kind; see ``BenchmarkTask``."""

    facts: TaskFacts
    template: Template
    content: Content
    source: Source | None

    def described(self, *, served_from: str) -> MtebTask:
        """The same task with other words on where its data come from."""
        return replace(self, facts=replace(self.facts, served_from=served_from))

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


KINDS: dict[str, Kind] = {
    "Retrieval": "retrieval",
    "InstructionRetrieval": "retrieval",
    "Reranking": "reranking",
    "InstructionReranking": "reranking",
    "Classification": "classification",
    "MultilabelClassification": "classification",
    "Clustering": "clustering",
    "PairClassification": "pair_classification",
    "STS": "sts",
    "Summarization": "sts",
    "BitextMining": "sts",
    "Regression": "classification",
}
"""The kind that decides how a type of mteb task is asked: which side is a query, what a response is."""


def open_mteb_task(name: str, *, mirror: Path | None = None, split: str | None = None) -> MtebTask:
    """Open one task by a name that ``resolve`` gave.

    Parameters
        name: of a task, perhaps with ``[subset]`` or ``[subset@split]``, or of a local set of the mirror.
        mirror: folder to serve it from; then the hub is never asked. None loads it from the hub.
        split: to evaluate instead of the task's usual one.

    Raises
        ConfigError: no such task, or the name of several.
        MissingTaskError: the mirror does not have the task; without one, the hub cannot give it.
        EvaluationError: no such split or subset, or not a task about text.
        DataError: the data are damaged, or not what their format or manifest says.
    """
    if mirror is not None and not mirror.is_dir():
        raise MissingTaskError(name, f"there is no mirror folder {mirror}; give an existing one to --mirror")
    found = resolve([name], mirror=mirror)
    if len(found) != 1:
        raise ConfigError(
            f"{name!r} stands for {len(found)} tasks; open them one by one, as resolve lists them"
        )
    asked = parse(found[0])
    asked = replace(asked, split=split or asked.split)
    known = task_class(asked.task)
    with quiet_datasets():
        return _open_official(known, asked, mirror) if known else _open_local(asked, mirror)


def instruction_of(task: Any) -> str:
    """The instruction for queries: the task's own, else its type's default."""
    prompt = task.metadata.prompt
    own = prompt.get("query") if isinstance(prompt, dict) else prompt
    return str(own or task.abstask_prompt)


def _open_official(known: Any, asked: AskedTask, mirror: Path | None) -> MtebTask:
    metadata = known.metadata
    if metadata.type not in KINDS:
        raise EvaluationError(f"{asked.task} is a {metadata.type} task; only text is embedded here")
    subset = asked.subset or usual_subset(metadata)
    if subset not in metadata.hf_subsets:
        raise EvaluationError(
            f"{asked.task} has no subset {subset!r}; it has {', '.join(list(metadata.hf_subsets)[:20])}"
        )
    split = asked.split or usual_split(metadata.eval_splits)
    task = new_task(known, split=split, subset=subset)
    source = find_source(mirror, metadata, subset) if mirror else None
    if isinstance(source, FolderSet):
        _check_split(asked.task, split, source.splits)
        _check_kind(source, KINDS[metadata.type])
        template = from_folder(task, source, split=split, subset=subset)
    else:
        if isinstance(task, AbsTaskRetrieval) and split not in metadata.eval_splits:
            _check_split(asked.task, split, judged_splits(metadata, source, subset))
        template = from_hub(task, source, split=split, subset=subset)
        _check_split(asked.task, split, list(template.all_splits))
    shown = asked.task if subset == usual_subset(metadata) else f"{asked.task}[{subset}]"
    return _opened(shown, template, source, official_revision=metadata.dataset.get("revision", ""))


def _open_local(asked: AskedTask, mirror: Path | None) -> MtebTask:
    found = contents_of(mirror or Path())
    if asked.task in found.unreadable:
        raise DataError(found.unreadable[asked.task])
    served = next(one for one in found.sets if one.name == asked.task)
    split = asked.split or usual_split([*served.splits, "none"])
    if asked.split is None and split not in ("test", "validation", "dev"):
        raise MissingTaskError(
            asked.task,
            f"{served.folder} has only the splits {', '.join(served.splits) or 'none'}; there is nothing to "
            "evaluate, name a split to score it anyway",
        )
    _check_split(asked.task, split, served.splits)
    return _opened(served.name, from_local_set(served, split=split), served)


def _opened(name: str, template: Template, source: Source | None, *, official_revision: str = "") -> MtebTask:
    try:
        content, fingerprint = content_of(template), fingerprint_of(template)
    except (AttributeError, KeyError, IndexError, TypeError) as error:
        raise EvaluationError(
            f"{name}: its loaded data have another shape than its type of task has "
            f"({type(error).__name__}: {error}); if they come from a mirror folder, use the hub's layout"
        ) from error
    if source is not None:
        revision = source.revision if isinstance(source, HubFolder) else ""
        point_to(template.task, revision=revision or f"local-{fingerprint}")
    metadata = template.task.metadata
    languages = metadata.hf_subsets_to_langscripts.get(template.subset) or ["eng-Latn"]
    facts = TaskFacts(
        name=name,
        family="mteb",
        kind=KINDS[metadata.type],
        metric=metadata.main_score,
        instruction=instruction_of(template.task),
        split=template.split,
        subset=template.subset,
        data_fingerprint=fingerprint,
        served_from=served_from(source, official_revision),
        language=languages[0],
    )
    return MtebTask(facts, template, replace(content, items=replace(content.items, task=name)), source)


def _check_split(task: str, split: str, found: Sequence[str]) -> None:
    if split not in found:
        raise EvaluationError(
            f"{task}: there is no split {split!r} where its data are; found {', '.join(found) or 'none'}"
        )


def _check_kind(served: FolderSet, kind: Kind) -> None:
    if served.kind != kind and {served.kind, kind} != RANKING_KINDS:
        raise DataError(
            f"{served.folder}: the manifest says that this {served.kind} set is {served.task}, "
            f"which is a {kind} task; correct its task_type or its task"
        )
