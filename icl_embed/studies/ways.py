"""The two ways to encode few-shot queries: a prefix that all share, and a prefix for each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

import numpy as np

from icl_embed.errors import EvaluationError
from icl_embed.examples import ExampleSet
from icl_embed.model.batching import plan_batches
from icl_embed.model.compiled import CompiledTask
from icl_embed.model.embedder import Embedder
from icl_embed.model.text_encoder import BATCH_TOKENS, Vectors

WayName = Literal["shared", "in full"]


class Way(Protocol):
    """One way to ask with one set of examples."""

    name: WayName
    instruction: str
    examples: ExampleSet

    def prepare(self) -> None:
        """What is done once per task, before its first query."""

    def build(self, query: str) -> object:
        """The prompt of one query as token ids."""

    def one(self, query: str) -> Vectors:
        """The vector [1, D] of one query, prepared before."""

    def batch(self, queries: Sequence[str]) -> Vectors:
        """Vectors [N, D] of many queries, preparation included."""


@dataclass
class SharedPrefix:
    """Keys and values of the prefix once per task: ``compile_task`` and ``encode_queries``."""

    embedder: Embedder
    instruction: str
    examples: ExampleSet
    name: WayName = "shared"
    _task: CompiledTask | None = field(default=None, repr=False)

    def prepare(self) -> None:
        """Compile the task."""
        self._task = self.embedder.compile_task(self.instruction, self.examples)

    def build(self, query: str) -> object:
        """Tokens after the prefix."""
        return self.embedder.prompts.query_tails(self.instruction, [query])

    def one(self, query: str) -> Vectors:
        """Through the public function."""
        return self.embedder.encode_queries([query], task=self._task)

    def batch(self, queries: Sequence[str]) -> Vectors:
        """Compile, then encode."""
        self.prepare()
        return self.embedder.encode_queries(queries, task=self._task)


@dataclass
class PrefixInFull:
    """Prefix and query as one sequence per query, as the reference code does.

    The tokens of the prefix are kept between queries, so that the ways differ by the model's work alone.
    """

    embedder: Embedder
    instruction: str
    examples: ExampleSet
    name: WayName = "in full"
    _prefix: list[int] = field(default_factory=list, repr=False)

    def prepare(self) -> None:
        """Tokens of the prefix.

        Raises
            EvaluationError: the prompt holds embedded examples, which have no tokens.
        """
        prefix = self.embedder.prompts.prefix(self.instruction, self.examples)
        if prefix.demonstrations:
            raise EvaluationError(
                "this model embeds its examples (template.demonstrations), they have no tokens to encode in "
                "full; measure a model that reads its examples as text"
            )
        self._prefix = prefix.tokens

    def build(self, query: str) -> object:
        """Tokens of everything, examples included."""
        prompts = self.embedder.prompts
        tokens = prompts.prefix(self.instruction, self.examples).tokens
        return [tokens + tail for tail in prompts.query_tails(self.instruction, [query])]

    def one(self, query: str) -> Vectors:
        """One forward of the whole sequence."""
        return self._embed(self._rows([query]))

    def batch(self, queries: Sequence[str]) -> Vectors:
        """All sequences, in batches of equal cost."""
        self.prepare()
        rows = self._rows(queries)
        batches = plan_batches([len(row) for row in rows], BATCH_TOKENS)
        vectors = np.zeros((len(rows), self.embedder.dimension), np.float32)
        for members in batches:
            vectors[members] = self._embed([rows[member] for member in members])
        return vectors

    def _rows(self, queries: Sequence[str]) -> list[list[int]]:
        tails = self.embedder.prompts.query_tails(self.instruction, queries)
        return [self._prefix + tail for tail in tails]

    def _embed(self, rows: list[list[int]]) -> Vectors:
        found: Vectors = self.embedder.embed_batch(rows).cpu().numpy()
        return found
