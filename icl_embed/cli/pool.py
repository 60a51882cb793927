"""``icl-embed pool``: look into a published pool. Nothing here can change it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from icl_embed.cli.options import DEFAULT_STORE, StoreOption
from icl_embed.errors import PoolError

app = typer.Typer(help="Look into the example pool.", no_args_is_help=True)
console = Console()

PoolOption = Annotated[
    Path | None, typer.Option("--pool", help="pool artefact folder; default: the newest in the store")
]


@app.command()
def stats(pool: PoolOption = None, store: StoreOption = DEFAULT_STORE) -> None:
    """What the build kept and rejected, per data set.

    Example: icl-embed pool stats
    """
    folder = resolve_pool(pool, store)
    for table in statistics_tables(read_statistics(folder)):
        console.print(table)


@app.command()
def sql(
    query: Annotated[str, typer.Argument(help="one SELECT; the tables: icl-embed pool schema")],
    pool: PoolOption = None,
    store: StoreOption = DEFAULT_STORE,
    limit: Annotated[int, typer.Option(min=1, help="rows shown")] = 50,
) -> None:
    """Run one read-only SQL query.

    Example: icl-embed pool sql "SELECT dataset, reason, count(*) FROM pairs GROUP BY ALL ORDER BY ALL"
    """
    from icl_embed.pool.database import DATABASE_NAME, run_user_query

    result = run_user_query(resolve_pool(pool, store) / DATABASE_NAME, query, limit=limit)
    table = Table(*result.columns)
    for row in result.rows:
        table.add_row(*(plain(value) for value in row))
    console.print(table)
    if result.truncated:
        console.print(f"[dim]first {limit} rows; more with --limit[/dim]")


@app.command()
def examples(
    dataset: Annotated[str, typer.Argument(help="name of a data set of the pool")],
    pool: PoolOption = None,
    store: StoreOption = DEFAULT_STORE,
    count: Annotated[int, typer.Option(min=1, help="how many")] = 5,
    seed: Annotated[int, typer.Option(help="another seed, another draw")] = 0,
) -> None:
    """Draw few-shot examples for a data set.

    Example: icl-embed pool examples banking77 --count 5 --seed 1
    """
    from icl_embed.pool.examples import choose_examples

    table = Table("query", "response", show_lines=True)
    for example in choose_examples(resolve_pool(pool, store), dataset, count, seed):
        table.add_row(plain(example.query), plain(example.response))
    console.print(table)


@app.command()
def schema(pool: PoolOption = None, store: StoreOption = DEFAULT_STORE) -> None:
    """The tables and columns of the pool, with what they mean.

    Example: icl-embed pool schema
    """
    from icl_embed.pool.database import describe_schema, open_pool

    with open_pool(resolve_pool(pool, store), verify=False) as connection:
        columns = describe_schema(connection)
    for name in dict.fromkeys(column.table for column in columns):
        table = Table("column", "type", "meaning", title=name, title_justify="left")
        for column in columns:
            if column.table == name:
                table.caption = column.table_comment
                table.add_row(column.name, column.type, plain(column.comment))
        console.print(table)


def resolve_pool(pool: Path | None, store: Path) -> Path:
    """The folder that was named, or the newest pool of the store."""
    from icl_embed.pool.examples import latest_pool

    return pool if pool is not None else latest_pool(store)


def read_statistics(folder: Path) -> dict[str, Any]:
    """The pool's ``statistics.json``.

    Raises
        PoolError: missing or damaged.
    """
    path = folder / "statistics.json"
    try:
        statistics: dict[str, Any] = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise PoolError(f"{path} cannot be read: {error}; is {folder} a pool artefact?") from error
    return statistics


def statistics_tables(statistics: dict[str, Any]) -> list[Table]:
    """Three tables: sizes and weights, rejections, and contact with evaluated text."""
    found = statistics["datasets"].items()
    sizes = Table(
        "data set", "kind", "train rows", "pairs kept", "weight", "passages", "examples", title="Sizes"
    )
    rejections = Table("data set", "reason", "pairs", "meaning", title="Rejected training pairs")
    contact = Table(
        "data set",
        "exact",
        "n-gram",
        "n-gram only",
        "too short for n-grams",
        title="Evaluated text in training",
    )
    for name, data in found:
        weight = "none" if data["weight"] is None else f"{data['weight']:.3f}"
        kept = str(data["pairs_out"]) if data["trained"] else f"{data['pairs_out']} (evaluated only)"
        passages, shown = data["passages"]["kept"], data["examples"]["kept"]
        train_rows = data["rows"].get("train", 0)
        sizes.add_row(name, data["kind"], str(train_rows), kept, weight, str(passages), str(shown))
        for reason, count in data["rejected"].items():
            rejections.add_row(name, reason, str(count), statistics["reasons"].get(reason, ""))
        for what, count in data.get("long_texts", {}).items():
            if count and what != "pairs":
                meaning = "longer than pool.max_characters: left out or cut, see pool.long_texts"
                rejections.add_row(name, f"long {what}", str(count), meaning)
        contact.add_row(
            name,
            *(
                str(data["decontamination"][key])
                for key in ("exact", "ngram", "ngram_without_exact", "exact_only")
            ),
        )
    return [sizes, rejections, contact]


def plain(value: object) -> str:
    """Data shown as it is: its square brackets are no rich markup, its control characters no commands."""
    from rich.markup import escape

    text = "" if value is None else str(value)
    return escape("".join(c if c.isprintable() or c == "\n" else "�" for c in text))
