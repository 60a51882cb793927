"""The options of ``icl-embed eval run`` and ``icl-embed study``, and what their texts mean."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from icl_embed.cli.options import DEFAULT_STORE, DtypeOption, StoreOption, parse_numbers, parse_pair
from icl_embed.config import EvaluateConfig, ExampleStrategy, PromptConfig, SelectionConfig
from icl_embed.errors import ConfigError
from icl_embed.few_shot.settings import AskedSetting, settings_of

if TYPE_CHECKING:
    from icl_embed.evaluation.grid import RunRequest

SeedsOption = Annotated[str, typer.Option("--seeds", help="draws of examples, by comma")]


@dataclass(frozen=True)
class MeasuredOptions:
    """Which model is measured on which tasks, and where these are found."""

    tasks: Annotated[
        str, typer.Option(help="mteb tasks or benchmarks, air-bench/…, data/… (this store's sets), by comma")
    ]
    model: Annotated[
        str,
        typer.Option("--model", "-m", help="folder, artefact, or bm25; default: the store's newest embedder"),
    ] = ""
    name: Annotated[str, typer.Option(help="of the model in tables; default: its folder or label")] = ""
    mirror: Annotated[Path | None, typer.Option(help="folder of mteb tasks; default: the hub")] = None
    air_bench: Annotated[Path | None, typer.Option(help="folder in AIR-Bench's layout; default: the hub")] = (
        None
    )
    store: StoreOption = DEFAULT_STORE


@dataclass(frozen=True)
class AskedOptions:
    """How a model is asked: instructions, where examples come from, and how long a text may be."""

    pool: Annotated[Path | None, typer.Option(help="take examples from this pool")] = None
    pool_name: Annotated[
        list[str], typer.Option(help="TASK=DATASET, where the pool calls a task's data otherwise")
    ] = field(default_factory=list)
    examples: Annotated[
        Path | None,
        typer.Option(help="example file, or a folder with one per task; default: training split"),
    ] = None
    instruction: Annotated[list[str], typer.Option(help="TASK=TEXT, or a text for all other tasks")] = field(
        default_factory=list
    )
    tokens: Annotated[str, typer.Option(help="longest query, passage, and query with examples, by comma")] = (
        "512,512,2048"
    )
    dtype: DtypeOption = "auto"


@dataclass(frozen=True)
class SettingOptions:
    """In which settings: how many examples, which ones, drawn how often."""

    shots: Annotated[str, typer.Option(help="examples before each query, by comma")] = "0,5"
    seeds: SeedsOption = "0"
    selection: Annotated[
        str, typer.Option(help="random, fixed, nearest, diverse, balanced, search; by comma")
    ] = "random"
    nearest_by: Annotated[Literal["dense", "mmr", "bm25"], typer.Option(help="how nearest compares")] = (
        "dense"
    )
    max_sets: Annotated[int, typer.Option(min=0, help="nearest: distinct sets at most; 0: one per query")] = (
        16
    )


@dataclass(frozen=True)
class SecondStageOptions:
    """A reranker after each search."""

    reranker: Annotated[
        str, typer.Option(help="folder or artefact: orders the first passages of each search again")
    ] = ""
    rerank_top_k: Annotated[int, typer.Option(min=1, help="passages that it orders")] = 100
    rerank_choice: Annotated[
        Path | None, typer.Option(help="choice.json of rerank tune; default: full depth")
    ] = None


def request_of(
    measured: MeasuredOptions,
    asked: AskedOptions,
    settings: SettingOptions | None = None,
    *,
    version: str = "",
    split: str = "",
    require_few_shot: bool = False,
) -> RunRequest:
    """What the options ask for; a study makes its settings itself.

    Parameters
        version: of AIR-Bench; empty for the latest.
        split: in place of each task's usual one.

    Raises
        ConfigError: an option cannot be read, or a task is not known.
    """
    from icl_embed.evaluation.grid import RunRequest
    from icl_embed.evaluation.tasks.opening import TaskPlaces, split_names, task_names
    from icl_embed.few_shot.sources import ExampleSource
    from icl_embed.store import Store

    how = settings or SettingOptions()
    config = parse_config(asked.tokens, how.nearest_by, how.max_sets)
    places = TaskPlaces(
        Store(measured.store), measured.mirror, measured.air_bench, split or None, version, config
    )
    return RunRequest(
        tuple(task_names(split_names(measured.tasks), places)),
        parse_settings(how.shots, how.selection, how.seeds) if settings else (),
        places,
        ExampleSource(asked.examples, asked.pool, dict(map(parse_pair, asked.pool_name))),
        config,
        parse_instructions(asked.instruction),
        require_few_shot,
    )


def parse_settings(shots: str, selections: str, seeds: str) -> tuple[AskedSetting, ...]:
    """Every combination of what was listed.

    Raises
        ConfigError: not whole numbers from zero on, or an unknown strategy.
    """
    known: tuple[ExampleStrategy, ...] = ("random", "fixed", "nearest", "diverse", "balanced", "search")
    chosen = [one for name in selections.split(",") for one in known if one == name.strip()]
    if len(chosen) != len(selections.split(",")):
        raise ConfigError(f"--selection takes {', '.join(known)}; found {selections!r}")
    return tuple(settings_of(parse_numbers("--shots", shots), chosen, parse_numbers("--seeds", seeds)))


def parse_instructions(texts: Sequence[str]) -> dict[str, str]:
    """Task -> instruction; "" for one that is meant for all other tasks.

    ``TASK=TEXT`` is told by its first word: a task's name has no blank in it.

    Raises
        ConfigError: an empty text.
    """
    found: dict[str, str] = {}
    for text in texts:
        name, separator, value = text.partition("=")
        is_for_one = separator and " " not in name.strip()
        found |= {name.strip(): value.strip()} if is_for_one else {"": text.strip()}
    if not all(found.values()):
        raise ConfigError("--instruction needs a text, or TASK=TEXT")
    return found


def parse_config(
    tokens: str, nearest_by: Literal["dense", "mmr", "bm25"] = "dense", max_sets: int = 16
) -> EvaluateConfig:
    """What an evaluation's config says of a run.

    Raises
        ConfigError: not three budgets, or budgets that contradict each other.
    """
    budgets = parse_numbers("--tokens", tokens)
    if len(budgets) != 3 or min(budgets) < 1 or budgets[2] < budgets[0]:
        raise ConfigError(
            "--tokens takes the longest query, the longest passage, and the longest query with examples, "
            f"which is no less than the first; e.g. 512,512,2048, found {tokens!r}"
        )
    query, passage, total = budgets
    return EvaluateConfig(
        prompt=PromptConfig(query_tokens=query, passage_tokens=passage, total_tokens=total),
        selection=SelectionConfig(nearest_by=nearest_by, max_sets=max_sets),
    )
