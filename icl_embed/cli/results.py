"""``icl-embed eval compare | leaderboard | history | export | sql``: what the scores of a store say."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from icl_embed.cli.options import DEFAULT_STORE, StoreOption
from icl_embed.cli.pool import plain

TaskOption = Annotated[list[str], typer.Option("--task", "-t", help="only this task (repeatable)")]
ModelOption = Annotated[list[str], typer.Option("--model", "-m", help="only this model (repeatable)")]
FileOption = Annotated[Path | None, typer.Option(metavar="FILE", help="write it there; - prints it")]
LevelOption = Annotated[float, typer.Option(min=0.0001, max=0.5, help="chance of a false finding")]
JsonOption = Annotated[Path | None, typer.Option("--json", metavar="FILE", help="as JSON; - prints it")]
WIDEST = 100


def register(app: typer.Typer) -> None:
    """Add the commands to ``icl-embed eval``."""
    app.command(
        "compare",
        epilog="Examples: icl-embed eval compare trained base | "
        "icl-embed eval compare trained@5-shot trained@zero-shot --task SciFact | "
        "icl-embed eval compare 87c98 1f0c2 --json difference.json",
    )(compare)
    app.command(
        "leaderboard",
        epilog="Examples: icl-embed eval leaderboard | icl-embed eval leaderboard --sort SciFact "
        "--markdown board.md | icl-embed eval leaderboard --model trained --model base --csv -",
    )(leaderboard)
    app.command(
        "history",
        epilog="Examples: icl-embed eval history trained | icl-embed eval history trained --task SciFact",
    )(history)
    app.command(
        "export",
        epilog="Examples: icl-embed eval export scores.parquet | "
        "icl-embed eval export results --mteb --model trained",
    )(export)
    app.command(
        "sql",
        epilog='Examples: icl-embed eval sql "SELECT task, setting, mean FROM scores ORDER BY ALL" | '
        'icl-embed eval sql "DESCRIBE item_values"',
    )(sql)


def compare(
    first: Annotated[str, typer.Argument(metavar="A", help="model name, fingerprint, or name@setting")],
    second: Annotated[str, typer.Argument(metavar="B", help="what it is compared with")],
    task: TaskOption = [],  # noqa: B006 - typer copies it
    level: LevelOption = 0.05,
    json_file: JsonOption = None,
    store: StoreOption = DEFAULT_STORE,
) -> None:
    """A minus B on every task they share: interval, randomisation test, what could be detected."""
    from icl_embed.evaluation.results.compare import Procedure, compare_entrants, find_entrants, pair_entrants
    from icl_embed.evaluation.results.tables import comparison_json, comparison_notes, comparison_table

    path, scores = _open(store, task)
    pairs = pair_entrants(find_entrants(scores, first), find_entrants(scores, second))
    comparisons = [compare_entrants(path, one, other, Procedure(level=level)) for one, other in pairs]
    console = _console()
    if json_file:
        _write_text(json_file, json.dumps(comparison_json(comparisons), indent=1) + "\n")
    if json_file == Path("-"):
        return
    for comparison in comparisons:
        console.print(comparison_table(comparison))
        console.print()
    notes = dict.fromkeys(note for comparison in comparisons for note in comparison_notes(comparison))
    for note in notes:
        console.print(f"[dim]{escape(note)}[/dim]")


def leaderboard(
    task: TaskOption = [],  # noqa: B006
    model: ModelOption = [],  # noqa: B006
    sort: Annotated[str, typer.Option(help="average, or a task")] = "average",
    markdown: FileOption = None,
    json_file: JsonOption = None,
    csv: FileOption = None,
    store: StoreOption = DEFAULT_STORE,
) -> None:
    """All models and settings against all tasks, ranked by their average over common tasks."""
    from icl_embed.evaluation.measurement import Bootstrap
    from icl_embed.evaluation.results.leaderboard import build_leaderboard
    from icl_embed.evaluation.results.tables import (
        board_rows,
        csv_text,
        markdown_board,
        place_table,
        task_table,
        untested_notes,
    )

    path, scores = _open(store, task, model)
    board = build_leaderboard(path, scores, Bootstrap(), tasks=task, sort_by=sort)
    if markdown:
        _write_text(markdown, markdown_board(board))
    if json_file:
        _write_text(json_file, json.dumps(board_rows(board), indent=1) + "\n")
    if csv:
        _write_text(csv, csv_text(board_rows(board)))
    if Path("-") in (markdown, json_file, csv):
        return
    console = _console()
    console.print(place_table(board))
    console.print()
    console.print(task_table(board))
    for note in untested_notes(board):
        console.print(f"[dim]{escape(note)}[/dim]")
    if not board.common:
        console.print("[dim]no task is common to all: choose some with --task or --model[/dim]")


def history(
    model: Annotated[str, typer.Argument(help="model name, or the start of a fingerprint")],
    task: Annotated[str, typer.Option("--task", "-t", help="only this task")] = "",
    setting: Annotated[str, typer.Option(help="only this setting")] = "",
    store: StoreOption = DEFAULT_STORE,
) -> None:
    """Every score of a model, oldest first, with its change and whether weights, data or code were new."""
    from icl_embed.evaluation.results.compare import read_stored
    from icl_embed.evaluation.results.database import refresh
    from icl_embed.evaluation.results.leaderboard import history_of
    from icl_embed.evaluation.results.tables import history_table

    scores = read_stored(refresh(store), all_times=True)
    _console().print(history_table(history_of(scores, model, task=task, setting=setting)))


def export(
    target: Annotated[
        Path, typer.Argument(metavar="TARGET", help=".json, .csv or .parquet; --mteb: a folder")
    ],
    mteb: Annotated[bool, typer.Option("--mteb", help="mteb's own result folders, to submit")] = False,
    task: TaskOption = [],  # noqa: B006
    model: ModelOption = [],  # noqa: B006
    store: StoreOption = DEFAULT_STORE,
) -> None:
    """Write scores to a file, or as mteb's results."""
    from icl_embed.evaluation.results.tables import score_rows, write_rows

    _, scores = _open(store, task, model)
    console = _console()
    if mteb:
        from icl_embed.evaluation.mteb.results_format import write_mteb_results

        written = write_mteb_results(
            [store / name for name in sorted({one.reference for one in scores})], target
        )
        console.print(f"{len(written.files)} results in {escape(str(target))}", soft_wrap=True)
        for name, reason in written.skipped.items():
            console.print(f"[dim]left out {escape(name)}: {escape(reason)}[/dim]", soft_wrap=True)
        return
    write_rows(target, score_rows(scores))
    console.print(f"{len(scores)} scores in {escape(str(target))}", soft_wrap=True)


