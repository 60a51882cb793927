"""What a run says at its end: every mean with its interval, as JSON and as terminal tables.

Draws of examples that differ by their seed alone are one *group* (``5-shot``, ``5-shot nearest``): its score
is the mean over the draws, its interval speaks of test items, its spread of draws.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.markup import escape
from rich.table import Table

from icl_embed.evaluation.grid import NotMeasured, Outcome, StoredCell
from icl_embed.evaluation.measurement import (
    Bootstrap,
    Difference,
    Interval,
    Measured,
    Measurement,
    average,
    average_difference,
    average_over_seeds,
    compare,
)
from icl_embed.evaluation.models import OpenedModel
from icl_embed.evaluation.scores import (
    STAGE,
    EvaluationScores,
    SettingScore,
    read_measurements,
    read_scores,
)
from icl_embed.few_shot.settings import ZERO_SHOT
from icl_embed.store import Artefact

FORMAT = 1


@dataclass(frozen=True)
class ScoredCell:
    """One cell, read back from its artefact."""

    reference: str
    scores: EvaluationScores
    result: SettingScore
    measurement: Measurement
    is_new: bool

    @property
    def group(self) -> str:
        """The setting without its seed."""
        return self.result.group


@dataclass(frozen=True)
class Group:
    """All draws of one setting on one task.

    Attributes
        spread: standard deviation of the score between draws; None with one draw.
        over_zero: this minus zero-shot; None where there is no zero-shot score, or this is it.
    """

    name: str
    cells: tuple[ScoredCell, ...]
    measured: Measured
    interval: Interval
    spread: float | None
    over_zero: Difference | None = None


@dataclass(frozen=True)
class TaskSummary:
    """One task with all its groups, in the order of the run."""

    scores: EvaluationScores
    groups: tuple[Group, ...]

    def of(self, name: str) -> Group | None:
        """The group of a name."""
        return next((group for group in self.groups if group.name == name), None)


@dataclass(frozen=True)
class Average:
    """One group over the tasks that have every group, so that groups can be compared.

    Where fewer than two tasks have them all, over those that have this one.
    """

    name: str
    tasks: int
    interval: Interval
    spread: float | None
    over_zero: Difference | None = None
    compared_tasks: int = 0


@dataclass(frozen=True)
class Summary:
    """A run's result."""

    model: str
    how: Bootstrap
    tasks: tuple[TaskSummary, ...]
    averages: tuple[Average, ...]
    missing: tuple[NotMeasured, ...]
    absent: tuple[NotMeasured, ...]
    failed: tuple[NotMeasured, ...]
    unjudged: tuple[str, ...] = ()

    @property
    def is_complete(self) -> bool:
        """Whether every task was found and scored."""
        return not self.missing and not self.failed


def summarise(outcome: Outcome, model: str, how: Bootstrap) -> Summary:
    """Read the artefacts of a run and average them."""
    cells: dict[tuple[str, str, str], list[ScoredCell]] = {}
    absent, unjudged = list(outcome.absent), []
    for one in outcome.measured:
        scores = read_scores(one.artefact.path)
        for absence in scores.absent:
            absent.append(NotMeasured(scores.dataset, absence.reason, absence.setting))
            unjudged.append(one.artefact.reference)
        measurements = read_measurements(one.artefact.path, scores) if scores.results else {}
        for result in scores.results:
            task = (scores.dataset, scores.split, scores.subset)
            cell = ScoredCell(
                one.artefact.reference, scores, result, measurements[result.setting], one.is_new
            )
            cells.setdefault(task, []).append(cell)
    tasks = tuple(_task(members, how) for members in cells.values())
    return Summary(
        model,
        how,
        tasks,
        _averages(tasks, how),
        missing=tuple(outcome.missing),
        absent=tuple(absent),
        failed=tuple(outcome.failed),
        unjudged=tuple(unjudged),
    )


def summaries_of_folders(
    folders: Iterable[Path], how: Bootstrap, missing: Sequence[NotMeasured] = ()
) -> list[Summary]:
    """Score artefacts of any number of models, model by model."""
    by_model: dict[str, Outcome] = {}
    for folder in folders:
        outcome = by_model.setdefault(read_scores(folder).model, Outcome(missing=list(missing)))
        outcome.measured.append(StoredCell(Artefact(STAGE, folder.name, folder), is_new=False))
    return [summarise(outcome, model, how) for model, outcome in by_model.items()]


