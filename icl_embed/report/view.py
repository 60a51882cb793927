"""Everything the two templates show, gathered once."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from icl_embed.config import EvaluateConfig, RunConfig
from icl_embed.evaluation.measurement import Bootstrap, Interval
from icl_embed.evaluation.scores import read_examples, read_scores
from icl_embed.evaluation.summary import Summary, plain_rows, summaries_of_folders
from icl_embed.examples import Example
from icl_embed.few_shot.settings import main_settings, placebo_setting
from icl_embed.report.facts import (
    ArtefactFact,
    DatasetSize,
    ReportInputs,
    Table,
    TrainingFacts,
    dataset_size,
    number_format,
    per_dataset_table,
    pool_table,
    read_artefacts,
    read_json,
    read_training,
    signed,
    this_machine,
)
from icl_embed.report.limitations import find_limitations
from icl_embed.report.reranking import RerankingFacts, TuningFacts, read_reranking, read_tuning
from icl_embed.report.score_table import ScoreRow, ScoreTable, build_score_table
from icl_embed.store.manifest import git_commit, library_versions

Fact = tuple[str, str]


@dataclass(frozen=True)
class FewShotCost:
    """What examples cost the trained model on one data set."""

    dataset: str
    zero_tokens: float
    few_tokens: float
    zero_per_second: float
    few_per_second: float


@dataclass(frozen=True)
class ShownExamples:
    """The exact examples of one task."""

    dataset: str
    examples: tuple[Example, ...]


@dataclass(frozen=True)
class Headline:
    """One large number with what it means."""

    value: str
    unit: str
    meaning: str
    detail: str


@dataclass(frozen=True)
class ReportView:
    """The content of a report."""

    preset: str
    date: str
    commit: str
    confidence: int
    resamples: int
    headlines: tuple[Headline, ...]
    table: ScoreTable
    few_shot_cost: tuple[FewShotCost, ...]
    benchmarks: Table | None
    not_measured: tuple[str, ...]
    training: TrainingFacts | None
    sizes: tuple[DatasetSize, ...]
    pool: Table | None
    negatives: Table | None
    reranking: RerankingFacts | None
    tuning: TuningFacts | None
    reranker_training: TrainingFacts | None
    examples: tuple[ShownExamples, ...]
    artefacts: tuple[ArtefactFact, ...]
    machine: tuple[Fact, ...]
    versions: tuple[Fact, ...]
    changes: tuple[tuple[str, str, str], ...]
    limitations: tuple[str, ...]
    titles: Mapping[str, str]

    @property
    def build_seconds(self) -> float:
        """Seconds that building everything took, whenever it was built."""
        return sum(fact.manifest.seconds for fact in self.artefacts)


def gather(inputs: ReportInputs) -> ReportView:
    """Read all folders of a run.

    Raises
        EvaluationError, DataError, StoreError: a folder is not what it should be.
    """
    config = inputs.config
    evaluate = config["evaluate"]
    how = Bootstrap(evaluate["bootstrap_resamples"], evaluate["confidence"], config["seed"])
    few_shot = main_settings(EvaluateConfig(**evaluate))[-1].name
    table = build_score_table(
        inputs.scores,
        how,
        systems=inputs.systems,
        few_shot=few_shot,
        placebo=placebo_setting(EvaluateConfig(**evaluate)).name,
    )
    sizes = tuple(dataset_size(dataset) for dataset in inputs.datasets)
    benchmarks = summaries_of_folders(inputs.benchmarks, how)
    reranking = read_reranking(inputs.reranker_evaluation)
    return ReportView(
        preset=str(config["preset"]),
        date=time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        commit=git_commit(),
        confidence=round(100 * evaluate["confidence"]),
        resamples=evaluate["bootstrap_resamples"],
        headlines=_headlines(table, reranking),
        table=table,
        few_shot_cost=_few_shot_cost(table),
        benchmarks=_benchmark_table(benchmarks),
        not_measured=_not_measured(inputs, benchmarks),
        training=read_training(inputs.embedder),
        sizes=sizes,
        pool=pool_table(read_json(inputs.pool / "statistics.json")) if inputs.pool else None,
        negatives=per_dataset_table(read_json(inputs.negatives / "mining.json"))
        if inputs.negatives
        else None,
        reranking=reranking,
        tuning=read_tuning(inputs.reranker_choice),
        reranker_training=read_training(inputs.reranker),
        examples=_shown_examples(inputs, few_shot),
        artefacts=read_artefacts(inputs.artefacts),
        machine=(
            *(this_machine() if inputs.machine is None else inputs.machine),
            ("number format", number_format(config["model"]["dtype"])),
        ),
        versions=tuple(library_versions().items()),
        changes=config_changes(config),
        limitations=find_limitations(config, table, sizes),
        titles={dataset.name: dataset.title or dataset.name for dataset in inputs.datasets},
    )


def config_changes(config: Mapping[str, Any]) -> tuple[tuple[str, str, str], ...]:
    """(key, this run, default) of every setting that is not the default; paths are this machine's affair."""
    defaults = _leaves(RunConfig().model_dump(mode="json"))
    return tuple(
        (name, str(value), str(defaults.get(name)))
        for name, value in _leaves(config).items()
        if value != defaults.get(name) and not name.startswith("paths.") and name != "preset"
    )


