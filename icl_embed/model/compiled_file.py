"""A compiled task on disk: a safetensors file with ``keys.<layer>``, ``values.<layer>`` and JSON."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import Field, ValidationError

from icl_embed.config import CountOrZero, Section
from icl_embed.errors import ModelError
from icl_embed.examples import Example
from icl_embed.model.compiled import CompiledTask
from icl_embed.model.fingerprints import Fingerprints
from icl_embed.model.packing import PrefixStates
from icl_embed.model.settings import EmbedderSettings
from icl_embed.prompts import SLOT, Prefix
from icl_embed.store.files import write_atomically

METADATA_KEY = "icl_embed.task"
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class _ExampleRecord(Section):
    query: str
    response: str


class _Record(Section):
    """The JSON of the file's metadata."""

    format: Literal[1] = 1
    instruction: str
    examples: tuple[_ExampleRecord, ...]
    tokens: tuple[Annotated[int, Field(ge=SLOT)], ...]
    demonstrations: tuple[tuple[CountOrZero, ...], ...] = ()
    num_examples: CountOrZero
    num_dropped: CountOrZero
    model: str
    tokenizer: str
    settings: EmbedderSettings
    dtype: Literal["float32", "bfloat16", "float16"]
    layers: CountOrZero  # 0 where queries cannot share states


def write_task(path: Path, task: CompiledTask) -> None:
    """Write the file atomically; see ``CompiledTask.save`` for the errors."""
    from safetensors.torch import save

    if not task.fingerprints.is_saved:
        raise ModelError(
            "the task belongs to a model that exists in memory alone; save the model, load its folder with "
            "Embedder.load and compile the task with that"
        )
    states = task.states or PrefixStates((), ())
    record = _Record(
        instruction=task.instruction,
        examples=tuple(_ExampleRecord(query=one.query, response=one.response) for one in task.examples),
        tokens=tuple(task.prefix.tokens),
        demonstrations=task.prefix.demonstrations,
        num_examples=task.prefix.num_examples,
        num_dropped=task.prefix.num_dropped,
        model=task.fingerprints.model,
        tokenizer=task.fingerprints.tokenizer,
        settings=task.settings,
        dtype=task.dtype,
        layers=len(states.keys),
    )
    tensors = {f"keys.{layer}": key for layer, key in enumerate(states.keys)}
    tensors |= {f"values.{layer}": value for layer, value in enumerate(states.values)}
    whole = {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}
    write_atomically(path, save(whole, {METADATA_KEY: record.model_dump_json()}))


def read_task(path: Path) -> CompiledTask:
    """Read and check the file; see ``CompiledTask.load`` for the errors."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            text = (file.metadata() or {}).get(METADATA_KEY)
            if text is None:
                raise ModelError(f"{path} is not a compiled task; write one with icl-embed compile-task")
            record = _Record.model_validate_json(text)
            states = _read_states(file, record, path)
    except (OSError, SafetensorError) as error:
        raise ModelError(f"cannot read the compiled task {path}: {error}") from error
    except ValidationError as error:
        raise ModelError(f"{path} is not a valid compiled task: {error}") from error
    if (
        not record.tokens
        or record.num_examples + record.num_dropped != len(record.examples)
        or record.tokens.count(SLOT) != len(record.demonstrations)
        or not all(record.demonstrations)
    ):
        raise ModelError(f"{path} contradicts itself: tokens or numbers of examples are wrong")
    return CompiledTask(
        instruction=record.instruction,
        examples=tuple(Example(one.query, one.response) for one in record.examples),
        prefix=Prefix(list(record.tokens), record.num_examples, record.num_dropped, record.demonstrations),
        states=states,
        fingerprints=Fingerprints(record.model, record.tokenizer),
        settings=record.settings,
        dtype=record.dtype,
    )


def _read_states(file: Any, record: _Record, path: Path) -> PrefixStates | None:
    found = set(file.keys())
    if len(found) != 2 * record.layers:  # before a number in the file decides how long we loop
        raise ModelError(
            f"{path} holds {len(found)} tensors, expected keys and values of {record.layers} layers"
        )
    if not found:
        return None
    if "keys.0" not in found:
        raise ModelError(f"{path} has no tensor keys.0")
    one, heads, _, width = _shape_of(file, "keys.0", path)
    expected = (one, heads, len(record.tokens), width)
    sides = []
    for side in ("keys", "values"):
        names = [f"{side}.{layer}" for layer in range(record.layers)]
        sides.append(tuple(_read_tensor(file, name, expected, record.dtype, path) for name in names))
    return PrefixStates(*sides)


def _shape_of(file: Any, name: str, path: Path) -> tuple[int, ...]:
    shape = tuple(file.get_slice(name).get_shape())
    if len(shape) != 4 or shape[0] != 1 or not all(shape):
        raise ModelError(f"{path}: {name} has shape {shape}, expected [1, heads, tokens, width]")
    return shape


def _read_tensor(file: Any, name: str, shape: tuple[int, ...], dtype: str, path: Path) -> torch.Tensor:
    if name not in file.keys():
        raise ModelError(f"{path} has no tensor {name}")
    if _shape_of(file, name, path) != shape:
        raise ModelError(f"{path}: {name} has shape {_shape_of(file, name, path)}, expected {shape}")
    tensor: torch.Tensor = file.get_tensor(name)
    if tensor.dtype != DTYPES[dtype]:
        raise ModelError(f"{path}: {name} is {tensor.dtype}, expected {dtype}")
    if not torch.isfinite(tensor).all():
        raise ModelError(f"{path}: {name} holds a value that is not finite")
    return tensor
