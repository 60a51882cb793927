"""``icl-embed eval submission``: archives for AIR-Bench's leaderboard from stored runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from icl_embed.store import Store

console = Console()


def register(app: typer.Typer) -> None:
    """Add the command to ``icl-embed eval``."""
    app.command(
        "submission",
        epilog="Example: icl-embed eval run --tasks air-bench/qa_en --split test --model M --shots 0,3 "
        "&& icl-embed eval submission --out archives",
    )(submission)


def submission(
    out: Annotated[Path, typer.Option(help="folder for the archives and the search results in them")],
    artefacts: Annotated[
        list[Path] | None, typer.Argument(help="folders of score artefacts; all of the store unless given")
    ] = None,
    model: Annotated[str, typer.Option(help="only runs of the model of this name")] = "",
    setting: Annotated[str, typer.Option(help="only runs in this setting, e.g. 3-shot")] = "",
    store: Annotated[Path, typer.Option(help="artefact store")] = Path("store"),
) -> None:
    """Pack the test runs of AIR-Bench, one archive per model, setting and version, ready to upload."""
    from icl_embed.benchmark.air_bench.stored_runs import pack_stored_runs
    from icl_embed.benchmark.score_stage import STAGE

    folders = artefacts or [one.path for one in Store(store).artefacts() if one.stage == STAGE]
    for archive in pack_stored_runs(folders, out, model=model, setting=setting):
        console.print(str(archive), soft_wrap=True)
    console.print("upload: huggingface.co/spaces/AIR-Bench/leaderboard, with the model's name and address")
