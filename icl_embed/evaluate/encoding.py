"""Encoding for evaluation: every text once, every vector checked, time and tokens counted."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from icl_embed.errors import EvaluationError
from icl_embed.examples import Chooser, Example, ExampleSet, Selection
from icl_embed.prompts import PromptBuilder

Vectors = NDArray[np.float32]
Role = tuple[Any, ...]

SMALLEST_NORM = 1e-6


class Encoder(Protocol):
    """What evaluation needs of an embedder."""

    @property
    def prompts(self) -> PromptBuilder:
        """Builds the prompts."""

    @property
    def dimension(self) -> int:
        """Length of a vector."""

    def encode_queries(
        self,
        texts: Sequence[str],
        *,
        instruction: str,
        examples: Sequence[Example] = (),
        batch_tokens: int = 8192,
        show_progress: bool = False,
    ) -> Vectors:
        """Vectors [N, D] of queries."""

    def encode_passages(
        self, texts: Sequence[str], *, batch_tokens: int = 8192, show_progress: bool = False
    ) -> Vectors:
        """Vectors [N, D] of passages."""


@dataclass(frozen=True)
class Setting:
    """One way to ask: the instruction, and the examples shown before each query.

    Attributes
        examples: shown before every query.
        choose: chooses examples for each query instead.
    """

    name: str
    instruction: str
    examples: ExampleSet = ()
    choose: Chooser | None = None

    def selection(self, texts: Sequence[str]) -> Selection:
        """The examples that each text is asked with."""
        if self.choose is None:
            return Selection.same_for_all(self.examples, len(texts))
        return self.choose(texts)


@dataclass
class Effort:
    """What encoding cost: texts really encoded (not taken from the cache) and their seconds."""

    query_seconds: float = 0.0
    passage_seconds: float = 0.0
    queries: int = 0
    passages: int = 0


@dataclass
class CachingEncoder:
    """An encoder that encodes each text once per role.

    Passages have one role, so all settings of one evaluation share them; queries have one role per
    (instruction, examples). Lives as long as one evaluation, never on disk: nothing can go stale.
    """

    encoder: Encoder
    batch_tokens: int = 8192
    show_progress: bool = False
    effort: Effort = field(default_factory=Effort)
    _rows: dict[Role, dict[str, int]] = field(default_factory=dict)
    _vectors: dict[Role, Vectors] = field(default_factory=dict)

    def passages(self, texts: Sequence[str]) -> Vectors:
        """Vectors [N, D] of passages."""

        def encode(new: list[str]) -> Vectors:
            started = time.perf_counter()
            vectors = self.encoder.encode_passages(
                new, batch_tokens=self.batch_tokens, show_progress=self.show_progress
            )
            self.effort.passage_seconds += time.perf_counter() - started
            self.effort.passages += len(new)
            return vectors

        return self._lookup(("passage",), texts, encode)

    def queries(self, texts: Sequence[str], setting: Setting) -> Vectors:
        """Vectors [N, D] of queries under a setting; those with the same examples are encoded together."""
        vectors = np.zeros((len(texts), self.encoder.dimension), np.float32)
        for examples, rows in setting.selection(texts).groups():
            mine = [texts[row] for row in rows]
            vectors[rows] = self._queries(mine, setting.instruction, examples)
        return vectors

    def _queries(self, texts: Sequence[str], instruction: str, examples: ExampleSet) -> Vectors:
        def encode(new: list[str]) -> Vectors:
            started = time.perf_counter()
            vectors = self.encoder.encode_queries(
                new,
                instruction=instruction,
                examples=examples,
                batch_tokens=self.batch_tokens,
                show_progress=self.show_progress,
            )
            self.effort.query_seconds += time.perf_counter() - started
            self.effort.queries += len(new)
            return vectors

        return self._lookup(("query", instruction, examples), texts, encode)

    def _lookup(self, role: Role, texts: Sequence[str], encode: Callable[[list[str]], Vectors]) -> Vectors:
        rows = self._rows.setdefault(role, {})
        new = [text for text in dict.fromkeys(texts) if text not in rows]
        if new:
            vectors = checked_vectors(encode(new), new, self.encoder.dimension)
            known = self._vectors.get(role)
            self._vectors[role] = vectors if known is None else np.concatenate([known, vectors])
            rows.update({text: len(rows) + offset for offset, text in enumerate(new)})
        if not texts:
            return np.zeros((0, self.encoder.dimension), np.float32)
        return self._vectors[role][[rows[text] for text in texts]]


def checked_vectors(vectors: Vectors, texts: Sequence[str], dimension: int) -> Vectors:
    """The vectors, if every one can be compared.

    Raises
        EvaluationError: wrong shape, a value that is not finite, a vector of length zero.
    """
    if vectors.shape != (len(texts), dimension):
        raise EvaluationError(f"expected vectors of shape {(len(texts), dimension)}, found {vectors.shape}")
    finite = np.asarray(np.isfinite(vectors).all(axis=1))
    if not finite.all():
        raise EvaluationError(_bad(texts, ~finite, "is not finite"))
    too_short = np.asarray(np.linalg.norm(vectors, axis=1) < SMALLEST_NORM)
    if too_short.any():
        raise EvaluationError(_bad(texts, too_short, "is zero and has no direction"))
    return vectors


def _bad(texts: Sequence[str], where: NDArray[np.bool_], what: str) -> str:
    first = int(np.flatnonzero(where)[0])
    return (
        f"the vector of {texts[first][:60]!r} {what} ({int(where.sum())} of {len(texts)} texts); "
        "no score would mean anything, check the model's weights and dtype"
    )
