"""``icl-embed eval run`` and ``icl-embed eval cache``."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from icl_embed.benchmark import options
from icl_embed.benchmark.air_bench.command_line import register as register_air_bench
from icl_embed.errors import ConfigError
from icl_embed.model.progress import changing_bar
from icl_embed.store import Store
from icl_embed.store.command_line import readable_size
from icl_embed.store.files import write_atomically

if TYPE_CHECKING:
    from icl_embed.benchmark.grid import RunRequest
    from icl_embed.benchmark.models import OpenedModel
    from icl_embed.benchmark.summary import Summary

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


def run(  # noqa: PLR0913, PLR0917 - an option is an argument
    tasks: options.TasksOption,
    model: options.ModelOption = "",
    name: options.NameOption = "",
    shots: options.ShotsOption = "0,5",
    seeds: options.SeedsOption = "0",
    selection: options.SelectionOption = "random",
    mirror: options.MirrorOption = None,
    air_bench: options.AirBenchOption = None,
    air_bench_version: options.VersionOption = "",
    split: options.SplitOption = "",
    examples: options.ExamplesOption = None,
    pool: options.PoolOption = None,
    pool_name: options.PoolNameOption = [],  # noqa: B006 - typer copies it
    instruction: options.InstructionOption = [],  # noqa: B006
    tokens: options.TokensOption = "512,512,2048",
    nearest_by: options.NearestOption = "dense",
    max_sets: options.SetsOption = 16,
    reranker: options.RerankerOption = "",
    rerank_top_k: options.RerankTopOption = 100,
    rerank_choice: options.RerankChoiceOption = None,
    device: options.DeviceOption = "auto",
    dtype: options.DtypeOption = "auto",
    require_few_shot: options.RequireOption = False,
    allow_missing: options.AllowOption = False,
    json_file: options.JsonOption = None,
    cache_gb: options.CacheOption = 20.0,
    store: options.StoreOption = Path("store"),
) -> None:
    """Measure a model on tasks, zero-shot and few-shot, with intervals; a killed run goes on where it was.

    Exits with 1 when a task is missing or could not be scored.
    """
    from icl_embed.benchmark.example_sources import ExampleSource
    from icl_embed.benchmark.grid import RunRequest
    from icl_embed.benchmark.models import open_model
    from icl_embed.benchmark.opening import TaskPlaces, split_names, task_names

    config, kept = options.parse_config(tokens, nearest_by, max_sets), Store(store)
    places = TaskPlaces(kept, mirror, air_bench, split or None, air_bench_version, config)
    names = tuple(task_names(split_names(tasks), places))
    asked = options.parse_settings(shots, selection, seeds)
    source = ExampleSource(examples, pool, dict(map(options.parse_pair, pool_name)))
    own = options.parse_instructions(instruction)
    request = RunRequest(names, asked, places, source, config, own, require_few_shot)
    found = open_model(model, kept, prompt=config.prompt, name=name, device=device, dtype=dtype)
    found = _with_reranker(found, kept, reranker, rerank_choice, rerank_top_k)
    summary = _measured(request, found, json_file, max_cache_gb=cache_gb)
    raise typer.Exit(1 if summary.failed or (summary.missing and not allow_missing) else 0)


def _with_reranker(
    model: OpenedModel, store: Store, reference: str, choice: Path | None, top_k: int
) -> OpenedModel:
    """The model and, if one is named, a reranker after it, on its device and in its number format."""
    from icl_embed.benchmark.second_stage import open_second_stage

    if not reference:
        if choice is not None:
            raise ConfigError("--rerank-choice needs --reranker")
        return model
    about = model.about
    dtype = about.dtype if model.sort != "bm25" else "float32"
    second = open_second_stage(reference, store, choice=choice, top_k=top_k, device=about.device, dtype=dtype)
    return dataclasses.replace(model, second=second)


def _measured(
    request: RunRequest, model: OpenedModel, json_file: Path | None, *, max_cache_gb: float
) -> Summary:
    from icl_embed.benchmark.grid import run_grid
    from icl_embed.benchmark.score_tables import tables_of
    from icl_embed.benchmark.summary import as_json, summarise
    from icl_embed.benchmark.vector_cache import FOLDER_NAME, shrink_cache
    from icl_embed.evaluate.measurement import Bootstrap

    with changing_bar() as tell:
        outcome = run_grid(request, model, request.places.store, progress=tell)
    shrink_cache(request.places.store.root / FOLDER_NAME, int(max_cache_gb * GIGABYTE))
    how = Bootstrap(request.config.bootstrap_resamples, request.config.confidence, request.seed)
    summary = summarise(outcome, model, how)
    for table in tables_of(summary):
        console.print(table)
    if json_file is not None:
        text = json.dumps(as_json(summary), indent=1, ensure_ascii=False, allow_nan=False)
        write_atomically(json_file, f"{text}\n".encode())
    return summary


def cache(
    clear: Annotated[bool, typer.Option("--clear", help="delete all kept vectors")] = False,
    max_gb: Annotated[
        float | None, typer.Option(min=0.0, help="delete what was used longest ago, down to this size")
    ] = None,
    store: options.StoreOption = Path("store"),
) -> None:
    """Show where vectors are kept and how many; delete some with --max-gb, all with --clear.

    Deleting vectors costs time, never a result.
    """
    from icl_embed.benchmark.vector_cache import FOLDER_NAME, measure_cache, shrink_cache

    root = store / FOLDER_NAME
    if clear or max_gb is not None:
        freed = shrink_cache(root, 0 if clear or max_gb is None else int(max_gb * GIGABYTE))
        console.print(f"freed {readable_size(freed)}")
    size = measure_cache(root)
    console.print(f"{root}: {readable_size(size.bytes)} in {size.shelves} shelves", soft_wrap=True)
