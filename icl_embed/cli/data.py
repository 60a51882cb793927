"""``icl-embed data``: look at the catalog, fetch, and try a card of one's own."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TextColumn, TransferSpeedColumn
from rich.table import Table

from icl_embed.errors import ConfigError
from icl_embed.sources.card import Card, load_card, load_catalog
from icl_embed.sources.card_rows import SPLIT_NAMES
from icl_embed.sources.fetched import Progress as OnProgress

app = typer.Typer(
    name="data",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    help="Data sets: list, look, fetch, check. A data set is one TOML card; adding one needs no code.",
)

CatalogOption = Annotated[
    Path | None, typer.Option("--catalog", help="A folder of further cards; they add or override.")
]
DownloadsOption = Annotated[Path, typer.Option("--downloads", help="Where fetched files are kept.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")]
DOWNLOADS = Path("downloads")
SHOWN_CHARACTERS = 160
NO_RECORD = (
    "left",
    "merged",
    "empty negative",
    "empty positive",
    "negative equals",
)  # rejected, yet no row lost


@app.command("ls", epilog="Example: `icl-embed data ls --kind retrieval`")
def list_cards(
    kind: Annotated[str, typer.Option(help="Only this kind of task.")] = "",
    catalog: CatalogOption = None,
    as_json: JsonOption = False,
) -> None:
    """List the data sets of the catalog."""
    cards = [card for card in load_catalog([catalog]).values() if not kind or card.kind == kind]
    if as_json:
        typer.echo(json.dumps([_summary(card) for card in cards], indent=1, ensure_ascii=False))
        return
    table = Table(box=None, pad_edge=False)
    for column in ("name", "kind", "title", "licence"):
        table.add_column(column, overflow="fold", no_wrap=column in ("name", "kind"))
    for card in cards:
        licence = card.licence.partition(";")[0].partition(" (")[0].partition(":")[0]
        table.add_row(card.name, card.kind, escape(card.title), escape(licence))
    Console().print(table)


@app.command("show", epilog="Example: `icl-embed data show cwe-examples`")
def show_card(
    name: Annotated[str, typer.Argument(help="A data set of the catalog.")],
    rows: Annotated[int, typer.Option(min=0, help="Rows to show per split; 0 fetches nothing.")] = 3,
    catalog: CatalogOption = None,
    downloads: DownloadsOption = DOWNLOADS,
) -> None:
    """Show a card, its counts and the first rows of each split."""
    card = _card(name, catalog)
    console = Console()
    console.print(f"[bold]{escape(card.name)}[/bold]  {escape(card.title)} ({card.kind})")
    console.print(escape(card.description.strip()), soft_wrap=True)
    for label, value in (
        ("instruction", card.instruction),
        ("licence", card.licence),
        ("home", card.homepage),
    ):
        console.print(f"[dim]{label}:[/dim] {escape(value)}", soft_wrap=True)
    if rows:
        with tempfile.TemporaryDirectory(prefix="icl-embed-") as folder:
            counts = _build(card, Path(folder), downloads)
            _print_counts(counts, console)
            _print_rows(Path(folder), rows, console)


@app.command(
    "fetch", epilog="Example: `icl-embed data fetch icd10-terms lee-news` · `icl-embed data fetch --all`"
)
def fetch_cards(
    names: Annotated[list[str] | None, typer.Argument(help="Data sets of the catalog.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="Fetch the whole catalog.")] = False,
    catalog: CatalogOption = None,
    downloads: DownloadsOption = DOWNLOADS,
) -> None:
    """Fetch and verify the files of data sets, so that later runs need no network."""
    from icl_embed.sources.fetch import fetch

    cards = load_catalog([catalog])
    chosen = list(cards) if everything else list(names or [])
    if not chosen:
        raise ConfigError("name the data sets to fetch, or say --all")
    console = Console()
    for name in chosen:
        with download_progress() as progress:
            files = fetch(_card(name, catalog), downloads, progress=progress)
        size = sum(file.num_bytes for file in files)
        console.print(f"{escape(name)}: {len(files)} files, {size / 1e6:.1f} MB, verified")


@app.command("check", epilog="Example: `icl-embed data check my-cards/support.toml`")
def check_card(
    path: Annotated[Path, typer.Argument(help="A card, as a file.")],
    rows: Annotated[int, typer.Option(min=0, help="Rows to show per split.")] = 3,
    downloads: DownloadsOption = DOWNLOADS,
    as_json: JsonOption = False,
) -> None:
    """Try a card of your own from end to end: read it, fetch, map, split, and say what came out."""
    card = load_card(path)
    console = Console()
    with tempfile.TemporaryDirectory(prefix="icl-embed-") as folder:
        counts = _build(card, Path(folder), downloads)
        if as_json:
            typer.echo(json.dumps(counts, indent=1, ensure_ascii=False))
            return
        _print_counts(counts, console)
        _print_rows(Path(folder), rows, console)
    for warning in _warnings(card, counts):
        console.print(f"[yellow]note:[/yellow] {escape(warning)}", soft_wrap=True)
    console.print(f"[green]{escape(card.name)} is a valid {card.kind} card[/green]")


@contextmanager
def download_progress() -> Iterator[OnProgress | None]:
    """A progress bar on standard error if that is a terminal, else nothing."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield None
        return
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=console, transient=True) as bars:
        tasks: dict[str, TaskID] = {}

        def on_progress(name: str, done: int, total: int | None) -> None:
            if name not in tasks:
                tasks[name] = bars.add_task(name, total=total)
            bars.update(tasks[name], completed=done, total=total)

        yield on_progress


