"""One run: a task and a model, ours or BM25, through ``mteb.evaluate``, with the values of its items.

mteb knows nothing of examples and keys results by model name, revision and ``experiment_kwargs``; so the
model's fingerprint is the revision, and the shots and the hash of the examples are the experiment.

No result cache: mteb keys it by names, and a changed example set under an unchanged name would be served
yesterday's score. Our artefact store is the cache.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import re
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import mteb
from datasets import disable_progress_bars, enable_progress_bars
from datasets.utils import are_progress_bars_disabled
from mteb.models.abs_encoder import AbsEncoder
from mteb.models.model_meta import ModelMeta, ScoringFunction
from mteb.types import PromptType

from icl_embed.bm25 import Bm25Index
from icl_embed.config import EvaluateConfig
from icl_embed.errors import EvaluationError
from icl_embed.evaluation.mteb.local_tasks import LocalTask, build_task
from icl_embed.evaluation.mteb.values import ItemsOfTest, measure, tolerance_of
from icl_embed.evaluation.tasks.rows import EvaluationInput, PairData, SearchData, TaskData
from icl_embed.evaluation.tasks.task import TaskRun
from icl_embed.model.cached_encoding import CachingEncoder, Setting, Vectors
from icl_embed.store.key import canonical_json

ORGANISATION = "icl-embed"


class MtebEncoder(AbsEncoder):  # type: ignore[misc]  # mteb is untyped to us
    """Passages are encoded as passages; everything else is a query with the instruction and examples.

    Symmetric tasks pass no prompt type: both sides are queries.
    """

    def __init__(self, encoder: CachingEncoder, setting: Setting, meta: ModelMeta) -> None:
        self.model = encoder
        self.setting = setting
        self.mteb_model_meta = meta

    def encode(self, inputs: Iterable[Any], *, prompt_type: PromptType | None = None, **_: Any) -> Vectors:
        """Unit vectors [N, D] of the texts of all batches."""
        texts = [text for batch in inputs for text in batch["text"]]
        if prompt_type is PromptType.document:
            return self.model.passages(texts)
        return self.model.queries(texts, self.setting)


class MtebBm25:
    """BM25 behind mteb's search protocol, for the same metric code as every other model."""

    def __init__(self, meta: ModelMeta) -> None:
        self.mteb_model_meta = meta
        self._ids: list[str] = []
        self._index: Bm25Index | None = None

    def index(self, corpus: Any, **_: Any) -> None:
        """Index the passages of a task, each with its title, as encoders read it."""
        self._ids = list(corpus["id"])
        texts = list(corpus["text"])
        if "title" in corpus.column_names:
            pairs = zip(corpus["title"], texts, strict=True)
            texts = [f"{title} {text}".strip() if title else text for title, text in pairs]
        self._index = Bm25Index.build(texts)

    def search(
        self, queries: Any, *, top_k: int, top_ranked: dict[str, list[str]] | None = None, **_: Any
    ) -> dict[str, dict[str, float]]:
        """Scores of the best passages of each query, or of its candidates when those are given.

        Raises
            NoBaselineError: no query has a word that any passage has.
        """
        if self._index is None:
            raise EvaluationError("mteb searched before it indexed the passages")
        self._index.refuse_as_baseline(list(queries["text"]))
        position = {name: row for row, name in enumerate(self._ids)}
        results: dict[str, dict[str, float]] = {}
        for query_id, text in zip(queries["id"], queries["text"], strict=True):
            if top_ranked is None:
                found = self._index.best(text, top_k)
            else:
                rows = [position[name] for name in top_ranked[query_id]]
                found = list(zip(rows, self._index.scores(text)[rows].tolist(), strict=True))
            results[query_id] = {self._ids[row]: score for row, score in found}
        return results


def describe_model(name: str, fingerprint: str, setting: Setting, *, dimension: int | None) -> ModelMeta:
    """Model metadata that no other model, checkpoint or example set shares."""
    shots = {"shots": len(setting.examples), "examples": hash_examples(setting)}
    return ModelMeta.create_empty(
        {
            "name": f"{ORGANISATION}/{re.sub(r'[^A-Za-z0-9._-]+', '-', name) or 'model'}",
            "revision": fingerprint,
            "similarity_fn_name": ScoringFunction.COSINE if dimension else None,
            "embed_dim": dimension,
            "use_instructions": dimension is not None,
            "modalities": ["text"],
            "experiment_kwargs": shots if dimension else None,
        }
    )


def hash_examples(setting: Setting) -> str:
    """A short hash of the instruction and the examples, in order, or of how they are chosen."""
    shown = [[example.query, example.response] for example in setting.examples]
    asked = {"instruction": setting.instruction, "examples": shown}
    if setting.choose is not None:
        asked["chosen"] = setting.choose.name
    text = canonical_json(asked)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


logger = logging.getLogger(__name__)

BATCH_SIZE = 256  # rows mteb hands over at once; our encoder plans its own batches


