"""One run: a task and a model through ``mteb.evaluate``, checked, with the values behind the score.

No result cache: mteb keys it by names, and a changed example set under an unchanged name would be served
yesterday's score. Our artefact store is the cache.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import mteb
from datasets import disable_progress_bars, enable_progress_bars
from datasets.utils import are_progress_bars_disabled
from mteb.models.model_meta import ModelMeta

from icl_embed.config import EvaluateConfig
from icl_embed.errors import EvaluationError
from icl_embed.evaluate.encoding import CachingEncoder, Setting
from icl_embed.evaluate.evaluated import TaskRun
from icl_embed.evaluate.measurement import Aggregation, Measurement
from icl_embed.evaluate.mteb_model import MtebBm25, MtebEncoder, describe_model
from icl_embed.evaluate.mteb_tasks import MAIN_SCORES, LocalTask, build_task
from icl_embed.evaluate.task_data import EvaluationInput, LabelData, PairData, SearchData, TaskData

TREC_NAMES = {"ndcg_at_10": "ndcg_cut_10", "map_at_1000": "map_cut_1000"}
SEARCH_TOLERANCE = 6e-6  # mteb rounds search metrics to five decimals
TOLERANCE = 1e-6
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
    meta = describe_model(model_name, model_fingerprint, setting, dimension=encoder.encoder.dimension)
    return _run(dataset, data, MtebEncoder(encoder, setting, meta), meta, config)


def run_bm25(dataset: EvaluationInput, data: SearchData, *, version: str, config: EvaluateConfig) -> TaskRun:
    """Evaluate BM25 on a search task."""
    meta = describe_model("bm25", version, Setting("bm25", dataset.instruction), dimension=None)
    return _run(dataset, data, MtebBm25(meta), meta, config)


def _run(
    dataset: EvaluationInput,
    data: TaskData,
    model: MtebEncoder | MtebBm25,
    meta: ModelMeta,
    config: EvaluateConfig,
) -> TaskRun:
    task = build_task(dataset, data, config)
    with _quiet_datasets():
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
        raise EvaluationError(
            f"{dataset.name}: mteb returned {len(outcome.task_results)} results, expected 1"
        )
    result = outcome.task_results[0]
    scores = result.scores["test"][0]
    main_score = float(scores["main_score"])
    if not math.isfinite(main_score):
        raise EvaluationError(f"{dataset.name}: mteb's {MAIN_SCORES[dataset.kind]} is {main_score}")
    measurement, notes = _measure(dataset, data, task, scores)
    tolerance = SEARCH_TOLERANCE if isinstance(data, SearchData) else TOLERANCE
    if not math.isclose(measurement.point, main_score, rel_tol=0.0, abs_tol=tolerance):
        raise EvaluationError(
            f"{dataset.name}: mteb reports {MAIN_SCORES[dataset.kind]} {main_score}, its own values give "
            f"{measurement.point}; the installed mteb computes it another way than expected"
        )
    ranking = task.predictions if isinstance(data, SearchData) else {}
    described = {"model": meta.model_dump(mode="json", exclude={"loader"}), **_result_json(result)}
    return TaskRun(measurement, main_score, described, ranking, notes)


def _measure(
    dataset: EvaluationInput, data: TaskData, task: LocalTask, scores: Mapping[str, Any]
) -> tuple[Measurement, dict[str, Any]]:
    if isinstance(data, SearchData):
        return _search_values(dataset, data, task), {}
    if isinstance(data, PairData):
        return _pair_values(dataset, data, task, scores)
    if dataset.kind == "classification":
        return _label_values(dataset, data, task)
    values = [float(value) for level in scores["v_measures"].values() for value in level]
    names = tuple(f"set-{number:03d}" for number in range(len(values)))
    notes = {"cluster_sets": len(values), "texts": len(data.texts), "labels": len(set(data.labels))}
    return Measurement(dataset.name, "replicates", names, tuple(values)), notes


def _search_values(dataset: EvaluationInput, data: SearchData, task: LocalTask) -> Measurement:
    metric = TREC_NAMES[MAIN_SCORES[dataset.kind]]
    missing = sorted(set(data.queries) - set(task.query_scores))
    if missing:
        raise EvaluationError(f"{dataset.name}: mteb scored no passages for query {missing[0]}")
    values = tuple(float(task.query_scores[name][metric]) for name in data.queries)
    return Measurement(dataset.name, "mean", tuple(data.queries), values)


def _label_values(
    dataset: EvaluationInput, data: LabelData, task: LocalTask
) -> tuple[Measurement, dict[str, Any]]:
    # mteb fits several classifiers; the value of a text is the share of them that get it right.
    truth = task.dataset["default"]["test"]["label"]
    runs = task.predictions
    values = tuple(sum(run[row] == label for run in runs) / len(runs) for row, label in enumerate(truth))
    notes = {"classifiers": len(runs), "texts_per_label": task.samples_per_label, "labels": len(set(truth))}
    return Measurement(dataset.name, "mean", data.ids, values), notes


def _pair_values(
    dataset: EvaluationInput, data: PairData, task: LocalTask, scores: Mapping[str, Any]
) -> tuple[Measurement, dict[str, Any]]:
    similarity, sign = "cosine_scores", 1.0
    aggregation: Aggregation = "spearman"
    if dataset.kind == "pair_classification":
        # max_ap is the best of several similarities; the winner's values are the ones behind the score.
        aggregation = "average_precision"
        choices = {
            "cosine": ("cosine_scores", 1.0),
            "dot": ("dot_scores", 1.0),
            "euclidean": ("euclidean_distances", -1.0),
            "manhattan": ("manhattan_distances", -1.0),
        }
        winner = max(choices, key=lambda name: scores[f"{name}_ap"])
        similarity, sign = choices[winner]
    values = tuple(sign * float(value) for value in task.predictions[similarity])
    return Measurement(dataset.name, aggregation, data.ids, values, data.scores), {"similarity": similarity}


@contextmanager
def _quiet_datasets() -> Iterator[None]:
    # mteb maps every corpus through the datasets library, whose bars would tear our own progress output.
    was_enabled = not are_progress_bars_disabled()
    disable_progress_bars()
    try:
        yield
    finally:
        if was_enabled:
            enable_progress_bars()


def _result_json(result: Any) -> dict[str, Any]:
    fields: dict[str, Any] = json.loads(result.model_dump_json())
    return fields
