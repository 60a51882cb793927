"""The options of ``icl-embed rerank``, and what they mean together."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from icl_embed.cli.options import (
    DEFAULT_STORE,
    BatchTokensOption,
    DevicesOption,
    DtypeOption,
    StoreOption,
    parse_numbers,
    placed,
)
from icl_embed.errors import ConfigError
from icl_embed.store import Store

if TYPE_CHECKING:
    from icl_embed.evaluation.reranker.candidates import Candidates
    from icl_embed.rerank.folder import RerankerSettings
    from icl_embed.rerank.reranker import Reranker
    from icl_embed.rerank.timed import RerankerPool
    from icl_embed.rerank.ways import Way
    from icl_embed.store import Artefact


@dataclass(frozen=True)
class ModelOptions:
    """Which reranker, and how it is run."""

    model: Annotated[
        str, typer.Option("--model", "-m", help="folder or artefact; default: the store's newest reranker")
    ] = ""
    device: DevicesOption = field(default_factory=list)
    dtype: DtypeOption = "auto"
    batch_tokens: BatchTokensOption = 8192
    store: StoreOption = DEFAULT_STORE

    @property
    def kept(self) -> Store:
        """The store."""
        return Store(self.store)

    @property
    def folder(self) -> Path:
        """Where the reranker is; raises ModelError if nowhere."""
        from icl_embed.store.models import RERANKERS, find_model

        return find_model(self.kept, self.model, RERANKERS).path

    def load(self) -> Reranker:
        """The reranker on one device.

        Raises
            ModelError: it cannot be loaded.
            ConfigError: several devices are named.
        """
        from icl_embed.config import ONE_HERE
        from icl_embed.rerank.reranker import Reranker

        engine, device = placed(self.device)
        if engine != ONE_HERE:
            found = ",".join(self.device)
            raise ConfigError(
                f"expected one device, found {found!r}; several serve rerank tune and rerank eval without "
                "--against"
            )
        return Reranker.load(self.folder, device=device, dtype=self.dtype)

    def opened(self) -> AbstractContextManager[Reranker | RerankerPool]:
        """The reranker on all its devices, to be measured."""
        from icl_embed.rerank.timed import opened_reranker

        engine, device = placed(self.device)
        return opened_reranker(self.folder, engine, device=device, dtype=self.dtype)


@dataclass(frozen=True)
class WayOptions:
    """How to rerank: depth and width, or what tuning chose."""

    layer: Annotated[int | None, typer.Option(help="exit at this head; default: the last")] = None
    ratio: Annotated[int | None, typer.Option(help="compress passages: 1, 2, 4 or 8")] = None
    compress_layers: Annotated[str, typer.Option(help="where, by comma; default: the model's own")] = ""
    choice: Annotated[Path | None, typer.Option(help="the way that rerank tune chose: its choice.json")] = (
        None
    )

    def of(self, settings: RerankerSettings) -> Way:
        """The way that the options ask for; full depth when they ask for nothing.

        Raises
            ConfigError: they contradict each other, or a reranker of these settings cannot run it.
        """
        if self.choice is None:
            return settings.shape(
                cutoff_layer=self.layer,
                compress_ratio=self.ratio,
                compress_layers=parse_layers(self.compress_layers) or None,
            )
        from icl_embed.evaluation.reranker.tuning import read_choice, way_of

        if self != WayOptions(choice=self.choice):
            raise ConfigError(
                "--choice already says --layer, --ratio and --compress-layers; give one or other"
            )
        return way_of(read_choice(self.choice), settings)

    def lightweight(self, settings: RerankerSettings, folder: Path, store: Store) -> Way:
        """The way to measure against full depth: as asked, else the tuned one, else the middle exit.

        Raises
            ConfigError: as ``of``.
        """
        from icl_embed.config import RerankConfig
        from icl_embed.evaluation.reranker.stored import find_choice
        from icl_embed.rerank.shape import lightweight_shape

        if self != WayOptions():
            return self.of(settings)
        tuned = find_choice(folder, store)
        if tuned is not None:
            return WayOptions(choice=tuned).of(settings)
        config = RerankConfig(
            compress_layers=settings.compress_layers, compress_ratio=2 if settings.compress_layers else 1
        )
        return lightweight_shape(config, settings.head_layers)


@dataclass(frozen=True)
class CandidateOptions:
    """Which queries and passages a reranker is measured on, and at which widths."""

    candidates: Annotated[
        list[Path], typer.Option(help="evaluation folder, or .jsonl of queries; several times")
    ] = field(default_factory=list)
    ratios: Annotated[str, typer.Option(help="compression ratios to try, by comma")] = "1,2,4"
    top_k: Annotated[int, typer.Option(min=1, help="candidates per query")] = 50
    max_queries: Annotated[int, typer.Option(min=1, help="queries per data set")] = 200
    seed: Annotated[int, typer.Option(help="which queries are kept, and the bootstrap's draws")] = 13

    def stored(self, store: Store, split: Literal["dev", "test"]) -> list[Artefact]:
        """The embedder's scores in the store, where no candidates are given; raises EvaluationError."""
        from icl_embed.evaluation.reranker.stored import find_scores

        return [] if self.candidates else find_scores(store, split=split)

    def read(self, stored: list[Artefact]) -> list[Candidates]:
        """The candidates; raises as ``read_candidates``."""
        from icl_embed.evaluation.reranker.candidates import read_candidates

        sources = [*self.candidates, *(one.path for one in stored)]
        return read_candidates(sources, top_k=self.top_k, max_queries=self.max_queries, seed=self.seed)


def parse_layers(text: str) -> tuple[int, ...]:
    """Layers by comma; none for an empty text; raises ConfigError."""
    return tuple(parse_numbers("--compress-layers", text)) if text.strip() else ()


def parse_ratios(text: str) -> tuple[int, ...]:
    """Compression ratios by comma.

    Raises
        ConfigError: none, or one that there is not.
    """
    from icl_embed.rerank.shape import RATIOS

    ratios = tuple(parse_numbers("--ratios", text)) if text.strip() else ()
    if not ratios or not set(ratios) <= set(RATIOS):
        raise ConfigError(f"--ratios takes some of {', '.join(map(str, RATIOS))}, by comma; found {text!r}")
    return ratios
