"""Results for terminals, Markdown, CSV, JSON, Parquet, and mteb's own result folders."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from rich.markup import escape
from rich.table import Table

from icl_embed.errors import EvaluationError
from icl_embed.evaluation.measurement import Interval
from icl_embed.evaluation.results.compare import Comparison, Row, StoredScore
from icl_embed.evaluation.results.leaderboard import Cell, Leaderboard, Moment, Place
from icl_embed.store.files import write_atomically

UNTESTED = "·"
MOST_ENTRANTS = 10  # columns of the task table; the files hold all


def comparison_table(comparison: Comparison) -> Table:
    """One line per task, the average last; what is certain is bold."""
    title = f"{comparison.first} − {comparison.second}, in points"
    table = _table(title, "task", "A", "B", "A−B", "interval", "p", "p Holm", "least")
    rows = [*comparison.rows, *([comparison.average] if comparison.average else [])]
    for row in rows:
        style = "bold" if row.p_holm <= comparison.level else ""
        table.add_row(*map(escape, _comparison_cells(row)), style=style, end_section=row is rows[-2:][0])
    return table


def comparison_notes(comparison: Comparison) -> list[str]:
    """How to read the table, and what it leaves out."""
    notes = [
        "p: two-sided paired randomisation test; p Holm: corrected for the number of tasks; bold: below "
        f"{comparison.level:g}.",
        "least: the smallest true difference that would be found in 80 % of such comparisons; "
        '"no difference" says nothing about smaller ones.',
    ]
    if any(row.trained_on for row in comparison.rows):
        notes.append("* trained on its training split; the average includes it.")
    if any(max(row.seeds) > 1 for row in comparison.rows):
        notes.append("Scores are averages over several draws of examples; intervals are over test items.")
    notes += [f"left out {task}: {reason}" for task, reason in comparison.skipped.items()]
    return notes


def place_table(board: Leaderboard) -> Table:
    """One line per entrant, best first."""
    title = f"average of {len(board.common)} common tasks of {len(board.tasks)}, in %"
    table = _table(title, "", "model", "setting", "average", "interval", "tasks")
    table.columns[2].justify = "left"
    for place in board.places:
        whole = place.average
        table.add_row(
            str(place.rank or UNTESTED),
            escape(place.model),
            escape(place.setting),
            percent(whole),
            spread(whole),
            f"{place.measured}/{len(board.tasks)}",
        )
    return table


def task_table(board: Leaderboard) -> Table:
    """One line per task, one column per entrant, in the order of the first table."""
    shown = board.places[:MOST_ENTRANTS]
    table = _table(f"{UNTESTED} not tested, * trained on", "task", *(str(n + 1) for n in range(len(shown))))
    for task in board.tasks:
        table.add_row(escape(task), *(_cell_text(place.cells[task]) for place in shown))
    return table


def untested_notes(board: Leaderboard) -> list[str]:
    """Why cells are empty, as far as it is known."""
    return [
        f"{place.model}@{place.setting} on {task}: {cell.reason}"
        for place in board.places
        for task, cell in place.cells.items()
        if cell.reason
    ]


def history_table(moments: Sequence[Moment]) -> Table:
    """One line per score, oldest first within task and setting."""
    table = _table("scores over time, in %", "task", "setting", "scored", "model", "score", "change", "new")
    table.columns[1].justify = table.columns[2].justify = table.columns[3].justify = "left"
    table.columns[-1].justify = "left"
    before = ("", "")
    for moment in moments:
        score = moment.score
        here = (score.task, score.setting)
        about = ["", ""] if here == before else [escape(part) for part in here]
        change = "" if moment.change is None else f"{100 * moment.change:+.1f}"
        when = score.created.removesuffix("Z").replace("T", " ")[:16]
        cells = [when, score.model_fingerprint[:8], f"{100 * score.mean:.1f}", change]
        table.add_row(*about, *map(escape, cells), ", ".join(moment.differs))
        before = here
    return table


def markdown_board(board: Leaderboard) -> str:
    """The whole board as one Markdown table, a row per entrant."""
    heads = ["", "model", "setting", "average", *board.tasks]
    lines = [_line(heads), _line(["---"] * len(heads))]
    for place in board.places:
        cells = [str(place.rank or ""), place.model, place.setting, _with_interval(place.average)]
        lines.append(_line([*cells, *(_cell_text(place.cells[task]) for task in board.tasks)]))
    common = ", ".join(board.common) or "none"
    return "\n".join([*lines, "", f"Scores in %. The average is over: {common}. * trained on.", ""])


def board_rows(board: Leaderboard) -> list[dict[str, Any]]:
    """One row per entrant and task, and per average; scores as fractions, None where not tested."""
    rows = []
    for place in board.places:
        rows.append({**_about(place), "task": "average", **_numbers(Cell(place.average))})
        rows += [{**_about(place), "task": task, **_numbers(cell)} for task, cell in place.cells.items()]
    return rows


def comparison_json(comparisons: Iterable[Comparison]) -> list[dict[str, Any]]:
    """Comparisons as JSON types; scores as fractions."""
    return [asdict(comparison) for comparison in comparisons]


def percent(interval: Interval | None) -> str:
    """The score in percent."""
    return UNTESTED if interval is None else f"{100 * interval.mean:.1f}"


def spread(interval: Interval | None) -> str:
    """The interval in percent."""
    return "" if interval is None else f"{100 * interval.low:.1f}–{100 * interval.high:.1f}"


def _comparison_cells(row: Row) -> list[str]:
    difference = row.difference
    return [
        row.task + ("*" if row.trained_on else ""),
        f"{100 * row.first:.1f}",
        f"{100 * row.second:.1f}",
        f"{100 * difference.mean:+.1f}",
        f"{100 * difference.low:+.1f} {100 * difference.high:+.1f}",
        _p_text(row.p_value),
        _p_text(row.p_holm),
        UNTESTED if row.detectable is None else f"{100 * row.detectable:.1f}",
    ]


def _p_text(value: float) -> str:
    return "<.001" if value < 0.001 else f"{value:.3f}"


def _cell_text(cell: Cell) -> str:
    return percent(cell.interval) + ("*" if cell.trained_on else "")


def _with_interval(interval: Interval | None) -> str:
    return UNTESTED if interval is None else f"{percent(interval)} ({spread(interval)})"


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _about(place: Place) -> dict[str, Any]:
    names = {"model": place.model, "model_fingerprint": place.fingerprint, "setting": place.setting}
    return {"rank": place.rank, **names}


def _numbers(cell: Cell) -> dict[str, Any]:
    interval = cell.interval
    score = {"mean": None, "low": None, "high": None} if interval is None else asdict(interval)
    more = {"seeds": cell.seeds, "trained_on": cell.trained_on, "reference": cell.reference}
    return {**score, **more, "reason": cell.reason}


def _table(title: str, first: str, *others: str) -> Table:
    table = Table(title=title, title_justify="left", box=None, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column(first, no_wrap=True)
    for index, name in enumerate(others):
        is_text = name in ("model", "setting")
        table.add_column(name, justify="left" if is_text else "right", no_wrap=index > 0 and not is_text)
    return table


def format_of(path: Path) -> str:
    """The format that a file's name asks for.

    Raises
        EvaluationError: another ending.
    """
    ending = path.suffix.removeprefix(".").lower()
    if ending not in _MAKERS:
        raise EvaluationError(f"expected a file that ends in .json, .csv or .parquet, found {path.name!r}")
    return ending


def score_rows(scores: Sequence[StoredScore]) -> list[dict[str, Any]]:
    """One row per score, all columns."""
    return [asdict(score) for score in scores]


def write_rows(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows in the format of the file's name.

    Raises
        EvaluationError: another ending, or nothing to write.
        StoreError: the disk refuses.
    """
    make = _MAKERS[format_of(path)]
    if not rows:
        raise EvaluationError("there is nothing to write: no score fits")
    write_atomically(path, make(rows))


def csv_text(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows as CSV, empty where there is no value."""
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _csv(rows: Sequence[Mapping[str, Any]]) -> bytes:
    return csv_text(rows).encode()


def _json(rows: Sequence[Mapping[str, Any]]) -> bytes:
    return (json.dumps(list(rows), indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode()


def _parquet(rows: Sequence[Mapping[str, Any]]) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist([dict(row) for row in rows]), sink)
    content: bytes = sink.getvalue().to_pybytes()
    return content


_MAKERS: dict[str, Callable[[Sequence[Mapping[str, Any]]], bytes]] = {
    "json": _json,
    "csv": _csv,
    "parquet": _parquet,
}
