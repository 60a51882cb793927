"""``icl-embed store``: look at artefacts, verify them, trace them, free space."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from icl_embed.cli.options import DEFAULT_STORE, StoreOption
from icl_embed.store.artefact import Store
from icl_embed.store.lineage import ancestors, find, sources_of
from icl_embed.store.sweep import MIN_AGE_HOURS, remove, survey

app = typer.Typer(help="Look at artefacts, verify them, trace them, free space.", no_args_is_help=True)
console = Console()

NameArgument = Annotated[
    str, typer.Argument(help="stage/fingerprint, the start of a fingerprint, or a label")
]


@app.command("ls", epilog="Example: icl-embed store ls --stage evaluation | grep trained")
def list_artefacts(
    stage: Annotated[str, typer.Option(help="only this stage")] = "", store: StoreOption = DEFAULT_STORE
) -> None:
    """List artefacts, oldest first: one line each, never cut."""
    rows = [("artefact", "created", "seconds", "size", "label")]
    for artefact in Store(store).artefacts():
        manifest = artefact.manifest
        if stage in ("", artefact.stage):
            size = readable_size(manifest.num_bytes)
            rows.append(
                (artefact.reference, manifest.created, f"{manifest.seconds:.1f}", size, manifest.label)
            )
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    for *cells, label in rows:
        aligned = [cell.ljust(width) for cell, width in zip(cells, widths, strict=True)]
        console.print("  ".join([*aligned, label]), markup=False, highlight=False, soft_wrap=True)


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
    min_age: Annotated[
        float, typer.Option(help="hours; younger artefacts are kept", min=0.0)
    ] = MIN_AGE_HOURS,
    unfinished: Annotated[
        bool, typer.Option("--unfinished", help="also checkpoints of trainings that were not finished")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="really delete")] = False,
    store: StoreOption = DEFAULT_STORE,
) -> None:
    """Say what nothing that is kept needs; delete it with --yes.

    Kept are the newest reports, accepted scores, scores and studies, the newest model of every label, all
    that these were made from, and what a running build makes or reads.
    """
    opened = Store(store)
    found = survey(opened, keep_reports=keep, min_age_hours=min_age, unfinished=unfinished)
    for goes, word in ((False, "stays"), (True, "goes ")):
        for one in found:
            if one.goes == goes:
                line = f"{word} {one.path.relative_to(store)}  {readable_size(one.bytes)}  {one.reason}"
                console.print(line, markup=False, highlight=False, soft_wrap=True)
    going = [one for one in found if one.goes]
    for reason in dict.fromkeys(one.reason for one in going):
        group = [one.bytes for one in going if one.reason == reason]
        console.print(f"{reason}: {len(group)} folders, {readable_size(sum(group))}", soft_wrap=True)
    if yes:
        console.print(f"freed {readable_size(remove(opened, going))}")
    else:
        total = readable_size(sum(one.bytes for one in going))
        console.print(f"{len(going)} folders, {total} would go; delete them with --yes")


def readable_size(num_bytes: int) -> str:
    """Bytes as a short decimal size."""
    size = float(num_bytes)
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} GB"
