"""Encoding each text once: vectors found by the text that they stand for, every one checked, time counted.

Texts are known by a digest of 16 bytes, so no text is held twice; vectors stay in the blocks in which they
came, which may be memory-mapped files.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from icl_embed.errors import EvaluationError
from icl_embed.examples import Chooser, Example, ExampleSet, Selection
from icl_embed.prompts import PromptBuilder

Role = tuple[Any, ...]
Item = TypeVar("Item")


SMALLEST_NORM = 1e-6


class Encoder(Protocol):
    """What evaluation needs of an embedder."""

    @property
    def prompts(self) -> PromptBuilder | None:
        """Builds the prompts; None for a model that takes neither instructions nor examples."""

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


class Shelf(Protocol):
    """The vectors of one role, kept between processes."""

    def blocks(self) -> Iterable[tuple[Sequence[bytes], Vectors]]:
        """Everything kept: digests of texts [N] and their vectors [N, D], block by block."""

    def add(self, digests: Sequence[bytes], vectors: Vectors) -> Vectors:
        """Keep vectors [N, D] of texts, all or none survive a crash; returns them as they are kept."""


class VectorStore(Protocol):
    """Keeps vectors of one model between processes."""

    def shelf(self, role: Role) -> Shelf:
        """The vectors of a role: nothing else is ever served for it."""


CHUNK_TEXTS = 1024  # texts encoded between two writes to a store: what a crash can cost
MAX_KEPT_SETS = 64  # a setting with more example sets has a few texts per set: not worth a shelf each


@dataclass
class CachingEncoder:
    """An encoder that encodes each text once per role.

    Passages have one role, so all settings of one evaluation share them; queries have one role per
    (instruction, examples). Without a store nothing outlives the evaluation; with one, texts are encoded in
    chunks and every chunk is kept, so an interrupted evaluation goes on where it was.
    """

    encoder: Encoder
    batch_tokens: int = 8192
    show_progress: bool = False
    effort: Effort = field(default_factory=Effort)
    store: VectorStore | None = None
    chunk_texts: int = CHUNK_TEXTS
    _tables: dict[Role, VectorTable] = field(default_factory=dict)

    def passages(self, texts: Sequence[str]) -> Vectors:
        """Vectors [N, D] of passages."""
        return self.stored_passages(texts)[:]

    def stored_passages(self, texts: Sequence[str]) -> StoredVectors:
        """The same, to be read a part at a time: with a store they need not fit the memory."""

        def encode(new: Sequence[str]) -> Vectors:
            started = time.perf_counter()
            vectors = self.encoder.encode_passages(
                new, batch_tokens=self.batch_tokens, show_progress=self.show_progress
            )
            self.effort.passage_seconds += time.perf_counter() - started
            self.effort.passages += len(new)
            return vectors

        return self._stored(("passage",), texts, encode, store=self.store)

    def queries(self, texts: Sequence[str], setting: Setting) -> Vectors:
        """Vectors [N, D] of queries under a setting; those with the same examples are encoded together."""
        vectors = np.zeros((len(texts), self.encoder.dimension), np.float32)
        groups = setting.selection(texts).groups()
        store = self.store if len(groups) <= MAX_KEPT_SETS else None
        for examples, rows in groups:
            mine = [texts[row] for row in rows]
            vectors[rows] = self._queries(mine, setting.instruction, examples, store=store)[:]
        return vectors

    def stored_queries(self, texts: Sequence[str], instruction: str) -> StoredVectors:
        """Queries without examples, as ``stored_passages``."""
        return self._queries(texts, instruction, (), store=self.store)

    def _queries(
        self, texts: Sequence[str], instruction: str, examples: ExampleSet, *, store: VectorStore | None
    ) -> StoredVectors:
        def encode(new: Sequence[str]) -> Vectors:
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

        return self._stored(("query", instruction, examples), texts, encode, store=store)

    def _stored(
        self,
        role: Role,
        texts: Sequence[str],
        encode: Callable[[Sequence[str]], Vectors],
        *,
        store: VectorStore | None,
    ) -> StoredVectors:
        shelf = store.shelf(role) if store else None
        table = self._table(role, shelf)
        digests = list(map(digest_of, texts))
        new = {digest: row for row, digest in enumerate(digests) if digest not in table}
        step = self.chunk_texts if shelf else max(len(new), 1)
        for chunk in batched(new.items(), step):
            names, mine = [digest for digest, _ in chunk], [texts[row] for _, row in chunk]
            vectors = checked_vectors(encode(mine), mine, self.encoder.dimension)
            table.add(names, shelf.add(names, vectors) if shelf else vectors)
        return StoredVectors(table, table.rows_of(digests))

    def _table(self, role: Role, shelf: Shelf | None) -> VectorTable:
        if role not in self._tables:
            self._tables[role] = VectorTable(self.encoder.dimension)
            for digests, vectors in shelf.blocks() if shelf else ():
                self._tables[role].add(digests, vectors)
        return self._tables[role]


def batched(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """Consecutive parts of ``size`` items; the last may be shorter."""
    left = iter(items)
    while part := list(islice(left, size)):
        yield part


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


Vectors = NDArray[np.float32]

DIGEST_BYTES = 16  # two of 10⁹ texts share one with a chance of 10⁻²¹


def digest_of(text: str) -> bytes:
    """What names a text; texts that differ in any character differ here."""
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=DIGEST_BYTES).digest()


@dataclass
class VectorTable:
    """Digest -> vector.

    Attributes
        dimension: length of a vector.
    """

    dimension: int
    _rows: dict[bytes, int] = field(default_factory=dict)
    _blocks: list[Vectors] = field(default_factory=list)
    _starts: list[int] = field(default_factory=lambda: [0])

    def __contains__(self, digest: bytes) -> bool:
        return digest in self._rows

    def add(self, digests: Sequence[bytes], vectors: Vectors) -> None:
        """Add vectors [N, D] of texts; a text that is there already keeps its vector."""
        start = self._starts[-1]
        for row, digest in enumerate(digests, start):
            self._rows.setdefault(digest, row)
        self._blocks.append(vectors)
        self._starts.append(start + len(vectors))

    def rows_of(self, digests: Sequence[bytes]) -> NDArray[np.int64]:
        """Where the vectors of texts that are all here stand."""
        return np.fromiter((self._rows[digest] for digest in digests), np.int64, len(digests))

    def take(self, rows: NDArray[np.int64]) -> Vectors:
        """The vectors [N, D] that stand in these rows."""
        found = np.empty((len(rows), self.dimension), np.float32)
        block_of = np.searchsorted(self._starts, rows, side="right") - 1
        for number in np.unique(block_of):
            mine = np.flatnonzero(block_of == number)
            found[mine] = self._blocks[number][rows[mine] - self._starts[number]]
        return found


@dataclass(frozen=True, eq=False)
class StoredVectors:
    """The vectors of a list of texts, read from where they are kept when rows are asked for."""

    _table: VectorTable
    _rows: NDArray[np.int64]

    @property
    def shape(self) -> tuple[int, int]:
        """Number and length of the vectors."""
        return len(self._rows), self._table.dimension

    def __getitem__(self, rows: slice | NDArray[np.int64]) -> Vectors:
        """The vectors of some of the texts, in float32."""
        return self._table.take(self._rows[rows])
