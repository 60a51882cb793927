"""``icl-embed encode | search | compile-task``: use an embedder from the command line."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from icl_embed.cli.options import (
    DEFAULT_STORE,
    BatchTokensOption,
    DeviceOption,
    DevicesOption,
    DtypeOption,
    StoreOption,
    placed,
)
from icl_embed.errors import ConfigError, DataError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from icl_embed.examples import Example
    from icl_embed.model.compiled import CompiledTask
    from icl_embed.model.embedder import Vectors
    from icl_embed.model.text_encoder import TextEncoder

app = typer.Typer()
console = Console()


class Role(StrEnum):
    """What a text is to the model."""

    passages = "passages"
    queries = "queries"


class Quantise(StrEnum):
    """Smaller numbers for vectors."""

    none = "none"
    int8 = "int8"
    binary = "binary"


ModelOption = Annotated[
    str, typer.Option("--model", "-m", help="a model folder, or an artefact: embedder/1f0c2a…, a label")
]
TaskOption = Annotated[
    Path | None, typer.Option("--task", "-t", help="a compiled task, instead of instruction and examples")
]
InstructionOption = Annotated[
    str | None, typer.Option("--instruction", "-i", help="what the queries look for, in one sentence")
]
ExamplesOption = Annotated[
    Path | None, typer.Option("--examples", "-e", help='.jsonl of {"query": …, "response": …}')
]


@app.command(
    "encode",
    epilog="Examples: icl-embed encode -m my-model --input passages.txt --output passages.npy | "
    "icl-embed encode -m embedder/1f0c --input queries.jsonl --task task.safetensors --output queries.npy | "
    "icl-embed encode -m my-model --input passages.txt --quantise int8 --output passages.safetensors",
)
def encode(
    model: ModelOption,
    input_: Annotated[Path, typer.Option("--input", help="one text per line; .jsonl: strings or {text: …}")],
    output: Annotated[Path, typer.Option("--output", "-o", help=".npy or .safetensors; row i is line i")],
    role: Annotated[
        Role | None, typer.Option("--as", help="queries with a task or instruction, else passages")
    ] = None,
    task: TaskOption = None,
    instruction: InstructionOption = None,
    examples: ExamplesOption = None,
    dim: Annotated[int | None, typer.Option("--dim", help="keep only the first dimensions")] = None,
    quantise: Annotated[Quantise, typer.Option(help="store smaller numbers")] = Quantise.none,
    device: DevicesOption = [],  # noqa: B006
    dtype: DtypeOption = "auto",
    batch_tokens: BatchTokensOption = 8192,
    store: StoreOption = DEFAULT_STORE,
) -> None:
    """Turn each line of a file into a vector."""
    from icl_embed.model.text_files import read_texts, refuse_output_name, write_arrays

    refuse_output_name(output, num_arrays=2 if quantise is Quantise.int8 else 1)
    asked = task is not None or instruction is not None
    if role is not None and (role is Role.queries) != asked:
        raise ConfigError("queries need --task or --instruction, and passages take neither")
    if examples is not None and instruction is None:
        raise ConfigError("--examples needs --instruction")
    texts = read_texts(input_)
    compiled = _read_task(task)
    with _open(model, store, device, dtype, compiled) as encoder:
        if asked:
            vectors = encoder.encode_queries(
                texts,
                task=compiled,
                instruction=instruction,
                examples=_examples(examples),
                batch_tokens=batch_tokens,
                truncate_dim=dim,
                show_progress=True,
            )
        else:
            vectors = encoder.encode_passages(
                texts, batch_tokens=batch_tokens, truncate_dim=dim, show_progress=True
            )
    arrays, note = _quantised(vectors, quantise)
    write_arrays(output, arrays, {"quantise": quantise, "dimension": str(vectors.shape[1])})
    size = f"{len(vectors)} vectors of {vectors.shape[1]} dimensions"
    console.print(f"{size}{note} → {escape(str(output))}", soft_wrap=True)


@app.command(
    "search",
    epilog='Example: icl-embed search -m my-model --passages passages.txt --query "stack smashed" '
    '--instruction "Find the weakness" --examples examples.jsonl --top 3',
)
def search(
    model: ModelOption,
    passages: Annotated[Path, typer.Option("--passages", help="one passage per line, or .jsonl")],
    query: Annotated[
        list[str], typer.Option("--query", "-q", help="a query; several times for several")
    ] = [],  # noqa: B006
    queries: Annotated[Path | None, typer.Option("--queries", help="one query per line, or .jsonl")] = None,
    task: TaskOption = None,
    instruction: InstructionOption = None,
    examples: ExamplesOption = None,
    top: Annotated[int, typer.Option("--top", help="passages per query", min=1)] = 5,
    device: DevicesOption = [],  # noqa: B006
    dtype: DtypeOption = "auto",
    store: StoreOption = DEFAULT_STORE,
) -> None:
    """Find the best passages of each query, and print them."""
    from icl_embed.model.text_files import read_texts

    asked = [*query, *(read_texts(queries) if queries else [])]
    if not asked:
        raise ConfigError("nothing to look for: give --query TEXT or --queries FILE")
    texts = read_texts(passages)
    compiled = _read_task(task)
    with _open(model, store, device, dtype, compiled) as encoder:
        found = encoder.search(
            asked,
            texts,
            task=compiled,
            instruction=instruction,
            examples=_examples(examples),
            top_k=top,
            show_progress=True,
        )
    table = Table("query", "", "score", "line", "passage", box=None, pad_edge=False)
    for text, indices, scores in zip(asked, found.indices, found.scores, strict=True):
        for rank, (index, score) in enumerate(zip(indices, scores, strict=True), start=1):
            shown = escape(_short(text)) if rank == 1 else ""
            table.add_row(shown, str(rank), f"{score:.3f}", str(index + 1), escape(_short(texts[index], 160)))
    console.print(table)


@app.command(
    "compile-task",
    epilog='Example: icl-embed compile-task -m my-model --instruction "Find the weakness" '
    "--examples examples.jsonl --output weakness.safetensors",
)
def compile_task(
    model: ModelOption,
    instruction: Annotated[str, typer.Option("--instruction", "-i", help="what queries look for")],
    output: Annotated[Path, typer.Option("--output", "-o", help="a .safetensors file")],
    examples: ExamplesOption = None,
    device: DeviceOption = "auto",
    dtype: DtypeOption = "auto",
    store: StoreOption = DEFAULT_STORE,
) -> None:
    """Encode instruction and examples once; queries then start from the file."""
    from icl_embed.cli.store import readable_size
    from icl_embed.model.embedder import Embedder
    from icl_embed.store import Store
    from icl_embed.store.models import find_model

    if output.suffix != ".safetensors":
        raise DataError(f"--output must end in .safetensors, found {output.name}")
    shown = _examples(examples)
    embedder = Embedder.load(find_model(Store(store), model).path, device=device, dtype=dtype)
    task = embedder.compile_task(instruction, shown)
    task.save(output)
    console.print(
        f"{task.prefix.num_examples} of {len(task.examples)} examples, {len(task.prefix.tokens)} tokens, "
        f"{readable_size(task.num_bytes)} in {task.dtype} → {escape(str(output))}",
        soft_wrap=True,
    )


def _open(
    model: str, store: Path, devices: list[str], dtype: str, task: CompiledTask | None
) -> AbstractContextManager[TextEncoder]:
    """An encoder on the devices, in the number format of the task if there is one."""
    from icl_embed.model.encoder_pool import EncoderPool, open_encoder
    from icl_embed.store import Store
    from icl_embed.store.models import find_model

    folder = find_model(Store(store), model).path
    if task is not None and dtype == "auto":
        dtype = task.dtype
    engine, device = placed(devices)
    encoder = open_encoder(folder, engine, device=device, dtype=dtype)
    return encoder if isinstance(encoder, EncoderPool) else nullcontext(encoder)


def _read_task(path: Path | None) -> CompiledTask | None:
    if path is None:
        return None
    from icl_embed.model.compiled import CompiledTask

    return CompiledTask.load(path)


def _examples(path: Path | None) -> list[Example]:
    from icl_embed.model.text_files import read_examples

    return [] if path is None else read_examples(path)


def _quantised(vectors: Vectors, quantise: Quantise) -> tuple[dict[str, NDArray[Any]], str]:
    from icl_embed.model.quantise import Int8Scale, binarise, cosine_loss, unpack_binary

    if quantise is Quantise.none:
        return {"vectors": vectors}, ""
    if quantise is Quantise.binary:
        codes = binarise(vectors)
        restored = unpack_binary(codes, vectors.shape[1])
        return {"codes": codes}, f", 1 bit each (mean cosine loss {cosine_loss(vectors, restored):.4f})"
    scale = Int8Scale.fit(vectors)
    small = scale.quantise(vectors)
    loss = cosine_loss(vectors, scale.dequantise(small))
    return {"codes": small, "steps": scale.steps}, f", int8 (mean cosine loss {loss:.6f})"


def _short(text: str, length: int = 60) -> str:
    flat = " ".join(text.split())
    return flat if len(flat) <= length else flat[: length - 1] + "…"
