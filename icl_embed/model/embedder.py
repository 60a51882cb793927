"""The embedder that users hold: texts in, unit vectors out, zero-shot or few-shot.

The examples of a task come first in the prompt and attention is causal, so their keys and values are
computed once and shared by all queries of the task: few-shot costs little more than zero-shot, exactly.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from icl_embed.errors import ModelError
from icl_embed.examples import Example
from icl_embed.model.attention import use_packed_attention
from icl_embed.model.backbone import encode_prefix, load_backbone, token_states
from icl_embed.model.batching import Group
from icl_embed.model.compiled import CompiledTask, checked_examples, moved, plan_task
from icl_embed.model.cpu.kernels import speed_up
from icl_embed.model.demonstrations import load_demonstrations
from icl_embed.model.dtype import resolve_device, resolve_dtype
from icl_embed.model.fingerprints import Fingerprints
from icl_embed.model.memory import MemoryLimit, Recent, is_out_of_memory
from icl_embed.model.other_process import Portable, mind_forks
from icl_embed.model.packing import PrefixStates, pack
from icl_embed.model.pooling import pool
from icl_embed.model.settings import EmbedderSettings, build_prompts, read_settings
from icl_embed.model.text_encoder import TextEncoder, Vectors
from icl_embed.prompts import Tokens

__all__ = ["Embedder", "Vectors"]


@dataclasses.dataclass(eq=False)
class Embedder(Portable, TextEncoder):
    """A causal language model that maps queries and passages to unit vectors.

    Examples::

        embedder = Embedder.load(folder)
        task = embedder.compile_task("Retrieve the answer.", [Example("capital of France", "Paris")])
        found = embedder.search(["capital of Italy"], passages, task=task, top_k=5)
        vectors = embedder.encode_queries(texts, task=task)

    It can be pickled and copied; the weights go along.

    Attributes
        folder: where it was loaded from; None for a model that exists in memory alone.
        task_cache_bytes: keys and values kept of the tasks that were used last, for calls with
            ``instruction=…, examples=…``. Changing weights in place empties it.
    """

    model: Any = dataclasses.field(repr=False)
    tokenizer: Any = dataclasses.field(repr=False)
    settings: EmbedderSettings
    folder: Path | None = None
    task_cache_bytes: int = 1 << 30

    def __post_init__(self) -> None:
        """Build the prompt builder once."""
        self.model.eval()
        use_packed_attention(self.model)
        self.prompts = build_prompts(self.tokenizer, self.settings, self.model.config)
        self._memory = MemoryLimit(self.device)
        self._tasks: Recent[CompiledTask] = Recent(self.task_cache_bytes, lambda task: task.num_bytes)

    @classmethod
    def load(
        cls,
        folder: Path | str,
        *,
        device: str = "auto",
        dtype: str = "auto",
        settings: EmbedderSettings | None = None,
    ) -> Embedder:
        """Load a model folder: one of ours, or any causal language model in Hugging Face format.

        ``settings`` replaces those saved with the model, e.g. to try an untrained model with other budgets.

        Raises
            ModelError: the folder is incomplete or not readable.
        """
        folder = Path(folder)
        mind_forks()
        place = resolve_device(device)
        model, tokenizer = load_backbone(folder, device=place, dtype=resolve_dtype(dtype, place))
        settings = settings or read_settings(folder)
        if settings.template.demonstrations:
            load_demonstrations(model, folder)
        speed_up(model)
        return cls(model, tokenizer, settings, folder)

    def __getstate__(self) -> dict[str, Any]:
        return super().__getstate__() | {
            "fingerprints": self.fingerprints
        }  # tasks stay valid without a folder

    @property
    def _backbone(self) -> Any:
        return self.model

    @property
    def dimension(self) -> int:
        """Length of a vector."""
        return int(self.model.config.hidden_size)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        device: torch.device = self.model.device
        return device

    @property
    def dtype(self) -> str:
        """Number format of the weights, e.g. ``float32``."""
        return str(self.model.dtype).removeprefix("torch.")

    @cached_property
    def fingerprints(self) -> Fingerprints:
        """Of the files it was loaded from; read when first needed."""
        return Fingerprints.unsaved() if self.folder is None else Fingerprints.of_folder(self.folder)

    @property
    def fingerprint(self) -> str:
        """Of the weights."""
        return self.fingerprints.model

    def compile_task(self, instruction: str, examples: Sequence[Example] = ()) -> CompiledTask:
        """Encode instruction and examples once, for all queries of a task.

        Examples that do not fit into the prompt are dropped whole, with a warning.

        Raises
            ConfigError: the instruction leaves no room for a query.
            DataError: an example is not one.
            ModelError: a key or value is not finite, or the prefix does not fit the memory.
        """
        task = self._compile(instruction, checked_examples(examples))
        states = task.states
        if states and not all(torch.isfinite(one).all() for one in (*states.keys, *states.values)):
            raise ModelError("the encoded examples are not finite; the model's weights or dtype are broken")
        return task

    def _compile(self, instruction: str, examples: Sequence[Example]) -> CompiledTask:
        task = plan_task(
            self.prompts,
            instruction,
            examples,
            self.fingerprints,
            settings=self.settings,
            dtype=self.dtype,
        )
        return self.with_states(task)

    def with_states(self, task: CompiledTask) -> CompiledTask:
        """The task with the keys and values of its prefix, where queries can share them."""
        if not task.is_shared:
            return task
        mind_forks()
        try:
            with torch.inference_mode():
                slots = self._slots(task.prefix.demonstrations)
                states = encode_prefix(self.model, task.prefix.tokens, slots)
                return dataclasses.replace(task, states=moved(states, self.device))
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            raise ModelError(
                f"examples of {len(task.prefix.tokens)} tokens do not fit the memory; show fewer"
            ) from error

    def _checked_task(self, task: CompiledTask) -> CompiledTask:
        task.refuse_other_model(self.fingerprints, self.settings, dtype=self.dtype, config=self.model.config)
        return task.to(self.device)

    def _recent_task(self, instruction: str, examples: Sequence[Example]) -> CompiledTask:
        weights = sum(parameter._version for parameter in self.model.parameters())
        key = (instruction, tuple(examples), weights)
        return self._tasks.get(key, lambda: self._compile(instruction, examples))

    def _embed_batches(
        self, batches: Iterable[list[Tokens]], task: CompiledTask | None
    ) -> Iterator[tuple[int, Tensor]]:
        for number, rows in enumerate(batches):
            yield number, self.embed_batch(rows, task)

    def embed_batch(self, rows: Sequence[Tokens], task: CompiledTask | None = None) -> Tensor:
        """Unit vectors [R, D] float32 of token lists that continue a task's prefix; parts if memory is short.

        Raises
            ModelError: a single row does not fit the memory.
        """
        mind_forks()
        with torch.inference_mode():
            return self._memory.run(rows, lambda part: self._embed_under(part, task))

    def _embed_under(self, rows: Sequence[Tokens], task: CompiledTask | None) -> Tensor:
        if task is None or task.states is not None:
            return self.embed_tokens(rows, task.states if task else None)
        prefix = task.prefix  # each row has a copy of it, so each is a group of its own
        return self.embed_groups([Group([row], prefix.tokens, prefix.demonstrations) for row in rows])

    def embed_tokens(self, rows: Sequence[Tokens], shared: PrefixStates | None = None) -> Tensor:
        """Unit vectors [R, D] float32 of rows that all continue an encoded prefix, if there is one."""
        return self._embed([Group(rows)], shared)

    def embed_groups(self, groups: Sequence[Group]) -> Tensor:
        """Unit vectors [R, D] float32 of the rows of all groups, in order, in one forward; differentiable."""
        return self._embed(groups, None)

    def _embed(self, groups: Sequence[Group], shared: PrefixStates | None) -> Tensor:
        causal = self.settings.attention == "causal"
        packed = pack(groups, causal=causal, shared=shared, device=self.model.device)
        slots = self._slots([shown for group in groups for shown in group.demonstrations])
        return pool(token_states(self.model, packed, slots), packed, self.settings.pooling)

    def _slots(self, demonstrations: Sequence[Sequence[int]]) -> Tensor | None:
        """[S, D] what stands in a prompt for each demonstration: its own embedding, projected."""
        if not demonstrations:
            return None
        vectors = self._embed([Group([list(tokens) for tokens in demonstrations])], None)
        slots: Tensor = self.model.demonstrations(vectors)
        return slots
