"""The score table of the benchmark page: tasks by setting, with the gain of examples where it is certain."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from icl_embed.benchmark.asked import CLEAN
from icl_embed.evaluate.measurement import Measured, average_over_seeds
from icl_embed.evaluate.statistics import Interval
from icl_embed.report.score_table import KIND_ORDER, METRIC_NAMES
from icl_embed.studies.scored import Scored, Statistics, by_task, compared, summarised, with_holm

LEVEL = 0.05  # of the corrected p-value
ZERO = "zero-shot"
MOST_COLUMNS = 4
USUAL_SHOTS = 5


@dataclass(frozen=True)
class Gain:
    """A paired difference with its p-value after correction over all tasks.

    Attributes
        detectable: the true difference found four times out of five; None without spread.
    """

    mean: float
    low: float
    high: float
    p_value: float
    detectable: float | None

    @property
    def style(self) -> str:
        """The CSS class: coloured only where the corrected test is certain."""
        if self.p_value >= LEVEL:
            return "even"
        return "up" if self.mean > 0 else "down"

    @property
    def is_significant(self) -> bool:
        """Whether the corrected p-value is below the level."""
        return self.p_value < LEVEL


@dataclass(frozen=True)
class ScoreLine:
    """One task, or the average of several."""

    label: str
    kind: str
    detail: str
    is_average: bool
    trained_on: bool
    cells: Mapping[str, Interval]
    gain: Gain | None


@dataclass(frozen=True)
class BenchmarkTable:
    """Settings side by side; ``few`` is the one whose gain over zero-shot is shown ("" without any)."""

    columns: tuple[str, ...]
    few: str
    lines: tuple[ScoreLine, ...]


def benchmark_table(scored: Sequence[Scored], how: Statistics) -> BenchmarkTable:
    """The table of one model; seeds of a setting are averaged, corrupted examples are left to their study.

    Raises
        EvaluationError: several models, or scores of different data that have one name.
    """
    measured = {task: _settings(members) for task, members in by_task(scored).items()}
    few = _headline_setting(measured)
    columns = _columns(measured, few)
    about = {one.task: one for one in scored}
    tasks = sorted(measured, key=lambda task: (KIND_ORDER.index(about[task].scores.kind), task))
    complete = [task for task in tasks if all(name in measured[task] for name in (ZERO, few))]
    groups = [(task, [task]) for task in tasks]
    if few and len(complete) > 1:
        groups.insert(0, (f"Average of {len(complete)} tasks", complete))
    rows = [_row(label, members, measured, few, how) for label, members in groups]
    corrected = with_holm(rows, "zero")
    lines = tuple(
        _line(row, members, columns, measured, about, how)
        for row, (_, members) in zip(corrected, groups, strict=True)
    )
    return BenchmarkTable(columns, few, lines)


def _settings(members: Sequence[Scored]) -> dict[str, Measured]:
    groups: dict[str, list[Scored]] = {}
    for one in members:
        if one.asked.quality == CLEAN:
            groups.setdefault(_column(one), []).append(one)
    return {name: average_over_seeds([one.measurement for one in draws]) for name, draws in groups.items()}


def _column(one: Scored) -> str:
    if not one.asked.shots:
        return ZERO
    strategy = "" if one.asked.selection == "random" else f" {one.asked.selection}"
    return f"{one.asked.shots}-shot{strategy}"


def _headline_setting(measured: Mapping[str, Mapping[str, Measured]]) -> str:
    """The few-shot setting that most tasks have; of those the usual count, else the largest."""
    counts: dict[str, int] = {}
    for settings in measured.values():
        for name in settings:
            if name != ZERO:
                counts[name] = counts.get(name, 0) + 1
    usual = f"{USUAL_SHOTS}-shot"
    return max(counts, key=lambda name: (counts[name], name == usual, _shots(name)), default="")


def _shots(name: str) -> int:
    return 0 if name == ZERO else int(name.partition("-")[0])


def _columns(measured: Mapping[str, Mapping[str, Measured]], few: str) -> tuple[str, ...]:
    names = sorted(
        {name for settings in measured.values() for name in settings}, key=lambda name: (_shots(name), name)
    )
    if len(names) > MOST_COLUMNS:  # the whole curve is a section of its own
        names = [name for name in (ZERO, few) if name in names]
    return tuple(names)


def _row(
    label: str,
    tasks: Sequence[str],
    measured: Mapping[str, Mapping[str, Measured]],
    few: str,
    how: Statistics,
) -> dict[str, Any]:
    found = [measured[task] for task in tasks]
    has_both = all(few in one and ZERO in one for one in found)
    pairs = [(one[few], one[ZERO]) for one in found] if has_both else []
    return {"label": label, "is_average": len(tasks) > 1, **compared(pairs, how, "zero")}


def _line(
    row: Mapping[str, Any],
    tasks: Sequence[str],
    columns: Sequence[str],
    measured: Mapping[str, Mapping[str, Measured]],
    about: Mapping[str, Scored],
    how: Statistics,
) -> ScoreLine:
    cells = {
        name: Interval(**summarised([measured[task][name] for task in tasks], how))
        for name in columns
        if all(name in measured[task] for task in tasks)
    }
    gain = None
    if row["over_zero"] is not None:
        names = ("over_zero", "over_zero_low", "over_zero_high", "over_zero_holm", "over_zero_mde")
        gain = Gain(*(row[name] for name in names))
    if row["is_average"]:
        return ScoreLine(row["label"], "", "mean of main scores", True, False, cells, gain)
    scores = about[tasks[0]].scores
    parts = [METRIC_NAMES.get(scores.metric, scores.metric), f"{scores.results[0].num_queries} test items"]
    parts += [f"from the {scores.served_from}"] if scores.served_from else []
    return ScoreLine(row["label"], scores.kind, ", ".join(parts), False, scores.trained_on, cells, gain)