def _leaves(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in tree.items():
        if isinstance(value, Mapping):
            found |= _leaves(value, f"{prefix}{name}.")
        else:
            found[prefix + name] = value
    return found


def _headlines(table: ScoreTable, reranking: RerankingFacts | None) -> tuple[Headline, ...]:
    found = []
    unseen = [row for row in table.rows if not row.trained_on]
    best = table.averages[0] if table.averages else (unseen[0] if len(unseen) == 1 else None)
    if best:
        found += _score_headlines(best)
    if reranking and reranking.flops_saved is not None and reranking.relative_loss is not None:
        found.append(
            Headline(
                f"{reranking.flops_saved:.0f}",
                "%",
                "of the reranker's FLOPs saved",
                change_of_quality(reranking.relative_loss),
            )
        )
    return tuple(found)


def change_of_quality(loss: Interval) -> str:
    """What the lightweight way loses, in words that do not make a certain loss of an uncertain one."""
    span = f"{signed(-loss.high)} to {signed(-loss.low)} %"
    if loss.low <= 0.0 <= loss.high:
        return f"no certain change of nDCG@10 against full depth ({span})"
    return f"nDCG@10 {signed(-loss.mean)} % against full depth ({span})"


def _score_headlines(row: ScoreRow) -> list[Headline]:
    found = []
    where = row.label.replace("Average", "average") if row.is_average else f"on {row.label}"
    names = (("trained-few", "trained model, few-shot"), ("trained-zero", "trained model, zero-shot"))
    name, meaning = next(((n, m) for n, m in names if n in row.cells), ("", ""))
    if name:
        cell = row.cells[name]
        detail = f"{where}; interval {100 * cell.low:.1f} to {100 * cell.high:.1f}"
        found.append(Headline(f"{100 * cell.mean:.1f}", "", meaning, detail))
    for key, meaning, unit in (
        ("few-zero", "few-shot over zero-shot", "points, trained model"),
        ("few-none", "few-shot over the same training without examples", "points"),
        ("few-placebo", "few-shot over as many examples of another task", "points, trained model"),
        ("trained-base", "trained over base", "points, both zero-shot"),
    ):
        if key in row.differences:
            gap = row.differences[key]
            detail = f"{unit}; interval {signed(gap.low)} to {signed(gap.high)}"
            found.append(Headline(signed(gap.mean), "", meaning, detail))
    return found


def _few_shot_cost(table: ScoreTable) -> tuple[FewShotCost, ...]:
    found = []
    for item in table.evaluated:
        zero, few = item.scores.get("trained-zero"), item.scores.get("trained-few")
        if zero is None or few is None or not zero.query_seconds or not few.query_seconds:
            continue
        found.append(
            FewShotCost(
                item.dataset,
                zero.query_tokens_mean or 0.0,
                few.query_tokens_mean or 0.0,
                zero.encoded_queries / zero.query_seconds,
                few.encoded_queries / few.query_seconds,
            )
        )
    return tuple(found)


def _benchmark_table(summaries: Sequence[Summary]) -> Table | None:
    rows = [row for summary in summaries for row in plain_rows(summary)]
    return (tuple(rows[0]), tuple(tuple(row.values()) for row in rows)) if rows else None


def _not_measured(inputs: ReportInputs, summaries: Sequence[Summary]) -> tuple[str, ...]:
    """What a reader would look for in the table of benchmarks and not find, and why."""
    absent = [
        f"{summary.model} on {one.task}, {one.setting}: {one.reason}"
        for summary in summaries
        for one in summary.absent
    ]
    return (*(f"{task} is missing: {reason}" for task, reason in inputs.missing), *absent)


def _shown_examples(inputs: ReportInputs, setting: str) -> tuple[ShownExamples, ...]:
    found: Sequence[ShownExamples] = [
        ShownExamples(scores.card, read_examples(folder, setting))
        for folder in inputs.scores
        if (scores := read_scores(folder)).model == inputs.systems.trained
    ]
    return tuple(sorted((item for item in found if item.examples), key=lambda item: item.dataset))