def _card(name: str, catalog: Path | None) -> Card:
    cards = load_catalog([catalog])
    if name not in cards:
        raise ConfigError(f'there is no data set "{name}"; the catalog has: {", ".join(cards)}')
    return cards[name]


def _summary(card: Card) -> dict[str, str]:
    return {
        "name": card.name,
        "kind": card.kind,
        "title": card.title,
        "source": f"{card.source.kind}: {card.source.shown}",
        "licence": card.licence,
        "homepage": card.homepage,
        "instruction": card.instruction,
    }


def _build(card: Card, folder: Path, downloads: Path) -> dict[str, Any]:
    from icl_embed.config import DataConfig
    from icl_embed.corpus.dataset import build_dataset

    limits = DataConfig()
    with download_progress() as progress:
        return build_dataset(
            card,
            downloads,
            folder,
            max_train_rows=limits.max_train_rows,
            max_test_queries=limits.max_test_queries,
            max_test_passages=limits.max_test_passages,
            progress=progress,
        )


def _print_counts(counts: dict[str, Any], console: Console) -> None:
    table = Table(box=None, pad_edge=False)
    table.add_column("split")
    for column in ("rows", "available", "passages"):
        table.add_column(column, justify="right")
    passages = counts.get("passages", {})
    for split in (*SPLIT_NAMES, *(["all"] if "all" in passages else [])):
        cells = (part.get(split, "") for part in (counts["rows"], counts["available"], passages))
        table.add_row(split, *(f"{cell:,}" if cell != "" else "" for cell in cells))
    console.print(table)
    for reason, number in counts["rejected"].items():
        console.print(f"[dim]rejected, {escape(reason)}:[/dim] {number:,}")


def _print_rows(folder: Path, number: int, console: Console) -> None:
    import pyarrow.parquet as pq

    rows = pq.read_table(folder / "rows.parquet").to_pylist()
    for split in SPLIT_NAMES:
        for row in [row for row in rows if row["split"] == split][:number]:
            console.print(f"[bold]{row['row_id']}[/bold] {_short(row['query'])}", soft_wrap=True)
            for text in row["positives"][:2]:
                console.print(f"    [green]+[/green] {_short(text)}", soft_wrap=True)
            for text in row["negatives"][:2]:
                console.print(f"    [red]-[/red] {_short(text)}", soft_wrap=True)
            if row["label"] is not None:
                console.print(f"    [cyan]label[/cyan] {_short(row['label'])}", soft_wrap=True)
            if row["score"] is not None:
                console.print(f"    [cyan]score[/cyan] {row['score']:g}")


def _short(text: str) -> str:
    line = " ".join(text.split())
    return escape(line if len(line) <= SHOWN_CHARACTERS else line[: SHOWN_CHARACTERS - 1] + "…")


def _warnings(card: Card, counts: dict[str, Any]) -> list[str]:
    rows = counts["rows"]
    found = []
    if not rows["train"]:
        found.append(
            "no training rows: there are no few-shot examples for this task; evaluation is zero-shot only"
        )
    if not rows["test"]:
        found.append("no test rows: the data set can be trained on, but not evaluated")
    elif rows["test"] < 100:
        found.append(f"only {rows['test']} test rows: differences between models will drown in noise")
    total = sum(counts["available"].values()) + sum(counts["rejected"].values())
    lost = sum(number for reason, number in counts["rejected"].items() if not reason.startswith(NO_RECORD))
    if lost > 0.05 * total:
        found.append(f"{lost / total:.0%} of the records were rejected; see the reasons above")
    if card.kind in ("classification", "clustering") and counts.get("labels", 0) < 2:
        found.append("fewer than two labels: there is nothing to tell apart")
    return found
