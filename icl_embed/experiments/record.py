"""The study artefact: what was found, as rows and as a table, with the facts that a reader needs.

- ``study.json``: the whole study.
- ``study.parquet``: its rows, nested values as JSON text, for DuckDB and data frames.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from rich.markup import escape
from rich.table import Table

from icl_embed.errors import EvaluationError

STAGE = "study"
STUDY_NAME = "study.json"
ROWS_NAME = "study.parquet"

StudyName = Literal["shots", "examples", "overhead", "overlap"]
Row = Mapping[str, Any]


@dataclass(frozen=True)
class Study:
    """One study of one model.

    Attributes
        facts: how it was made: settings, machine, what was left out.
        rows: one record per point; every row has the same names.
    """

    name: StudyName
    model: str
    model_fingerprint: str
    rows: tuple[Row, ...]
    facts: Mapping[str, Any] = field(default_factory=dict)


def write_study(folder: Path, study: Study) -> dict[str, Any]:
    """Write both files; returns counts for the manifest.

    Raises
        EvaluationError: it has no rows, or their names differ.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    if not study.rows:
        raise EvaluationError(f"the study {study.name} of {study.model} has no rows; nothing was measured")
    names = list(study.rows[0])
    if any(list(row) != names for row in study.rows):
        raise EvaluationError(f"the rows of the study {study.name} have different names")
    text = json.dumps(asdict(study), indent=1, ensure_ascii=False, allow_nan=False)
    (folder / STUDY_NAME).write_text(text, encoding="utf-8")
    columns = {name: [_plain(row[name]) for row in study.rows] for name in names}
    pq.write_table(pa.table(columns), folder / ROWS_NAME)
    return {"study": study.name, "rows": len(study.rows)}


def read_study(folder: Path) -> Study:
    """Read a study artefact.

    Raises
        EvaluationError: missing, or not what ``write_study`` writes.
    """
    path = folder / STUDY_NAME
    try:
        fields = json.loads(path.read_bytes())
        study = Study(**{**fields, "rows": tuple(fields["rows"])})
        known = study.name in get_args(StudyName) and all(isinstance(row, dict) for row in study.rows)
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise EvaluationError(f"{path} is not a study: {error}; run icl-embed study again") from error
    if not known:
        raise EvaluationError(f"{path}: unknown study {study.name!r}, expected one of {get_args(StudyName)}")
    return study


def _plain(value: Any) -> Any:
    return json.dumps(value, ensure_ascii=False) if isinstance(value, dict | list | tuple) else value


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
