"""``icl-embed export`` and ``export-data``: models and training data in the forms of other libraries."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape

from icl_embed.cli.options import DEFAULT_STORE, StoreOption
from icl_embed.errors import ConfigError

if TYPE_CHECKING:
    from icl_embed.export.facts import ModelFacts
    from icl_embed.store import Store

app = typer.Typer()
console = Console()


@app.command(
    "export",
    epilog="Example: icl-embed export embedder/87c9848c5a54817f --output my-embedder --task bank=bank.json",
)
def export(
    model: Annotated[str, typer.Argument(help="stage/fingerprint, a label, or a model folder")],
    output: Annotated[Path, typer.Option("--output", "-o", help="a folder that does not exist yet")],
    tasks: Annotated[
        list[str], typer.Option("--task", "-t", metavar="NAME=FILE", help="prompt of a task (JSON)")
    ] = [],  # noqa: B006 - typer copies it
    adapter: Annotated[
        bool, typer.Option("--adapter/--merged", help="the LoRA adapter alone, or all weights")
    ] = False,
    base: Annotated[str, typer.Option(help="the adapter's base model: a folder or a hub name")] = "",
    licence: Annotated[str, typer.Option(help="SPDX name of the weights' licence, for the card")] = "",
    catalog: Annotated[Path | None, typer.Option(help="a folder of extra data cards")] = None,
    store: StoreOption = DEFAULT_STORE,
) -> None:
    """Write a model with its model card: an embedder for other libraries, or a reranker."""
    from icl_embed.export.card import write_card
    from icl_embed.export.facts import gather_facts
    from icl_embed.export.folder import published, write_model
    from icl_embed.export.reranker import is_reranker
    from icl_embed.export.task_prompts import read_task_prompt
    from icl_embed.sources import Card, Collection, load_catalog, load_collections
    from icl_embed.store import Store
    from icl_embed.store.models import EMBEDDERS, RERANKERS, find_model

    prompts = {name: read_task_prompt(path) for name, path in map(split_task, tasks)}
    found = find_model(Store(store), model, (*EMBEDDERS, *RERANKERS))
    folder = found.path
    cards: dict[str, Card | Collection] = {**load_catalog([catalog]), **load_collections([catalog])}
    facts = gather_facts(found.store, found.artefact, cards) if found.artefact else None
    if is_reranker(folder):
        if prompts or adapter:
            raise ConfigError(f"{model} is a reranker: it has no task prompts and is exported whole")
        _export_reranker(folder, output, facts, found.store, licence)
        return
    with published(output) as partial:
        below = base_of(base, facts) if adapter else None
        exported = write_model(folder, partial, prompts, adapter_of=below)
        write_card(partial, exported, facts, name=output.name, licence=licence)
    console.print(f"[bold]{escape(str(output))}[/bold]", soft_wrap=True)
    for name, count in exported.differences.items():
        if count:
            console.print(f"[yellow]{escape(name)}: {count} tokens differ in other libraries[/yellow]")


def _export_reranker(
    folder: Path, output: Path, facts: ModelFacts | None, store: Store, licence: str
) -> None:
    from icl_embed.export.folder import published
    from icl_embed.export.reranker import newest_evaluation, write_reranker, write_reranker_card

    measured = newest_evaluation(store, facts.reference) if facts else None
    with published(output) as partial:
        settings = write_reranker(folder, partial)
        write_reranker_card(partial, settings, facts, measured, name=output.name, licence=licence)
    console.print(f"[bold]{escape(str(output))}[/bold]", soft_wrap=True)


@app.command(
    "export-data", epilog="Example: icl-embed export-data negatives/750e6d209b14fa6b --output flag-data"
)
def export_data(
    source: Annotated[str, typer.Argument(help="a pool or negatives artefact: stage/fingerprint or folder")],
    output: Annotated[Path, typer.Option("--output", "-o", help="a folder that does not exist yet")],
    tasks: Annotated[
        list[str], typer.Option("--task", "-t", metavar="NAME=FILE", help="examples of a task (JSON)")
    ] = [],  # noqa: B006 - typer copies it
    store: StoreOption = DEFAULT_STORE,
) -> None:
    """Write training rows and examples in FlagEmbedding's formats."""
    from icl_embed.export.flagembedding import write_training_rows
    from icl_embed.export.folder import published
    from icl_embed.export.task_prompts import read_task_prompt, write_flag_examples
    from icl_embed.store import Store
    from icl_embed.store.lineage import find

    prompts = {name: read_task_prompt(path) for name, path in map(split_task, tasks)}
    folder = Path(source) if Path(source).is_dir() else find(Store(store), source).path
    with published(output) as partial:
        counts = write_training_rows(folder, partial)
        for name, task in prompts.items():
            write_flag_examples(partial / f"{name}-examples.json", task.instruction, task.examples)
    for name, number in counts.items():
        console.print(f"{escape(name)}: {number:,} rows")
    console.print(f"[bold]{escape(str(output))}[/bold]", soft_wrap=True)


def base_of(base: str, facts: ModelFacts | None) -> str:
    """What the adapter is to be loaded over: as told, or the hub's model that training started from.

    Raises
        ConfigError: not told, and the base model is not from the hub.
    """
    if not base and facts is not None and facts.base.get("source") == "hub":
        base = str(facts.base["name"])
    if not base:
        raise ConfigError(
            "--adapter needs --base: the folder or hub name of the model that it is loaded over"
        )
    return base


def split_task(text: str) -> tuple[str, Path]:
    """``NAME=FILE`` as a pair.

    Raises
        ConfigError: it is not of that form, or the name cannot be part of a file's name.
    """
    name, equals, path = text.partition("=")
    if not (name and equals and path) or Path(name).name != name:
        raise ConfigError(f"--task expects NAME=FILE, e.g. bank=bank-examples.json, found {text!r}")
    return name, Path(path)
