"""The evaluation stage: one model on one data set, all its settings, into one artefact folder."""

from __future__ import annotations

import dataclasses
import json
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from icl_embed.config import EvaluateConfig
from icl_embed.errors import EvaluationError, NoBaselineError
from icl_embed.evaluation.leaks import Strategy, few_shot_setting
from icl_embed.evaluation.measurement import Bootstrap
from icl_embed.evaluation.mteb.local_tasks import MAIN_SCORES
from icl_embed.evaluation.mteb.run import run_bm25, run_encoder
from icl_embed.evaluation.score import TokenCount, count_query_tokens
from icl_embed.evaluation.scores import (
    BM25,
    Absence,
    EvaluationScores,
    SettingScore,
    write_examples,
    write_scores,
    write_top_passages,
    write_values,
)
from icl_embed.evaluation.tasks.rows import (
    EvaluationInput,
    SearchData,
    TaskData,
    query_texts,
    read_task_data,
)
from icl_embed.evaluation.tasks.task import EvaluatedModel, TaskRun
from icl_embed.few_shot.settings import FEW_SHOT, ZERO_SHOT
from icl_embed.model.cached_encoding import CachingEncoder, Effort, Encoder, Setting

logger = logging.getLogger(__name__)

Progress = Callable[[str], None]
WARM_UP_QUERIES = 8


@dataclasses.dataclass(frozen=True)
class _Measured:
    """One setting after its run."""

    setting: Setting
    run: TaskRun
    seconds: float
    effort: Effort = dataclasses.field(default_factory=Effort)
    tokens: TokenCount | None = None


