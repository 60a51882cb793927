"""The options of ``icl-embed rerank``, and what they mean together."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, TypedDict, Unpack

import typer

from icl_embed.errors import ConfigError

if TYPE_CHECKING:
    from icl_embed.rerank.reranker import Reranker
    from icl_embed.rerank.ways import Way
    from icl_embed.store import Store

ModelOption = Annotated[
    str,
    typer.Option("--model", "-m", help="folder or artefact; default: the store's newest reranker"),
]
LayerOption = Annotated[int | None, typer.Option("--layer", help="exit at this head; default: the last")]
RatioOption = Annotated[int | None, typer.Option("--ratio", help="compress passages: 1, 2, 4 or 8")]
LayersOption = Annotated[
    str, typer.Option("--compress-layers", help="where, by comma; default: the model's own")
]
ChoiceOption = Annotated[
    Path | None, typer.Option("--choice", help="the way that rerank tune chose: its choice.json")
]
CandidatesOption = Annotated[
    list[Path], typer.Option("--candidates", help="evaluation folder, or .jsonl of queries; several times")
]
AgainstOption = Annotated[
    str, typer.Option("--against", help="another reranker: compare them exit by exit instead")
]
ResultsOption = Annotated[
    Path | None, typer.Option("--output", "-o", help="folder for scores.json, curve.json and the values")
]
RatiosOption = Annotated[str, typer.Option("--ratios", help="compression ratios to try, by comma")]
TopOption = Annotated[int, typer.Option("--top-k", min=1, help="candidates per query")]
QueriesOption = Annotated[int, typer.Option("--max-queries", min=1, help="queries per data set")]
SeedOption = Annotated[int, typer.Option("--seed", help="which queries are kept, and the bootstrap's draws")]
DeviceOption = Annotated[str, typer.Option("--device", help="auto, cpu, cuda, cuda:0 …")]
DtypeOption = Annotated[
    Literal["auto", "float32", "bfloat16"], typer.Option("--dtype", help="number format of the model")
]
BatchTokensOption = Annotated[int, typer.Option("--batch-tokens", min=1, help="tokens at once")]
StoreOption = Annotated[Path, typer.Option("--store", help="the store's folder, for artefacts")]


class WayOptions(TypedDict):
    """How a command was asked to rerank."""

    layer: int | None
    ratio: int | None
    compress_layers: str
    choice: Path | None


def chosen_way(
    reranker: Reranker, *, layer: int | None, ratio: int | None, compress_layers: str, choice: Path | None
) -> Way:
    """The way that the options ask for; full depth when they ask for nothing.

    Raises
        ConfigError: they contradict each other, or this reranker cannot run it.
    """
    from icl_embed.evaluation.reranker.tuning import read_choice, way_of

    if choice is not None:
        if layer is not None or ratio is not None or compress_layers:
            raise ConfigError(
                "--choice already says --layer, --ratio and --compress-layers; give one or other"
            )
        return way_of(read_choice(choice), reranker.settings)
    return reranker.shape(
        cutoff_layer=layer,
        compress_ratio=ratio,
        compress_layers=parse_layers("--compress-layers", compress_layers) or None,
    )


def lightweight_way(reranker: Reranker, folder: Path, store: Store, **asked: Unpack[WayOptions]) -> Way:
    """The way to measure against full depth: what the options say, else the tuned one, else the middle exit.

    Raises
        ConfigError: as ``chosen_way``.
    """
    from icl_embed.config import RerankConfig
    from icl_embed.evaluation.reranker.stored import find_choice
    from icl_embed.rerank.shape import lightweight_shape

    if not any(value is not None and value != "" for value in asked.values()):
        asked["choice"] = find_choice(folder, store)
    if any(value is not None and value != "" for value in asked.values()):
        return chosen_way(reranker, **asked)
    settings = reranker.settings
    config = RerankConfig(
        compress_layers=settings.compress_layers, compress_ratio=2 if settings.compress_layers else 1
    )
    return lightweight_shape(config, settings.head_layers)


def parse_layers(option: str, text: str) -> tuple[int, ...]:
    """Whole numbers by comma; none for an empty text.

    Raises
        ConfigError: something else.
    """
    parts = [part.strip() for part in text.split(",")] if text.strip() else []
    if not all(part.isascii() and part.isdigit() for part in parts):
        raise ConfigError(f"{option} takes whole numbers from 0 on, by comma; found {text!r}")
    return tuple(map(int, parts))


def parse_ratios(text: str) -> tuple[int, ...]:
    """Compression ratios by comma.

    Raises
        ConfigError: none, or one that there is not.
    """
    from icl_embed.rerank.shape import RATIOS

    ratios = parse_layers("--ratios", text)
    if not ratios or not set(ratios) <= set(RATIOS):
        raise ConfigError(f"--ratios takes some of {', '.join(map(str, RATIOS))}, by comma; found {text!r}")
    return ratios