def _task(cells: Sequence[ScoredCell], how: Bootstrap) -> TaskSummary:
    by_name: dict[str, list[ScoredCell]] = {}
    for cell in cells:
        by_name.setdefault(cell.group, []).append(cell)
    groups = {name: _group(name, members, how) for name, members in by_name.items()}
    zero = groups.get(ZERO_SHOT)
    compared = (
        replace(group, over_zero=compare(group.measured, zero.measured, how))
        if zero and group is not zero
        else group
        for group in groups.values()
    )
    return TaskSummary(cells[0].scores, tuple(compared))


def _group(name: str, cells: Sequence[ScoredCell], how: Bootstrap) -> Group:
    measured = average_over_seeds([cell.measurement for cell in cells])
    spread = _spread([cell.result.mean for cell in cells])
    return Group(name, tuple(cells), measured, measured.interval(how), spread)


def _averages(tasks: Sequence[TaskSummary], how: Bootstrap) -> tuple[Average, ...]:
    if len(tasks) < 2:
        return ()
    names = dict.fromkeys(group.name for task in tasks for group in task.groups)
    complete = [task for task in tasks if all(task.of(name) for name in names)]
    members = complete if len(complete) > 1 else tasks
    averages = []
    for name in names:
        found = [(group, task.of(ZERO_SHOT)) for task in members if (group := task.of(name))]
        pairs = [(group.measured, zero.measured) for group, zero in found if zero and name != ZERO_SHOT]
        averages.append(
            Average(
                name,
                len(found),
                average([group.measured for group, _ in found], how),
                _spread_of_averages([group for group, _ in found]),
                average_difference(pairs, how) if pairs else None,
                len(pairs),
            )
        )
    return tuple(averages)


def _spread(scores: Sequence[float]) -> float | None:
    return float(np.std(scores, ddof=1)) if len(scores) > 1 else None


def _spread_of_averages(groups: Sequence[Group]) -> float | None:
    """Between draws of the average over tasks; a draw is a seed that every task has."""
    by_seed = [{cell.result.seed: cell.result.mean for cell in group.cells} for group in groups]
    shared = set.intersection(*(set(scores) for scores in by_seed))
    return _spread([float(np.mean([scores[seed] for scores in by_seed])) for seed in sorted(shared)])


def as_json(summary: Summary, model: OpenedModel) -> dict[str, Any]:
    """The content of ``--json``: scores are fractions of one."""
    about = model.shown
    new = [cell for task in summary.tasks for group in task.groups for cell in group.cells if cell.is_new]
    return {
        "format": FORMAT,
        "model": {
            "name": about.name,
            "fingerprint": about.fingerprint,
            "dtype": about.dtype,
            "sort": model.sort,
            "artefact": model.reference,
        },
        "bootstrap": asdict(summary.how),
        "tasks": [_task_json(task) for task in summary.tasks],
        "averages": [
            {
                "group": one.name,
                "tasks": one.tasks,
                **asdict(one.interval),
                "spread": one.spread,
                "over_zero_shot": asdict(one.over_zero) if one.over_zero else None,
                "compared_tasks": one.compared_tasks,
            }
            for one in summary.averages
        ],
        "missing": [asdict(one) for one in summary.missing],
        "absent": [asdict(one) for one in summary.absent],
        "failed": [asdict(one) for one in summary.failed],
        "unjudged": list(summary.unjudged),
        "measured_now": {
            "cells": len(new),
            "encoded_queries": sum(cell.result.encoded_queries for cell in new),
            "encoded_passages": sum(cell.result.encoded_passages for cell in new),
            "seconds": round(sum(cell.result.seconds for cell in new), 3),
        },
    }


def _task_json(task: TaskSummary) -> Mapping[str, Any]:
    scores = task.scores
    names = ("family", "kind", "metric", "split", "subset", "served_from", "data_fingerprint", "instruction")
    return {
        "task": scores.dataset,
        **{name: getattr(scores, name) for name in names},
        "groups": [
            {
                "group": group.name,
                **asdict(group.interval),
                "draws": len(group.cells),
                "spread": group.spread,
                "over_zero_shot": asdict(group.over_zero) if group.over_zero else None,
            }
            for group in task.groups
        ],
        "settings": [
            {"artefact": cell.reference, **asdict(cell.result)}
            for group in task.groups
            for cell in group.cells
        ],
    }