def run_encoder(
    dataset: EvaluationInput,
    data: TaskData,
    encoder: CachingEncoder,
    setting: Setting,
    *,
    model_name: str,
    model_fingerprint: str,
    config: EvaluateConfig,
) -> TaskRun:
    """Evaluate an encoder in one setting.

    Raises
        EvaluationError: a vector cannot be used, or mteb's score is not the aggregate of its values.
    """
    model = encoder_for_mteb(encoder, setting, model_name=model_name, model_fingerprint=model_fingerprint)
    task = build_task(dataset, data, config)
    return run_task(task, model, items_of(dataset.name, data, task))


def run_bm25(dataset: EvaluationInput, data: SearchData, *, version: str, config: EvaluateConfig) -> TaskRun:
    """Evaluate BM25 on a search task."""
    model = bm25_for_mteb(dataset.instruction, version=version)
    task = build_task(dataset, data, config)
    return run_task(task, model, items_of(dataset.name, data, task))


def encoder_for_mteb(
    encoder: CachingEncoder, setting: Setting, *, model_name: str, model_fingerprint: str
) -> MtebEncoder:
    """The encoder in one setting, under an identity that no other model and setting has."""
    meta = describe_model(model_name, model_fingerprint, setting, dimension=encoder.encoder.dimension)
    return MtebEncoder(encoder, setting, meta)


def bm25_for_mteb(instruction: str, *, version: str) -> MtebBm25:
    """BM25 as a searcher."""
    return MtebBm25(describe_model("bm25", version, Setting("bm25", instruction), dimension=None))


def items_of(name: str, data: TaskData, task: LocalTask) -> ItemsOfTest:
    """The test items of a data set, in the order in which mteb sees them."""
    if isinstance(data, SearchData):
        return ItemsOfTest(name, tuple(data.queries))
    if isinstance(data, PairData):
        return ItemsOfTest(name, data.ids, data.scores)
    # A classifier predicts the numbers that its labels have within the task.
    gold = task.dataset["default"]["test"]["label"] if data.train_labels else data.labels
    return ItemsOfTest(name, data.ids, gold)


def run_task(
    task: Any,
    model: Any,
    items: ItemsOfTest,
    *,
    split: str = "test",
    subset: str = "default",
) -> TaskRun:
    """Run a fresh task object (with ``KeptValues``) whose data is loaded, on one split of one subset.

    Raises
        EvaluationError: a vector cannot be used, the score is not finite, or it is not the aggregate of its
            values.
    """
    metric = task.metadata.main_score
    with quiet_datasets(), warnings_in_one_line(items.task):
        outcome = mteb.evaluate(
            model,
            task,
            cache=None,
            raise_error=True,
            co2_tracker=False,
            show_progress_bar=False,
            encode_kwargs={"batch_size": BATCH_SIZE, "show_progress_bar": False},
            # Asks for predictions; our tasks keep them in memory and write nothing.
            prediction_folder="kept-in-memory",
        )
    if len(outcome.task_results) != 1:
        raise EvaluationError(f"{items.task}: mteb returned {len(outcome.task_results)} results, expected 1")
    result = outcome.task_results[0]
    scores = next((entry for entry in result.scores.get(split, ()) if entry["hf_subset"] == subset), None)
    if scores is None:
        raise EvaluationError(f"{items.task}: mteb gave no score for the split {split} of {subset}")
    main_score = float(scores["main_score"])
    if not math.isfinite(main_score):
        raise EvaluationError(f"{items.task}: mteb's {metric} is {main_score}")
    measurement, notes = measure(task, scores, items)
    if not math.isclose(measurement.point, main_score, rel_tol=0.0, abs_tol=tolerance_of(task)):
        raise EvaluationError(
            f"{items.task}: mteb reports {metric} {main_score}, its own values give "
            f"{measurement.point}; the installed mteb computes it another way than expected"
        )
    ranking = task.predictions if task.query_scores else {}
    meta = model.mteb_model_meta.model_dump(mode="json", exclude={"loader"})
    return TaskRun(measurement, main_score, {"model": meta, **_result_json(result)}, ranking, notes)


@contextmanager
def quiet_datasets() -> Iterator[None]:
    """No progress bars of the datasets library, which would tear our own progress output."""
    was_enabled = not are_progress_bars_disabled()
    disable_progress_bars()
    try:
        yield
    finally:
        if was_enabled:
            enable_progress_bars()


@contextmanager
def warnings_in_one_line(task: str) -> Iterator[None]:
    """What libraries warn of in a run: one line of the log per task and kind, where sklearn would fill pages.

    Most of it concerns metrics that mteb computes beside the main score, such as the precision of a label
    that was never predicted.
    """
    with warnings.catch_warnings(record=True) as caught:
        try:
            yield
        finally:
            first = {one.category.__name__: str(one.message) for one in reversed(caught)}
    for kind, message in first.items():
        _tell_once(task, kind, " ".join(message.split()))


@cache
def _tell_once(task: str, kind: str, message: str) -> None:
    logger.warning("%s: %s: %s", task, kind, message)


def _result_json(result: Any) -> dict[str, Any]:
    fields: dict[str, Any] = json.loads(result.model_dump_json())
    return fields
