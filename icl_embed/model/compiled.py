"""A compiled task: instruction and examples as an encoded prefix that all queries share."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import Field, ValidationError

from icl_embed.config import CountOrZero, Section
from icl_embed.errors import DataError, ModelError
from icl_embed.examples import Example, ExampleSet
from icl_embed.model.decoder_shape import DecoderShape
from icl_embed.model.fingerprints import Fingerprints
from icl_embed.model.packing import PrefixStates
from icl_embed.model.settings import EmbedderSettings
from icl_embed.prompts import SLOT, Prefix, PromptBuilder, clean
from icl_embed.store.files import write_atomically

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class CompiledTask:
    """What ``Embedder.compile_task`` returns and ``encode_queries(texts, task=…)`` takes.

    Attributes
        instruction, examples: as they were given, dropped examples included.
        prefix: token ids, and how many examples fitted into them.
        states: keys and values of the prefix; None where queries cannot share them (bidirectional
            attention), the tokens are then enough.
        fingerprints: the weights and the tokenizer it belongs to.
        settings: of the embedder; they decide the prompt.
        dtype: of the weights, e.g. ``float32``.
    """

    instruction: str
    examples: ExampleSet
    prefix: Prefix
    states: PrefixStates | None
    fingerprints: Fingerprints
    settings: EmbedderSettings
    dtype: str

    @property
    def is_shared(self) -> bool:
        """Whether all queries continue one encoded prefix; under bidirectional attention each has a copy."""
        return self.settings.attention == "causal"

    @property
    def num_bytes(self) -> int:
        """Size of the keys and values."""
        return num_bytes(self.states)

    def to(self, device: torch.device) -> CompiledTask:
        """The same task with its states on a device."""
        if self.states is None or self.states.keys[0].device == device:
            return self
        return replace(self, states=moved(self.states, device))

    def save(self, path: Path | str) -> None:
        """Write one safetensors file, atomically.

        Raises
            ModelError: the model has no folder that another process could load.
            StoreError: the disk refused; what was there before is still there.
        """

        write_task(Path(path), self)

    @classmethod
    def load(cls, path: Path | str) -> CompiledTask:
        """Read a file written by ``save``; every field and tensor is checked before it is used.

        Raises
            ModelError: missing, damaged, or not a compiled task.
        """

        return read_task(Path(path))

    def refuse_other_model(
        self, fingerprints: Fingerprints, settings: EmbedderSettings, *, dtype: str, config: Any
    ) -> None:
        """Raise ModelError unless the task belongs to exactly this embedder."""
        mine = self.fingerprints
        if mine.model != fingerprints.model:
            _refuse("model", mine.model, fingerprints.model)
        if mine.tokenizer != fingerprints.tokenizer:
            _refuse("tokenizer", mine.tokenizer, fingerprints.tokenizer)
        if self.settings != settings:
            theirs = settings.model_dump()
            names = [name for name, value in self.settings.model_dump().items() if value != theirs[name]]
            raise ModelError(f"the task was compiled with other settings ({', '.join(names)}); {AGAIN}")
        if self.states is not None:
            self._refuse_unfit_states(self.states, dtype, config)
        largest = max(map(max, (self.prefix.tokens, *self.prefix.demonstrations)))
        if largest >= config.vocab_size:
            raise ModelError(f"the task holds token {largest}, which the model does not have")

    def _refuse_unfit_states(self, states: PrefixStates, dtype: str, config: Any) -> None:
        if self.dtype != dtype:
            raise ModelError(
                f"the task was compiled in {self.dtype}, but this embedder computes in {dtype}; "
                f"load the embedder with dtype={self.dtype!r}, or compile the task again"
            )
        shape = DecoderShape.of(config)
        expected = (shape.layers, shape.key_heads, shape.head_width)
        found = (len(states.keys), states.keys[0].shape[1], states.keys[0].shape[3])
        if found != expected:
            raise ModelError(f"the task's (layers, key heads, width) are {found}, the model's {expected}")


AGAIN = "compile it again with this embedder (compile_task, or icl-embed compile-task)"


def _refuse(what: str, compiled: str, found: str) -> None:
    raise ModelError(
        f"the task was compiled with another {what} (fingerprint {compiled}, this {what}'s is {found}); "
        f"{AGAIN}"
    )


def checked_examples(examples: Sequence[Example]) -> ExampleSet:
    """The examples, if that is what they are.

    Raises
        DataError: something else; the message says at which position.
    """
    for number, example in enumerate(examples):
        if not isinstance(example, Example):
            raise DataError(f"examples[{number}] must be an Example, found {type(example).__name__}")
        if not (isinstance(example.query, str) and isinstance(example.response, str)):
            raise DataError(f"examples[{number}] must have a text as query and as response")
    return tuple(examples)


def plan_task(
    prompts: PromptBuilder,
    instruction: str,
    examples: Sequence[Example],
    fingerprints: Fingerprints,
    *,
    settings: EmbedderSettings,
    dtype: str,
) -> CompiledTask:
    """A task whose prefix is tokens, not yet encoded. Examples that do not fit are dropped with a warning.

    Raises
        ConfigError: the instruction leaves no room for a query.
    """
    cleaned = tuple(Example(clean(one.query), clean(one.response)) for one in examples)
    prefix = prompts.prefix(clean(instruction), cleaned)
    if prefix.num_dropped:
        logger.warning(
            "%d of %d examples do not fit into prompt.total_tokens=%d beside a query and are left out",
            prefix.num_dropped,
            len(cleaned),
            prompts.budgets.total_tokens,
        )
    return CompiledTask(clean(instruction), cleaned, prefix, None, fingerprints, settings, dtype)


def moved(states: PrefixStates, device: torch.device) -> PrefixStates:
    """Keys and values on a device, one after the other in memory."""
    return PrefixStates(
        tuple(key.to(device).contiguous() for key in states.keys),
        tuple(value.to(device).contiguous() for value in states.values),
    )


def num_bytes(states: PrefixStates | None) -> int:
    """Size of keys and values."""
    return 0 if states is None else sum(tensor.nbytes for tensor in (*states.keys, *states.values))


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
