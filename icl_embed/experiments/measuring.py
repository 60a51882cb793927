"""The studies ``overhead`` and ``overlap``: what they are made from, and their artefacts."""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from icl_embed.errors import EvaluationError
from icl_embed.evaluation.asking import plan_setting
from icl_embed.evaluation.grid import RunRequest
from icl_embed.evaluation.models import OpenedModel
from icl_embed.evaluation.tasks.opening import open_task
from icl_embed.evaluation.tasks.task import BenchmarkTask
from icl_embed.examples import ExampleSet
from icl_embed.experiments.overhead import OverheadPlan, Progress, describe_machine, measure_overhead
from icl_embed.experiments.overlap import (
    NGRAM,
    EvaluatedTexts,
    Overlap,
    TrainingTexts,
    find_overlap,
    read_training_texts,
    relation_to,
    training_files,
)
from icl_embed.experiments.record import STAGE, Study, StudyName, write_study
from icl_embed.few_shot.settings import AskedSetting
from icl_embed.few_shot.sources import hash_examples, offer_examples
from icl_embed.model.embedder import Embedder
from icl_embed.store import Artefact, StageKey, Store
from icl_embed.store.files import sha256_of

VERSION = 1


def study_overhead(
    request: RunRequest,
    model: OpenedModel,
    store: Store,
    *,
    plan: OverheadPlan,
    seed: int = 0,
    progress: Progress | None = None,
) -> Artefact:
    """What examples cost this model on the first task of a request, on this machine.

    Timings are of a machine: the artefact's key names it, with its threads.

    Raises
        EvaluationError: the model takes no examples, or the task has too few.
        ModelError: the model cannot be loaded.
    """
    encoder = _embedder(model)
    task = open_task(request.tasks[0], request.places)
    instruction, examples = _examples(request, task, max(plan.shots), seed)
    machine = {**describe_machine(encoder.device), "dtype": encoder.dtype, "system": platform.system()}
    load = machine.pop("load_at_start")
    settings = {
        "study": "overhead",
        "model": model.about.fingerprint,
        "task": asdict(task.facts),
        "examples": hash_examples(examples),
        "plan": asdict(plan),
        "machine": machine,
        "prompt": request.config.prompt.model_dump(mode="json"),
    }

    def produce(folder: Path) -> dict[str, Any]:
        rows = measure_overhead(
            encoder,
            instruction=instruction,
            examples=examples,
            queries=task.query_texts(),
            plan=plan,
            progress=progress,
        )
        shown = {**machine, "load at start": load, "task": task.facts.name}
        shown |= asdict(plan) | {"shots": ", ".join(map(str, plan.shots))}
        facts = {"machine": shown, "instruction": instruction}
        return write_study(folder, _study("overhead", model, rows, facts))

    return _build(store, model, settings, produce)


def _embedder(model: OpenedModel) -> Embedder:
    if model.sort != "ours":
        raise EvaluationError(f"{model.about.name}: {model.no_examples_because}; there is nothing to measure")
    encoder = model.encoder
    if not isinstance(encoder, Embedder):
        raise EvaluationError(f"{model.about.name} cannot share a prefix; name an embedder of ours")
    return encoder


def _study(
    name: StudyName, model: OpenedModel, rows: Sequence[dict[str, Any]], facts: dict[str, Any]
) -> Study:
    return Study(name, model.about.name, model.about.fingerprint, tuple(rows), facts)


def _build(
    store: Store, model: OpenedModel, settings: dict[str, Any], produce: Callable[[Path], dict[str, Any]]
) -> Artefact:
    inputs = {"model": model.reference} if model.reference else {}
    label = f"{settings['study']} study of {model.about.name}"
    return store.build(StageKey(STAGE, VERSION, settings, inputs, label), produce)


def _examples(request: RunRequest, task: BenchmarkTask, shots: int, seed: int) -> tuple[str, ExampleSet]:
    """The instruction and the examples, in the order in which they are shown."""
    own = request.instructions.get(task.facts.name) or request.instructions.get("") or task.facts.instruction
    offered = offer_examples(task, request.source)
    if offered.reason:
        raise EvaluationError(f"{task.facts.name}: {offered.reason}")
    asked = AskedSetting(shots, "random", seed)
    planned = plan_setting(
        asked, task, offered, instruction=own, config=request.config, source=request.source
    )
    return own, planned.known  # a random draw asks no model


def study_overlap(
    request: RunRequest, model: OpenedModel, store: Store, *, train: Sequence[Path] = (), ngram: int = NGRAM
) -> Artefact:
    """How much of each task's evaluated texts is in a model's training rows.

    ``train`` names Parquet files or pools; without them the rows are found through the model's lineage.

    Raises
        StoreError: the model has no training rows in its lineage.
        DataError: a training file cannot be read.
        EvaluationError, SourceError: a task cannot be opened.
    """
    if not train and not model.reference:
        raise EvaluationError(
            f"{model.about.name} is not an artefact of {store.root}, so its training rows are not known; "
            "name them with --train FILE.parquet"
        )
    files = list(train) or training_files(store, store.get(*model.reference.split("/")))
    tasks = [open_task(name, request.places) for name in request.tasks]
    settings = {
        "study": "overlap",
        "model": model.about.fingerprint,
        "ngram": ngram,
        "tasks": [asdict(task.facts) for task in tasks],
        "training": [sha256_of(path / "train.parquet" if path.is_dir() else path) for path in files],
    }

    def produce(folder: Path) -> dict[str, Any]:
        evaluated = [part for task in tasks for part in _evaluated(task)]
        found, rows = find_overlap(evaluated, _all(files), ngram=ngram)
        facts = {
            "ngram": ngram,
            "training_rows": sum(rows.values()),
            "training_sets": sorted(rows),
            "rows_by_set": dict(sorted(rows.items())),
        }
        table = [_row(one, sorted(rows)) for one in found]
        return write_study(folder, _study("overlap", model, table, facts))

    return _build(store, model, settings, produce)


def _all(files: Sequence[Path]) -> Iterator[TrainingTexts]:
    for path in files:
        yield from read_training_texts(path)


def _evaluated(task: BenchmarkTask) -> Iterator[EvaluatedTexts]:
    queries = list(dict.fromkeys(task.query_texts()))
    yield EvaluatedTexts(task.facts.name, "queries", tuple(queries))
    passages = sorted(task.evaluated_texts() - set(queries))
    if passages:
        yield EvaluatedTexts(task.facts.name, "passages", tuple(passages))


def _row(found: Overlap, trained: Sequence[str]) -> dict[str, Any]:
    relation, related = relation_to(found.task.rpartition("/")[2], trained)
    row = asdict(found)
    hits = list(row.pop("hits"))
    return {
        **{name: row[name] for name in ("task", "role")},
        "relation": relation,
        "related_sets": related,
        **{name: row[name] for name in ("num_texts", "num_long", "num_equal", "num_shared")},
        "equal_share": found.num_equal / max(found.num_texts, 1),
        "shared_share": found.num_shared / max(found.num_texts, 1),
        "equal_by_dataset": row["equal_by_dataset"],
        "hits": hits,
    }
