"""``icl-embed eval run | cache | show | submission``: measure any model, and look at what was measured."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from icl_embed.cli import evaluation_options as options
from icl_embed.cli.options import DEFAULT_STORE, DevicesOption, StoreOption, placed, spread
from icl_embed.cli.store import readable_size
from icl_embed.errors import ConfigError
from icl_embed.evaluation.scores import STAGE, EvaluationScores, SettingScore, read_scores
from icl_embed.progress import changing_bar
from icl_embed.store import Store
from icl_embed.store.files import write_atomically

if TYPE_CHECKING:
    from icl_embed.evaluation.grid import RunRequest
    from icl_embed.evaluation.models import OpenedModel
    from icl_embed.evaluation.summary import Summary

console = Console()
GIGABYTE = 10**9


def register(app: typer.Typer) -> None:
    """Add the commands of this room to ``icl-embed eval``."""
    app.command(
        "run",
        epilog="Example: icl-embed eval run --tasks SciFact,STSBenchmark,air-bench/qa_wiki_en,data/lee-news "
        "--mirror mirror --shots 0,5 --seeds 0,1,2 --json scores.json",
    )(run)
    app.command("cache", epilog="Example: icl-embed eval cache --max-gb 5")(cache)
    register_air_bench(app)


@spread
def run(
    measured: options.MeasuredOptions,
    settings: options.SettingOptions,
    asked: options.AskedOptions,
    second: options.SecondStageOptions,
    air_bench_version: Annotated[str, typer.Option(help="24.04 or 24.05; default: the latest")] = "",
    split: Annotated[str, typer.Option(help="instead of each task's usual one")] = "",
    device: DevicesOption = [],  # noqa: B006
    require_few_shot: Annotated[
        bool, typer.Option("--require-few-shot", help="no examples: an error")
    ] = False,
    allow_missing: Annotated[
        bool, typer.Option("--allow-missing", help="exit 0 although tasks are missing")
    ] = False,
    json_file: Annotated[Path | None, typer.Option("--json", help="write the result here")] = None,
    cache_gb: Annotated[
        float, typer.Option(min=0.0, help="vectors kept for later runs; those unused longest go first")
    ] = 20.0,
) -> None:
    """Measure a model on tasks, zero-shot and few-shot, with intervals; a killed run goes on where it was.

    Exits with 1 when a task is missing or could not be scored.
    """
    from icl_embed.evaluation.models import open_model

    request = options.request_of(
        measured,
        asked,
        settings,
        version=air_bench_version,
        split=split,
        require_few_shot=require_few_shot,
    )
    prompt, kept = request.config.prompt, request.places.store
    engine, one = placed(device)
    model = open_model(
        measured.model,
        kept,
        prompt=prompt,
        name=measured.name,
        device=one,
        dtype=asked.dtype,
        engine=engine,
    )
    summary = _measured(request, _with_reranker(model, kept, second), json_file, max_cache_gb=cache_gb)
    raise typer.Exit(1 if summary.failed or (summary.missing and not allow_missing) else 0)


def _with_reranker(model: OpenedModel, store: Store, asked: options.SecondStageOptions) -> OpenedModel:
    """The model and, if one is named, a reranker after it, on its device and in its number format."""
    from icl_embed.evaluation.models import open_second_stage

    if not asked.reranker:
        if asked.rerank_choice is not None:
            raise ConfigError("--rerank-choice needs --reranker")
        return model
    second = open_second_stage(
        asked.reranker,
        store,
        choice=asked.rerank_choice,
        top_k=asked.rerank_top_k,
        device=model.about.device,
        dtype=model.about.dtype if model.sort != "bm25" else "float32",
        engine=model.engine,
    )
    return dataclasses.replace(model, second=second)


def _measured(
    request: RunRequest, model: OpenedModel, json_file: Path | None, *, max_cache_gb: float
) -> Summary:
    from icl_embed.evaluation.grid import run_grid
    from icl_embed.evaluation.measurement import Bootstrap
    from icl_embed.evaluation.summary import as_json, summarise, tables_of
    from icl_embed.model.vector_cache import FOLDER_NAME, shrink_cache

    with changing_bar() as tell:
        outcome = run_grid(request, model, request.places.store, progress=tell)
    shrink_cache(request.places.store.root / FOLDER_NAME, int(max_cache_gb * GIGABYTE))
    how = Bootstrap(request.config.bootstrap_resamples, request.config.confidence, request.seed)
    summary = summarise(outcome, model.shown.name, how)
    for table in tables_of(summary):
        console.print(table)
    if json_file is not None:
        text = json.dumps(as_json(summary, model), indent=1, ensure_ascii=False, allow_nan=False)
        write_atomically(json_file, f"{text}\n".encode())
    return summary


def cache(
    clear: Annotated[bool, typer.Option("--clear", help="delete all kept vectors")] = False,
    max_gb: Annotated[
        float | None, typer.Option(min=0.0, help="delete what was used longest ago, down to this size")
    ] = None,
    store: StoreOption = DEFAULT_STORE,
) -> None:
    """Show where vectors are kept and how many; delete some with --max-gb, all with --clear.

    Deleting vectors costs time, never a result.
    """
    from icl_embed.model.vector_cache import FOLDER_NAME, measure_cache, shrink_cache

    root = store / FOLDER_NAME
    if clear or max_gb is not None:
        freed = shrink_cache(root, 0 if clear or max_gb is None else int(max_gb * GIGABYTE))
        console.print(f"freed {readable_size(freed)}")
    size = measure_cache(root)
    console.print(f"{root}: {readable_size(size.bytes)} in {size.shelves} shelves", soft_wrap=True)


app = typer.Typer(name="eval", help="Evaluate models, and look at results.", no_args_is_help=True)


@app.callback()
def evaluation() -> None:
    """Evaluate models, and look at results."""


@app.command(epilog="Example: icl-embed eval show store/score/*")
def show(
    folders: Annotated[list[Path], typer.Argument(metavar="DIR...", help="score artefact folders")],
) -> None:
    """Print the scores of artefact folders, with intervals and tokens per query."""
    Console().print(score_table([read_scores(folder) for folder in folders]))


def score_table(scored: list[EvaluationScores]) -> Table:
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
    for scores in sorted(scored, key=lambda item: (item.kind, item.dataset, item.model)):
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


def register_air_bench(app: typer.Typer) -> None:
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
    store: StoreOption = DEFAULT_STORE,
) -> None:
    """Pack the test runs of AIR-Bench, one archive per model, setting and version, ready to upload."""
    from icl_embed.evaluation.air_bench.submission import pack_stored_runs

    folders = artefacts or [one.path for one in Store(store).artefacts() if one.stage == STAGE]
    for archive in pack_stored_runs(folders, out, model=model, setting=setting):
        console.print(str(archive), soft_wrap=True)
    console.print("upload: huggingface.co/spaces/AIR-Bench/leaderboard, with the model's name and address")