def evaluate_model(  # noqa: PLR0913 - as evaluate_encoder
    dataset: EvaluationInput,
    model: EvaluatedModel,
    config: EvaluateConfig,
    out_dir: Path,
    *,
    pool_dir: Path | None,
    seed: int,
    strategy: Strategy | None = None,
    require_few_shot: bool = False,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Evaluate a model folder zero-shot and few-shot; returns counts for the manifest.

    ``strategy`` chooses the examples; without one they are the pool's draw. The prompt budgets are the
    evaluation's, so that all models see the same texts. A task without eligible examples has its few-shot
    setting recorded as absent, with the reason.

    Raises
        EvaluationError: the data or a vector cannot be used, an example leaks, or few-shot is required
            and not possible.
        ModelError: the model folder cannot be loaded.
    """
    from icl_embed.model.embedder import Embedder

    loaded = Embedder.load(model.folder, device=model.device, dtype=model.dtype)
    settings = loaded.settings.model_copy(update={"prompt": config.prompt})
    return evaluate_encoder(
        dataset,
        dataclasses.replace(loaded, settings=settings),
        config,
        out_dir,
        model=model,
        pool_dir=pool_dir,
        seed=seed,
        strategy=strategy,
        require_few_shot=require_few_shot,
        progress=progress,
    )


def evaluate_encoder(  # noqa: PLR0913 - the stage's whole context, passed once
    dataset: EvaluationInput,
    encoder: Encoder,
    config: EvaluateConfig,
    out_dir: Path,
    *,
    model: EvaluatedModel,
    pool_dir: Path | None,
    seed: int,
    strategy: Strategy | None = None,
    require_few_shot: bool = False,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Evaluate a loaded encoder; see ``evaluate_model``."""
    data = read_task_data(dataset)
    few_shot, reason = few_shot_setting(dataset, data, pool_dir, config, encoder=encoder, strategy=strategy)
    if require_few_shot and not few_shot:
        raise EvaluationError(f"{dataset.name}: few-shot evaluation is required, but {reason}")
    settings = [Setting(ZERO_SHOT, dataset.instruction)]
    if few_shot:
        settings.append(few_shot)
    cached = CachingEncoder(encoder, config.batch_tokens)
    measured = []
    for setting in settings:
        if progress:
            progress(f"{model.name} on {dataset.name}, {setting.name}")
        measured.append(_measure(dataset, data, cached, setting, model=model, config=config))
    absent = () if few_shot else (Absence(FEW_SHOT, reason),)
    scores = _summarise(dataset, model.name, model.fingerprint, measured, absent, config=config, seed=seed)
    return _write(out_dir, data, scores, measured)


def evaluate_bm25(
    dataset: EvaluationInput, config: EvaluateConfig, out_dir: Path, *, seed: int
) -> dict[str, Any]:
    """Evaluate BM25 on a retrieval or reranking data set; returns counts for the manifest.

    Where it has no word to go by, the scores say that there is no such baseline, and why.

    Raises
        EvaluationError: the data set is of another kind, or its data cannot be used.
    """
    from icl_embed.bm25 import DESCRIPTION, VERSION

    data = read_task_data(dataset)
    if not isinstance(data, SearchData):
        raise EvaluationError(f"{dataset.name}: BM25 ranks passages; it cannot do {dataset.kind}")
    started = time.perf_counter()
    measured: list[_Measured] = []
    absent: tuple[Absence, ...] = ()
    try:
        run = run_bm25(dataset, data, version=VERSION, config=config)
    except NoBaselineError as error:
        logger.warning("%s: %s", dataset.name, error)
        absent = (Absence(BM25, str(error)),)
    else:
        run = dataclasses.replace(run, notes={"method": DESCRIPTION})
        measured = [_Measured(Setting(BM25, ""), run, time.perf_counter() - started)]
    scores = _summarise(dataset, "bm25", VERSION, measured, absent, config=config, seed=seed)
    return _write(out_dir, data, scores, measured)


def _measure(
    dataset: EvaluationInput,
    data: TaskData,
    encoder: CachingEncoder,
    setting: Setting,
    *,
    model: EvaluatedModel,
    config: EvaluateConfig,
) -> _Measured:
    # The first calls of a process pay for allocations and kernel choice; they are not the setting's cost.
    texts = query_texts(data)[:WARM_UP_QUERIES]
    examples = setting.selection(texts).sets[0]
    encoder.encoder.encode_queries(texts, instruction=setting.instruction, examples=examples)
    encoder.effort = Effort()
    started = time.perf_counter()
    run = run_encoder(
        dataset,
        data,
        encoder,
        setting,
        model_name=model.name,
        model_fingerprint=model.fingerprint,
        config=config,
    )
    seconds = time.perf_counter() - started
    tokens = count_query_tokens(encoder.encoder.prompts, query_texts(data), setting)
    if tokens and tokens.examples_dropped:
        logger.warning(
            "%s: %d of %d examples do not fit in %d tokens and are not shown",
            dataset.name,
            tokens.examples_dropped,
            tokens.examples_shown + tokens.examples_dropped,
            config.prompt.total_tokens,
        )
    return _Measured(setting, run, seconds, encoder.effort, tokens)


def _summarise(
    dataset: EvaluationInput,
    model_name: str,
    model_fingerprint: str,
    measured: list[_Measured],
    absent: tuple[Absence, ...],
    *,
    config: EvaluateConfig,
    seed: int,
) -> EvaluationScores:
    how = Bootstrap(config.bootstrap_resamples, config.confidence, seed)
    return EvaluationScores(
        dataset=dataset.name,
        kind=dataset.kind,
        model=model_name,
        model_fingerprint=model_fingerprint,
        metric=MAIN_SCORES[dataset.kind],
        aggregation=measured[0].run.measurement.aggregation if measured else "mean",
        trained_on=dataset.trained_on,
        confidence=config.confidence,
        results=tuple(_setting_score(item, how) for item in measured),
        absent=absent,
        split=dataset.split,
    )


def _setting_score(measured: _Measured, how: Bootstrap) -> SettingScore:
    interval = measured.run.measurement.interval(how)
    tokens, effort = measured.tokens, measured.effort
    notes = dict(measured.run.notes)
    if tokens and tokens.examples_dropped:
        notes["examples_dropped"] = tokens.examples_dropped
    return SettingScore(
        setting=measured.setting.name,
        shots=tokens.examples_shown if tokens else 0,
        mean=measured.run.measurement.point,
        low=interval.low,
        high=interval.high,
        num_queries=len(measured.run.measurement.ids),
        seconds=round(measured.seconds, 4),
        query_tokens_mean=tokens.mean if tokens else None,
        query_seconds=round(effort.query_seconds, 4) if tokens else None,
        passage_seconds=round(effort.passage_seconds, 4) if tokens else None,
        encoded_queries=effort.queries,
        notes=notes,
    )


def _write(
    out_dir: Path, data: TaskData, scores: EvaluationScores, measured: list[_Measured]
) -> dict[str, Any]:
    (out_dir / "mteb").mkdir(parents=True, exist_ok=True)
    write_scores(out_dir, scores)
    write_values(out_dir, {item.setting.name: item.run.measurement for item in measured})
    write_examples(out_dir, {item.setting.name: _shown(item.setting, data) for item in measured})
    for item in measured:
        text = json.dumps(item.run.result, indent=1, ensure_ascii=False)
        (out_dir / "mteb" / f"{item.setting.name}.json").write_text(text, encoding="utf-8")
    if isinstance(data, SearchData) and measured:
        # The last setting is the few-shot one, if there is one.
        write_top_passages(out_dir, data, measured[-1].run.ranking)
    return _counts(scores)


def _shown(setting: Setting, data: TaskData) -> dict[str, Any]:
    if setting.choose is None:
        return {
            "instruction": setting.instruction,
            "examples": list(map(dataclasses.asdict, setting.examples)),
        }
    selection = setting.choose(query_texts(data))
    return {
        "instruction": setting.instruction,
        "strategy": setting.choose.name,
        "sets": [list(map(dataclasses.asdict, examples)) for examples in selection.sets],
        "set_of_query": list(selection.set_of),
    }


def _counts(scores: EvaluationScores) -> dict[str, Any]:
    return {
        "queries": scores.results[0].num_queries if scores.results else 0,
        "scores": {result.setting: round(result.mean, 4) for result in scores.results},
        "absent": {absence.setting: absence.reason for absence in scores.absent},
    }
