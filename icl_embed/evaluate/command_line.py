"""``icl-embed eval show``: scores with intervals from evaluation artefacts."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from icl_embed.evaluate.scores import EvaluationScores, SettingScore, read_scores

app = typer.Typer(name="eval", help="Evaluate models, and look at results.", no_args_is_help=True)


@app.callback()
def evaluation() -> None:
    """Evaluate models, and look at results."""


@app.command(epilog="Example: icl-embed eval show store/evaluation/*")
def show(
    folders: Annotated[list[Path], typer.Argument(metavar="DIR...", help="evaluation artefact folders")],
) -> None:
    """Print the scores of evaluation folders, with intervals and tokens per query."""
    Console().print(score_table([read_scores(folder) for folder in folders]))


def score_table(evaluations: list[EvaluationScores]) -> Table:
    """One row per (data set, system), data sets of one kind together; fits a terminal of 80 columns."""
    table = Table(
        title="scores in %, * trained on",
        title_justify="left",
        box=None,
        padding=(0, 1, 0, 0),
        pad_edge=False,
    )
    for name in ("data set", "metric", "system"):
        table.add_column(name, no_wrap=True)
    for name in ("score", "interval", "tokens"):
        table.add_column(name, justify="right", no_wrap=True)
    shown = ""
    for scores in sorted(evaluations, key=lambda item: (item.kind, item.dataset, item.model)):
        name = scores.dataset + ("*" if scores.trained_on else "")
        rows = [_cells(scores.model, result) for result in scores.results]
        rows += [[f"{scores.model} {absence.setting}", "-", absence.reason] for absence in scores.absent]
        for row in rows:
            about = ["", ""] if name == shown else [name, scores.metric]
            table.add_row(*(escape(cell) for cell in [*about, *row]))
            shown = name
    return table


def _cells(model: str, result: SettingScore) -> list[str]:
    setting = f"{result.setting} ({result.shots})" if result.shots else result.setting
    return [
        setting if setting == model else f"{model} {setting}",
        f"{100 * result.mean:.1f}",
        f"{100 * result.low:.1f}–{100 * result.high:.1f}",
        "-" if result.query_tokens_mean is None else f"{result.query_tokens_mean:.0f}",
    ]
