"""A run: tasks × settings, one artefact per cell, so a run that was killed goes on where it was."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from icl_embed.config import EvaluateConfig
from icl_embed.errors import DataError, EvaluationError, MissingTaskError, SourceError
from icl_embed.evaluation.asking import ChangeExamples, plan_setting
from icl_embed.evaluation.models import OpenedModel, refuse_shared_name
from icl_embed.evaluation.request import ScoreRequest
from icl_embed.evaluation.score import Cell
from icl_embed.evaluation.scores import BM25
from icl_embed.evaluation.tasks.fetched import digest_of, fetch_task, open_stored, task_data_key
from icl_embed.evaluation.tasks.local import find_dataset
from icl_embed.evaluation.tasks.opening import TaskPlaces
from icl_embed.evaluation.tasks.rows import PREFIX
from icl_embed.evaluation.tasks.task import BenchmarkTask
from icl_embed.few_shot.settings import CLEAN, AskedSetting
from icl_embed.few_shot.sources import ExampleSource, Offered, hash_examples, offer_examples
from icl_embed.model.cached_encoding import CHUNK_TEXTS, CachingEncoder
from icl_embed.model.vector_cache import FOLDER_NAME, ShardedVectors
from icl_embed.store import Artefact, StageKey, Store

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
        downloads: where files of the hub are kept.
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
    downloads: Path = Path("downloads")


@dataclass(frozen=True)
class StoredCell:
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

    measured: list[StoredCell] = field(default_factory=list)
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
        asked = self.request.asked if self.model.sort != "bm25" else (None,)
        total = len(self.request.tasks) * len(asked)
        for number, name in enumerate(self.request.tasks):
            self.progress(name, number * len(asked), total)
            try:
                task = _StoredTask(name, self._data(name), self.request, self.model, self.store)
            except MissingTaskError as error:
                self.outcome.missing.append(NotMeasured(name, error.reason))
                continue
            except (EvaluationError, DataError, SourceError) as error:
                self._fail(name, error)
                continue
            self._task(task, asked, done=number * len(asked), total=total)
        self.progress("done", total, total)
        return self.outcome

    def _data(self, name: str) -> Artefact:
        places, store = self.request.places, self.store
        if name.startswith(PREFIX):
            return find_dataset(name, places.store)
        key = task_data_key(name, places)
        return store.build(key, lambda out_dir: fetch_task(name, places, self.request.downloads, out_dir))

    def _task(
        self, task: _StoredTask, asked: Sequence[AskedSetting | None], *, done: int, total: int
    ) -> None:
        for number, setting in enumerate(asked):
            name = setting.name if setting else BM25
            self.progress(f"{task.name}, {name}", done + number, total)
            try:
                measured = task.score(setting)
            except (EvaluationError, DataError, SourceError) as error:
                self._fail(task.name, error, name)
                continue
            reason = measured.artefact.manifest.counts.get("absent", {}).get(name)
            if reason is None:
                self.outcome.measured.append(measured)
            elif self.request.require_few_shot:
                raise EvaluationError(f"{task.name}: {name} is required, but {reason}")
            else:
                self.outcome.absent.append(NotMeasured(task.name, reason, name))

    def _fail(self, task: str, error: Exception, setting: str = "") -> None:
        logger.error("%s %s: %s", task, setting, error)
        self.outcome.failed.append(NotMeasured(task, f"{type(error).__name__}: {error}", setting))


@dataclass
class _StoredTask:
    """One task of a run; opened when a score must be made, and then once for all its settings."""

    name: str
    data: Artefact
    request: RunRequest
    model: OpenedModel
    store: Store

    def score(self, asked: AskedSetting | None) -> StoredCell:
        """The score in one setting, from the store or measured."""
        is_new = False

        def produce(folder: Path) -> Mapping[str, object]:
            nonlocal is_new
            is_new = True
            return self._cell(asked).measure_or_say(folder, lambda: self.encoder)

        return StoredCell(self.store.build(self._key(asked), produce), is_new)

    def _key(self, asked: AskedSetting | None) -> StageKey:
        request, source = self.request, self.request.source
        made = ""
        if (
            asked is not None
            and asked.shots
            and asked.quality != CLEAN
            and not self.model.no_examples_because
        ):
            plan = self._cell(asked).plan
            made = hash_examples(plan.known) if plan else ""
        prompt = self.model.prompt or request.config.prompt
        return ScoreRequest(
            self.data.reference,
            self.name,
            self.model.scored,
            asked,
            request.config.model_copy(update={"prompt": prompt}),
            split=(request.places.split or "test") if self.data.stage == "dataset" else "",
            source=source,
            example_files=digest_of(source.files) if source.files else "",
            pool=self._pool,
            dtype=self.model.about.dtype,
            instruction=self._own_instruction,
            made_examples=made,
            seed=request.seed,
        ).key

    def _cell(self, asked: AskedSetting | None) -> Cell:
        task, request = self.task, self.request
        instruction = self._own_instruction or task.facts.instruction
        if asked is None:
            return Cell(self.model, task, None, None, instruction, request.config, request.seed)
        offered = self.offered if asked.shots else None
        plan = plan_setting(
            asked,
            task,
            offered,
            instruction=instruction,
            config=request.config,
            source=request.source,
            change=request.change,
        )
        return Cell(self.model, task, plan, offered, instruction, request.config, request.seed)

    @property
    def _pool(self) -> str:
        """The pool as a key knows it: its artefact, or a hash of a folder that is none of this store's."""
        folder = self.request.source.pool_dir
        return (self.store.reference_of(folder) or digest_of(folder)) if folder else ""

    @property
    def _own_instruction(self) -> str:
        return self.request.instructions.get(self.name) or self.request.instructions.get("", "")

    @cached_property
    def task(self) -> BenchmarkTask:
        """The task itself."""
        return open_stored(self.data, self.request.places)

    @cached_property
    def offered(self) -> Offered | None:
        """What examples may be chosen from."""
        return None if self.model.no_examples_because else offer_examples(self.task, self.request.source)

    @cached_property
    def encoder(self) -> CachingEncoder:
        """The model, with the vectors that the store keeps of it."""
        return CachingEncoder(
            self.model.encoder,
            self.request.config.batch_tokens,
            store=vectors_of(self.model, self.store),
            chunk_texts=self.request.chunk_texts,
        )


def vectors_of(model: OpenedModel, store: Store, code: str = "") -> ShardedVectors:
    """The vectors that a store keeps of a model, for its number format and budgets.

    ``code`` is a hash of what makes them, where a change of the code must not go unseen.
    """
    about, prompt = model.about, model.prompt
    budgets = {}
    if prompt is not None:
        lengths = prompt.model_dump(mode="json")
        budgets = {"passage": {"passage_tokens": lengths.pop("passage_tokens")}, "query": lengths}
    identity = {"fingerprint": about.fingerprint, "dtype": about.dtype, **({"code": code} if code else {})}
    return ShardedVectors(store.root / FOLDER_NAME, identity, budgets)
