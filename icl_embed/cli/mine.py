"""``icl-embed mine``: hard negatives for the rows of any file, by any model."""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.console import Console
from rich.markup import escape

from icl_embed.cli.options import (
    DEFAULT_STORE,
    BatchTokensOption,
    DevicesOption,
    DtypeOption,
    StoreOption,
    placed,
    spread,
)
from icl_embed.errors import ConfigError, DataError
from icl_embed.store.files import sha256_of

if TYPE_CHECKING:
    from icl_embed.config import NegativesConfig
    from icl_embed.evaluation.models import OpenedModel
    from icl_embed.pool.mining import Miner

console = Console()


@dataclasses.dataclass(frozen=True, kw_only=True)
class AskedModel:
    """Whose scores candidates are ranked by."""

    model: Annotated[
        str,
        typer.Option("--model", "-m", help="a folder of ours or of sentence-transformers, an artefact, bm25"),
    ]
    instruction: Annotated[
        str, typer.Option("--instruction", "-i", help="what the queries look for; a model of ours needs it")
    ] = ""
    device: DevicesOption = dataclasses.field(default_factory=list)
    dtype: DtypeOption = "auto"
    batch_tokens: BatchTokensOption = 8192
    store: StoreOption = DEFAULT_STORE

    def opened(self) -> OpenedModel:
        """The model with the token budgets of its folder; its weights are not loaded yet.

        Raises
            ConfigError: it needs an instruction.
            ModelError: there is no such model.
        """
        from icl_embed.config import PromptConfig
        from icl_embed.evaluation.models import open_model
        from icl_embed.model.settings import read_settings
        from icl_embed.store import Store

        engine, device = placed(self.device)
        found = open_model(
            self.model,
            Store(self.store),
            prompt=PromptConfig(),
            device=device,
            dtype=self.dtype,
            engine=engine,
        )
        if found.sort != "ours":
            return found
        if not self.instruction:
            raise ConfigError("a model of ours asks with an instruction; give --instruction")
        return dataclasses.replace(found, prompt=read_settings(found.about.folder).prompt)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Choice:
    """Which candidates become negatives."""

    negatives: Annotated[int, typer.Option("--negatives", min=1, help="per row")] = 15
    range_: Annotated[
        tuple[int, int],
        typer.Option("--range", help="ranks that may be taken: the first, and where to stop; 0 is the best"),
    ] = (10, 210)
    max_positive_ratio: Annotated[
        float,
        typer.Option(help="leave out what scores above this fraction of the first positive; 1000: nothing"),
    ] = 0.95
    sample: Annotated[bool, typer.Option("--sample/--top", help="draw from the range, or take its best")] = (
        True
    )
    keep_given: Annotated[
        bool, typer.Option("--keep-given", help="a row's own negatives stay, and come first")
    ] = False
    search: Annotated[
        Literal["exact", "faiss"], typer.Option(help="faiss: the nearest cells only (extra mine)")
    ] = "exact"
    seed: Annotated[int, typer.Option(help="of what is drawn")] = 0

    def config(self, method: Literal["bm25", "dense"]) -> NegativesConfig:
        """The same as the pipeline's settings; raises ConfigError if they cannot be."""
        from icl_embed.config import NegativesConfig

        if not 0 <= self.range_[0] < self.range_[1]:
            raise ConfigError(
                f"--range takes a first rank from 0 on and a higher one to stop at, found {self.range_}"
            )
        if not 0 < self.max_positive_ratio < math.inf:
            raise ConfigError(f"--max-positive-ratio must be above 0, found {self.max_positive_ratio}")
        return NegativesConfig(
            per_query=self.negatives,
            methods=(method,),
            rank_from=self.range_[0],
            rank_to=self.range_[1],
            max_positive_ratio=self.max_positive_ratio,
            search=self.search,
            faiss_from=1,
        )


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command(
        "mine",
        epilog="Examples: icl-embed mine -m my-model -i 'Find the answer' --input rows.jsonl -o out.jsonl | "
        "icl-embed mine -m minilm-folder --input rows.jsonl --corpus corpus.jsonl --range 0 100 --top "
        "-o out.jsonl | icl-embed mine -m bm25 --input rows.jsonl -o out.jsonl",
    )(mine)


@spread
def mine(
    asked: AskedModel,
    input_: Annotated[Path, typer.Option("--input", help='.jsonl of {"query": …, "pos": […], "neg": […]}')],
    output: Annotated[Path, typer.Option("--output", "-o", help=".jsonl: the same rows with mined neg")],
    choice: Choice,
    corpus: Annotated[
        Path | None,
        typer.Option("--corpus", help="one text per line, or .jsonl; default: the passages of the rows"),
    ] = None,
) -> None:
    """Find negatives that look like answers: candidates near the query, but not as near as its positive.

    A run that was killed goes on where it was: vectors and rankings lie beside the output until it is whole.
    """
    from icl_embed.pool.mine_file import mine_file
    from icl_embed.progress import changing_bar, listening

    if output.suffix != ".jsonl":
        raise ConfigError(f"--output must end in .jsonl, found {output.name}")
    work = output.with_name(f".{output.name}.work")
    files = [input_, *([corpus] if corpus else [])]
    miner = _miner(asked, choice, work, [*map(_content, files)])
    with changing_bar() as show, listening(show):
        counts = mine_file(
            input_,
            output,
            miner,
            corpus=corpus,
            keep_given=choice.keep_given,
            instruction=asked.instruction,
        )
    shutil.rmtree(work, ignore_errors=True)
    dropped = ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in counts["dropped"].items())
    kept = ", ".join(f"{count} {name}" for name, count in counts["kept"].items())
    console.print(f"{counts['rows']} rows, {counts['passages']} passages; negatives: {kept}", soft_wrap=True)
    console.print(f"left out: {dropped or 'nothing'} → {escape(str(output))}", soft_wrap=True)


def _miner(asked: AskedModel, choice: Choice, work: Path, contents: list[str]) -> Miner:
    """How to mine; its work folder serves the same files, model and choice only."""
    from icl_embed.model.stored_search import embed_to, search_devices, search_of
    from icl_embed.pool.mining import Miner

    model = asked.opened()
    about = model.about
    identity = {"fingerprint": about.fingerprint, "dtype": about.dtype, "prompt": repr(model.prompt)}
    how: dict[str, Any] = {"work_dir": work, "identity": json.dumps([contents, identity, asked.instruction])}
    if model.sort == "bm25":
        return Miner(choice.config("bm25"), choice.seed, sample=choice.sample, **how)
    config = choice.config("dense")
    return Miner(
        config,
        choice.seed,
        search=search_of(config.search, config.faiss_from, search_devices(model.engine, about.device)),
        embed=embed_to(work, model.encoder, identity, batch_tokens=asked.batch_tokens),
        sample=choice.sample,
        **how,
    )


def _content(path: Path) -> str:
    try:
        return sha256_of(path)
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}") from error
