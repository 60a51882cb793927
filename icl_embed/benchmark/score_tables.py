"""A run's result as tables for a terminal: scores in percent, what is certain in bold."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.markup import escape
from rich.table import Table

from icl_embed.benchmark.grid import NotMeasured
from icl_embed.benchmark.summary import Average, Group, Summary
from icl_embed.evaluate.statistics import Difference, Interval


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
        f"{escape(summary.model.shown.name)}: scores in %, {summary.how.confidence:.0%} intervals; "
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
    return [f"{100 * interval.mean:.1f}", f"{100 * interval.low:.1f}–{100 * interval.high:.1f}", shown]


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
