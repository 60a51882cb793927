"""``icl-embed data``: look at the catalog, fetch, and try a card of one's own."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TextColumn, TransferSpeedColumn
from rich.table import Table

from icl_embed.errors import ConfigError
from icl_embed.sources.card import Card, load_card, load_catalog, read_toml
from icl_embed.sources.card_rows import SPLIT_NAMES
from icl_embed.sources.card_source import LocalSource
from icl_embed.sources.collection import (
    Collection,
    CollectionCard,
    chosen,
    is_collection,
    load_collection,
    load_collections,
)
from icl_embed.sources.collection_index import cards_of
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
    cards = [card for card in _everything(catalog).values() if kind in ("", _kind(card))]
    if as_json:
        typer.echo(json.dumps([_summary(card) for card in cards], indent=1, ensure_ascii=False))
        return
    table = Table(box=None, pad_edge=False)
    for column in ("name", "kind", "title", "licence"):
        table.add_column(column, overflow="fold", no_wrap=column in ("name", "kind"))
    for card in cards:
        licence = card.licence.partition(";")[0].partition(" (")[0].partition(":")[0]
        table.add_row(card.name, _kind(card), escape(card.title), escape(licence))
    Console().print(table)


@app.command("show", epilog="Example: `icl-embed data show cwe-examples`")
def show_card(
    name: Annotated[str, typer.Argument(help="A data set of the catalog.")],
    rows: Annotated[int, typer.Option(min=0, help="Rows to show per split; 0 fetches nothing.")] = 3,
    catalog: CatalogOption = None,
    downloads: DownloadsOption = DOWNLOADS,
) -> None:
    """Show a card, its counts and the first rows of each split."""
    everything = _everything(catalog)
    card = everything.get(name) or _cards(name, everything, downloads)[0]
    console = Console()
    console.print(f"[bold]{escape(card.name)}[/bold]  {escape(card.title)} ({_kind(card)})")
    console.print(escape(card.description.strip()), soft_wrap=True)
    for label, value in (
        ("instruction", card.instruction if isinstance(card, Card) else "every row says its own"),
        ("licence", card.licence),
        ("home", card.homepage),
    ):
        console.print(f"[dim]{label}:[/dim] {escape(value)}", soft_wrap=True)
    if rows and isinstance(card, Collection):
        _print_splits(_cards(name, everything, downloads), console)
    elif rows and isinstance(card, Card):
        _try(card, rows, downloads, console)


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

    cards = _everything(catalog)  # --all leaves out collections: they are hundreds of gigabytes
    wanted = [name for name in cards if isinstance(cards[name], Card)] if everything else list(names or [])
    if not wanted:
        raise ConfigError("name the data sets to fetch, or say --all")
    console = Console()
    for card in (card for name in wanted for card in _cards(name, cards, downloads)):
        with download_progress() as progress:
            files = fetch(card, downloads, progress=progress)
        size = sum(file.num_bytes for file in files)
        console.print(f"{escape(card.name)}: {len(files)} files, {size / 1e6:.1f} MB, verified")


@app.command(
    "check",
    epilog="Example: `icl-embed data check my-cards/support.toml` · `icl-embed data check rows.jsonl`",
)
def check_card(
    path: Annotated[Path, typer.Argument(help="A card, or a data file or folder without one.")],
    rows: Annotated[int, typer.Option(min=0, help="Rows to show per split.")] = 3,
    downloads: DownloadsOption = DOWNLOADS,
    as_json: JsonOption = False,
) -> None:
    """Try a card of your own from end to end: read it, fetch, map, split, and say what came out.

    Of data without a card the layout is guessed; the card that was tried is printed, to be saved.
    """
    console = Console(stderr=as_json)
    if path.suffix == ".toml":
        _check(path, rows, downloads, console, as_json=as_json)
        return
    from icl_embed.corpus.guess import guess_card

    guess = guess_card(path)
    console.print(f"[bold]{escape(guess.layout)}[/bold]: {escape(guess.reason)}", soft_wrap=True)
    with tempfile.TemporaryDirectory(prefix="icl-embed-") as folder:
        card = Path(folder) / "guessed.toml"
        card.write_text(guess.card, encoding="utf-8")
        _check(card, rows, downloads, console, as_json=as_json)
    if not as_json:
        console.print("[bold]The card[/bold], to be saved as a .toml file and corrected where it guesses:")
        typer.echo(guess.card)


def _check(path: Path, rows: int, downloads: Path, console: Console, *, as_json: bool) -> None:
    if is_collection(read_toml(path)):
        collection = load_collection(path)
        cards: Sequence[Card] = list(cards_of(collection, downloads).values())
        if not as_json:
            _print_splits(cards, console)
        if not isinstance(collection.source, LocalSource):
            console.print("[dim]try one split with: icl-embed data show COLLECTION/SPLIT[/dim]")
            return
    else:
        cards = [load_card(path)]
    counts = {card.name: _try(card, rows, downloads, None if as_json else console) for card in cards}
    if as_json:
        found = counts if len(cards) > 1 else next(iter(counts.values()))
        typer.echo(json.dumps(found, indent=1, ensure_ascii=False))


def _try(card: Card, rows: int, downloads: Path, console: Console | None) -> dict[str, Any]:
    """Build a data set in a folder that is thrown away, and say what came out."""
    with tempfile.TemporaryDirectory(prefix="icl-embed-") as folder:
        counts = _build(card, Path(folder), downloads)
        if console:
            _print_counts(counts, console)
            _print_rows(Path(folder), rows, console)
    if console:
        for warning in _warnings(card, counts):
            console.print(f"[yellow]note:[/yellow] {escape(warning)}", soft_wrap=True)
        console.print(f"[green]{escape(card.name)} is a valid {card.kind} card[/green]")
    return counts


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


def _everything(catalog: Path | None) -> dict[str, Card | Collection]:
    """Cards and collections by name."""
    everything: dict[str, Card | Collection] = {**load_catalog([catalog]), **load_collections([catalog])}
    return dict(sorted(everything.items()))


def _cards(name: str, everything: dict[str, Card | Collection], downloads: Path) -> Sequence[Card]:
    """What a name means: a card, the data sets of a collection, or some of these."""
    own, _, pattern = name.partition("/")
    found = everything.get(own)
    if isinstance(found, Collection):
        cards = cards_of(found, downloads)
        return [cards[one] for one in chosen(own, pattern or "*", cards)]
    if found is None or pattern:
        raise ConfigError(f'there is no data set "{name}"; the catalog has: {", ".join(everything)}')
    return [found]


def _kind(card: Card | Collection) -> str:
    return card.kind if isinstance(card, Card) else "collection"


def _summary(card: Card | Collection) -> dict[str, str]:
    return {
        "name": card.name,
        "kind": _kind(card),
        "title": card.title,
        "source": f"{card.source.kind}: {card.source.shown}",
        "licence": card.licence,
        "homepage": card.homepage,
        "instruction": card.instruction if isinstance(card, Card) else "",
    }


def _print_splits(cards: Sequence[Card], console: Console) -> None:
    """The data sets of a collection, as far as they are known before they are fetched."""
    table = Table(box=None, pad_edge=False)
    for column in ("name", "kind", "rows", "MB", "shards", "instruction"):
        table.add_column(column, justify="right" if column in ("rows", "MB", "shards") else "left")
    for card in (card for card in cards if isinstance(card, CollectionCard)):
        rows = "?" if card.num_rows is None else f"{card.num_rows:,}"
        size = f"{card.num_bytes / 1e6:,.1f}"
        table.add_row(card.name, card.kind, rows, size, str(len(card.shards)), escape(card.instruction))
    console.print(table)


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
    if not rows["test"] and not isinstance(card, CollectionCard):
        found.append("no test rows: the data set can be trained on, but not evaluated")
    elif 0 < rows["test"] < 100:
        found.append(f"only {rows['test']} test rows: differences between models will drown in noise")
    total = sum(counts["available"].values()) + sum(counts["rejected"].values())
    lost = sum(number for reason, number in counts["rejected"].items() if not reason.startswith(NO_RECORD))
    if lost > 0.05 * total:
        found.append(f"{lost / total:.0%} of the records were rejected; see the reasons above")
    if card.kind in ("classification", "clustering") and counts.get("labels", 0) < 2:
        found.append("fewer than two labels: there is nothing to tell apart")
    return found
