"""``icl-embed join``: another node of a cluster takes part in the trainings of a flow."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from icl_embed.cli.options import DEFAULT_STORE
from icl_embed.errors import ConfigError, IclEmbedError

console = Console()
StoreArgument = Annotated[
    Path, typer.Argument(help="the flow's store, on a file system that all nodes share under one path")
]
WaitOption = Annotated[float, typer.Option(help="seconds without a training to join, after which it ends")]


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(
        "join",
        epilog="Examples: icl-embed join store, on every node but the one that runs the flow | "
        "srun --ntasks-per-node=1 icl-embed join /shared/store --wait 86400",
    )(join)


def join(store: StoreArgument = DEFAULT_STORE, wait: WaitOption = 3600) -> None:
    """Take part in every training that a flow on another node starts with launch.nodes above 1.

    Prints what its ranks say. A training that fails is told; the next one, such as the flow's second try, is
    joined again.
    """
    from icl_embed.launch.launcher import run_node
    from icl_embed.launch.nodes import claim, find_invitation, wait_for_all

    seen: set[str] = set()
    console.print(f"waiting for a training in {store.absolute()}", markup=False)
    while found := find_invitation(store.absolute(), wait, seen):
        work_dir, invitation = found
        seen.add(invitation.id)
        job = Path(invitation.path)
        if not job.is_file() or job.parent != work_dir:
            raise ConfigError(
                f"the training of {invitation.host} is described in {job}, which is not in {work_dir} here; "
                "mount the store under the same path on every node"
            )
        node = claim(work_dir, invitation)
        if node is None:
            console.print(f"{job}: all places are taken", markup=False)
            continue
        console.print(f"{job}: joined as node {node} of {invitation.config.nodes}", markup=False)
        try:
            wait_for_all(work_dir, invitation)
            run_node(invitation.module, job, work_dir, invitation.config, print_line, node)
        except IclEmbedError as error:
            console.print(f"[red]{escape(str(error))}[/red]")
        else:
            console.print(f"{job}: done", markup=False)
    console.print(f"no training to join for {wait:g} s", markup=False)


def print_line(line: str) -> None:
    """A line of a rank, as it is."""
    console.print(line, markup=False, highlight=False)
