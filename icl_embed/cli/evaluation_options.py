"""The options of ``icl-embed eval run``, and what their texts mean."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import typer

from icl_embed.config import EvaluateConfig, ExampleStrategy, PromptConfig, SelectionConfig
from icl_embed.errors import ConfigError
from icl_embed.few_shot.settings import AskedSetting, settings_of

StoreOption = Annotated[Path, typer.Option("--store", help="where scores and vectors are kept")]
TasksOption = Annotated[
    str, typer.Option(help="mteb tasks or benchmarks, air-bench/…, data/… (this store's sets), by comma")
]
ModelOption = Annotated[
    str,
    typer.Option("--model", "-m", help="folder, artefact, or bm25; default: the store's newest embedder"),
]
NameOption = Annotated[str, typer.Option(help="of the model in tables; default: its folder or label")]
ShotsOption = Annotated[str, typer.Option(help="examples before each query, by comma")]
SeedsOption = Annotated[str, typer.Option(help="draws of examples, by comma")]
SelectionOption = Annotated[
    str, typer.Option(help="random, fixed, nearest, diverse, balanced, search; by comma")
]
MirrorOption = Annotated[Path | None, typer.Option(help="folder of mteb tasks; default: the hub")]
AirBenchOption = Annotated[Path | None, typer.Option(help="folder in AIR-Bench's layout; default: the hub")]
VersionOption = Annotated[str, typer.Option(help="24.04 or 24.05; default: the latest")]
SplitOption = Annotated[str, typer.Option(help="instead of each task's usual one")]
ExamplesOption = Annotated[
    Path | None, typer.Option(help="example file, or a folder with one per task; default: training split")
]
PoolOption = Annotated[Path | None, typer.Option(help="take examples from this pool")]
PoolNameOption = Annotated[
    list[str], typer.Option(help="TASK=DATASET, where the pool calls a task's data otherwise")
]
InstructionOption = Annotated[list[str], typer.Option(help="TASK=TEXT, or a text for all other tasks")]
TokensOption = Annotated[str, typer.Option(help="longest query, passage, and query with examples, by comma")]
NearestOption = Annotated[Literal["dense", "mmr", "bm25"], typer.Option(help="how nearest compares")]
SetsOption = Annotated[int, typer.Option(min=0, help="nearest: distinct sets at most; 0: one per query")]
DeviceOption = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:0 …")]
DtypeOption = Annotated[
    Literal["auto", "float32", "bfloat16"], typer.Option(help="auto: bfloat16 on a GPU, float32 on a CPU")
]
RequireOption = Annotated[bool, typer.Option("--require-few-shot", help="no examples: an error")]
AllowOption = Annotated[bool, typer.Option("--allow-missing", help="exit 0 although tasks are missing")]
RerankerOption = Annotated[
    str, typer.Option("--reranker", help="folder or artefact: orders the first passages of each search again")
]
RerankTopOption = Annotated[int, typer.Option("--rerank-top-k", min=1, help="passages that it orders")]
RerankChoiceOption = Annotated[
    Path | None, typer.Option("--rerank-choice", help="choice.json of rerank tune; default: full depth")
]
CacheOption = Annotated[
    float, typer.Option(min=0.0, help="vectors kept for later runs; those unused longest go first")
]
JsonOption = Annotated[Path | None, typer.Option("--json", help="write the result here")]


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


def parse_numbers(option: str, text: str) -> list[int]:
    """Whole numbers from zero on, by comma.

    Raises
        ConfigError: something else.
    """
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isascii() and part.isdigit() for part in parts):
        raise ConfigError(f"{option} takes whole numbers from 0 on, by comma; found {text!r}")
    return [int(part) for part in parts]


def parse_pair(text: str) -> tuple[str, str]:
    """``NAME=VALUE``; raises ConfigError."""
    name, separator, value = text.partition("=")
    if not (name.strip() and separator and value.strip()):
        raise ConfigError(f"expected NAME=VALUE, found {text!r}")
    return name.strip(), value.strip()


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
