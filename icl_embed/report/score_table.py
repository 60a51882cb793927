"""The score table: data sets by kind, systems side by side, differences only where they are certain."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from icl_embed.evaluation.measurement import (
    Bootstrap,
    Difference,
    Interval,
    Measurement,
    average,
    average_difference,
    compare,
)
from icl_embed.evaluation.scores import BM25, EvaluationScores, SettingScore, read_measurements, read_scores
from icl_embed.few_shot.settings import ZERO_SHOT

KIND_ORDER = ("retrieval", "reranking", "classification", "clustering", "sts", "pair_classification")
SEARCH_KINDS = ("retrieval", "reranking")
METRIC_NAMES = {
    "ndcg_at_10": "nDCG@10",
    "map_at_1000": "MAP",
    "accuracy": "accuracy",
    "v_measure": "V-measure",
    "cosine_spearman": "Spearman",
    "max_ap": "average precision",
}


@dataclass(frozen=True)
class Column:
    """One system in one setting."""

    name: str
    label: str
    system: str
    setting: str


@dataclass(frozen=True)
class Comparison:
    """A paired difference between two columns."""

    name: str
    label: str
    first: str
    second: str


@dataclass(frozen=True)
class ScoreRow:
    """One data set, or one average.

    ``cells`` and ``differences`` are keyed by the names of columns and comparisons; what is missing was not
    measured, and ``absences`` says why.
    """

    label: str
    kind: str
    metric: str
    trained_on: bool
    is_average: bool
    num_items: int
    cells: dict[str, Interval]
    differences: dict[str, Difference]
    absences: dict[str, str]


@dataclass(frozen=True)
class Evaluated:
    """One data set with all its measurements by column."""

    dataset: str
    kind: str
    metric: str
    trained_on: bool
    measurements: dict[str, Measurement]
    scores: dict[str, SettingScore]
    absences: dict[str, str]


@dataclass(frozen=True)
class ScoreTable:
    """Columns, comparisons, and rows grouped by kind, averages first."""

    columns: tuple[Column, ...]
    comparisons: tuple[Comparison, ...]
    averages: tuple[ScoreRow, ...]
    groups: tuple[tuple[str, tuple[ScoreRow, ...]], ...]
    evaluated: tuple[Evaluated, ...]

    @property
    def rows(self) -> tuple[ScoreRow, ...]:
        """All data set rows, in order."""
        return tuple(row for _, rows in self.groups for row in rows)


@dataclass(frozen=True)
class Systems:
    """What the scores call the models of a run; empty for one that it has not.

    Attributes
        public: a published embedder.
        no_examples: the same training without examples.
    """

    base: str = "base"
    trained: str = "trained"
    base_mean: str = ""
    public: str = ""
    no_examples: str = ""


def columns_of(systems: Systems, few_shot: str, placebo: str) -> tuple[Column, ...]:
    """The columns of a full table, what is compared with first, the embedder last.

    Parameters
        few_shot: the setting that the report speaks of.
        placebo: the same with examples of another task.
    """
    return (
        Column("bm25", "BM25", BM25, BM25),
        Column("public", f"{systems.public.rpartition('-')[0]}", systems.public, ZERO_SHOT),
        Column("base-zero", "base, zero-shot", systems.base, ZERO_SHOT),
        Column("base-few", "base, few-shot", systems.base, few_shot),
        Column("base-mean", "base, mean-pooled", systems.base_mean, ZERO_SHOT),
        Column("none-zero", "trained without examples", systems.no_examples, ZERO_SHOT),
        Column("trained-zero", "trained, zero-shot", systems.trained, ZERO_SHOT),
        Column("trained-placebo", "trained, examples of another task", systems.trained, placebo),
        Column("trained-few", "trained, few-shot", systems.trained, few_shot),
    )


COMPARISONS = (
    Comparison("few-zero", "few-shot over zero-shot", "trained-few", "trained-zero"),
    Comparison("few-none", "few-shot over trained without examples", "trained-few", "none-zero"),
    Comparison("few-placebo", "few-shot over examples of another task", "trained-few", "trained-placebo"),
    Comparison("few-public", "few-shot over the public embedder", "trained-few", "public"),
    Comparison("trained-base", "trained over base", "trained-zero", "base-zero"),
    Comparison("few-bm25", "few-shot over BM25", "trained-few", "bm25"),
)


def build_score_table(
    folders: Sequence[Path], how: Bootstrap, *, systems: Systems, few_shot: str, placebo: str = ""
) -> ScoreTable:
    """Read score folders and compare them, item by item.

    Raises
        EvaluationError: a folder is not a score, or two of one data set saw different items.
    """
    columns = [column for column in columns_of(systems, few_shot, placebo) if column.system]
    evaluated = _read(folders, columns)
    used = {name for item in evaluated for name in (*item.measurements, *item.absences)}
    kept = tuple(column for column in columns if column.name in used)
    comparisons = tuple(c for c in COMPARISONS if {c.first, c.second} <= used)
    groups = []
    for kind in KIND_ORDER:
        members = [item for item in evaluated if item.kind == kind]
        if members:
            groups.append((kind, tuple(_dataset_row(item, comparisons, how) for item in members)))
    averages = _averages(evaluated, kept, comparisons, how)
    return ScoreTable(kept, comparisons, averages, tuple(groups), tuple(evaluated))


def _read(folders: Sequence[Path], columns: Sequence[Column]) -> list[Evaluated]:
    found: dict[str, Evaluated] = {}
    for folder in folders:
        scores = read_scores(folder)
        item = found.setdefault(scores.card, _empty(scores))
        if scores.trained_on and not item.trained_on:  # only the trained model's scores know that
            item = found[scores.card] = replace(item, trained_on=True)
        measurements = read_measurements(folder, scores)
        for column in columns:
            if column.system != scores.model:
                continue
            result = scores.of(column.setting)
            if result is not None:
                item.measurements[column.name] = measurements[column.setting]
                item.scores[column.name] = result
            for absence in scores.absent:
                if absence.setting == column.setting:
                    item.absences[column.name] = absence.reason
    return sorted(found.values(), key=lambda item: (item.trained_on, item.dataset))


def _empty(scores: EvaluationScores) -> Evaluated:
    return Evaluated(scores.card, scores.kind, scores.metric, scores.trained_on, {}, {}, {})


def _dataset_row(item: Evaluated, comparisons: Sequence[Comparison], how: Bootstrap) -> ScoreRow:
    measured = item.measurements
    return ScoreRow(
        label=item.dataset,
        kind=item.kind,
        metric=METRIC_NAMES.get(item.metric, item.metric),
        trained_on=item.trained_on,
        is_average=False,
        num_items=max((score.num_queries for score in item.scores.values()), default=0),
        cells={name: value.interval(how) for name, value in measured.items()},
        differences={
            c.name: compare(measured[c.first], measured[c.second], how)
            for c in comparisons
            if c.first in measured and c.second in measured
        },
        absences=item.absences,
    )


def _averages(
    evaluated: Sequence[Evaluated],
    columns: Sequence[Column],
    comparisons: Sequence[Comparison],
    how: Bootstrap,
) -> tuple[ScoreRow, ...]:
    unseen = [item for item in evaluated if not item.trained_on]
    # One data set without few-shot scores must not hide the average of all the others.
    model_columns = {column.name for column in columns if column.name != BM25}
    complete = [item for item in unseen if model_columns <= set(item.measurements)]
    members, which = (
        (complete, ", of those with every setting") if 2 <= len(complete) < len(unseen) else (unseen, "")
    )
    search = [item for item in members if item.kind in SEARCH_KINDS]
    rows = []
    if len(members) > 1:
        label = f"Average of {len(members)} unseen sets"
        rows.append(_average_row(label, members, columns, comparisons, how, which))
    if 1 < len(search) < len(members):
        label = f"Average of {len(search)} unseen search sets"
        rows.append(_average_row(label, search, columns, comparisons, how, which))
    return tuple(rows)


def _average_row(
    label: str,
    members: Sequence[Evaluated],
    columns: Sequence[Column],
    comparisons: Sequence[Comparison],
    how: Bootstrap,
    which: str,
) -> ScoreRow:
    def everywhere(*names: str) -> bool:
        return all(name in item.measurements for item in members for name in names)

    return ScoreRow(
        label=label,
        kind="",
        metric=f"mean of main scores{which}",
        trained_on=False,
        is_average=True,
        num_items=sum(max(score.num_queries for score in item.scores.values()) for item in members),
        cells={
            column.name: average([item.measurements[column.name] for item in members], how)
            for column in columns
            if everywhere(column.name)
        },
        differences={
            c.name: average_difference(
                [(item.measurements[c.first], item.measurements[c.second]) for item in members], how
            )
            for c in comparisons
            if everywhere(c.first, c.second)
        },
        absences={},
    )
