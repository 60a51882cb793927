"""``icl-embed store``: look at artefacts, verify them, trace them, free space."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from icl_embed.store.artefact import Store
from icl_embed.store.lineage import ancestors, find, sources_of
from icl_embed.store.sweep import find_garbage, remove

app = typer.Typer(help="Look at artefacts, verify them, trace them, free space.", no_args_is_help=True)
console = Console()

StoreOption = Annotated[Path, typer.Option("--store", help="the store's folder")]
NameArgument = Annotated[
    str, typer.Argument(help="stage/fingerprint, the start of a fingerprint, or a label")
]
DEFAULT_STORE = Path("store")


@app.command("ls", epilog="Example: icl-embed store ls --stage evaluation")
def list_artefacts(
    stage: Annotated[str, typer.Option(help="only this stage")] = "", store: StoreOption = DEFAULT_STORE
) -> None:
    """List artefacts, oldest first."""
    table = Table("artefact", "label", "created", "seconds", "size", box=None)
    for artefact in Store(store).artefacts():
        manifest = artefact.manifest
        if stage in ("", artefact.stage):
            table.add_row(
                artefact.reference,
                escape(manifest.label),
                manifest.created,
                f"{manifest.seconds:.1f}",
                readable_size(manifest.num_bytes),
            )
    console.print(table)


@app.command("show", epilog="Example: icl-embed store show embedder/1f0c2a9be2d37c55")
def show(name: NameArgument, store: StoreOption = DEFAULT_STORE) -> None:
    """Print an artefact's manifest."""
    console.print_json(find(Store(store), name).manifest.to_json().decode())


@app.command("verify", epilog="Example: icl-embed store verify")
def verify(store: StoreOption = DEFAULT_STORE) -> None:
    """Check every byte of every artefact; exits with 1 when something is damaged."""
    opened = Store(store)
    damaged = 0
    for artefact in opened.artefacts():
        damage = opened.damage(artefact.stage, artefact.fingerprint)
        damaged += bool(damage)
        mark = f"[red]damaged[/red] {escape(damage)}" if damage else "[green]whole[/green]"
        console.print(f"{artefact.reference} {mark}")
    if damaged:
        console.print(f"{damaged} damaged; the next run moves them aside and rebuilds them")
        raise typer.Exit(1)


@app.command("lineage", epilog='Example: icl-embed store lineage "trained on icd10-terms"')
def lineage(name: NameArgument, store: StoreOption = DEFAULT_STORE) -> None:
    """Print the way from an artefact back to its source files."""
    opened = Store(store)
    for ancestor in ancestors(opened, find(opened, name)):
        indent = "  " * ancestor.depth
        manifest = ancestor.manifest
        if manifest is None:
            state = "[red]gone[/red]"
        elif ancestor.is_repeated:
            state = "[dim](see above)[/dim]"
        else:
            state = f"[dim]{manifest.created} git {manifest.git_commit[:10]}[/dim]"
        line = f"{indent}[bold]{ancestor.reference}[/bold] {escape(ancestor.role)} {state}"
        console.print(line, soft_wrap=True)
        if manifest is not None and not ancestor.is_repeated:
            for source in sources_of(manifest):
                console.print(f"{indent}  [cyan]from[/cyan] {escape(source)}", soft_wrap=True)


@app.command("gc", epilog="Example: icl-embed store gc --keep 2 --yes")
def collect_garbage(
    keep: Annotated[
        int, typer.Option(help="newest reports of each preset whose artefacts are kept", min=1)
    ] = 3,
    yes: Annotated[bool, typer.Option("--yes", help="really delete")] = False,
    store: StoreOption = DEFAULT_STORE,
) -> None:
    """List what no kept report needs; delete it with --yes."""
    garbage = find_garbage(Store(store), keep_reports=keep)
    for one in garbage:
        console.print(f"{one.path.relative_to(store)}  {readable_size(one.bytes)}  [dim]{one.reason}[/dim]")
    total = readable_size(sum(one.bytes for one in garbage))
    if yes:
        remove(garbage)
        console.print(f"freed {total}")
    else:
        console.print(f"{len(garbage)} folders, {total}; delete them with --yes")


def readable_size(num_bytes: int) -> str:
    """Bytes as a short decimal size."""
    size = float(num_bytes)
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} GB"
