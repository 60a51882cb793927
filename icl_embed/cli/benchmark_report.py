"""``icl-embed eval report``: the benchmark page of one model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from icl_embed.cli.options import DEFAULT_STORE, StoreOption
from icl_embed.errors import EvaluationError
from icl_embed.store import Artefact, Store

SCORE_STAGE, STUDY_STAGE = "score", "study"


def register(app: typer.Typer) -> None:
    """Add ``report`` to ``icl-embed eval``."""
    app.command("report", epilog="Example: icl-embed eval report --model laptop-87c9848c -o report")(report)


def report(
    out: Annotated[Path, typer.Option("--out", "-o", help="folder for benchmark.html")],
    model: Annotated[str, typer.Option("--model", "-m", help="its name in tables; default: the newest")] = "",
    store: StoreOption = DEFAULT_STORE,
) -> None:
    """Write one page: scores, shot curves, robustness, cost and overlap of a model."""
    from icl_embed.report.benchmark import build_benchmark_page

    scores, studies = newest_of_model(Store(store), model)
    Console().print(str(build_benchmark_page(scores, studies, out)), soft_wrap=True)


def newest_of_model(store: Store, model: str = "") -> tuple[list[Path], list[Path]]:
    """Folders of a model's scores and studies: the newest of each task and setting, and of each study.

    Without a name it is the model that was measured last.

    Raises
        EvaluationError: the store has nothing of that model.
    """
    found = [one for one in store.artefacts() if one.stage in (SCORE_STAGE, STUDY_STAGE)]
    named = [(_model_of(artefact), artefact) for artefact in found]
    if not named:
        raise EvaluationError(f"the store {store.root} has no scores; make some with icl-embed eval run")
    wanted = model or named[-1][0]
    mine = [artefact for name, artefact in named if name == wanted]
    if not mine:
        known = ", ".join(sorted({name for name, _ in named}))
        raise EvaluationError(f"the store {store.root} has no scores of {wanted!r}; it has some of {known}")
    newest = {(one.stage, one.manifest.label): one for one in mine}
    folders: dict[str, list[Path]] = {SCORE_STAGE: [], STUDY_STAGE: []}
    for one in newest.values():
        folders[one.stage].append(one.path)
    return folders[SCORE_STAGE], folders[STUDY_STAGE]


def _model_of(artefact: Artefact) -> str:
    if artefact.stage == SCORE_STAGE:
        from icl_embed.evaluation.scores import read_scores

        return read_scores(artefact.path).model
    from icl_embed.experiments.record import read_study

    return read_study(artefact.path).model
