"""What an embedder in this process and a pool of processes have in common: texts in, unit vectors out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from typing import Literal, TypedDict, Unpack, overload

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from icl_embed.errors import ConfigError
from icl_embed.examples import Example
from icl_embed.model.batching import ahead, distinct, plan_batches, refuse_not_finite
from icl_embed.model.compiled import CompiledTask, checked_examples
from icl_embed.model.search import SearchResult, best_passages
from icl_embed.progress import progress_bar
from icl_embed.prompts import PromptBuilder, Tokens

Vectors = NDArray[np.float32]

BATCH_TOKENS = 8192
TEXTS_AT_ONCE = 8192  # tokenised and sorted by length together; token lists take more memory than texts


class EncodeOptions(TypedDict, total=False):
    """Options of every method that encodes.

    Attributes
        batch_tokens: tokens that go through the model at once; lowered for good when memory runs out.
        show_progress: a progress bar on the terminal.
        truncate_dim: keep the first dimensions only and normalise again (for a Matryoshka model).
    """

    batch_tokens: int
    show_progress: bool
    truncate_dim: int | None


class TextEncoder(ABC):
    """Encodes queries under a task, and passages.

    Equal texts are encoded once. No texts give an array [0, D]. ``output="torch"`` leaves the vectors on the
    model's device; all other options are those of ``EncodeOptions``.
    """

    prompts: PromptBuilder

    @property
    @abstractmethod
    def dimension(self) -> int:
        """Length D of a vector."""

    @property
    @abstractmethod
    def device(self) -> torch.device:
        """Where ``output="torch"`` leaves the vectors."""

    @abstractmethod
    def _checked_task(self, task: CompiledTask) -> CompiledTask:
        """The task if it belongs to this model; raises ModelError if not."""

    @abstractmethod
    def _recent_task(self, instruction: str, examples: Sequence[Example]) -> CompiledTask:
        """A task compiled now, or earlier with the same instruction and examples."""

    @abstractmethod
    def _embed_batches(
        self, batches: Iterable[list[Tokens]], task: CompiledTask | None
    ) -> Iterator[tuple[int, Tensor]]:
        """The number of each batch with its vectors [B, D] float32, in any order."""

    @overload
    def encode_queries(
        self,
        texts: Sequence[str],
        *,
        task: CompiledTask | None = ...,
        instruction: str | None = ...,
        examples: Sequence[Example] = ...,
        output: Literal["numpy"] = ...,
        **options: Unpack[EncodeOptions],
    ) -> Vectors: ...

    @overload
    def encode_queries(
        self,
        texts: Sequence[str],
        *,
        task: CompiledTask | None = ...,
        instruction: str | None = ...,
        examples: Sequence[Example] = ...,
        output: Literal["torch"],
        **options: Unpack[EncodeOptions],
    ) -> Tensor: ...

    def encode_queries(
        self,
        texts: Sequence[str],
        *,
        task: CompiledTask | None = None,
        instruction: str | None = None,
        examples: Sequence[Example] = (),
        output: Literal["numpy", "torch"] = "numpy",
        **options: Unpack[EncodeOptions],
    ) -> Vectors | Tensor:
        """Unit vectors [N, D] float32 of queries, under a compiled task or an instruction with examples.

        Raises
            ConfigError: an option is out of range, or the instruction leaves no room for a query.
            DataError: an item is not a text.
            ModelError: the task is another model's, a vector is not finite, or one text does not fit the
                memory.
        """
        found = self._task(task, instruction, examples)
        return _as(output, self._encode(texts, found, self._place(output), **options))

    @overload
    def encode_passages(
        self, texts: Sequence[str], *, output: Literal["numpy"] = ..., **options: Unpack[EncodeOptions]
    ) -> Vectors: ...

    @overload
    def encode_passages(
        self, texts: Sequence[str], *, output: Literal["torch"], **options: Unpack[EncodeOptions]
    ) -> Tensor: ...

    def encode_passages(
        self,
        texts: Sequence[str],
        *,
        output: Literal["numpy", "torch"] = "numpy",
        **options: Unpack[EncodeOptions],
    ) -> Vectors | Tensor:
        """Unit vectors [N, D] float32 of passages: raw text, no instruction, no examples.

        Raises
            ConfigError: an option is out of range.
            DataError: an item is not a text.
            ModelError: a vector is not finite, or one text does not fit the memory.
        """
        return _as(output, self._encode(texts, None, self._place(output), **options))

    def search(
        self,
        queries: Sequence[str],
        passages: Sequence[str] | Vectors,
        *,
        task: CompiledTask | None = None,
        instruction: str | None = None,
        examples: Sequence[Example] = (),
        top_k: int = 10,
        **options: Unpack[EncodeOptions],
    ) -> SearchResult:
        """The best passages of each query, by cosine.

        Parameters
            passages: texts, or their vectors [P, D] from ``encode_passages``: encode them once if you
                search more than once.

        Raises
            ConfigError, DataError, ModelError: as ``encode_queries``.
        """
        found = self.encode_queries(queries, task=task, instruction=instruction, examples=examples, **options)
        if not isinstance(passages, np.ndarray):
            passages = self.encode_passages(passages, **options)
        return best_passages(found, passages, top_k=top_k)

    def _task(
        self, task: CompiledTask | None, instruction: str | None, examples: Sequence[Example]
    ) -> CompiledTask:
        if task is not None and instruction is None and not examples:
            return self._checked_task(task)
        if task is None and instruction is not None:
            return self._recent_task(instruction, checked_examples(examples))
        raise ConfigError(
            "queries need an instruction (with or without examples) or a compiled task, not both"
        )

    def _place(self, output: str) -> torch.device:
        if output not in ("numpy", "torch"):
            raise ConfigError(f"output must be 'numpy' or 'torch', found {output!r}")
        return self.device if output == "torch" else torch.device("cpu")

    def _encode(
        self,
        texts: Sequence[str],
        task: CompiledTask | None,
        place: torch.device,
        *,
        batch_tokens: int = BATCH_TOKENS,
        show_progress: bool = False,
        truncate_dim: int | None = None,
    ) -> Tensor:
        if batch_tokens < 1:
            raise ConfigError(f"batch_tokens must be at least 1, found {batch_tokens}")
        if truncate_dim is not None and not 1 <= truncate_dim <= self.dimension:
            raise ConfigError(f"truncate_dim must be from 1 to {self.dimension}, found {truncate_dim}")
        unique, places = distinct(texts)
        vectors = torch.zeros(len(unique), self.dimension, device=place)
        members: list[list[int]] = []  # of each batch that was handed out

        def batches() -> Iterator[list[Tokens]]:
            for batch, rows in self._plan(unique, task, batch_tokens):
                members.append(batch)
                yield rows

        with progress_bar(len(unique), show_progress) as advance:
            for number, found in self._embed_batches(batches(), task):
                vectors[members[number]] = found.to(place)
                advance(len(members[number]))
        refuse_not_finite(vectors, unique, places)
        if truncate_dim is not None and truncate_dim < self.dimension:
            vectors = F.normalize(vectors[:, :truncate_dim], dim=-1)
        return vectors if len(unique) == len(texts) else vectors[places]

    def _plan(
        self, texts: Sequence[str], task: CompiledTask | None, batch_tokens: int
    ) -> Iterator[tuple[list[int], list[Tokens]]]:
        """Batches, as positions and token lists. While some texts are encoded the next are tokenised."""
        copied = len(task.prefix.tokens) if task is not None and not task.is_shared else 0
        starts = range(0, len(texts), TEXTS_AT_ONCE)
        pieces = (texts[start : start + TEXTS_AT_ONCE] for start in starts)
        for start, rows in zip(starts, ahead(lambda piece: self._rows(piece, task), pieces), strict=True):
            for batch in plan_batches([copied + len(row) for row in rows], batch_tokens):
                yield [start + row for row in batch], [rows[row] for row in batch]

    def _rows(self, texts: Sequence[str], task: CompiledTask | None) -> list[Tokens]:
        if task is None:
            return self.prompts.passages(texts)
        return self.prompts.query_tails(task.instruction, texts)


def _as(output: str, vectors: Tensor) -> Vectors | Tensor:
    return vectors if output == "torch" else vectors.numpy()
