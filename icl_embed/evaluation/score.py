"""How a score is made: one model, one task, one setting, one artefact."""

from __future__ import annotations

import dataclasses
import json
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from icl_embed.config import RANKING_KINDS, EvaluateConfig
from icl_embed.errors import NoBaselineError, PoolError
from icl_embed.evaluation.asking import Plan, checked_setting
from icl_embed.evaluation.measurement import Bootstrap
from icl_embed.evaluation.models import OpenedModel
from icl_embed.evaluation.scores import (
    BM25,
    Absence,
    EvaluationScores,
    SettingScore,
    write_examples,
    write_ranking,
    write_scores,
    write_top_passages,
    write_values,
)
from icl_embed.evaluation.tasks.rows import PREFIX
from icl_embed.evaluation.tasks.task import BenchmarkTask, TaskRun, Unjudged
from icl_embed.few_shot.sources import Offered
from icl_embed.model.cached_encoding import CachingEncoder, Effort, Setting
from icl_embed.prompts import PromptBuilder

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TokenCount:
    """Token statistics of the queries of a setting.

    Attributes
        mean: tokens of a query with everything before it (instruction, examples), on average.
        prefix: tokens of an example set with the instruction, on average over the queries.
        examples_shown, examples_dropped: examples inside and outside the token budget, per query at most.
    """

    mean: float
    prefix: float
    examples_shown: int
    examples_dropped: int


def count_query_tokens(
    prompts: PromptBuilder | None, texts: Sequence[str], setting: Setting
) -> TokenCount | None:
    """Token statistics of ``texts`` asked under ``setting``; None for a model without prompts of ours."""
    if prompts is None:
        return None
    shared = [
        (prompts.prefix(setting.instruction, examples), len(rows))
        for examples, rows in setting.selection(texts).groups()
    ]
    tails = sum(map(len, prompts.query_tails(setting.instruction, texts)))
    prefix = sum(len(found.tokens) * uses for found, uses in shared) / max(len(texts), 1)
    return TokenCount(
        mean=round(prefix + tails / max(len(texts), 1), 2),
        prefix=round(prefix, 2),
        examples_shown=max((found.num_examples for found, _ in shared), default=0),
        examples_dropped=max((found.num_dropped for found, _ in shared), default=0),
    )


UNJUDGED = "its relevance judgements are not public; ranking.parquet is what a submission is made of"
JUDGED_DEPTH, UNJUDGED_DEPTH = 100, 1000  # passages kept per query: for a reranker, for a submission


@dataclass(frozen=True)
class Cell:
    """A score that is being made: the task and the model are at hand.

    Attributes
        plan: None for BM25, which is not asked in words.
        offered: the candidates, where examples are shown.
        seed: of the bootstrap.
    """

    model: OpenedModel
    task: BenchmarkTask
    plan: Plan | None
    offered: Offered | None
    instruction: str
    config: EvaluateConfig
    seed: int = 0

    @property
    def impossible_because(self) -> str:
        """Why the task or the model cannot be asked so; empty when it can."""
        kind = self.task.facts.kind
        if self.plan is None and kind not in RANKING_KINDS:
            return f"BM25 ranks passages; it cannot do {kind}"
        if self.model.second and kind not in RANKING_KINDS:
            return f"a reranker orders passages; it has nothing to do in {kind}"
        if self.plan is None or not self.plan.asked.shots:
            return ""
        return self.model.no_examples_because or (self.offered.reason if self.offered else "")

    def measure_or_say(self, folder: Path, encoder: Callable[[], CachingEncoder]) -> Mapping[str, Any]:
        """``produce``, or where it is impossible an artefact that says why; then no model is loaded."""
        reason = self.impossible_because
        if not reason:
            try:
                return self.produce(folder, encoder() if self.plan else None)
            except (NoBaselineError, PoolError) as error:  # nothing to search by
                reason = str(error)
        return self.write_absence(folder, reason)

    @property
    def name(self) -> str:
        """The setting's name."""
        return self.plan.asked.name if self.plan else BM25

    def produce(self, folder: Path, encoder: CachingEncoder | None) -> Mapping[str, Any]:
        """Measure and write; returns counts for the manifest.

        Raises
            EvaluationError: a vector cannot be used, or an example leaks.
        """
        started = time.perf_counter()
        setting, tokens, effort = Setting(BM25, ""), None, Effort()
        if self.plan is None or encoder is None:
            run: TaskRun | Unjudged = self.task.run_bm25()
        else:
            encoder.effort = Effort()
            setting = checked_setting(self.plan, self.task, encoder)
            run = self.task.run(encoder, setting, self.model.about)
            effort = encoder.effort
            tokens = count_query_tokens(encoder.encoder.prompts, self.task.query_texts(), setting)
        if self.model.second:
            run = self.task.rerank(run, self.model.second.scorer, top_k=self.model.second.top_k)
        seconds = time.perf_counter() - started
        if isinstance(run, TaskRun):
            # Measurements are compared within one task; its name is the one that tables show.
            named = dataclasses.replace(run.measurement, dataset=self.task.facts.name)
            run = dataclasses.replace(run, measurement=named)
        return _write(folder, self, run, setting, tokens=tokens, effort=effort, seconds=seconds)

    def write_absence(self, folder: Path, reason: str) -> Mapping[str, Any]:
        """Write that the task cannot be asked so, and why; returns counts for the manifest."""
        logger.warning("%s, %s: not measured: %s", self.task.facts.name, self.name, reason)
        empty = _scores(self, Unjudged({}), tokens=None, effort=Effort(), seconds=0.0)
        write_scores(folder, dataclasses.replace(empty, absent=(Absence(self.name, reason),)))
        return {**self._named(), "scores": {}, "absent": {self.name: reason}}

    def _named(self) -> dict[str, str]:
        """What tells two models of one name apart in a store."""
        return {"model": self.model.shown.name, "model_fingerprint": self.model.shown.fingerprint}