def plain_rows(summary: Summary) -> list[dict[str, str]]:
    """A row per task and setting, and per average, as plain words: for Markdown and for tables in a UI."""
    model = summary.model
    found = []
    for task in summary.tasks:
        for group in task.groups:
            cells = (*_score(group.interval, group.spread), *_gain(group.over_zero))
            found.append(_plain_row(model, task.scores.dataset, task.scores.metric, group.name, cells))
    for one in summary.averages:
        cells = (*_score(one.interval, one.spread), *_gain(one.over_zero))
        found.append(_plain_row(model, f"average of {one.tasks}", "", one.name, cells))
    return found


def _plain_row(model: str, task: str, metric: str, setting: str, cells: Sequence[str]) -> dict[str, str]:
    score, interval, spread, gain, gain_interval = cells
    return {
        "model": model,
        "task": task,
        "metric": metric,
        "setting": setting,
        "score": score,
        "interval": interval,
        "± draws": spread,
        "gain": gain.replace("[bold]", "").replace("[/bold]", ""),
        "gain's interval": gain_interval,
    }


def markdown_rows(rows: Sequence[Mapping[str, str]]) -> str:
    """Rows of one form as a Markdown table; empty for no rows."""
    if not rows:
        return ""
    names = list(rows[0])
    lines = [names, ["---"] * len(names), *([row[name] for name in names] for row in rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def tables_of(summary: Summary) -> Iterator[Table]:
    """Scores by task, their averages, and what was not measured; the first fits 80 columns."""
    if summary.tasks:
        yield _scores(summary)
    parts = {"missing": summary.missing, "absent": summary.absent, "failed": summary.failed}
    for title, found in parts.items():
        if found:
            yield _not_measured(title, found)


def _scores(summary: Summary) -> Table:
    title = (
        f"{escape(summary.model)}: scores in %, {summary.how.confidence:.0%} intervals; "
        "± between draws; gain over zero-shot, bold if certain"
    )
    table = Table(title=title, title_justify="left", box=None, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column("task", overflow="fold", min_width=12)
    table.add_column("setting", no_wrap=True)
    for name in ("score", "interval", "±", "gain", "interval", "tokens", "s"):
        table.add_column(name, justify="right", no_wrap=True)
    for task in summary.tasks:
        about = iter([escape(task.scores.dataset), f"[dim]{task.scores.metric}[/dim]"])
        for group in task.groups:
            table.add_row(next(about, ""), *_group_cells(group))
        for left in about:
            table.add_row(left)
    for one in summary.averages:
        table.add_row(f"average of {one.tasks}", *_average_cells(one), "", "")
    return table


def _group_cells(group: Group) -> list[str]:
    tokens = group.cells[0].result.query_tokens_mean
    return [
        escape(group.name),
        *_score(group.interval, group.spread),
        *_gain(group.over_zero),
        "-" if tokens is None else f"{tokens:.0f}",
        f"{sum(cell.result.seconds for cell in group.cells):.0f}",
    ]


def _average_cells(one: Average) -> list[str]:
    return [escape(one.name), *_score(one.interval, one.spread), *_gain(one.over_zero)]


def _score(interval: Interval, spread: float | None) -> list[str]:
    shown = "" if spread is None else f"{100 * spread:.1f}"
    dash = "…" if interval.low < 0 else "–"  # a dash before a minus sign cannot be read
    return [f"{100 * interval.mean:.1f}", f"{100 * interval.low:.1f}{dash}{100 * interval.high:.1f}", shown]


def _gain(difference: Difference | None) -> list[str]:
    if difference is None:
        return ["", ""]
    mean = f"{100 * difference.mean:+.1f}"
    mark = f"[bold]{mean}[/bold]" if difference.is_significant else mean
    return [mark, f"{100 * difference.low:+.1f}…{100 * difference.high:+.1f}"]


def _not_measured(title: str, found: Sequence[NotMeasured]) -> Table:
    table = Table(title=title, title_justify="left", box=None, padding=(0, 1, 0, 0), pad_edge=False)
    for name in ("task", "setting", "reason"):
        table.add_column(name)
    for one in found:
        table.add_row(escape(one.task), escape(one.setting), escape(one.reason))
    return table
