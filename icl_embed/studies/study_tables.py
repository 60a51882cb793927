"""A study as a table for the terminal."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rich.markup import escape
from rich.table import Table

from icl_embed.studies.record import Row, Study

Column = tuple[str, Callable[[Row], str]]


def study_table(study: Study) -> Table:
    """One line per row; fits a terminal of 80 columns."""
    table = Table(
        title=f"{study.name} study of {study.model}{_units(study)}",
        title_justify="left",
        box=None,
        padding=(0, 1, 0, 0),
        pad_edge=False,
    )
    columns = COLUMNS[study.name]
    for number, (name, _) in enumerate(columns):
        table.add_column(name, justify="left" if number < 2 else "right", no_wrap=number >= 2)
    for row in study.rows:
        table.add_row(*(escape(show(row)) for _, show in columns))
    return table


def _units(study: Study) -> str:
    return ", scores and differences in points" if study.name in ("shots", "examples") else ""


def _text(name: str, form: str = "") -> Callable[[Row], str]:
    return lambda row: format(row[name], form)


def _score(row: Row) -> str:
    return f"{100 * row['mean']:.1f} ({100 * row['low']:.1f}–{100 * row['high']:.1f})"


def _gap(name: str) -> Callable[[Row], str]:
    def show(row: Row) -> str:
        value: Any = row[f"over_{name}"]
        return "-" if value is None else f"{100 * value:+.1f}"

    return show


def _p_value(name: str) -> Callable[[Row], str]:
    return lambda row: "-" if row[f"over_{name}_holm"] is None else f"{row[f'over_{name}_holm']:.3f}"


def _share(count: str, share: str) -> Callable[[Row], str]:
    return lambda row: f"{row[count]} ({100 * row[share]:.1f} %)"


COLUMNS: dict[str, tuple[Column, ...]] = {
    "shots": (
        ("task", _text("task")),
        ("shots", _text("shots")),
        ("shown", _text("examples_shown")),
        ("score", _score),
        ("over zero", _gap("zero")),
        ("p, Holm", _p_value("zero")),
        ("tokens", _text("query_tokens", ".0f")),
    ),
    "examples": (
        ("task", _text("task")),
        ("examples", _text("quality")),
        ("score", _score),
        ("over zero", _gap("zero")),
        ("over clean", _gap("clean")),
        ("p, Holm", _p_value("clean")),
    ),
    "overhead": (
        ("shots", _text("shots")),
        ("prefix", _text("way")),
        ("tokens", _text("prefix_tokens")),
        ("p50 ms", _text("latency_p50_ms", ".1f")),
        ("p95 ms", _text("latency_p95_ms", ".1f")),
        ("queries/s", _text("queries_per_second", ".1f")),
        ("GFLOPs", _text("gflops_per_query_in_batch", ".2f")),
        ("MiB", lambda row: "-" if row["peak_bytes"] is None else f"{row['peak_bytes'] / 2**20:.0f}"),
    ),
    "overlap": (
        ("task", _text("task")),
        ("role", _text("role")),
        ("domain", _text("relation")),
        ("texts", _text("num_texts")),
        ("equal", _share("num_equal", "equal_share")),
        ("shared n-gram", _share("num_shared", "shared_share")),
    ),
}