def sql(
    query: Annotated[str, typer.Argument(help="one SELECT; tables: scores, item_values, examples, …")],
    limit: Annotated[int, typer.Option(min=1, help="rows shown")] = 50,
    store: StoreOption = DEFAULT_STORE,
) -> None:
    """Run one read-only SQL query over all scores, their items and their examples."""
    from icl_embed.evaluation.results.database import user_query

    result = user_query(store, query, limit=limit)
    table = Table(*result.columns, box=None)
    for row in result.rows:
        table.add_row(*(plain(value) for value in row))
    console = Console()
    console.print(table)
    if result.truncated:
        console.print(f"[dim]first {limit} rows; more with --limit[/dim]")


def _open(store: Path, tasks: Sequence[str] = (), models: Sequence[str] = ()) -> tuple[Path, list[Any]]:
    """The refreshed database and the scores of the wanted tasks and models."""
    from icl_embed.evaluation.results.compare import known_or_suggest, read_stored, scores_of_model
    from icl_embed.evaluation.results.database import refresh

    path = refresh(store)
    scores = read_stored(path)
    for task in tasks:
        known_or_suggest("task", task, {score.task for score in scores})
    if models:
        scores = [score for name in models for score in scores_of_model(scores, name)]
    return path, [score for score in scores if not tasks or score.task in tasks]


def _write_text(path: Path, text: str) -> None:
    from icl_embed.store.files import write_atomically

    if path == Path("-"):
        typer.echo(text, nl=False)
    else:
        write_atomically(path, text.encode())


def _console() -> Console:
    console = Console()
    # A pipe has no width of its own; a wide terminal needs no wider table.
    return Console(width=WIDEST) if console.width > WIDEST or not console.is_terminal else console
