"""A run: tasks × settings, one artefact per cell, so a run that was killed goes on where it was."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from icl_embed.config import EvaluateConfig
from icl_embed.errors import (
    DataError,
    EvaluationError,
    MissingTaskError,
    NoBaselineError,
    PoolError,
    SourceError,
)
from icl_embed.evaluation.asking import ChangeExamples, plan_setting
from icl_embed.evaluation.models import OpenedModel, refuse_shared_name
from icl_embed.evaluation.score import Cell
from icl_embed.evaluation.tasks.opening import TaskPlaces, open_task
from icl_embed.evaluation.tasks.task import BenchmarkTask
from icl_embed.few_shot.settings import AskedSetting
from icl_embed.few_shot.sources import ExampleSource, Offered, offer_examples
from icl_embed.model.cached_encoding import CHUNK_TEXTS, CachingEncoder
from icl_embed.model.vector_cache import FOLDER_NAME, ShardedVectors
from icl_embed.store import Artefact, Store

logger = logging.getLogger(__name__)

Progress = Callable[[str, int, int], None]
"""Told what comes next, how many cells are behind and how many there are."""


@dataclass(frozen=True)
class RunRequest:
    """What is measured.

    Attributes
        tasks: as ``task_names`` gave them.
        asked: the settings.
        source: where examples come from.
        config: budgets, strategies' options, and how intervals are made.
        instructions: task -> instruction in place of its own; "" is for all others.
        require_few_shot: a task without examples is an error.
        seed: of the bootstrap.
        change: makes examples of other qualities than clean.
        chunk_texts: texts encoded between two writes of vectors: what a crash can cost.
    """

    tasks: tuple[str, ...]
    asked: tuple[AskedSetting, ...]
    places: TaskPlaces
    source: ExampleSource = field(default_factory=ExampleSource)
    config: EvaluateConfig = field(default_factory=EvaluateConfig)
    instructions: Mapping[str, str] = field(default_factory=dict)
    require_few_shot: bool = False
    seed: int = 0
    change: ChangeExamples | None = None
    chunk_texts: int = CHUNK_TEXTS


@dataclass(frozen=True)
class Measured:
    """A cell that is in the store; ``is_new`` if this run measured it."""

    artefact: Artefact
    is_new: bool


@dataclass(frozen=True)
class NotMeasured:
    """A task or one setting of it without a score, and why."""

    task: str
    reason: str
    setting: str = ""


@dataclass
class Outcome:
    """What a run gave.

    Attributes
        missing: tasks that could not be found.
        absent: settings that a task or model cannot be asked in.
        failed: what stopped a task; the others were measured all the same.
    """

    measured: list[Measured] = field(default_factory=list)
    missing: list[NotMeasured] = field(default_factory=list)
    absent: list[NotMeasured] = field(default_factory=list)
    failed: list[NotMeasured] = field(default_factory=list)


def run_grid(
    request: RunRequest, model: OpenedModel, store: Store, *, progress: Progress | None = None
) -> Outcome:
    """Measure every cell that the store does not have yet.

    A task that is missing or cannot be scored does not stop the others: the outcome says so.

    Raises
        EvaluationError: the store has scores of another model under this name, or few-shot is required and
            not possible.
        ModelError: the model cannot be loaded.
        StoreError: another run builds the same cell, or the disk refuses.
    """
    refuse_shared_name(store, model.shown)
    return _Run(request, model, store, progress or (lambda *_: None)).all()


@dataclass
class _Run:
    request: RunRequest
    model: OpenedModel
    store: Store
    progress: Progress
    outcome: Outcome = field(default_factory=Outcome)

    def all(self) -> Outcome:
        asked = self.request.asked if self.model.sort != "bm25" else (AskedSetting(0),)
        total = len(self.request.tasks) * len(asked)
        for number, name in enumerate(self.request.tasks):
            self.progress(name, number * len(asked), total)
            try:
                task = open_task(name, self.request.places)
            except MissingTaskError as error:
                self.outcome.missing.append(NotMeasured(name, error.reason))
                continue
            except (EvaluationError, DataError, SourceError) as error:
                self._fail(name, error)
                continue
            self._task(task, asked, done=number * len(asked), total=total)
        self.progress("done", total, total)
        return self.outcome

    def _task(self, task: BenchmarkTask, asked: Sequence[AskedSetting], *, done: int, total: int) -> None:
        name, encoder = task.facts.name, _LazyEncoder(self.model, self.store, self.request)
        try:
            offered = self._offered(task, asked)
        except (EvaluationError, DataError, SourceError) as error:
            self._fail(name, error)
            return
        for number, setting in enumerate(asked):
            self.progress(f"{name}, {setting.name}", done + number, total)
            try:
                reason = self._cell(task, setting, offered, encoder)
            except (NoBaselineError, PoolError) as error:  # nothing to search by
                reason = str(error)
            except (EvaluationError, DataError, SourceError) as error:
                self._fail(name, error, setting.name)
                continue
            if reason:
                self._absent(name, setting.name, reason)

    def _offered(self, task: BenchmarkTask, asked: Sequence[AskedSetting]) -> Offered | None:
        if self.model.no_examples_because or not any(setting.shots for setting in asked):
            return None
        return offer_examples(task, self.request.source)

    def _cell(
        self, task: BenchmarkTask, setting: AskedSetting, offered: Offered | None, encoder: _LazyEncoder
    ) -> str:
        """Measure one cell; returns why it cannot be, or nothing."""
        facts, request = task.facts, self.request
        own = request.instructions.get(facts.name) or request.instructions.get("")
        plan = None
        if self.model.sort != "bm25":
            plan = plan_setting(
                setting,
                task,
                offered or Offered((), ""),
                instruction=own or facts.instruction,
                config=request.config,
                source=request.source,
                change=request.change,
            )
        shown = offered if setting.shots else None
        cell = Cell(
            self.model, task, plan, shown, own or facts.instruction, request.config, seed=request.seed
        )
        if cell.impossible_because:
            return cell.impossible_because
        is_new = False

        def produce(folder: Path) -> Mapping[str, object]:
            nonlocal is_new
            is_new = True
            return cell.produce(folder, encoder() if plan else None)

        artefact = self.store.build(cell.key(), produce)
        self.outcome.measured.append(Measured(artefact, is_new))
        return ""

    def _absent(self, task: str, setting: str, reason: str) -> None:
        if self.request.require_few_shot:
            raise EvaluationError(f"{task}: {setting} is required, but {reason}")
        self.outcome.absent.append(NotMeasured(task, reason, setting))

    def _fail(self, task: str, error: Exception, setting: str = "") -> None:
        logger.error("%s %s: %s", task, setting, error)
        self.outcome.failed.append(NotMeasured(task, f"{type(error).__name__}: {error}", setting))


@dataclass
class _LazyEncoder:
    """One task's encoder: made when its first cell must be measured, shared by all its settings."""

    model: OpenedModel
    store: Store
    request: RunRequest
    made: CachingEncoder | None = None

    def __call__(self) -> CachingEncoder:
        if self.made is None:
            self.made = CachingEncoder(
                self.model.encoder,
                self.request.config.batch_tokens,
                store=vectors_of(self.model, self.store),
                chunk_texts=self.request.chunk_texts,
            )
        return self.made


def vectors_of(model: OpenedModel, store: Store) -> ShardedVectors:
    """The vectors that a store keeps of a model, for its number format and budgets."""
    about, prompt = model.about, model.prompt
    budgets = {}
    if prompt is not None:
        lengths = prompt.model_dump(mode="json")
        budgets = {"passage": {"passage_tokens": lengths.pop("passage_tokens")}, "query": lengths}
    identity = {"fingerprint": about.fingerprint, "dtype": about.dtype}
    return ShardedVectors(store.root / FOLDER_NAME, identity, budgets)
