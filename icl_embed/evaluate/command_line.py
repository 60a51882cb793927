"""``icl-embed eval show``: scores with intervals from evaluation artefacts."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from icl_embed.errors import IclEmbedError
from icl_embed.evaluate.scores import EvaluationScores, SettingScore, read_scores

app = typer.Typer(name="eval", help="Look at evaluation results.", no_args_is_help=True)


@app.callback()
def evaluation() -> None:
    """Look at evaluation results."""


@app.command()
def show(
    folders: Annotated[list[Path], typer.Argument(metavar="DIR...", help="evaluation artefact folders")],
) -> None:
    """Print the scores of evaluation folders, with intervals, tokens and seconds."""
    try:
        evaluations = [read_scores(folder) for folder in folders]
    except IclEmbedError as error:
        Console(stderr=True).print(f"[red]error:[/red] {escape(str(error))}", highlight=False)
        raise typer.Exit(1) from error
    Console().print(score_table(evaluations))


def score_table(evaluations: list[EvaluationScores]) -> Table:
    """One row per (data set, model, setting), data sets of one kind together."""
    table = Table(title="scores in %", title_justify="left")
    for name in ("data set", "kind", "metric", "model", "setting"):
        table.add_column(name)
    for name in ("score", "interval", "items", "tokens", "query s"):
        table.add_column(name, justify="right")
    for scores in sorted(evaluations, key=lambda item: (item.kind, item.dataset, item.model)):
        name = f"{scores.dataset}{' (trained on)' if scores.trained_on else ''}"
        about = [name, scores.kind, scores.metric, scores.model]
        rows = [_cells(result) for result in scores.results]
        rows += [[absence.setting, "-", absence.reason] for absence in scores.absent]
        for row in rows:
            table.add_row(*(escape(cell) for cell in [*about, *row]))
    return table


def _cells(result: SettingScore) -> list[str]:
    return [
        f"{result.setting} ({result.shots})" if result.shots else result.setting,
        f"{100 * result.mean:.1f}",
        f"{100 * result.low:.1f} - {100 * result.high:.1f}",
        str(result.num_queries),
        "-" if result.query_tokens_mean is None else f"{result.query_tokens_mean:.0f}",
        "-" if result.query_seconds is None else f"{result.query_seconds:.2f}",
    ]