def _write(
    folder: Path,
    cell: Cell,
    run: TaskRun | Unjudged,
    setting: Setting,
    *,
    tokens: TokenCount | None,
    effort: Effort,
    seconds: float,
) -> Mapping[str, Any]:
    scores = _scores(cell, run, tokens=tokens, effort=effort, seconds=seconds)
    write_scores(folder, scores)
    if cell.plan:
        write_examples(folder, {cell.name: _shown(cell, setting, tokens)})
    if isinstance(run, Unjudged):
        write_ranking(folder, run.ranking, depth=UNJUDGED_DEPTH)
    else:
        write_values(folder, {cell.name: run.measurement})
        if run.ranking:
            write_ranking(folder, run.ranking, depth=JUDGED_DEPTH)
        if run.searched:
            write_top_passages(folder, run.searched, run.ranking)
        own = folder / ("air_bench" if cell.task.facts.family == "air-bench" else "mteb")
        own.mkdir()
        text = json.dumps(run.result, indent=1, ensure_ascii=False)
        (own / f"{cell.name}.json").write_text(text, encoding="utf-8")
    _warn_of_dropped(cell, tokens)
    return {
        **cell._named(),
        "encoded_queries": effort.queries,
        "encoded_passages": effort.passages,
        "scores": {result.setting: round(result.mean, 4) for result in scores.results},
        "dropped_examples": dict(cell.offered.dropped) if cell.offered else {},
    }


def _warn_of_dropped(cell: Cell, tokens: TokenCount | None) -> None:
    if tokens and tokens.examples_dropped:
        logger.warning(
            "%s: %d of %d examples do not fit in %d tokens and are not shown",
            cell.task.facts.name,
            tokens.examples_dropped,
            tokens.examples_shown + tokens.examples_dropped,
            cell.config.prompt.total_tokens,
        )


def _scores(
    cell: Cell,
    run: TaskRun | Unjudged,
    *,
    tokens: TokenCount | None,
    effort: Effort,
    seconds: float,
) -> EvaluationScores:
    facts, about = cell.task.facts, cell.model.shown
    judged = run if isinstance(run, TaskRun) else None
    result = judged and _setting_score(cell, judged, tokens=tokens, effort=effort, seconds=seconds)
    return EvaluationScores(
        dataset=facts.name,
        kind=facts.kind,
        model=about.name,
        model_fingerprint=about.fingerprint,
        metric=facts.metric,
        aggregation=judged.measurement.aggregation if judged else "mean",
        trained_on=facts.family == "local" and facts.name.removeprefix(PREFIX) in cell.model.trained_on,
        confidence=cell.config.confidence,
        results=(result,) if result else (),
        absent=() if result else (Absence(cell.name, UNJUDGED),),
        family=facts.family,
        split=facts.split,
        subset=facts.subset,
        served_from=facts.served_from,
        data_fingerprint=facts.data_fingerprint,
        instruction=cell.instruction,
        dtype=about.dtype,
    )


def _setting_score(
    cell: Cell, run: TaskRun, *, tokens: TokenCount | None, effort: Effort, seconds: float
) -> SettingScore:
    config, asked = cell.config, cell.plan.asked if cell.plan else None
    how = Bootstrap(config.bootstrap_resamples, config.confidence, cell.seed)
    interval = run.measurement.interval(how)
    notes = dict(run.notes)
    if tokens and tokens.examples_dropped:
        notes["examples_dropped"] = tokens.examples_dropped
    return SettingScore(
        setting=cell.name,
        shots=asked.shots if asked else 0,
        mean=run.measurement.point,
        low=interval.low,
        high=interval.high,
        num_queries=len(run.measurement.ids),
        seconds=round(seconds, 4),
        query_tokens_mean=tokens.mean if tokens else None,
        query_seconds=round(effort.query_seconds, 4) if asked else None,
        passage_seconds=round(effort.passage_seconds, 4) if asked else None,
        encoded_queries=effort.queries,
        encoded_passages=effort.passages,
        notes=notes,
        selection=asked.selection if asked and asked.shots else "",
        seed=asked.seed if asked else 0,
        quality=asked.quality if asked else "clean",
        examples_shown=tokens.examples_shown if tokens else 0,
        prefix_tokens_mean=tokens.prefix if tokens else None,
        draws=run.measurement.draws,
    )


def _shown(cell: Cell, setting: Setting, tokens: TokenCount | None) -> dict[str, Any]:
    shown: dict[str, Any] = {"instruction": setting.instruction}
    if cell.plan:
        shown |= cell.plan.asked.as_json()
    if tokens:
        shown["tokens"] = asdict(tokens)
    if cell.offered:
        shown |= {
            "source": cell.offered.origin,
            "candidates": len(cell.offered.rows),
            "found": cell.offered.found,
            "dropped": dict(cell.offered.dropped),
        }
    if setting.choose is None:
        return shown | {"examples": list(map(asdict, setting.examples))}
    selection = setting.choose(cell.task.query_texts())
    return shown | {
        "strategy": setting.choose.name,
        "sets": [list(map(asdict, examples)) for examples in selection.sets],
        "set_of_query": list(selection.set_of),
    }
